"""What a machine can be guarded by: the guard, its parts, and what people write by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from qmesh.mesh.guard.render import render_held_table, render_table
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.state import Guard
from tests.support.lab.matrix.case import Overlay
from tests.support.lab.mesh import CONTROL, CONTROL6, GUARDED, GUARDS, OF_MESH, OWN, PORTS, Mesh, Role, nft


@dataclass(frozen=True)
class Ruleset:
    """What a machine is guarded by."""

    name: str
    script: Callable[[Guard], str]

    def guard(self, mesh: Mesh, role: Role, overlay: Overlay) -> None:
        """Put it in place of whatever of these the machine has; what a case arranged stays."""
        address = CONTROL6 if overlay == "IPv6" else CONTROL
        guard = msgspec.structs.replace(GUARDS[role], control_address=address)
        gone = "".join(
            f"add table inet {name}\ndelete table inet {name}\n" for name in (TABLE, HELD, BY_HAND)
        )
        nft(mesh.machines[role], gone + self.script(guard))


def held(guard: Guard) -> str:
    """The second table of the guard, without its owner: here it needs none."""
    return render_held_table(guard).replace("\tflags owner\n", "")


BY_HAND: Final = "filter"


def _by_hand(guard: Guard, rules: str, policy: str) -> str:
    family = "ip6" if ":" in guard.control_address else "ip"
    text = rules.format(
        control=f"{family} saddr {guard.control_address}",
        ports=f"th dport {{ {PORTS[0]}-{PORTS[-1]}, {', '.join(map(str, GUARDED))} }}",
        members=f'iifname "{guard.interface}" meta l4proto {{ tcp, udp }} th dport {OF_MESH} accept',
        service=f'iifname "{guard.interface}" tcp dport {guard.service_port} accept',
    )
    head = f"type filter hook input priority 0; policy {policy};"
    return f"table inet {BY_HAND} {{\nchain input {{\n{head}\n{text}\n}}\n}}\n"


def community(guard: Guard) -> str:
    """What node runners are told: drop everything, and accept the control node's address."""
    return _by_hand(
        guard,
        "ct state established,related accept\niif lo accept\nmeta l4proto {{ icmp, ipv6-icmp }} accept\n"
        "tcp dport 22 accept\nudp dport 51820 accept\n{control} accept\n{members}\n{service}",
        "drop",
    )


def careful(guard: Guard) -> str:
    """An input chain by somebody who knows: interface and address matched, the ports dropped first."""
    tunnel = f'iifname "{guard.interface}"'
    let_in = f"{{members}}\niif lo th dport {{{{ {', '.join(map(str, GUARDED))} }}}} accept\n"
    let_in += "iif lo accept" if guard.role == "control" else f"{tunnel} {{control}} th dport != {OWN} accept"
    return _by_hand(
        guard,
        f"ct state established,related accept\nct state invalid drop\n{let_in}\n"
        "meta l4proto {{ tcp, udp }} {ports} drop\n{service}\n"
        f'iifname "{guard.interface}" meta l4proto {{{{ tcp, udp }}}} drop',
        "accept",
    )


NONE = Ruleset("no rules", lambda guard: "")
COMMUNITY = Ruleset("the community's advice", community)
CAREFUL = Ruleset("a careful input chain", careful)
QMESH = Ruleset("qmesh", lambda guard: render_table(guard) + held(guard))
LASTING = Ruleset("qmesh, the first table alone", render_table)
HELD_ALONE = Ruleset("qmesh, the held table alone", held)
COMPARED: Final = (NONE, COMMUNITY, CAREFUL, QMESH)
