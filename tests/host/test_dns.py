from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmesh.host.network import dns
from qmesh.host.network.dns import resolve_addresses, resolve_cached
from qmesh.mesh.values import Endpoint
from tests.support.waiting import patience, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]


def resolve_endpoint(endpoint: Endpoint, wait_s: float = dns.WAIT_S) -> Endpoint | None:
    """The best of its addresses."""
    return next(iter(resolve_addresses(endpoint, wait_s=wait_s)), None)


def hosts(*lines: str) -> None:
    """What the test's machine knows of names: it has no network, and so no DNS."""
    Path("/run/hosts").write_text("\n".join(lines) + "\n")
    subprocess.run(["mount", "--bind", "/run/hosts", "/etc/hosts"], check=True)


@pytest.mark.parametrize("text", ["203.0.113.5:51820", "[2001:db8::5]:1", "127.0.0.1:65535", "[fe80::1]:7"])
def test_an_address_needs_no_look_up(text, monkeypatch):
    hosts("198.51.100.1 203.0.113.5")
    endpoint = Endpoint.parse(text)

    assert resolve_endpoint(endpoint) is endpoint


@pytest.mark.parametrize("host", ["name.invalid", "name.invalid.", "a-name-without-a-dot", "x" * 63])
def test_a_name_that_is_not_known_is_none(host):
    assert resolve_endpoint(Endpoint(host, 51820)) is None


@pytest.mark.parametrize(
    ("address", "text"), [("203.0.113.7", "203.0.113.7:4001"), ("2001:db8::7", "[2001:db8::7]:4001")]
)
def test_a_name_becomes_its_address_and_the_port_stays(address, text):
    hosts("127.0.0.1 localhost", f"{address} control.example.org")
    found = resolve_endpoint(Endpoint("control.example.org", 4001))

    assert found == Endpoint.parse(text)
    assert found is not None
    assert found.is_address


def test_a_name_is_looked_up_anew_each_time():
    hosts("203.0.113.7 control.example.org")
    first = resolve_endpoint(Endpoint("control.example.org", 1))
    Path("/run/hosts").write_text("203.0.113.8 control.example.org\n")

    assert (first, resolve_endpoint(Endpoint("control.example.org", 1))) == (
        Endpoint("203.0.113.7", 1),
        Endpoint("203.0.113.8", 1),
    )


def test_an_address_that_is_good_on_one_interface_only_is_none():
    hosts("fe80::7 control.example.org")

    assert resolve_endpoint(Endpoint("control.example.org", 1)) is None


def test_an_address_that_is_no_endpoint_is_passed_over():
    """A name server may say anything: this was a traceback in the log, and no address at all."""
    said = ["::ffff:203.0.113.7", "fe80::1%eth0", "nonsense", "2001:db8::7"]

    assert list(dns.build_endpoints(said, 5)) == [Endpoint("2001:db8::7", 5)]


def test_a_name_with_one_usable_address_is_found_by_that():
    hosts("fe80::7 control.example.org", "2001:db8::7 control.example.org")

    assert resolve_endpoint(Endpoint("control.example.org", 1)) == Endpoint("2001:db8::7", 1)


def test_all_addresses_of_a_name_are_ways_to_it():
    hosts("203.0.113.7 control.example.org", "fe80::7 control.example.org", "203.0.113.8 control.example.org")

    assert resolve_addresses(Endpoint("control.example.org", 1)) == (
        Endpoint("203.0.113.7", 1),
        Endpoint("203.0.113.8", 1),
    )
    assert resolve_addresses(Endpoint("203.0.113.9", 1)) == (Endpoint("203.0.113.9", 1),)


def test_who_often_asks_is_told_what_was_found_lately_and_what_was_not_found_is_asked_again():
    hosts("127.0.0.1 localhost")
    endpoint = Endpoint("lately.example.org", 1)
    assert resolve_cached(endpoint) == ()
    Path("/run/hosts").write_text("203.0.113.7 lately.example.org\n")
    assert resolve_cached(endpoint) == (Endpoint("203.0.113.7", 1),)
    Path("/run/hosts").write_text("203.0.113.8 lately.example.org\n")
    assert resolve_cached(endpoint) == (Endpoint("203.0.113.7", 1),)
    assert resolve_addresses(endpoint) == (Endpoint("203.0.113.8", 1),)


def test_a_look_up_that_hangs_is_not_waited_for_and_its_answer_is_for_the_next():
    endpoint = Endpoint("hangs.example.org", 1)
    with silent_dns() as answer_all:
        with within(1):
            assert resolve_addresses(endpoint, wait_s=0.2) == ()
            assert resolve_addresses(endpoint, wait_s=0.2) == ()
        answer_all()
        assert resolve_endpoint(endpoint, wait_s=patience(10)) == Endpoint("203.0.113.7", 1)


def test_look_ups_that_hang_do_not_pile_up():
    endpoints = [Endpoint(f"hangs-{number}.example.org", 1) for number in range(100)]
    with silent_dns():
        assert [resolve_addresses(endpoint, wait_s=0.0) for endpoint in endpoints] == [()] * 100
        assert 1 < threading.active_count() <= dns.MOST_AT_ONCE + 1


@contextlib.contextmanager
def silent_dns() -> Iterator[Callable[[], None]]:
    """A resolver of the test's machine that says nothing until it is told to; then 203.0.113.7 to all."""
    hosts("127.0.0.1 localhost")
    Path("/run/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:3 attempts:1\n")
    subprocess.run(["mount", "--bind", "/run/resolv.conf", "/etc/resolv.conf"], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        server.settimeout(0.5)
        yield lambda: _answer_all(server)


def _answer_all(server: socket.socket) -> None:
    with contextlib.suppress(TimeoutError):
        while True:
            question, asker = server.recvfrom(512)
            end = question.index(b"\0", 12) + 5  # what follows is EDNS
            wants_ipv4 = question[end - 4 : end - 2] == b"\0\1"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + bytes([203, 0, 113, 7])
            header = question[:2] + b"\x81\x80\0\1" + bytes([0, wants_ipv4, 0, 0, 0, 0])
            server.sendto(header + question[12:end] + (record if wants_ipv4 else b""), asker)


def test_the_network_that_translates_ipv4_is_found_by_a_name_that_has_no_address_of_ipv6():
    assert dns.find_nat64_network() is None
    hosts("192.0.0.170 ipv4only.arpa", "2001:db8::5 ipv4only.arpa", "64:ff9b::c000:ab ipv4only.arpa")
    assert dns.find_nat64_network() == "64:ff9b::/96"
