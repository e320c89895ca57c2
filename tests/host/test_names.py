from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qmesh.host.names import resolve
from qmesh.mesh.model import Endpoint

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def hosts(*lines: str) -> None:
    """What the test's machine knows of names: it has no network, and so no DNS."""
    Path("/run/hosts").write_text("\n".join(lines) + "\n")
    subprocess.run(["mount", "--bind", "/run/hosts", "/etc/hosts"], check=True)


@pytest.mark.parametrize("text", ["203.0.113.5:51820", "[2001:db8::5]:1", "127.0.0.1:65535", "[fe80::1]:7"])
def test_an_address_needs_no_look_up(text, monkeypatch):
    hosts("198.51.100.1 203.0.113.5")
    endpoint = Endpoint.parse(text)

    assert resolve(endpoint) is endpoint


@pytest.mark.parametrize("host", ["name.invalid", "name.invalid.", "a-name-without-a-dot", "x" * 63])
def test_a_name_that_is_not_known_is_none(host):
    assert resolve(Endpoint(host, 51820)) is None


@pytest.mark.parametrize(
    ("address", "text"), [("203.0.113.7", "203.0.113.7:4001"), ("2001:db8::7", "[2001:db8::7]:4001")]
)
def test_a_name_becomes_its_address_and_the_port_stays(address, text):
    hosts("127.0.0.1 localhost", f"{address} control.example.org")
    found = resolve(Endpoint("control.example.org", 4001))

    assert found == Endpoint.parse(text)
    assert found is not None
    assert found.is_address


def test_a_name_is_looked_up_anew_each_time():
    hosts("203.0.113.7 control.example.org")
    first = resolve(Endpoint("control.example.org", 1))
    Path("/run/hosts").write_text("203.0.113.8 control.example.org\n")

    assert (first, resolve(Endpoint("control.example.org", 1))) == (
        Endpoint("203.0.113.7", 1),
        Endpoint("203.0.113.8", 1),
    )


def test_an_address_that_is_good_on_one_interface_only_is_none():
    hosts("fe80::7 control.example.org")

    assert resolve(Endpoint("control.example.org", 1)) is None


def test_a_name_with_one_usable_address_is_found_by_that():
    hosts("fe80::7 control.example.org", "2001:db8::7 control.example.org")

    assert resolve(Endpoint("control.example.org", 1)) == Endpoint("2001:db8::7", 1)
