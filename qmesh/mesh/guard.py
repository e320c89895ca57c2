"""The worker guard as an nftables ruleset, and back.

`render_table` writes the table just as `nft -s list table` prints it, so `parse_table` need not understand
rules: it reads the parameters and compares with what it would write itself. Anything else with the table's
name is an `AlteredGuard`. `render_held_table` writes it a second time, for a table that belongs to a process:
a flush by another program does not remove that one. The most frequent packets come first: WireGuard's own,
and on a worker machine the control node's.

The chains, in the order in which a packet meets them (docs/guard.md has the reasons):

asked_for   prerouting, before destination NAT: the port is still the one that was asked for
arrived_at  input, after destination NAT: the port that a socket of this machine would see
passed_on   forward: to a container of this machine; no machine may send into the tunnel via this one
sent        output: a connection that is older than the guard is neither answered nor taken up again; no
            local user asks a worker, and none but root the membership service

One set has all ports that are closed, so that any other packet is looked up once; three small ones say for
which of them more is let in. `guarded_ports` are not workers': the machine itself reaches them, of these the
control node `control_ports`, and all members `mesh_ports`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import msgspec

from qmesh.errors import QmeshError
from qmesh.mesh.state import AlteredGuard, Guard
from qmesh.mesh.values import Lack, normalize_ip_address, parse_port_ranges

TABLE: Final = "qmesh"
HELD: Final = "qmesh-held"
"""The second table, as its file has it."""
HELD_IN_KERNEL: Final = f"{HELD} "
"""Its name in the kernel: nft prints it, and reads back `HELD` (`qmesh.host.firewall.held_table`)."""
STAGED: Final = "qmesh-staged"
STAND_IN: Final = "qmesh-stand-in"
"""The same table for some milliseconds: while it is made, and while another process comes to hold it."""
OWN_TABLES: Final = frozenset({TABLE, HELD, HELD_IN_KERNEL, STAGED, STAND_IN})
"""Of family inet: all that qmesh has, or that nft has made of them."""
_FORMAT: Final = "qmesh guard 3"
_ANY_FORMAT = re.compile(r'comment "qmesh guard \d+: ')
_HEADER = re.compile(
    r'comment "qmesh guard 3: (?P<role>control|worker) (?P<interface>\S+) (?P<kind>wireguard|tun)'
    r" (?P<listen_port>\d{1,5}) (?P<control_address>[0-9a-f.:]+) (?P<service_port>\d{1,5})"
    r'(?: (?P<stream_port>\d{1,5}))?"'
)
_SETS = re.compile(r"set (?P<name>\w+)_ports \{[^}]*elements = \{ (?P<ports>[0-9, -]+) \}")
_SUCCESSOR = re.compile(r"goto asks_service tcp dport \d+ ip6? daddr (?P<address>\S+) goto asks_service")
"""Not in the header: two long addresses are more than nft takes for a comment."""
_OPENINGS: Final = "limit rate over 10/second burst 20 packets"
"""Connections to the membership service that one member may open. One that asks after each change opens five
a second at most. Further ones wait until TCP tries again. After two seconds the count starts again."""
_ASKER: Final = rf"[0-9a-f.:]+ {_OPENINGS}(?: timeout \w+)?(?: expires \w+)?"
_ASKERS = re.compile(
    r"(set askers \{ type ipv[46]_addr size 65535)(?: # count \d+)?( flags dynamic,timeout timeout 2s)"
    rf"(?: elements = \{{ {_ASKER}(?:, {_ASKER})* \}})?"
)
"""The set of who asked lately, as nft lists it: its elements come and go, and are no change of the guard."""
_TRANSPORT: Final = "meta l4proto { tcp, udp }"
_WRAP: Final = ",\n\t\t\t     "
_SPACE = re.compile(r"\s+")
_HOLDER = re.compile(rf"\A(table inet {HELD} {{) # progname [^\n]*")


def render_table(guard: Guard) -> str:
    """The table as `nft -s list table inet qmesh` prints it, without comments or counters' values."""
    return _render_any_table(
        guard, TABLE, who_asked=_render_asker_set(guard), how_often=_render_rate_limit(guard)
    )


def render_held_table(guard: Guard) -> str:
    """The same for the table that belongs to a process.

    Of the tunnel's packets it does not ask for more than G1: the control node's pass at once but for the
    ports that are not workers', and those of members are not counted.
    """
    passing = (
        ""
        if guard.role == "control"
        else f"\n\t\t{_match_control_node(guard)} {_TRANSPORT} th dport != @guarded_ports accept"
    )
    return _render_any_table(guard, HELD, flags="\n\tflags owner", passing=passing)


def _address_family(guard: Guard) -> str:
    return "ip6" if ":" in guard.control_address else "ip"


def _render_any_table(
    guard: Guard, table: str, *, flags: str = "", passing: str = "", who_asked: str = "", how_often: str = ""
) -> str:
    family, stream = _address_family(guard), guard.stream_port
    header = (
        f"{_FORMAT}: {guard.role} {guard.interface} {guard.kind} {guard.listen_port}"
        f" {guard.control_address} {guard.service_port}{'' if stream is None else f' {stream}'}"
    )
    speaks_first = _render_root_only_rules(guard, family) + _render_output_shortcut(guard)
    sets = "\n".join(_render_port_set(name, ports) for name, ports in _list_port_sets(guard).items())
    return f"""\
table inet {table} {{{flags}
	comment "{header}"
{sets}{who_asked}
	chain asked_for {{
		type filter hook prerouting priority mangle; policy accept;{passing}
		iifname "{guard.interface}" goto through_tunnel
		udp dport {guard.listen_port} accept
		{_TRANSPORT} th dport @closed_ports fib daddr type local goto closed_port
	}}

	chain arrived_at {{
		type filter hook input priority mangle; policy accept;{_render_input_shortcut(guard)}
		udp dport {guard.listen_port} accept
		{_TRANSPORT} th dport @closed_ports goto closed_port
	}}

	chain passed_on {{
		type filter hook forward priority mangle; policy accept;
		oifname "{guard.interface}" goto into_tunnel
		{_TRANSPORT} th dport @closed_ports ct status dnat goto closed_port
		{_TRANSPORT} th dport @closed_ports meta oifkind "bridge" goto closed_port
		tcp sport @closed_ports meta iifkind "bridge" ct direction original ct state new goto taken_up
	}}

	chain sent {{
		type filter hook output priority mangle; policy accept;{speaks_first}
		tcp sport @closed_ports ct direction original ct state new goto taken_up{_render_local_rule(guard)}
		udp sport {guard.listen_port} accept
		{_TRANSPORT} th sport @closed_ports ct direction reply goto sent_back
	}}

	chain closed_port {{
		{_render_port_access(guard)}
		ct direction reply goto answered
		counter drop
	}}

	chain through_tunnel {{{how_often}
		{_render_tunnel_access(guard, family)}
		meta iifkind "{guard.kind}" {_TRANSPORT} th dport @mesh_ports fib daddr type local accept
		ct direction reply accept
		meta l4proto {{ icmp, ipv6-icmp }} fib daddr type local accept
		counter drop
	}}

	chain into_tunnel {{
		ct direction reply accept
		counter drop
	}}

	chain answered {{
		meta l4proto udp accept
		tcp flags rst,ack accept
		counter drop
	}}

	chain sent_back {{
		{_render_answer_access(guard)}
		counter drop
	}}

	chain taken_up {{
		meta oiftype loopback tcp sport @guarded_ports accept
		tcp flags syn accept
		counter drop
	}}

	chain asks_service {{
		meta skuid 0 accept
		meta skuid != 0 counter drop
		tcp flags syn counter drop
	}}
}}
"""


def _format_ports(ports: tuple[int, ...]) -> str:
    """One by one, as nft wraps them, and never as an interval.

    While a table is replaced, a packet can find an interval set of the new one empty (Linux 6.18,
    2026-11): some ten packets of a hundred thousand came through. It finds a hash or bitmap whole.
    """
    return "".join(
        f"{port}{'' if number == len(ports) else ', ' if number % 5 else _WRAP}"
        for number, port in enumerate(ports, start=1)
    )


def _list_port_sets(guard: Guard) -> dict[str, tuple[int, ...]]:
    """The table's sets of ports, in their order."""
    return {
        "closed_ports": guard.closed_ports,
        "guarded_ports": guard.guarded_ports,
        "control_ports": guard.control_ports,
        "mesh_ports": guard.mesh_ports,
    }


def _render_port_set(name: str, ports: tuple[int, ...]) -> str:
    elements = f"\n\t\telements = {{ {_format_ports(ports)} }}" if ports else ""
    return f"\tset {name} {{\n\t\ttype inet_service{elements}\n\t}}\n"


def _match_tunnel(guard: Guard) -> str:
    """A packet from the tunnel: its name can be taken by another kind of interface."""
    return f'iifname "{guard.interface}" meta iifkind "{guard.kind}"'


def _match_control_node(guard: Guard) -> str:
    """A packet of the control node: its address can be taken by a neighbour."""
    return f"{_match_tunnel(guard)} {_address_family(guard)} saddr {guard.control_address}"


def _match_tunnel_output(guard: Guard) -> str:
    return f'oifname "{guard.interface}" meta oifkind "{guard.kind}"'


def _render_port_access(guard: Guard) -> str:
    """Who reaches a closed port. Only on the control machine a worker is reached by the machine itself."""
    members = f"{_match_tunnel(guard)} th dport @mesh_ports accept"
    if guard.role == "control":
        return f"meta iiftype loopback accept\n\t\t{members}"
    control = _match_control_node(guard)
    return f"""{control} th dport != @guarded_ports accept
		{control} th dport @control_ports accept
		{members}
		meta iiftype loopback th dport @guarded_ports accept"""


def _render_answer_access(guard: Guard) -> str:
    """Where a closed port's answers go: others asked before the guard was there."""
    members = f"{_match_tunnel_output(guard)} th sport @mesh_ports accept"
    if guard.role == "control":
        return f"meta oiftype loopback accept\n\t\t{members}"
    control = f"{_match_tunnel_output(guard)} {_address_family(guard)} daddr {guard.control_address}"
    return f"""meta oiftype loopback th sport @guarded_ports accept
		{control} th sport @control_ports accept
		{members}"""


def _render_input_shortcut(guard: Guard) -> str:
    """What `closed_port` would let in, before the port is looked up; the tunnel's were by `asked_for`."""
    return "" if guard.role == "control" else f"\n\t\t{_match_control_node(guard)} accept"


def _render_output_shortcut(guard: Guard) -> str:
    if guard.role == "control":
        return ""
    to_control = f"{_match_tunnel_output(guard)} {_address_family(guard)} daddr {guard.control_address}"
    return f"\n\t\t{to_control} {_TRANSPORT} th sport != @guarded_ports accept"


def _render_root_only_rules(guard: Guard, family: str) -> str:
    """Whose sockets speak with the membership service, and on the control node as it, before all else.

    Through a member's tunnel there is no other service of that port, whichever hub it is. The control node's
    leads to workers too, some of which may have that port: there the hubs' addresses count.
    """
    asks = f"\n\t\ttcp dport {guard.service_port}"
    if guard.role == "worker":
        return f'{asks} oifname "{guard.interface}" goto asks_service'
    hubs = [hub for hub in (guard.control_address, guard.successor_address) if hub is not None]
    asked = "".join(f"{asks} {family} daddr {hub} goto asks_service" for hub in hubs)
    answers = f"tcp sport {guard.service_port} {family} saddr {guard.control_address}"
    return f"{asked}\n\t\t{answers} meta skuid != 0 counter drop"


def _render_asker_set(guard: Guard) -> str:
    if guard.role == "worker":
        return ""
    return f"""
	set askers {{
		type {"ipv6" if _address_family(guard) == "ip6" else "ipv4"}_addr
		size 65535
		flags dynamic,timeout
		timeout 2s
	}}
"""


def _render_rate_limit(guard: Guard) -> str:
    if guard.role == "worker":
        return ""
    counted = f"update @askers {{ {_address_family(guard)} saddr {_OPENINGS} }}"
    return f"\n\t\ttcp dport {guard.service_port} tcp flags syn {counted} counter drop"


def _render_local_rule(guard: Guard) -> str:
    if guard.role == "control":
        return ""
    workers = "th dport @closed_ports th dport != @guarded_ports"
    return f"\n\t\t{_TRANSPORT} {workers} fib daddr type local goto closed_port"


def _render_tunnel_access(guard: Guard, family: str) -> str:
    if guard.role == "control":
        return (
            f'meta iifkind "{guard.kind}" {family} daddr {guard.control_address}'
            f" tcp dport {_format_port_match(guard.service_port, guard.stream_port)} accept"
        )
    control = f'meta iifkind "{guard.kind}" {family} saddr {guard.control_address}'
    return (
        f"{control} {_TRANSPORT} th dport @closed_ports th dport != @guarded_ports accept\n"
        f"\t\t{control} {_TRANSPORT} th dport @control_ports accept"
    )


def _format_port_match(port: int, other: int | None) -> str:
    """One port or two, as nft prints them."""
    return str(port) if other is None else f"{{ {min(port, other)}, {max(port, other)} }}"


def can_reach_port(
    guard: Guard,
    port: int,
    source: str,
    *,
    own: AbstractSet[str],
    members: Iterable[IPv4Network | IPv6Network] = (),
) -> bool:
    """Whether the guard lets an address in to a closed port; its packets must still come its way.

    own: the machine's addresses. members: the networks that its tunnel leads to.
    """
    guarded = port in guard.guarded_ports
    if (guarded or guard.role == "control") and (source in own or ipaddress.ip_address(source).is_loopback):
        return True
    if port in guard.mesh_ports:
        return any(ipaddress.ip_address(source) in network for network in members)
    return (
        guard.role == "worker"
        and source == guard.control_address
        and (not guarded or port in guard.control_ports)
    )


def render_load_script(guard: Guard) -> str:
    """Nftables commands that put the guard in place of whatever has its name, in one transaction."""
    return f"{render_unload_script()}{render_table(guard)}"


def render_held_script(guard: Guard) -> str:
    """Nftables commands by which a process puts the held table in place of the one it has."""
    return f"{render_release_script()}{render_held_table(guard)}"


def render_release_script() -> str:
    """Nftables commands by which that process takes its table away, whether it has one or not."""
    return f"add table inet {HELD} {{ flags owner; }}\ndelete table inet {HELD}\n"


def rename_held_table(script: str, name: str) -> str:
    """The same commands, of `render_held_script` or `render_release_script`, for a table of another name."""
    return script.replace(f"table inet {HELD}", f"table inet {name}")


def render_held_header(comment: str) -> str:
    """The beginning of the second table's listing, where no more of it is known."""
    return f'table inet {HELD} {{\n\tflags owner\n\tcomment "{comment}"\n}}\n'


def render_change_script(old: Guard | AlteredGuard | None, new: Guard) -> str:
    """Nftables commands that take the table from `old` to `new`, in one transaction.

    Where ports are only added, they name just those; else the table is replaced.
    """
    if not isinstance(old, Guard) or _without_ports(old) != _without_ports(new):
        return render_load_script(new)
    before, after = _list_port_sets(old), _list_port_sets(new)
    if any(set(before[name]).difference(ports) for name, ports in after.items()):
        return render_load_script(new)
    added = {name: tuple(sorted(set(ports).difference(before[name]))) for name, ports in after.items()}
    # Within the table: for `add element` libnftables 1.0.6 reads every set of every table first.
    sets = "\n".join(_render_port_set(name, ports) for name, ports in added.items() if ports)
    return f"table inet {TABLE} {{\n{sets}}}\n" if sets else ""


def _without_ports(guard: Guard) -> Guard:
    return msgspec.structs.replace(guard, ports=(), own_ports=(), control_ports=(), mesh_ports=())


def render_unload_script() -> str:
    """Nftables commands that take the guard away, whether it is there or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def parse_table(listing: str) -> Guard | AlteredGuard:
    """Read back what `nft -s list table inet qmesh` printed."""
    guard = _parse_parameters(listing)
    return (
        guard
        if guard is not None and _normalize_listing(render_table(guard)) == _normalize_listing(listing)
        else AlteredGuard(listing)
    )


def parse_load_script(script: str) -> Guard | AlteredGuard:
    """Read back what `render_load_script` wrote."""
    return parse_table(script.removeprefix(render_unload_script()))


def is_complete_script(script: str) -> bool:
    """Whether a script may be of `render_load_script`, whatever qmesh wrote it, and has its end."""
    return script.startswith(f"{render_unload_script()}table inet {TABLE} {{\n") and script.endswith("\n}\n")


def is_script_loaded(script: str, listing: str | None) -> bool:
    """Whether a table is as a `render_load_script` makes it. listing: None where there is no table."""
    return listing is not None and _normalize_listing(
        script.removeprefix(render_unload_script())
    ) == _normalize_listing(listing)


def parse_held_table(listing: str) -> Guard | AlteredGuard:
    """Read back what `nft -s list table inet qmesh-held` printed, whichever process holds it."""
    guard = _parse_parameters(listing)
    nobodys = _HOLDER.sub(r"\1", listing)
    is_whole = guard is not None and _normalize_listing(render_held_table(guard)) == _normalize_listing(
        nobodys
    )
    return guard if guard is not None and is_whole else AlteredGuard(listing)


def parse_table_header(listing: str) -> Guard | None:
    """What either table says of itself, whatever its rules are, and of whichever version of qmesh it is.

    None where that is not understood.
    """
    return _parse_parameters(_ANY_FORMAT.sub(f'comment "{_FORMAT}: ', listing))


def _parse_parameters(listing: str) -> Guard | None:
    header = _HEADER.search(listing)
    if header is None:
        return None
    words = _normalize_listing(listing)
    successor = _SUCCESSOR.search(words)
    try:
        sets = {found["name"]: parse_port_ranges(found["ports"]) for found in _SETS.finditer(words)}
        guarded, control, mesh = (sets.get(name, frozenset()) for name in ("guarded", "control", "mesh"))
        closed = sets.get("closed", sets.get("worker", frozenset()))  # the latter until format 2
        return Guard(
            role="control" if header["role"] == "control" else "worker",
            interface=header["interface"],
            kind="tun" if header["kind"] == "tun" else "wireguard",
            listen_port=int(header["listen_port"]),
            control_address=normalize_ip_address(header["control_address"]),
            service_port=int(header["service_port"]),
            ports=tuple(sorted(closed - guarded)),
            own_ports=tuple(sorted(guarded - control - mesh)),
            control_ports=tuple(sorted(control)),
            mesh_ports=tuple(sorted(mesh)),
            stream_port=int(header["stream_port"]) if header["stream_port"] else None,
            successor_address=normalize_ip_address(successor["address"]) if successor else None,
        )
    except (QmeshError, ValueError):
        return None


def _normalize_listing(listing: str) -> str:
    """A listing with its line breaks and indentation folded, as nft versions wrap long sets unlike.

    And without those who asked lately.
    """
    return _ASKERS.sub(r"\1\2", _SPACE.sub(" ", listing)).strip()


def build_observed_guard(
    listing: str | None, held: str | None, boot: str | None
) -> Guard | AlteredGuard | None:
    """The guard of a machine, from the listings of both tables and the file for the next boot.

    It is a Guard where all three are one, None where neither table is there.
    """
    if listing is None:
        if held is None:
            return None
        found = parse_held_table(held)
        return AlteredGuard(held, loaded=found if isinstance(found, Guard) else None, lack="table")
    guard = parse_table(listing)
    if isinstance(guard, AlteredGuard):
        return guard
    lack: Lack | None = None
    if boot != render_load_script(guard):
        lack = "boot file"
    elif held is None or parse_held_table(held) != guard:
        lack = "held table"
    return guard if lack is None else AlteredGuard(listing, loaded=guard, lack=lack)
