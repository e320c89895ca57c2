"""A drill from its beginning to its end, within the copy: the network, the rules, and row after row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import msgspec

from qmesh.errors import KernelRefused
from qmesh.host.drill.firing_range import FiringRange
from qmesh.host.drill.legacy_copy import load_legacy_tables
from qmesh.host.drill.live_network import LiveNetwork, list_addresses, read_live_network
from qmesh.host.drill.namespaces import Namespaces, run_in_namespaces
from qmesh.host.drill.network_copy import NetworkCopy, copy_network
from qmesh.host.drill.rule_copy import TableCopy, load_tables, read_live_tables, remove_table
from qmesh.host.firewall import nft_library
from qmesh.host.firewall.ipsec_policies import read_ipsec_policies
from qmesh.host.firewall.legacy_iptables import list_legacy_tables
from qmesh.host.firewall.nftables import build_nft_error, decode_output
from qmesh.host.firewall.packet_programs import find_packet_programs
from qmesh.host.given_rules import GivenRules, load_given_rules
from qmesh.mesh.drill.battery import list_rows
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.rule_messages import list_legacy_words
from qmesh.mesh.drill.shots import Fate
from qmesh.mesh.drill.target import MOST_PORTS, MOST_WAYS, DrillTarget
from qmesh.mesh.drill.verdict import FiredRow, Tables, list_needed_tables
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, OWN_TABLES, TABLE
from qmesh.mesh.state import Guard

TIMEOUT_S: Final = 60.0
"""Of all: a drill takes a few seconds."""
_INET: Final = 1
_OURS: Final[dict[str, Tables]] = {TABLE: "first", HELD_IN_KERNEL: "held", HELD: "held"}
_NAMES: Final[dict[Tables, str]] = {"first": TABLE, "held": HELD}
_LOADED: Final[dict[Tables, tuple[Tables, ...]]] = {
    "without": (),
    "all": ("first", "held"),
    "first": ("first",),
    "held": ("held",),
}
"""Which of qmesh's tables are there, beside all others."""
_TRACKING: Final = """\
table inet qmesh-drill {
	chain tracked {
		type filter hook prerouting priority -300; policy accept;
		ct state invalid continue
	}

	chain sent {
		type filter hook output priority -300; policy accept;
		ct state invalid continue
	}
}
"""
"""Has the kernel know connections while qmesh's tables are away, and changes nothing else."""


class DrillOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be drilled.

    guard: what this machine's guard should be. member: as of `DrillTarget`. listened: as there.
    scripts: nft's commands that make qmesh's tables, in place of those that are there; None to take these.
    ruleset: all rules, in place of the machine's; None to take these. further: rows beside the battery's.
    """

    guard: Guard
    member: str | None
    listened: tuple[int, ...]
    scripts: dict[Tables, str] | None = None
    ruleset: GivenRules | None = None
    further: tuple[DrillRow, ...] = ()


class DrillResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. unknown, counting, stand_ins: as of `judge_rows`."""

    fired: list[FiredRow]
    unknown: list[str]
    counting: list[str]
    stand_ins: list[str]


def conduct_drill(order: DrillOrder) -> DrillResult:
    """Copy this machine, fire, and tell what was seen. Raises MachineRefused, and BadInput of given rules.

    The machine is as it was.
    """
    live = read_live_network()
    live = msgspec.structs.replace(live, left_out=(*live.left_out, *_list_other_hooks(live)))
    if order.ruleset is not None:
        return drill_copy(order, live)
    return drill_copy(order, live, read_live_tables(), tuple(list_legacy_tables()))


def _list_other_hooks(live: LiveNetwork) -> Iterator[str]:
    """What sees packets beside all rules, and is not copied."""
    for program in find_packet_programs(each.name for each in live.links):
        if program.place != "queue":  # one that delays, or drops by chance, lets nobody in
            yield f"programs at {program.place} of {program.interface}"
    if read_ipsec_policies():
        yield "IPsec policies"


def drill_copy(
    order: DrillOrder,
    live: LiveNetwork,
    tables: tuple[TableCopy, ...] = (),
    legacy: tuple[LegacyBlock, ...] = (),
) -> DrillResult:
    """The same at a copy of that network with those tables."""
    return run_in_namespaces(
        lambda namespaces: _Drill(namespaces, order, live, tables, legacy).run(),
        DrillResult,
        timeout_s=TIMEOUT_S,
    )


class _Drill:
    def __init__(
        self,
        namespaces: Namespaces,
        order: DrillOrder,
        live: LiveNetwork,
        tables: tuple[TableCopy, ...],
        legacy: tuple[LegacyBlock, ...],
    ) -> None:
        self._namespaces, self._order, self._live, self._legacy = namespaces, order, live, legacy
        self._ours = {
            which: table
            for table in tables
            if table.family == _INET and (which := _OURS.get(table.name.decode("utf-8", "replace")))
        }
        self._others = tuple(
            each
            for each in tables
            if each.family != _INET or each.name.decode("utf-8", "replace") not in OWN_TABLES
        )
        self._unknown: list[str] = []
        self._stand_ins: list[str] = []

    def run(self) -> DrillResult:
        """All of it."""
        copy = copy_network(self._namespaces, self._live)
        self._unknown += [f"not copied: {each}" for each in copy.failures]
        self._stand_ins += copy.stand_ins
        target = self._build_target(copy)
        rows = [*list_rows(target), *self._list_further(copy)]
        with FiringRange(self._namespaces, copy.ways) as place:
            place.listen(
                {shot.target_port for row in rows for shot in row.shots if row.wanted != "as without"}
            )
            place.listen(self._order.listened[:MOST_PORTS])  # a user may listen at thousands
            if self._order.ruleset is None:
                fired = self._fire_live(place, rows)
            else:
                fired = self._fire_given(place, rows, self._order.ruleset)
        counting = [word for table in self._others for word in table.counting]
        counting += [word for block in self._legacy for word in list_legacy_words(block.block)[1]]
        return DrillResult(fired=fired, unknown=self._unknown, counting=counting, stand_ins=self._stand_ins)

    def _list_further(self, copy: NetworkCopy) -> Iterator[DrillRow]:
        """Of further rows what can be fired here."""
        ways = {each.name for each in copy.ways}
        for row in self._order.further:
            strange = {shot.way for shot in (*row.before, *row.shots) if shot.way is not None} - ways
            self._unknown += [f"{row.side}: there is no way in by {way}" for way in sorted(strange)]
            if not strange:
                yield row

    def _build_target(self, copy: NetworkCopy) -> DrillTarget:
        ways = tuple(each.name for each in copy.ways)
        guard = self._order.guard
        if guard.interface not in ways:
            self._unknown.append(f"the tunnel {guard.interface} is not up: nothing was fired through it")
        if len(ways) > MOST_WAYS:
            self._unknown.append(f"{len(ways) - MOST_WAYS} of {len(ways)} interfaces were not fired at")
        return DrillTarget(
            guard=guard,
            ways=ways,
            bridges=tuple(
                each.name for each in self._live.links if each.kind == "bridge" and each.name in ways
            ),
            addresses=list_addresses(self._live.links, self._live.addresses),
            member=self._order.member,
            listened=self._order.listened,
        )

    def _fire_given(self, place: FiringRange, rows: list[DrillRow], ruleset: GivenRules) -> list[FiredRow]:
        """Under the rules of a file; what is compared with the time without qmesh's tables is left out."""
        judged = [row for row in rows if row.wanted != "as without"]

        def load() -> None:
            self._namespaces.verify_copy()
            self._stand_ins += [f"{name} (of the rules)" for name in load_given_rules(ruleset)]

        fates = fire_rows(self._namespaces, place, judged, load)
        return [FiredRow(row, {"given": each}) for row, each in zip(judged, fates, strict=True)]

    def _fire_live(self, place: FiringRange, rows: list[DrillRow]) -> list[FiredRow]:
        refused = load_tables(self._namespaces, self._others)
        refused += load_legacy_tables(self._namespaces, self._legacy)
        self._unknown += [f"not copied: {each}" for each in refused]
        for table in self._others:
            self._unknown += [f"table {table.label}: {each} decides" for each in table.deciders]
        for block in self._legacy:
            deciders, _ = list_legacy_words(block.block)
            self._unknown += [f"{block.family}tables-legacy: {each} decides" for each in deciders]
        fired = [FiredRow(row, {}) for row in rows]
        for tables, loaded in _LOADED.items():
            missing = [each for each in loaded if not self._has(each)]
            if missing and tables != "all":
                self._unknown.append(f"the machine does not have the table inet {_NAMES[missing[0]]}")
                continue
            judged = [each for each in fired if tables in list_needed_tables(each.row)]
            fates = fire_rows(
                self._namespaces, place, [each.row for each in judged], partial(self._load_all, loaded)
            )
            for each, of_row in zip(judged, fates, strict=True):
                each.fates[tables] = of_row
            for which in loaded:
                self._unload(which)
        return fired

    def _load_all(self, wanted: tuple[Tables, ...]) -> None:
        for each in wanted:
            self._load(each)

    def _has(self, which: Tables) -> bool:
        return which in (self._ours if self._order.scripts is None else self._order.scripts)

    def _load(self, which: Tables) -> None:
        if self._order.scripts is not None:
            run_nft(self._namespaces, self._order.scripts[which])
        elif which in self._ours and (refused := load_tables(self._namespaces, (self._ours[which],))):
            raise KernelRefused(
                f"the kernel takes no copy of qmesh's {refused[0]}", hint="please report it, with `uname -r`"
            )

    def _unload(self, which: Tables) -> None:
        if self._order.scripts is not None:
            remove_table(self._namespaces, _INET, _NAMES[which].encode())
        elif which in self._ours and not self._ours[which].is_dormant:
            remove_table(self._namespaces, _INET, self._ours[which].name)


def fire_rows(
    namespaces: Namespaces, place: FiringRange, rows: Sequence[DrillRow], load: Callable[[], None]
) -> list[list[Fate]]:
    """The fates of each row's shots, under the rules that `load` adds once older connections are there.

    Raises KernelRefused.
    """
    run_nft(namespaces, _TRACKING)
    place.begin_anew()
    place.fire([shot for row in rows for shot in row.before], keep_connections=True)
    load()
    remove_table(namespaces, _INET, b"qmesh-drill")
    fates: dict[int, list[Fate]] = {}
    for number in sorted(range(len(rows)), key=lambda each: not rows[each].before):
        row = rows[number]
        place.fire(row.openers, keep_connections=True)
        fates[number] = place.fire(row.shots, keep_connections=bool(row.openers or row.before))
    return [fates[number] for number in range(len(rows))]


def run_nft(namespaces: Namespaces, script: str) -> None:
    """Load rules in the copy. Raises KernelRefused, also where this process is not there."""
    namespaces.verify_copy()
    is_done, _, error = nft_library.load().run(script.encode())
    if not is_done:
        raise build_nft_error(decode_output(error))
