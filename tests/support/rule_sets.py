"""Rulesets in the style of the programs that people run: the kernel's word and ours on the mesh's packets."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from pyroute2 import IPSet
from pyroute2.ipset import IPSetError

from qmesh.host.firewall import foreign_rulesets, nftables
from qmesh.mesh.foreign.lookups import Answers, Lookups
from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.rulesets import Listing, build_tables
from qmesh.mesh.foreign.walk import find_drops
from qmesh.mesh.guard.scripts import render_load_script
from tests.support.kernel_verdicts import Verdict, Version, Wire, build_guard
from tests.support.waiting import wait_until

FOLDER: Final = Path(__file__).with_name("foreign_rule_sets")
Backend: TypeAlias = Literal["nft", "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"]
Role: TypeAlias = Literal["worker", "control"]
ROLES: Final[tuple[Role, ...]] = ("worker", "control")
Judgement: TypeAlias = Literal["passes", "drops", "may drop"]
_TABLES: Final = ("filter", "nat", "mangle", "raw")


class RuleSet(NamedTuple):
    """A file, and the program by which it is loaded."""

    path: Path
    backend: Backend

    def __str__(self) -> str:
        return f"{self.path.stem} by {self.backend}"

    @property
    def versions(self) -> tuple[Version, ...]:
        """Those of IP that it is about."""
        return (4, 6) if self.backend == "nft" else (6,) if self.backend.startswith("ip6") else (4,)

    def read_expected(self, version: Version) -> str:
        """Whether all of the mesh passes it, or something is dropped: `passes` or `drops`."""
        notes = self._list_notes("expect of IPv6") if version == 6 else []
        return (notes or self._list_notes("expect"))[0]

    def _list_notes(self, word: str) -> list[str]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [line.removeprefix(f"# {word}: ") for line in lines if line.startswith(f"# {word}: ")]

    def load(self) -> None:
        """Put it into this network namespace, where none is."""
        text, _, native = self.path.read_text(encoding="utf-8").partition("# nft:\n")
        if self.backend == "nft":
            nftables.run(text)
            return
        for note in self._list_notes("ipset"):
            _create_ipset(*note.split())
        _restore(self.backend, text)
        nftables.run(native)

    def unload(self) -> None:
        """Remove all rules and sets."""
        nftables.run("flush ruleset\n")
        if self.backend.endswith("-legacy"):
            tables = "".join(f"*{table}\nCOMMIT\n" for table in _TABLES)
            _restore(self.backend, _POLICIES + tables)
        for note in self._list_notes("ipset"):
            # The kernel lets go of it some time after its rule.
            wait_until(partial(_destroy_ipset, note.split()[0]))


_POLICIES: Final = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n"


def _restore(backend: Backend, text: str) -> None:
    program = f"{backend}-restore"
    subprocess.run([program], input=text, text=True, check=True)


def _destroy_ipset(name: str) -> bool:
    with IPSet() as sets:
        try:
            sets.destroy(name)
        except IPSetError:
            return False
    return True


def _create_ipset(name: str, kind: str, *entries: str) -> None:
    with IPSet() as sets:
        sets.create(name, stype=f"hash:{kind}")
        for entry in entries:
            sets.add(name, entry, etype=kind)


def list_rule_sets() -> list[RuleSet]:
    """Every file with each program that can load it; iptables-legacy is last, as it leaves empty tables."""
    paths = sorted(FOLDER.iterdir())
    iptables = [path for path in paths if path.suffix == ".iptables"]
    ip6tables = [path for path in paths if path.suffix == ".ip6tables"]
    legacy = [path for path in iptables if "# nft:" not in path.read_text(encoding="utf-8")]
    return [
        *(RuleSet(path, "nft") for path in paths if path.suffix == ".nft"),
        *(RuleSet(path, "iptables-nft") for path in iptables),
        *(RuleSet(path, "ip6tables-nft") for path in ip6tables),
        *(RuleSet(path, "iptables-legacy") for path in legacy),
        *(RuleSet(path, "ip6tables-legacy") for path in ip6tables),
    ]


def list_one_of_each_file() -> list[RuleSet]:
    """Every file with one program: of those that two can load half with each."""
    by_path: dict[Path, list[RuleSet]] = {}
    for rules in list_rule_sets():
        by_path.setdefault(rules.path, []).append(rules)
    chosen = [each[number % len(each)] for number, each in enumerate(by_path.values())]
    return sorted(chosen, key=lambda rules: rules.backend.endswith("-legacy"))


class Comparison(NamedTuple):
    """One packet under one ruleset. kernel: None where it could not be sent."""

    rules: RuleSet
    role: Role
    version: Version
    packet: Packet
    kernel: Verdict | None
    ours: Judgement
    rule: str

    @property
    def agrees(self) -> bool:
        """Whether both say the same."""
        return self.kernel is None or self.kernel == self.ours

    def __str__(self) -> str:
        packet = self.packet
        kind = "opening" if packet.opens else "answer" if packet.is_reply else "data"
        kind = f"type {packet.icmp_type}" if packet.protocol == "icmpv6" else kind
        ends = f"{packet.source}:{packet.source_port} > {packet.target}:{packet.target_port}"
        words = f"{packet.traffic} {packet.protocol} {kind} {ends}"
        return (
            f"{self.rules}, {self.role}: {words}: the kernel {self.kernel}, qmesh {self.ours} ({self.rule})"
        )


def compare(wire: Wire, rules: RuleSet) -> Iterator[Comparison]:
    """All packets of a worker machine and of a control node, under a ruleset with the guard beside it."""
    rules.load()
    try:
        for role, version in itertools.product(ROLES, rules.versions):
            packets = merge_loopback(wire.begin_round(role, version))
            nftables.run(render_load_script(build_guard(role, version)))
            judged = judge(packets)
            asked = [(packet, ours) for packet, (ours, _) in zip(packets, judged, strict=True)]
            for (packet, kernel), (ours, rule) in zip(wire.send_all(asked), judged, strict=True):
                yield Comparison(rules, role, version, packet, kernel, ours, rule)
    finally:
        rules.unload()


def merge_loopback(packets: list[Packet]) -> list[Packet]:
    """One packet for both ways through the loopback interface: it is seen only at their end."""
    return [packet for packet in packets if packet.traffic != "loopback" or packet.iif]


def judge(packets: list[Packet]) -> list[tuple[Judgement, str]]:
    """What the product says of each packet under the rules that are loaded, and which rule it names."""
    return judge_listing(*read_for(packets), packets)


def read_for(packets: list[Packet]) -> tuple[Listing, Answers]:
    """What the product reads of the rules that are loaded, to judge these packets."""
    listing = foreign_rulesets.read_rulesets()
    tables, answers = build_tables(listing), Answers()
    while True:
        lookups = Lookups(answers)
        for packet in packets:
            list(find_drops(tables, packet, lookups=lookups, interfaces=listing.interfaces))
        if not lookups.open:
            return listing, answers
        more, unread = foreign_rulesets.answer_questions(lookups.open)
        assert unread == ()
        answers |= more


def judge_listing(listing: Listing, answers: Answers, packets: list[Packet]) -> list[tuple[Judgement, str]]:
    """The same from what was read."""
    tables = build_tables(listing)
    judged: list[tuple[Judgement, str]] = []
    for packet in packets:
        drops = list(find_drops(tables, packet, lookups=Lookups(answers), interfaces=listing.interfaces))
        certain = [drop for drop in drops if drop.is_certain]
        first = next(iter(certain or drops), None)
        rule = (
            "" if first is None else f"{first.chain}: {'policy' if first.rule is None else first.rule.text}"
        )
        judged.append(("drops" if certain else "may drop" if drops else "passes", rule))
    return judged
