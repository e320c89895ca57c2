from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused, StateUnreadable
from qmesh.host import start_scripts
from qmesh.host.network import ports, sysctl_files
from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.host.state.directory import State
from qmesh.host.state.documents import PortReservations

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
NOBODY = 65534


def in_kernel() -> str:
    return RESERVED.read_text().strip()


@contextlib.contextmanager
def bound(family: int, kind: int, address: str, port: int = 0, *, only_v6: bool = True) -> Iterator[int]:
    """A socket of somebody's at an address; gives its port."""
    with socket.socket(family, kind) as found:
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        found.bind((address, port))
        if kind == socket.SOCK_STREAM:
            found.listen()
        yield found.getsockname()[1]


def ephemeral_ports(count: int) -> set[int]:
    """The local ports that the kernel picks for so many sockets."""
    with contextlib.ExitStack() as stack:
        return {
            stack.enter_context(bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1")) for _ in range(count)
        }


def test_a_fresh_machine_reserves_nothing(state):
    assert ports.read_reserved_ports() == frozenset()
    assert ports.list_own_reserved_ports(state) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40000", {40000}),
        ("1,40000-40002,65535", {1, 40000, 40001, 40002, 65535}),
        ("8080,8081,8083", {8080, 8081, 8083}),
    ],
)
def test_reserved_ports_are_read_as_the_kernel_writes_them(text, expected):
    RESERVED.write_text(text)

    assert ports.read_reserved_ports() == expected


def test_the_ephemeral_range_is_the_kernels():
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40039")
    assert ports.read_ephemeral_range() == (40000, 40039)


def test_held_ports_are_kept_out_of_the_ephemeral_range(state):
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40039")
    ports.reserve_ports(state, range(40010, 40030))
    picked = ephemeral_ports(20)

    assert in_kernel() == "40010-40029"
    assert ports.list_own_reserved_ports(state) == tuple(range(40010, 40030))
    assert picked == {*range(40000, 40010), *range(40030, 40040)}


@pytest.mark.parametrize("wanted", [(1,), (65535,), (1, 65535), (40000, 40002), tuple(range(40000, 45000))])
def test_what_is_held_is_what_is_read(state, wanted):
    ports.reserve_ports(state, wanted)

    assert ports.list_own_reserved_ports(state) == wanted
    assert ports.read_reserved_ports() == set(wanted)


def test_thousands_of_scattered_ports_are_held_and_given_back(state):
    # As text they are larger than a page of memory, in which the kernel takes them.
    wanted = tuple(range(20001, 40000, 3))
    ports.reserve_ports(state, wanted)

    assert ports.list_own_reserved_ports(state) == wanted

    ports.reserve_ports(state, ())

    assert in_kernel() == ""


def test_thousands_of_scattered_ports_of_others_stay(state):
    others = range(20001, 40000, 3)
    Path("/run/list").write_text(",".join(map(str, others)))
    subprocess.run(["sh", "-c", f"cat /run/list > {RESERVED}"], check=True)
    ports.reserve_ports(state, (40000, 40001))

    assert ports.read_reserved_ports() == {*others, 40000, 40001}


def test_other_ports_take_the_place_of_those_that_were_held(state):
    ports.reserve_ports(state, range(40000, 40004))
    ports.reserve_ports(state, range(40002, 40006))

    assert in_kernel() == "40002-40005"
    assert ports.list_own_reserved_ports(state) == (40002, 40003, 40004, 40005)


def test_holding_the_same_again_changes_nothing(state):
    for _ in range(2):
        ports.reserve_ports(state, (40000, 40001))

        assert in_kernel() == "40000-40001"
        assert state.read_port_reservations() == PortReservations(ours=(40000, 40001))


def test_ports_that_are_given_back_are_forgotten(state):
    ports.reserve_ports(state, (40000, 40001))
    ports.reserve_ports(state, ())

    assert in_kernel() == ""
    assert ports.list_own_reserved_ports(state) == ()
    assert state.read_port_reservations() == PortReservations()


def test_what_others_reserved_stays_as_it_is(state):
    RESERVED.write_text("8080,40001,50000-50009")
    ports.reserve_ports(state, range(40000, 40003))

    assert in_kernel() == "8080,40000-40002,50000-50009"
    assert ports.list_own_reserved_ports(state) == (40000, 40001, 40002)
    assert state.read_port_reservations() == PortReservations(ours=(40000, 40002), others=(40001,))

    ports.reserve_ports(state, (40001, 40002))

    assert in_kernel() == "8080,40001-40002,50000-50009"

    ports.reserve_ports(state, ())

    assert in_kernel() == "8080,40001,50000-50009"


def test_ports_of_others_are_none_that_qmesh_holds(state):
    RESERVED.write_text("8080,40001")

    assert ports.list_own_reserved_ports(state) == ()


def test_held_ports_are_remembered_by_another_process_and_after_a_restart(state):
    ports.reserve_ports(state, (40000, 40001))

    assert ports.list_own_reserved_ports(State(state.directory)) == (40000, 40001)

    # After a restart the kernel has forgotten, and an administrator has reserved one of them.
    RESERVED.write_text("40001")

    assert ports.list_own_reserved_ports(State(state.directory)) == (40001,)

    ports.reserve_ports(State(state.directory), (40000, 40001))
    assert ports.list_own_reserved_ports(state) == (40000, 40001)


def test_damaged_memory_is_an_error_and_reserves_nothing(state):
    (state.directory / "reserved-ports.json").write_text("{")

    with pytest.raises(StateUnreadable):
        ports.list_own_reserved_ports(state)
    with pytest.raises(StateUnreadable):
        ports.reserve_ports(state, (40000,))
    assert in_kernel() == ""


def test_where_there_is_no_ephemeral_range_to_read_it_is_told():
    subprocess.run(["mount", "-t", "tmpfs", "none", "/proc/sys/net"], check=True)
    with pytest.raises(KernelRefused, match="ip_local_port_range cannot be read"):
        ports.read_ephemeral_range()


def test_where_the_kernel_refuses_it_is_told(state):
    subprocess.run(["mount", "-o", "bind,ro", RESERVED, RESERVED], check=True)

    with pytest.raises(KernelRefused, match="ip_local_reserved_ports cannot be written") as refused:
        ports.reserve_ports(state, (40000,))

    assert "from outside" in refused.value.hint
    assert ports.list_own_reserved_ports(state) == ()


def test_where_it_cannot_look_it_does_not_say_that_there_is_nothing(state):
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/proc/sys/net"], check=True)

    with pytest.raises(KernelRefused, match="ip_local_reserved_ports cannot be read"):
        ports.read_reserved_ports()


def test_listeners_are_those_of_both_families_each_once():
    tcp = socket.SOCK_STREAM
    with (
        bound(socket.AF_INET, tcp, "127.0.0.1", 4001),
        bound(socket.AF_INET, tcp, "0.0.0.0", 4002),  # noqa: S104 - that is what is tested
        bound(socket.AF_INET6, tcp, "::1", 4003),
        bound(socket.AF_INET6, tcp, "::", 4004, only_v6=False),
        bound(socket.AF_INET6, tcp, "::ffff:127.0.0.1", 4005, only_v6=False),
        bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", 4006),
        socket.create_connection(("127.0.0.1", 4001)),
    ):
        found = ports.list_listeners()

    assert {port: address for address, port in found if port != 4005} == {
        4001: "127.0.0.1",
        4002: "0.0.0.0",  # noqa: S104 - that is what is tested
        4003: "::1",
        4004: "::",
    }
    assert [port for _, port in found].count(4005) == 1
    assert len(found) == 5
    assert ports.list_listeners() == ()


def test_a_listener_at_a_full_ipv6_address_is_read_right():
    subprocess.run(
        ["ip", "address", "add", "fd12:3456:789a:bcde:f012::77/64", "dev", "lo", "nodad"], check=True
    )
    wait_for_local_routes("lo")
    with bound(socket.AF_INET6, socket.SOCK_STREAM, "fd12:3456:789a:bcde:f012::77", 65535):
        assert ports.list_listeners() == (
            ("fd12:3456:789a:bcde:f012:0:0:77", 65535),
        ) or ports.list_listeners() == (("fd12:3456:789a:bcde:f012::77", 65535),)


def test_a_port_that_two_listen_on_is_told_twice():
    with (
        bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 4001),
        bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.2", 4001),
    ):
        assert ports.list_listeners() == (("127.0.0.1", 4001), ("127.0.0.2", 4001))


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),  # noqa: S104 - that is what is tested
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
def test_a_udp_port_is_in_use_while_a_socket_has_it_on_any_address(family, address):
    with bound(family, socket.SOCK_DGRAM, address, 51820):
        assert ports.is_udp_port_used(51820)
        assert not ports.is_udp_port_used(51821)
    assert not ports.is_udp_port_used(51820)


def test_looking_at_a_udp_port_does_not_take_it():
    assert not ports.is_udp_port_used(51820)
    with bound(socket.AF_INET6, socket.SOCK_DGRAM, "::", 51820, only_v6=False):
        pass


def test_a_tcp_port_is_no_udp_port():
    with bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 51820):
        assert not ports.is_udp_port_used(51820)


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")],  # noqa: S104
)
def test_a_tcp_port_is_in_use_while_somebody_listens_at_it_on_any_address(family, address):
    with socket.create_server((address, 325), family=family):
        assert ports.is_tcp_port_used(325)
        assert not ports.is_tcp_port_used(326)
    assert not ports.is_tcp_port_used(325)


def test_a_machine_without_ipv6_has_free_udp_ports_too():
    for name in ("all", "default", "lo"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")

    assert not ports.is_udp_port_used(51820)
    with bound(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", 51820):
        assert ports.is_udp_port_used(51820)


def test_a_port_that_this_user_may_not_have_is_not_in_use():
    os.seteuid(NOBODY)
    try:
        assert not ports.is_udp_port_used(443)
    finally:
        os.seteuid(0)


def test_a_port_that_another_program_took_into_a_list_of_its_own_stays_its(state):
    ports.reserve_ports(state, range(40000, 40003))
    RESERVED.write_text("22,40001")  # the whole list, as sysctl -w writes it

    ports.reserve_ports(state, range(40000, 40003))
    assert in_kernel() == "22,40000-40002"
    assert ports.list_own_reserved_ports(state) == (40000, 40001, 40002)
    ports.reserve_ports(state, (40002,))
    assert in_kernel() == "22,40001-40002"
    ports.reserve_ports(state, ())
    assert in_kernel() == "22,40001"


@pytest.mark.parametrize(
    ("line", "stays"),
    [
        ("net.ipv4.ip_local_reserved_ports = 22,40001", "40001"),
        ("-net/ipv4/ip_local_reserved_ports=40001-40002", "40001-40002"),
        ("# net.ipv4.ip_local_reserved_ports = 40001", ""),
        ("net.ipv4.ip_local_reserved_ports = \xff40001, x", ""),
    ],
)
def test_a_port_that_the_administrators_files_reserve_stays(state, line, stays, tmp_path, monkeypatch):
    """Though qmesh was the first, and nobody has loaded the file since."""
    (tmp_path / "x.conf").write_text(f"kernel.panic = 1\n{line}\n", encoding="latin-1")
    (tmp_path / "loop.conf").symlink_to("loop.conf")
    monkeypatch.setattr(sysctl_files, "DIRECTORIES", (tmp_path / "none", tmp_path))
    ports.reserve_ports(state, range(40000, 40003))
    ports.reserve_ports(state, ())
    assert in_kernel() == stays


def test_files_count_as_sysctl_takes_them_and_each_once(tmp_path, monkeypatch):
    """The first of one name, by names, and sysctl.conf last, wherever a link to it is."""
    first, last, setting = tmp_path / "etc", tmp_path / "usr", "net.ipv4.ip_local_reserved_ports = "
    for directory in (first, last):
        directory.mkdir()
    (last / "50-a.conf").write_text(f"{setting}1\n")
    (first / "50-a.conf").symlink_to("/dev/null")
    (last / "20-b.conf").write_text(f"{setting}2\n")
    (first / "70-c.conf").write_text(f"{setting}3\n")
    (first / "80-d").write_text(f"{setting}4\n")
    (tmp_path / "sysctl.conf").write_text(f"{setting}5\n")
    (first / "99-sysctl.conf").symlink_to("../sysctl.conf")
    (tmp_path / "rc.local").write_text(f"sysctl -w {setting}6\n")
    monkeypatch.setattr(sysctl_files, "DIRECTORIES", (first, tmp_path / "none", last))
    monkeypatch.setattr(sysctl_files, "FILE", tmp_path / "sysctl.conf")
    monkeypatch.setattr(start_scripts, "START_SCRIPTS", (str(tmp_path / "rc.local"),))

    assert [each.ports or set() for each in sysctl_files.read_sysctl_lists()] == [{2}, {3}, {5}]
    assert [each.path for each in sysctl_files.read_reserved_lists()][3:] == [str(tmp_path / "rc.local")]
    assert sysctl_files.read_configured_ports() == {2, 3, 5}


def test_where_the_list_is_read_only_what_needs_no_write_goes_on(state):
    ports.reserve_ports(state, (40000, 40001))
    RESERVED.write_text("22,40000-40002")
    subprocess.run(["mount", "-o", "bind,ro", RESERVED, RESERVED], check=True)
    assert not ports.can_reserve_ports()

    ports.reserve_ports(state, range(40000, 40003))
    assert ports.list_own_reserved_ports(state) == (40000, 40001, 40002)
    with pytest.raises(KernelRefused, match="Read-only file system") as refused:
        ports.reserve_ports(state, (40000, 40007))
    assert "ip_local_reserved_ports=22,40000,40002,40007`" in refused.value.hint
    subprocess.run(["umount", RESERVED], check=True)
    assert ports.can_reserve_ports()
    # What could not be given back is known still, and what could not be reserved is nobody else's.
    ports.reserve_ports(state, (40000, 40007))
    assert in_kernel() == "22,40000,40002,40007"
    ports.reserve_ports(state, ())
    assert in_kernel() == "22,40002"
