"""The guard is written in nftables' own words, and known again only when it is whole and unchanged."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from qmesh.mesh.guard.access import can_reach_port
from qmesh.mesh.guard.parse import (
    build_observed_guard,
    parse_held_table,
    parse_load_script,
    parse_table,
    parse_table_header,
)
from qmesh.mesh.guard.render import (
    MOST_IN_BITMAP,
    MOST_INTERVALS,
    list_port_intervals,
    list_port_sets,
    render_held_table,
    render_table,
    render_unowned_table,
)
from qmesh.mesh.guard.script_text import (
    is_complete_script,
    is_script_loaded,
    rename_held_table,
    render_release_script,
    render_unload_script,
)
from qmesh.mesh.guard.scripts import (
    render_change_script,
    render_held_header,
    render_held_script,
    render_load_script,
)
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, OWN_TABLES, STAGED, STAND_IN, TABLE
from qmesh.mesh.state import AlteredGuard, Guard
from tests.support.factories import guard
from tests.support.older_guard import as_of_format_2, as_of_format_3, as_of_format_4
from tests.support.strategies import addresses

# As nft 1.0.6 lists it (`nft -s list table inet qmesh`).
WORKER_LISTING = """\
table inet qmesh {
	comment "qmesh guard 5: worker qmesh0 wireguard 51820 10.77.0.1 51821"
	set closed_ports {
		type inet_service
	}

	set guarded_ports {
		type inet_service
	}

	set control_ports {
		type inet_service
	}

	set mesh_ports {
		type inet_service
	}

	chain asked_for {
		type filter hook prerouting priority mangle; policy accept;
		iifname "qmesh0" goto through_tunnel
		udp dport 51820 accept
		th dport 40003-40006 meta l4proto { tcp, udp } fib daddr type local goto closed_port
	}

	chain arrived_at {
		type filter hook input priority mangle; policy accept;
		ip saddr 10.77.0.1 iifname "qmesh0" meta iifkind "wireguard" accept
		udp dport 51820 accept
		th dport 40003-40006 meta l4proto { tcp, udp } goto closed_port
	}

	chain passed_on {
		type filter hook forward priority mangle; policy accept;
		oifname "qmesh0" goto into_tunnel
		th dport 40003-40006 meta l4proto { tcp, udp } ct status dnat goto closed_port
		th dport 40003-40006 meta l4proto { tcp, udp } meta oifkind "bridge" goto closed_port
		tcp sport 40003-40006 meta iifkind "bridge" ct direction original ct state new goto taken_up
	}

	chain sent {
		type filter hook output priority mangle; policy accept;
		tcp dport 51821 oifname "qmesh0" goto asks_service
		ip daddr 10.77.0.1 oifname "qmesh0" meta oifkind "wireguard" th sport != @guarded_ports accept
		th dport 40003-40006 meta l4proto { tcp, udp } fib daddr type local goto closed_port
		tcp sport 40003-40006 ct direction original ct state new goto taken_up
		udp sport 51820 accept
		th sport 40003-40006 meta l4proto { tcp, udp } ct direction reply goto sent_back
	}

	chain closed_port {
		ip saddr 10.77.0.1 iifname "qmesh0" meta iifkind "wireguard" th dport != @guarded_ports accept
		ip saddr 10.77.0.1 iifname "qmesh0" meta iifkind "wireguard" th dport @control_ports accept
		th dport @mesh_ports iifname "qmesh0" meta iifkind "wireguard" accept
		meta iiftype loopback th dport @guarded_ports accept
		ct direction reply goto answered
		counter drop
	}

	chain through_tunnel {
		th dport 40003-40006 ip saddr 10.77.0.1 meta iifkind "wireguard" meta l4proto { tcp, udp } accept
		th dport @control_ports ip saddr 10.77.0.1 meta iifkind "wireguard" meta l4proto { tcp, udp } accept
		ct direction reply accept
		th dport @mesh_ports meta iifkind "wireguard" meta l4proto { tcp, udp } fib daddr type local accept
		meta l4proto { icmp, ipv6-icmp } fib daddr type local accept
		counter drop
	}

	chain into_tunnel {
		ct direction reply accept
		counter drop
	}

	chain answered {
		meta l4proto udp accept
		tcp flags rst,ack accept
		counter drop
	}

	chain sent_back {
		meta oiftype loopback th sport @guarded_ports accept
		ip daddr 10.77.0.1 oifname "qmesh0" meta oifkind "wireguard" th sport @control_ports accept
		th sport @mesh_ports oifname "qmesh0" meta oifkind "wireguard" accept
		counter drop
	}

	chain taken_up {
		meta oiftype loopback tcp sport @guarded_ports accept
		tcp flags syn accept
		counter drop
	}

	chain asks_service {
		meta skuid 0 accept
		meta skuid != 0 counter drop
		tcp flags syn counter drop
	}
}
"""


WORKER = guard()
CONTROL = guard(role="control", ports=(40000, 40001, 40002))
OPENINGS = "limit rate over 10/second burst 20 packets"
INTERVAL = "40003-40006"
BOTH = "meta l4proto { tcp, udp }"
FROM_CONTROL = 'ip saddr 10.77.0.1 iifname "qmesh0" meta iifkind "wireguard"'
IN_TUNNEL = f'ip saddr 10.77.0.1 meta iifkind "wireguard" {BOTH} accept'
ON_ITSELF = f"{BOTH} fib daddr type local goto closed_port"
TO_CONTROL = 'ip daddr 10.77.0.1 oifname "qmesh0" meta oifkind "wireguard"'
GUARDS = {
    "worker": WORKER,
    "control": CONTROL,
    "IPv6, userspace": guard(
        kind="tun", control_address="fd00::1", ports=(1, 3, 5, 65534, 65535), control_ports=(7,)
    ),
    "control, IPv6, userspace": guard(role="control", kind="tun", control_address="fd00::1"),
    "control, handing over": guard(
        role="control", successor_address="10.77.0.9", stream_port=8340, own_ports=(8337,), mesh_ports=(5432,)
    ),
    "no ports": guard(ports=()),
    "scattered": guard(ports=(40003, 40005, 40006, 40007, 40011), own_ports=(40008,)),
}
ELEMENTS = "40003, 40005"
SCATTERED = guard(ports=(40003, 40005))
FURTHER = guard(own_ports=(6600, 8337), control_ports=(9100,), mesh_ports=(5432,))


ports = st.sets(st.integers(1, 65535) | st.integers(40000, 40020), max_size=40).map(
    lambda numbers: tuple(sorted(numbers))
)
guards = st.builds(
    Guard,
    role=st.sampled_from(["control", "worker"]),
    interface=st.from_regex(r"[a-zA-Z][a-zA-Z0-9_-]{0,14}", fullmatch=True),
    kind=st.sampled_from(["wireguard", "tun"]),
    listen_port=st.integers(1, 65535),
    control_address=addresses,
    service_port=st.integers(1, 65535),
    stream_port=st.none() | st.integers(1, 65535),
    ports=ports,
    own_ports=ports,
    control_ports=ports,
    mesh_ports=ports,
).flatmap(
    lambda guard: (
        st.builds(replace, st.just(each_once(guard)), successor_address=st.none() | addresses)
        if guard.role == "control"
        else st.just(each_once(guard))
    )
)


def each_once(guard: Guard) -> Guard:
    """With each port in one of its lists only."""
    seen: set[int] = set()
    kept = {}
    for name in ("ports", "own_ports", "control_ports", "mesh_ports"):
        kept[name] = tuple(port for port in getattr(guard, name) if port not in seen)
        seen.update(kept[name])
    return replace(guard, **kept)


def changed_lines(one: str, other: str) -> list[str]:
    """The lines by which two texts differ, as a diff shows them."""
    diff = difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="", n=0)
    return [line.replace("\t", "") for line in diff if not re.match(r"---|\+\+\+|@@", line)]


def test_g1_a_workers_guard_is_this_table() -> None:
    assert render_table(WORKER) == WORKER_LISTING


def test_g1_the_control_nodes_guard_lets_in_its_own_processes_and_members_to_its_service() -> None:
    assert changed_lines(WORKER_LISTING, render_table(guard(role="control"))) == [
        '-comment "qmesh guard 5: worker qmesh0 wireguard 51820 10.77.0.1 51821"',
        '+comment "qmesh guard 5: control qmesh0 wireguard 51820 10.77.0.1 51821"',
        *("+set askers {", "+type ipv4_addr", "+size 65535", "+flags dynamic,timeout"),
        *("+timeout 2s", "+}", "+"),
        f"-{FROM_CONTROL} accept",
        '-tcp dport 51821 oifname "qmesh0" goto asks_service',
        f"-{TO_CONTROL} th sport != @guarded_ports accept",
        f"-th dport {INTERVAL} {ON_ITSELF}",
        "+tcp dport 51821 ip daddr 10.77.0.1 goto asks_service",
        "+tcp sport 51821 ip saddr 10.77.0.1 meta skuid != 0 counter drop",
        f"-{FROM_CONTROL} th dport != @guarded_ports accept",
        f"-{FROM_CONTROL} th dport @control_ports accept",
        "+meta iiftype loopback accept",
        "-meta iiftype loopback th dport @guarded_ports accept",
        f"-th dport {INTERVAL} {IN_TUNNEL}",
        f"-th dport @control_ports {IN_TUNNEL}",
        f"+tcp dport 51821 tcp flags syn update @askers {{ ip saddr {OPENINGS} }} counter drop",
        '+tcp dport 51821 ip daddr 10.77.0.1 meta iifkind "wireguard" accept',
        "-meta oiftype loopback th sport @guarded_ports accept",
        f"-{TO_CONTROL} th sport @control_ports accept",
        "+meta oiftype loopback accept",
    ]


def test_g1_a_guard_of_an_ipv6_mesh_in_userspace_differs_only_in_its_family_and_kind() -> None:
    expected = (
        WORKER_LISTING.replace("worker qmesh0 wireguard 51820 10.77.0.1", "worker qmesh0 tun 51820 fd00::1")
        .replace('kind "wireguard"', 'kind "tun"')
        .replace("ip saddr 10.77.0.1", "ip6 saddr fd00::1")
        .replace("ip daddr 10.77.0.1", "ip6 daddr fd00::1")
    )
    assert render_table(guard(kind="tun", control_address="fd00::1")) == expected
    assert "10.77" not in expected


def test_g1_what_is_closed_besides_workers_ports_is_in_sets_of_its_own_and_changes_no_rule() -> None:
    """So that closing a port more, for anyone, needs no other table."""
    assert changed_lines(render_table(guard(own_ports=(6600, 8337))), render_table(FURTHER)) == [
        *("-elements = { 6600, 8337 }", "+elements = { 5432, 6600, 8337, 9100 }") * 2,
        "+elements = { 9100 }",
        "+elements = { 5432 }",
    ]


def test_the_control_nodes_service_is_reached_over_ipv6_in_an_ipv6_mesh() -> None:
    listing = render_table(GUARDS["control, IPv6, userspace"])
    assert 'tcp dport 51821 ip6 daddr fd00::1 meta iifkind "tun" accept\n' in listing


def test_g5_while_the_control_role_is_handed_over_its_next_place_is_asked_by_root_alone_too() -> None:
    now = guard(role="control")
    assert changed_lines(render_table(now), render_table(replace(now, successor_address="10.77.0.9"))) == [
        "+tcp dport 51821 ip daddr 10.77.0.9 goto asks_service",
    ]


def test_the_interface_the_ports_and_wireguards_port_are_the_machines_own() -> None:
    expected = WORKER_LISTING.replace("qmesh0", "wg7").replace("51820", "5555").replace(INTERVAL, "7-9")
    assert render_table(guard(interface="wg7", listen_port=5555, ports=(7, 8, 9))) == expected


OF_THE_SET = (
    WORKER_LISTING.replace(INTERVAL, "@closed_ports")
    .replace(f"@closed_ports {IN_TUNNEL}", f"@closed_ports th dport != @guarded_ports {IN_TUNNEL}")
    .replace(
        f"th sport != @guarded_ports accept\n\t\tth dport @closed_ports {BOTH}",
        f"th sport != @guarded_ports accept\n\t\tth dport @closed_ports th dport != @guarded_ports {BOTH}",
    )
)


def test_ports_that_adjoin_no_other_are_in_a_set_and_one_that_adjoins_makes_an_interval() -> None:
    with_elements = OF_THE_SET.replace("\t}", f"\t\telements = {{ {ELEMENTS} }}\n\t}}", 1)
    assert render_table(SCATTERED) == with_elements
    both = render_table(guard(ports=(40003, *range(40005, 40010))))
    for line in with_elements.splitlines():
        if "@closed_ports" in line:
            for ports in ("@closed_ports", "40005-40009"):
                found = line.replace("@closed_ports", ports)
                assert (found in both) or found.replace(" th dport != @guarded_ports", "") in both
    assert "elements = { 40003 }" in both


def test_a_guard_without_worker_ports_has_an_empty_set() -> None:
    assert render_table(guard(ports=())) == OF_THE_SET


@given(guards)
def test_g1_each_closed_port_is_in_one_interval_or_in_the_set(found: Guard) -> None:
    intervals = list_port_intervals(found)
    compared = [port for first, last in intervals for port in range(first, last + 1)]
    assert len(intervals) <= MOST_INTERVALS
    assert sorted([*compared, *list_port_sets(found)["closed_ports"]]) == list(found.closed_ports)
    assert not set(compared).intersection(found.guarded_ports)
    assert not re.search("flags interval|elements = [^}]*-", render_table(found))


def test_of_many_runs_of_ports_the_longest_are_intervals() -> None:
    runs = [range(1000 * number, 1000 * number + 2 + number % 7) for number in range(1, 15)]
    found = guard(ports=tuple(port for run in runs for port in run))
    lengths = sorted((len(run) for run in runs), reverse=True)[:MOST_INTERVALS]
    intervals = list_port_intervals(found)
    assert sorted((last + 1 - first for first, last in intervals), reverse=True) == lengths
    assert list(intervals) == sorted(intervals)


def test_more_ports_than_a_bitmap_may_have_are_in_a_hash() -> None:
    many, few = (guard(ports=tuple(range(1, 2 * count, 2))) for count in (MOST_IN_BITMAP + 1, MOST_IN_BITMAP))
    assert "\t\ttype inet_service\n\t\tflags timeout\n\t\tgc-interval 1d\n\t\telements" in render_table(many)
    assert "flags timeout" not in render_table(few)
    assert parse_table(render_table(many)) == many


@given(guards)
def test_a_guard_is_known_again(guard: Guard) -> None:
    assert parse_table(render_table(guard)) == guard


@given(guards, st.data())
def test_a_listing_that_nft_wraps_is_known_again(guard: Guard, data: st.DataObject) -> None:
    listing = render_table(guard)
    wraps = data.draw(st.lists(st.booleans(), min_size=listing.count(", "), max_size=listing.count(", ")))
    parts = listing.split(", ")
    wrapped = parts[0]
    for wrap, part in zip(wraps, parts[1:], strict=True):
        wrapped += (",\n\t\t\t     " if wrap else ", ") + part
    assert parse_table(wrapped) == guard


def test_a_long_set_is_known_again_as_nft_wraps_it() -> None:
    elements = "1, 3, 5, 7, 9,\n\t\t\t     11, 13, 15, 17, 19,\n\t\t\t     21"
    wrapped = render_table(SCATTERED).replace(ELEMENTS, elements)
    long = guard(ports=tuple(range(1, 22, 2)))
    assert parse_table(wrapped) == long
    assert render_table(long) == wrapped


WRAP = "\n\t\t\t     "
ASKERS = {
    "1.0.6": f"""\
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 2s
		elements = {{ 10.77.0.2 {OPENINGS} expires 9s980ms, 10.77.0.3 {OPENINGS} expires 1m2s }}
""",
    "1.1.3": f"""\
		type ipv4_addr
		size 65535
		flags dynamic,timeout
		timeout 2s
		elements = {{ 10.77.0.2 {OPENINGS},{WRAP}10.77.0.3 {OPENINGS} }}
""",
    "1.1.7": f"""\
		type ipv4_addr
		size 65535	# count 1
		flags dynamic,timeout
		timeout 2s
		elements = {{ 10.77.0.2 {OPENINGS} timeout 2s expires 9s }}
""",
}
"""The set of who asked lately, as versions of nft list it."""
NOBODY = "\t\ttype ipv4_addr\n\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 2s\n"


@pytest.mark.parametrize("version", ASKERS)
def test_who_asked_lately_is_no_change_of_the_guard(version: str) -> None:
    listing = render_table(CONTROL)
    asked = listing.replace(NOBODY, ASKERS[version])
    assert asked != listing
    assert parse_table(asked) == CONTROL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10/second", "9/second"),
        (f"10.77.0.2 {OPENINGS}", "10.77.0.2"),
        ("elements = {", "elements = { 10.77.0.2,"),
        ("timeout 2s", "timeout 2d"),
        ("ipv4_addr", "mark"),
    ],
)
def test_g5_a_member_whose_connections_another_program_counts_otherwise_is_a_change(
    old: str, new: str
) -> None:
    asked = render_table(CONTROL).replace(NOBODY, ASKERS["1.0.6"])
    assert isinstance(parse_table(asked.replace(old, new)), AlteredGuard)


@given(guards, guards)
def test_two_guards_never_look_alike(one: Guard, other: Guard) -> None:
    assert (render_table(one) == render_table(other)) == (one == other)


def alterations(listing: str) -> Iterator[str]:
    """Listings with one line removed, doubled, moved or altered in one of its words or characters."""
    lines = listing.splitlines(keepends=True)
    for number, line in enumerate(lines):
        before, behind = "".join(lines[:number]), "".join(lines[number + 1 :])
        yield before + behind
        yield before + line + line + behind
        yield before + "\t\taccept\n" + line + behind
        yield before + "".join(lines[number : number + 2][::-1]) + "".join(lines[number + 2 :])
        for word in re.finditer(r"\S+", line):
            for new in ("", "accept", word[0] + "x", word[0][1:], word[0][:-1], "x " + word[0]):
                yield before + line[: word.start()] + new + line[word.end() :] + behind


_PARAMETERS = re.compile(
    r"\tcomment .*\n|\t\telements = \{ [0-9,\s]+ \}\n|\t\ttcp dport 51821 ip6? daddr \S+ goto .*\n"
)
"""What a guard's parameters say in it. All else are its rules."""
# The rules of the others are among those of these, and coverage of so many takes longer than all else.
EACH_ALTERED = [
    pytest.param(
        guard,
        id=name,
        marks=[pytest.mark.no_cover]
        if name in {"control, handing over", "IPv6, userspace"}
        else [pytest.mark.no_cover, pytest.mark.long],
    )
    for name, guard in GUARDS.items()
]


@pytest.mark.parametrize("guard", EACH_ALTERED)
def test_g1_a_guard_altered_in_any_line_is_never_taken_for_the_guard(guard: Guard) -> None:
    """And where its rules are others it is told whole."""
    listing = render_table(guard)
    rules = _PARAMETERS.sub("", listing).split()
    altered = [text for text in alterations(listing) if text.split() != listing.split()]
    found = [(text, parse_table(text)) for text in altered]
    assert [text for text, told in found if told == guard] == []
    other_rules = [each for each in found if _PARAMETERS.sub("", each[0]).split() != rules]
    assert len(other_rules) > 1000
    assert [text for text, told in other_rules if told != AlteredGuard(text)] == []


@given(guards, st.data())
def test_g1_a_guard_altered_in_any_character_is_never_taken_for_the_guard(
    guard: Guard, data: st.DataObject
) -> None:
    listing = render_table(guard)
    place = data.draw(st.integers(0, len(listing) - 1))
    new = data.draw(st.text(max_size=3))
    altered = listing[:place] + new + listing[place + 1 :]
    if altered.split() != listing.split():
        assert parse_table(altered) != guard


@pytest.mark.parametrize(
    "elements",
    [
        *("-", "1-", "-1", "1-2-3", "1,,2", ",", "99999999999999999999", "70000", "0-99999999999", "1 2"),
        *("2-1", "40003-40006", "7, 5", "5, 5", "40000-40002, 40002", "", "\u0664\u0660", "7, 8"),
    ],
)
def test_a_set_that_qmesh_would_not_write_is_an_altered_guard(elements: str) -> None:
    altered = render_table(SCATTERED).replace(ELEMENTS, elements)
    assert parse_table(altered) == AlteredGuard(altered)


@pytest.mark.parametrize("interval", ["40006-40003", "40003-40003", "40003-70000", "0-99999999999", "40003-"])
def test_an_interval_that_qmesh_would_not_write_is_an_altered_guard(interval: str) -> None:
    altered = WORKER_LISTING.replace(INTERVAL, interval)
    assert parse_table(altered) == AlteredGuard(altered)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("10.77.0.1", "10.77.0.1.1"),
        ("10.77.0.1", "10.77.0.01"),
        ("51820", "051820"),
        ("51820", "0051820"),
        ("51820", "\u0665"),
        ("guard 5:", "guard 4:"),
        ("worker qmesh0", "hub qmesh0"),
        (" wireguard ", " veth "),
        ('"wireguard"', '"tun"'),
        ("policy accept", "policy drop"),
        ("priority mangle", "priority filter"),
        ("counter drop", "counter packets 1 bytes 1 drop"),
        ("counter drop", "drop"),
        ("inet qmesh", "ip qmesh"),
    ],
)
def test_a_table_of_another_make_is_an_altered_guard(old: str, new: str) -> None:
    altered = WORKER_LISTING.replace(old, new)
    assert parse_table(altered) == AlteredGuard(altered)


@given(st.text() | st.text().map(lambda text: WORKER_LISTING + text) | st.text(st.sampled_from('{}"\n ,;')))
def test_no_listing_is_too_strange_to_be_read(text: str) -> None:
    if text.split() != WORKER_LISTING.split():
        assert parse_table(text) == AlteredGuard(text)


@given(guards)
def test_g3_the_guard_is_loaded_in_one_transaction(guard: Guard) -> None:
    add, delete, table = render_load_script(guard).split("\n", 2)
    assert (add, delete, table) == ("add table inet qmesh", "delete table inet qmesh", render_table(guard))


def test_the_guard_is_unloaded_whether_it_is_there_or_not() -> None:
    assert render_unload_script() == "add table inet qmesh\ndelete table inet qmesh\n"


def test_a_port_more_is_one_set_element() -> None:
    """Within the table: for `add element` libnftables 1.0.6 reads every set there is."""
    old = guard(ports=(40000, 40001, 40004))
    added = "\tset closed_ports {\n\t\ttype inet_service\n\t\telements = { 40007 }\n\t}\n"
    more = guard(ports=(40000, 40001, 40004, 40007))
    assert render_change_script(old, more) == f"table inet qmesh {{\n{added}}}\n"
    assert render_change_script(old, old) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((40000, 40001, 40004), (40000, 40001, 40002, 40004)),
        ((40000, 40001, 40004), (40000, 40001, 40004, 40005)),
        ((40000, 40001), (40000, 40001, 40004)),
        (range(1, 2 * MOST_IN_BITMAP, 2), range(1, 2 * MOST_IN_BITMAP + 2, 2)),
        (range(1, 2 * MOST_IN_BITMAP + 2, 2), range(1, 2 * MOST_IN_BITMAP + 4, 2)),
    ],
    ids=["interval longer", "interval more", "first of the set", "a hash from now on", "a hash"],
)
def test_a_port_more_that_makes_another_interval_or_set_replaces_the_table(old, new) -> None:
    new = guard(ports=tuple(new))
    assert render_change_script(guard(ports=tuple(old)), new) == render_load_script(new)


def test_where_a_port_is_taken_out_of_a_set_the_table_is_replaced_so_that_none_is_open_meanwhile() -> None:
    old, new = guard(own_ports=(8337,), mesh_ports=(5432,)), guard(control_ports=(5432, 8337))
    assert render_change_script(old, new) == render_load_script(new)
    assert render_change_script(new, guard()) == render_load_script(guard())


@given(guards, guards)
def test_a_guard_that_differs_in_more_than_its_ports_is_replaced(old: Guard, new: Guard) -> None:
    none = {"ports": (), "own_ports": (), "control_ports": (), "mesh_ports": ()}
    if replace(old, **none) != replace(new, **none):
        assert render_change_script(old, new) == render_load_script(new)


@given(guards)
def test_g1_what_is_no_guard_is_replaced_whole(new: Guard) -> None:
    assert render_change_script(None, new) == render_load_script(new)
    assert render_change_script(AlteredGuard(render_table(new)), new) == render_load_script(new)
    assert render_change_script(AlteredGuard(render_table(new), loaded=new), new) == render_load_script(new)


def test_g1_the_held_table_is_the_guard_less_what_the_tunnel_denies_the_control_node() -> None:
    assert changed_lines(WORKER_LISTING, render_held_table(WORKER)) == [
        "-table inet qmesh {",
        "+table inet qmesh-held {",
        "+flags owner",
        f"+{FROM_CONTROL} th dport != @guarded_ports accept",
    ]
    assert changed_lines(render_table(CONTROL), render_held_table(CONTROL)) == [
        "-table inet qmesh {",
        "+table inet qmesh-held {",
        "+flags owner",
        *("-}", "-", "-set askers {", "-type ipv4_addr"),
        *("-size 65535", "-flags dynamic,timeout", "-timeout 2s"),
        f"-tcp dport 51821 tcp flags syn update @askers {{ ip saddr {OPENINGS} }} counter drop",
    ]


def listed_held(guard: Guard, program: str = "qmesh-hold") -> str:
    """The held table as nft lists it to others than its owner."""
    return render_held_table(guard).replace("{", "{ # progname " + program, 1)


@given(guards, st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=15))
def test_a_held_guard_is_known_again_whoever_holds_it(guard: Guard, program: str) -> None:
    assert parse_held_table(listed_held(guard, program)) == guard


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_g3_a_table_that_no_process_holds_or_with_other_rules_is_not_the_held_guard(guard: Guard) -> None:
    held = listed_held(guard)
    for other in (held.replace("\tflags owner\n", ""), held.replace("drop", "accept"), render_table(guard)):
        assert parse_held_table(other) == AlteredGuard(other)


@given(guards)
def test_g3_a_process_loads_the_held_table_in_one_transaction(guard: Guard) -> None:
    add, delete, table = render_held_script(guard).split("\n", 2)
    assert add == "add table inet qmesh-held { flags owner; }"
    assert (delete, table) == ("delete table inet qmesh-held", render_held_table(guard))


def test_what_is_written_for_the_next_boot_is_this_guard() -> None:
    assert parse_load_script(render_load_script(WORKER)) == WORKER


LISTING, HELD_LISTING, BOOT = render_table(WORKER), listed_held(WORKER), render_load_script(WORKER)
FEWER = guard(ports=(40003,))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((LISTING, HELD_LISTING, BOOT), WORKER),
        ((None, None, None), None),
        ((None, None, BOOT), None),
        ((None, HELD_LISTING, BOOT), AlteredGuard(HELD_LISTING, loaded=WORKER, lack="table")),
        ((None, LISTING, BOOT), AlteredGuard(LISTING, loaded=None, lack="table")),
        ((LISTING, HELD_LISTING, None), AlteredGuard(LISTING, loaded=WORKER, lack="boot file")),
        ((LISTING, HELD_LISTING, HELD_LISTING), AlteredGuard(LISTING, loaded=WORKER, lack="boot file")),
        ((LISTING, None, BOOT), AlteredGuard(LISTING, loaded=WORKER, lack="held table")),
        ((LISTING, listed_held(FEWER), BOOT), AlteredGuard(LISTING, loaded=WORKER, lack="held table")),
        ((LISTING, LISTING, BOOT), AlteredGuard(LISTING, loaded=WORKER, lack="held table")),
        ((HELD_LISTING, HELD_LISTING, BOOT), AlteredGuard(HELD_LISTING)),
    ],
)
def test_g3_the_guard_is_whole_where_both_tables_and_the_next_boots_are_one(
    found: tuple[str | None, str | None, str | None], expected: Guard | AlteredGuard | None
) -> None:
    assert build_observed_guard(*found) == expected


WORKERS, OWN, OF_CONTROL, OF_MESH = 40003, 6600, 9100, 5432
OF_PORTS = {
    "ports": (WORKERS,),
    "own_ports": (OWN,),
    "control_ports": (OF_CONTROL,),
    "mesh_ports": (OF_MESH,),
}


@pytest.mark.parametrize(
    ("role", "source", "reached"),
    [
        ("worker", "10.77.0.1", {WORKERS, OF_CONTROL, OF_MESH}),
        ("worker", "10.77.0.9", {OF_MESH}),
        ("worker", "198.51.100.1", set()),
        ("worker", "192.0.2.7", {OWN, OF_CONTROL, OF_MESH}),
        ("worker", "127.0.0.1", {OWN, OF_CONTROL, OF_MESH}),
        ("control", "192.0.2.7", {WORKERS, OWN, OF_CONTROL, OF_MESH}),
        ("control", "127.0.0.9", {WORKERS, OWN, OF_CONTROL, OF_MESH}),
        ("control", "::1", {WORKERS, OWN, OF_CONTROL, OF_MESH}),
        ("control", "10.77.0.2", {OF_MESH}),
        ("control", "198.51.100.1", set()),
    ],
)
def test_g1_whose_connections_may_be_open_to_a_closed_port(role: str, source: str, reached: set[int]) -> None:
    found, own = guard(role=role, **OF_PORTS), frozenset({"192.0.2.7"})
    networks = [ip_network("10.77.0.0/20")]
    assert {
        port for port in found.closed_ports if can_reach_port(found, port, source, own=own, members=networks)
    } == reached
    # Without a tunnel no member is known for one.
    assert not can_reach_port(found, OF_MESH, "10.77.0.9", own=own)


@given(guards)
def test_what_an_older_guard_closes_is_told(found: Guard) -> None:
    """One set of format 3 has each port, that of format 2 tells no kinds; neither is this format's guard."""
    text = render_table(found)
    told = replace(found, ports=found.closed_ports, own_ports=(), control_ports=(), mesh_ports=())
    olders = (
        (as_of_format_4(text), found),
        (as_of_format_3(text), found),
        (as_of_format_2(text), told),
    )
    for older, expected in olders:
        assert parse_table_header(older) == expected
        assert parse_table(older) == AlteredGuard(older)


@given(guards)
def test_law_what_is_written_for_the_next_boot_is_read_back(found: Guard) -> None:
    assert parse_load_script(render_load_script(found)) == found
    assert isinstance(parse_load_script(render_load_script(found) + "# more"), AlteredGuard)


@pytest.mark.parametrize("text", [render_table, render_held_table])
@pytest.mark.parametrize("format_", ["1", "5", "17"])
@given(guard=guards)
def test_what_a_table_says_of_itself_is_told_whatever_its_rules_and_version(text, format_, guard):
    altered = text(guard).replace('comment "qmesh guard 5:', f'comment "qmesh guard {format_}:', 1)
    found = parse_table_header(altered.replace("counter drop", "accept"))
    assert found is not None
    assert (found.interface, found.listen_port, found.ports, found.guarded_ports) == (
        guard.interface,
        guard.listen_port,
        guard.ports,
        guard.guarded_ports,
    )
    assert parse_table_header("table inet qmesh {\n}\n") is None


def test_a_script_is_whole_with_its_beginning_and_its_end(guard_of_a_worker: Guard) -> None:
    script = render_load_script(guard_of_a_worker)
    assert is_complete_script(script)
    for cut in (script[:-2], script[20:], script[: len(script) // 2], ""):
        assert not is_complete_script(cut)


def test_a_script_is_loaded_where_the_table_has_its_words(guard_of_a_worker: Guard) -> None:
    script, listing = render_load_script(guard_of_a_worker), render_table(guard_of_a_worker)
    assert is_script_loaded(script, listing)
    assert not is_script_loaded(script, listing.replace("drop", "accept", 1))
    assert not is_script_loaded(script, None)


@pytest.fixture
def guard_of_a_worker() -> Guard:
    found = parse_table(WORKER_LISTING)
    assert isinstance(found, Guard)
    return found


def test_the_held_table_can_be_made_under_another_name_and_taken_away_by_it() -> None:
    text = render_held_script(guard(40003))
    assert rename_held_table(text, "other") == text.replace("qmesh-held", "other")
    assert rename_held_table(render_release_script(), "other") == (
        "add table inet other { flags owner; }\ndelete table inet other\n"
    )


def test_of_a_held_tables_beginning_is_read_whose_it_is_and_it_is_no_guard() -> None:
    found = re.search('comment "([^"]*)"', render_held_table(guard(40003)))
    assert found
    header = render_held_header(found[1])
    assert parse_table_header(header) == replace(guard(), ports=())
    assert isinstance(parse_held_table(header), AlteredGuard)


def test_the_held_tables_name_in_the_kernel_is_read_back_by_nft_as_another() -> None:
    """So a saved rule set that contains it makes a table of its own, which the kernel does not refuse."""
    assert HELD_IN_KERNEL.split() == [HELD]
    assert HELD_IN_KERNEL != HELD
    assert {TABLE, HELD, HELD_IN_KERNEL, STAGED, STAND_IN} == OWN_TABLES


def test_the_copy_of_the_held_table_belongs_to_nobody_and_has_the_same_rules():
    for each in (WORKER, CONTROL):
        owned = render_held_table(each)
        assert owned.replace("\tflags owner\n", "") == render_unowned_table(each) != owned
