"""The kernel's settings as they are; what is told as their cure cures them."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused
from qmesh.host.network import sysctls
from qmesh.mesh.sysctls import FORWARDING, PER_INTERFACE, find_weaknesses

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

PLACES = ("all", "eth0/7", "eth0/8")


def test_every_weakness_is_cured_by_its_cure():
    subprocess.run(["ip", "link", "add", "eth0.7", "type", "veth", "peer", "eth0.8"], check=True)
    conf = "net.ipv4.conf"
    weak = [f"{conf}.{place}.{name}=1" for place in PLACES for name in PER_INTERFACE[:2]]
    weak += [f"{conf}.{place}.{name}=0" for place in PLACES for name in PER_INTERFACE[2:]]
    subprocess.run(["sysctl", "-qw", *weak, *(f"{name}=1" for name in FORWARDING)], check=True)

    def found() -> list[str]:
        settings = sysctls.read_interface_settings(except_interfaces=frozenset({"lo"}))
        return [weakness.cure for weakness in find_weaknesses(settings, sysctls.read_forwarding())]

    cures = found()
    assert len(cures) == len(PER_INTERFACE) + len(FORWARDING)
    for cure in cures:
        subprocess.run(shlex.split(cure), check=True, stdout=subprocess.DEVNULL)
    assert found() == []


def test_how_many_connections_are_tracked_is_read(monkeypatch, tmp_path):
    count, most = sysctls.read_tracking()
    assert (count is None) == (most is None)
    assert most is None or most > (count or 0)
    monkeypatch.setattr(sysctls, "SYSCTLS", tmp_path)
    assert sysctls.read_tracking() == (None, None)


def test_interfaces_that_are_nobodys_way_in_are_left_out():
    found = sysctls.read_interface_settings(except_interfaces=frozenset({"lo"}))

    assert set(found) == set(PER_INTERFACE)
    assert all("lo" not in values and "all" in values for values in found.values())


def test_what_cannot_be_read_is_not_fine(monkeypatch):
    monkeypatch.setattr(sysctls, "SYSCTLS", Path("/nowhere"))

    with pytest.raises(KernelRefused, match="cannot be read"):
        sysctls.read_interface_settings(except_interfaces=frozenset())
