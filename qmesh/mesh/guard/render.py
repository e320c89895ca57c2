"""The guard's two tables, as nft lists them.

The most frequent packets come first: WireGuard's own, and on a worker machine the control node's. The chains,
in the order in which a packet meets them (docs/guard.md has the reasons):

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

from typing import Final

from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.state import Guard

FORMAT: Final = "qmesh guard 3"
OPENINGS: Final = "limit rate over 10/second burst 20 packets"
"""Connections to the membership service that one member may open. One that asks after each change opens five
a second at most. Further ones wait until TCP tries again. After two seconds the count starts again."""
_TRANSPORT: Final = "meta l4proto { tcp, udp }"
_WRAP: Final = ",\n\t\t\t     "


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
        f"{FORMAT}: {guard.role} {guard.interface} {guard.kind} {guard.listen_port}"
        f" {guard.control_address} {guard.service_port}{'' if stream is None else f' {stream}'}"
    )
    speaks_first = _render_root_only_rules(guard, family) + _render_output_shortcut(guard)
    sets = "\n".join(render_port_set(name, ports) for name, ports in list_port_sets(guard).items())
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


def list_port_sets(guard: Guard) -> dict[str, tuple[int, ...]]:
    """The table's sets of ports, in their order."""
    return {
        "closed_ports": guard.closed_ports,
        "guarded_ports": guard.guarded_ports,
        "control_ports": guard.control_ports,
        "mesh_ports": guard.mesh_ports,
    }


def render_port_set(name: str, ports: tuple[int, ...]) -> str:
    """A set of ports as nft lists it."""
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
    counted = f"update @askers {{ {_address_family(guard)} saddr {OPENINGS} }}"
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
