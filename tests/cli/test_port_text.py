"""Ports that have to be open, as people read them."""

from __future__ import annotations

import pytest

from qmesh.cli.port_text import describe_machine_ports, describe_open_ports, describe_own_ports
from qmesh.mesh.reachability.open_ports import MachinePorts, OpenPorts

PORTS = (OpenPorts("udp", (51820,), "WireGuard"), OpenPorts("tcp", (25000, 25001, 25002), "workers"))
CALLED_BY_NONE = (
    "no other node can call its workers yet: run `qmesh set hel-2 --announce ADDRESS` on the control node"
)
SAID = "UDP 51820 (WireGuard), TCP 25000-25002 (workers)"


@pytest.mark.parametrize(
    ("host", "is_forwarded", "others", "where"),
    [
        ("203.0.113.5", False, (), " at 203.0.113.5"),
        (None, False, (), ", announced nowhere"),
        ("203.0.113.5", True, ("a",), ", to be forwarded at 203.0.113.5"),
        ("203.0.113.5", False, ("a", "b"), " at 203.0.113.5, as a and b, so that a router has to forward"),
        (
            "h.org",
            False,
            tuple("abcde"),
            " at h.org, as a and b and c and 2 more, so that a router has to forward",
        ),
    ],
)
def test_a_machine_with_its_ports(host, is_forwarded, others, where):
    machine = MachinePorts("hel-2", host, is_forwarded, others, PORTS)
    assert describe_machine_ports(machine, announces=True) == f"hel-2{where}: {SAID}"
    assert describe_machine_ports(machine, announces=False) == f"hel-2: {SAID}"


def test_no_ports_are_none():
    assert describe_open_ports(()) == "none"
    assert describe_machine_ports(MachinePorts("b", None, False, (), ()), announces=True) == "b: none"


@pytest.mark.parametrize(
    ("machine", "lines"),
    [
        (
            MachinePorts("hel-2", "203.0.113.5", False, (), PORTS),
            [f"to be open, at the provider too: {SAID}"],
        ),
        (
            MachinePorts("hel-2", "203.0.113.5", True, ("a",), PORTS),
            [f"to be forwarded at 203.0.113.5, the control node's address: {SAID}"],
        ),
        (
            MachinePorts("hel-2", None, False, (), PORTS),
            [
                f"to be open, at the provider too: {SAID}",
                CALLED_BY_NONE,
            ],
        ),
        (
            MachinePorts("hel-2", None, False, (), PORTS[:1]),
            ["to be open, at the provider too: UDP 51820 (WireGuard)"],
        ),
        (MachinePorts("hel-2", None, False, (), ()), []),
    ],
)
def test_what_a_new_member_has_to_open(machine, lines):
    assert list(describe_own_ports(machine)) == lines
