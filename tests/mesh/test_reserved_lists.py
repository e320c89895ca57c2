"""Whose the kernel's list of reserved ports is, by the machine's files."""

from __future__ import annotations

import pytest

from qmesh.mesh.ports.reserved_lists import (
    ReservedList,
    StillReserved,
    find_commands,
    list_overwriting,
    list_still_reserved,
    parse_sysctl_lists,
)

FIRST = ReservedList("/etc/sysctl.d/10-a.conf", 2, frozenset({22, 40001}))
LAST = ReservedList("/etc/sysctl.conf", 9, frozenset({40001, 40002}))
COMMAND = ReservedList("/etc/rc.local", 3, None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"net.ipv4.ip_local_reserved_ports = 22,40001", {22, 40001}),
        (b"  -net/ipv4/ip_local_reserved_ports=40001-40003 ", {40001, 40002, 40003}),
        (b"net.ipv4.ip_local_reserved_ports =", set()),
        (b"# net.ipv4.ip_local_reserved_ports = 40001", None),
        (b"net.ipv4.ip_local_reserved_ports = 40001, x", None),
        (b"net.ipv4.ip_local_reserved_ports = \xff", None),
        (b"net.ipv4.ip_local_reserved_ports = 70000", None),
        (b"net.ipv4.ip_local_port_range = 40001 40002", None),
    ],
)
def test_a_list_is_read_as_sysctl_reads_it(line, expected):
    found = list(parse_sysctl_lists("/etc/a", b"kernel.panic = 1\r\n" + line + b"\n"))
    assert found == ([] if expected is None else [ReservedList("/etc/a", 2, frozenset(expected))])


def test_of_scripts_the_lines_are_found_that_name_the_list():
    script = (
        b"#!/bin/sh\n# not net.ipv4.ip_local_reserved_ports\n"
        b"sysctl -w net.ipv4.ip_local_reserved_ports=1\necho 2 >/proc/sys/net/ipv4/ip_local_reserved_ports\n"
    )
    assert [each.line for each in find_commands("/etc/rc.local", script)] == [3, 4]


def test_what_takes_ports_off_the_list_is_the_last_file_and_any_command():
    assert list_overwriting((), [40003]) == ()
    assert list_overwriting((FIRST, LAST), [40001]) == ()
    assert list_overwriting((LAST, FIRST), [40002]) == (
        "/etc/sysctl.d/10-a.conf, line 2, sets a list without it",
    )
    assert list_overwriting((COMMAND,), [40003]) == ("/etc/rc.local, line 3, names that list",)


def test_who_wants_a_port_reserved_is_said_as_far_as_files_tell():
    nobody = "another program; no file here names that list"
    assert list_still_reserved([], (FIRST,)) == ()
    assert list_still_reserved([40001, 40002], (FIRST, LAST)) == (
        StillReserved((40001,), "/etc/sysctl.d/10-a.conf, line 2"),
        StillReserved((40002,), "/etc/sysctl.conf, line 9"),
    )
    assert list_still_reserved([40003, 40001], (LAST,)) == (
        StillReserved((40001,), "/etc/sysctl.conf, line 9"),
        StillReserved((40003,), nobody),
    )
    assert list_still_reserved([40003], (LAST, COMMAND)) == (
        StillReserved((40003,), "perhaps /etc/rc.local, line 3"),
    )
