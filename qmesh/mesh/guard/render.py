"""The guard's two tables, as nft lists them.

The most frequent packets come first: WireGuard's own, and on a worker machine the control node's. The chains,
in the order in which a packet meets them (docs/guard.md has the reasons):

asked_for   prerouting, before destination NAT: the port is still the one that was asked for
arrived_at  input, after destination NAT: the port that a socket of this machine would see
passed_on   forward: to a container of this machine; no machine may send into the tunnel via this one
sent        output: a connection that is older than the guard is neither answered nor taken up again; no
            local user asks a worker, and none but root the membership service

Worker ports that adjoin are an interval in a rule, the longest few of them; all others that are closed are in
one set. Three small sets say for which of these more is let in. `guarded_ports` are not workers': the machine
itself reaches them, of these the control node `control_ports`, and all members `mesh_ports`.

In each rule the tests that fail for most packets come first, and the protocol's, which is dear, last.
"""

from __future__ import annotations

from typing import Final

from qmesh.mesh.guard.script_text import OPENINGS
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.ports.port_ranges import list_port_ranges
from qmesh.mesh.state import Guard

FORMAT: Final = "qmesh guard 5"
MOST_INTERVALS: Final = 4
"""Of a machine: a packet is compared with each of them."""
MOST_IN_BITMAP: Final = 1000
"""The kernel adds to the bitmap of a set of ports in a time that grows with what is there already."""
_TRANSPORT: Final = "meta l4proto { tcp, udp }"
_BEGINS: Final = "ct direction original ct state new"
_OTHERS: Final = "@closed_ports"
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
        else f"\n\t\t{_match_control_node(guard)} th dport != @guarded_ports accept"
    )
    return _render_any_table(guard, HELD, flags="\n\tflags owner", passing=passing)


def render_unowned_table(guard: Guard) -> str:
    """The same for a copy of it that belongs to no process, as of a drill."""
    return render_held_table(guard).replace("\tflags owner\n", "", 1)


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
    port_sets = list_port_sets(guard)
    sets = "\n".join(render_port_set(name, ports) for name, ports in port_sets.items())
    closed = [f"{first}-{last}" for first, last in list_port_intervals(guard)]
    if port_sets["closed_ports"] or not closed:
        closed.append(_OTHERS)
    first_sent = (
        _render_root_only_rules(guard, family)
        + _render_output_shortcut(guard)
        + _render_local_rules(guard, closed)
    )
    return f"""\
table inet {table} {{{flags}
	comment "{header}"
{sets}{who_asked}
	chain asked_for {{
		type filter hook prerouting priority mangle; policy accept;{passing}
		iifname "{guard.interface}" goto through_tunnel
		udp dport {guard.listen_port} accept
		{_for_each(closed, f"th dport PORTS {_TRANSPORT} fib daddr type local goto closed_port")}
	}}

	chain arrived_at {{
		type filter hook input priority mangle; policy accept;{_render_input_shortcut(guard)}
		udp dport {guard.listen_port} accept
		{_for_each(closed, f"th dport PORTS {_TRANSPORT} goto closed_port")}
	}}

	chain passed_on {{
		type filter hook forward priority mangle; policy accept;
		oifname "{guard.interface}" goto into_tunnel
		{_for_each(closed, f"th dport PORTS {_TRANSPORT} ct status dnat goto closed_port")}
		{_for_each(closed, f'th dport PORTS {_TRANSPORT} meta oifkind "bridge" goto closed_port')}
		{_for_each(closed, f'tcp sport PORTS meta iifkind "bridge" {_BEGINS} goto taken_up')}
	}}

	chain sent {{
		type filter hook output priority mangle; policy accept;{first_sent}
		{_for_each(closed, f"tcp sport PORTS {_BEGINS} goto taken_up")}
		udp sport {guard.listen_port} accept
		{_for_each(closed, f"th sport PORTS {_TRANSPORT} ct direction reply goto sent_back")}
	}}

	chain closed_port {{
		{_render_port_access(guard)}
		ct direction reply goto answered
		counter drop
	}}

	chain through_tunnel {{{how_often}
		{_render_tunnel_access(guard, family, closed)}
		ct direction reply accept
		th dport @mesh_ports meta iifkind "{guard.kind}" {_TRANSPORT} fib daddr type local accept
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


def list_port_intervals(guard: Guard) -> tuple[tuple[int, int], ...]:
    """The worker ports that are intervals in rules, as first and last port, ascending.

    In rules and never in a set: while a table is replaced, a packet can find an interval set of the new one
    empty (Linux 6.18, 2026-11: two of a thousand came through). It finds rules, a hash or a bitmap whole.
    """
    runs = [run for run in list_port_ranges(guard.ports) if run[0] < run[1]]
    return tuple(sorted(sorted(runs, key=lambda run: run[0] - run[1])[:MOST_INTERVALS]))


def list_port_sets(guard: Guard) -> dict[str, tuple[int, ...]]:
    """The table's sets of ports, in their order."""
    compared = {port for first, last in list_port_intervals(guard) for port in range(first, last + 1)}
    return {
        "closed_ports": tuple(port for port in guard.closed_ports if port not in compared),
        "guarded_ports": guard.guarded_ports,
        "control_ports": guard.control_ports,
        "mesh_ports": guard.mesh_ports,
    }


def render_port_set(name: str, ports: tuple[int, ...]) -> str:
    """A set of ports as nft lists it. One whose elements may have a time-out, though none has, is a hash."""
    hashed = "\n\t\tflags timeout\n\t\tgc-interval 1d" if len(ports) > MOST_IN_BITMAP else ""
    elements = f"\n\t\telements = {{ {_format_ports(ports)} }}" if ports else ""
    return f"\tset {name} {{\n\t\ttype inet_service{hashed}{elements}\n\t}}\n"


def _format_ports(ports: tuple[int, ...]) -> str:
    """One by one, as nft wraps them."""
    return "".join(
        f"{port}{'' if number == len(ports) else ', ' if number % 5 else _WRAP}"
        for number, port in enumerate(ports, start=1)
    )


def _for_each(closed: list[str], rule: str, others: str = "") -> str:
    """A rule about closed ports, for each interval, and for those of the set: of which `others` must hold."""
    return "\n\t\t".join(
        rule.replace("PORTS", f"{ports}{others}" if ports == _OTHERS else ports) for ports in closed
    )


def _match_tunnel(guard: Guard) -> str:
    """A packet from the tunnel: its name can be taken by another kind of interface."""
    return f'iifname "{guard.interface}" meta iifkind "{guard.kind}"'


def _match_control_node(guard: Guard) -> str:
    """A packet of the control node: its address can be taken by a neighbour."""
    return f"{_address_family(guard)} saddr {guard.control_address} {_match_tunnel(guard)}"


def _match_tunnel_output(guard: Guard) -> str:
    return f'oifname "{guard.interface}" meta oifkind "{guard.kind}"'


def _match_control_output(guard: Guard) -> str:
    return f"{_address_family(guard)} daddr {guard.control_address} {_match_tunnel_output(guard)}"


def _render_port_access(guard: Guard) -> str:
    """Who reaches a closed port. Only on the control machine a worker is reached by the machine itself."""
    members = f"th dport @mesh_ports {_match_tunnel(guard)} accept"
    if guard.role == "control":
        return f"meta iiftype loopback accept\n\t\t{members}"
    control = _match_control_node(guard)
    return f"""{control} th dport != @guarded_ports accept
		{control} th dport @control_ports accept
		{members}
		meta iiftype loopback th dport @guarded_ports accept"""


def _render_answer_access(guard: Guard) -> str:
    """Where a closed port's answers go: others asked before the guard was there."""
    members = f"th sport @mesh_ports {_match_tunnel_output(guard)} accept"
    if guard.role == "control":
        return f"meta oiftype loopback accept\n\t\t{members}"
    return f"""meta oiftype loopback th sport @guarded_ports accept
		{_match_control_output(guard)} th sport @control_ports accept
		{members}"""


def _render_input_shortcut(guard: Guard) -> str:
    """What `closed_port` would let in, before the port is looked up; the tunnel's were by `asked_for`."""
    return "" if guard.role == "control" else f"\n\t\t{_match_control_node(guard)} accept"


def _render_output_shortcut(guard: Guard) -> str:
    """Of whichever protocol: no rule that it skips is about another than TCP and UDP."""
    if guard.role == "control":
        return ""
    return f"\n\t\t{_match_control_output(guard)} th sport != @guarded_ports accept"


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


def _render_local_rules(guard: Guard, closed: list[str]) -> str:
    if guard.role == "control":
        return ""
    rule = f"th dport PORTS {_TRANSPORT} fib daddr type local goto closed_port"
    return f"\n\t\t{_for_each(closed, rule, ' th dport != @guarded_ports')}"


def _render_tunnel_access(guard: Guard, family: str, closed: list[str]) -> str:
    if guard.role == "control":
        return (
            f"tcp dport {_format_port_match(guard.service_port, guard.stream_port)}"
            f' {family} daddr {guard.control_address} meta iifkind "{guard.kind}" accept'
        )
    control = f'{family} saddr {guard.control_address} meta iifkind "{guard.kind}" {_TRANSPORT} accept'
    workers = _for_each(closed, f"th dport PORTS {control}", " th dport != @guarded_ports")
    return f"{workers}\n\t\tth dport @control_ports {control}"


def _format_port_match(port: int, other: int | None) -> str:
    """One port or two, as nft prints them."""
    return str(port) if other is None else f"{{ {min(port, other)}, {max(port, other)} }}"
