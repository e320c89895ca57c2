"""What the kernel once said of rulesets, and of packets under them: for tests of the prover without one."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from qmesh.mesh.foreign.rulesets import Listing
from qmesh.mesh.guard.render import render_held_table, render_table
from qmesh.mesh.prover.rulesets import ProvedRuleset, build_ruleset
from qmesh.mesh.prover.set_contents import SetContent
from qmesh.mesh.state import Guard
from tests.support import factories
from tests.support.checkout import CHECKOUT
from tests.support.foreign_cases import CASES, Recording, record, replay
from tests.support.lab.matrix.rulesets import community
from tests.support.random_rules import QUIET, draw_ruleset
from tests.support.sent_packets import SentPacket

FOLDER: Final = CHECKOUT / "tests/mesh/prover_listings"
GUARDS: Final[dict[str, Guard]] = {
    f"{role} {family}": factories.guard(
        role=role,
        control_address=address,
        ports=(40000, 40001, 40002, 40010),
        own_ports=(8337,),
        control_ports=(9100,) if role == "worker" else (),
        mesh_ports=(9200,),
        successor_address=successor if role == "control" else None,
        stream_port=8340,
    )
    for role in ("worker", "control")
    for family, address, successor in (("IPv4", "10.77.0.1", "10.77.0.9"), ("IPv6", "fd77::1", "fd77::9"))
}
RECORDED_GUARDS: Final = ("worker IPv4", "control IPv6")
DATAGRAM: Final = SentPacket(
    number=7, family="ip", interface="eth0", protocol="udp", source="192.0.2.1", source_port=51820,
    target="192.0.2.2", target_port=51820, flag="", hops=64, service=0,
)  # fmt: skip
SEEDS: Final = (2, 5, 8, 12)
"""Of random rulesets."""


class ProverRecording(msgspec.Struct):
    """Rules, their sets, and packets: which of them came past all rules."""

    rules: Recording
    sets: tuple[tuple[str, str, str, SetContent], ...]
    packets: tuple[SentPacket, ...] = ()
    came: frozenset[int] = frozenset()

    @property
    def listing(self) -> Listing:
        """As it was read."""
        return replay(self.rules)[0]

    @property
    def ruleset(self) -> ProvedRuleset:
        """For the prover."""
        sets = {(family, table, name): content for family, table, name, content in self.sets}
        return build_ruleset(self.listing, sets)


def render_both(guard: Guard) -> str:
    """Both tables of a guard, as nft loads them; none is owned."""
    return render_table(guard) + render_held_table(guard).replace("\tflags owner\n", "")


def list_scripts() -> dict[str, str]:
    """The rulesets that are recorded, in nft's words."""
    scripts = {f"seed {seed}": draw_ruleset(seed) for seed in SEEDS}
    scripts |= {f"guard, {name}": render_both(GUARDS[name]) for name in RECORDED_GUARDS}
    for name, (_, script) in CASES.items():
        if name != "the guard's own":
            scripts[f"case, {name}"] = QUIET + script
    scripts["advice"] = community(GUARDS["worker IPv4"])
    return scripts


def make_recording(
    listing: Listing,
    sets: dict[tuple[str, str, str], SetContent],
    packets: tuple[SentPacket, ...],
    came: set[int],
) -> ProverRecording:
    """For a file."""
    contents = tuple((*key, content) for key, content in sorted(sets.items()))
    return ProverRecording(record(listing, {}), contents, packets, frozenset(came))


def read_prover_recordings(path: Path = FOLDER / "kernel.json") -> dict[str, ProverRecording]:
    """Those in a file, by name."""
    return msgspec.json.decode(path.read_bytes(), type=dict[str, ProverRecording])
