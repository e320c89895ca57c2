"""One rule over every packet at once: registers of wires, and what became of which packets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.expressions import Attributes
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires
from qmesh.mesh.prover.set_contents import Group, SetContents
from qmesh.mesh.prover.traveller import NETWORK_OCTETS, TRANSPORT_OCTETS, Family, Traveller
from qmesh.mesh.routes.detours import RoutingTables

Verdict: TypeAlias = Literal["accept", "drop", "return", "jump", "goto", "escape"]
"""escape: no rule after it decides, as where a packet is given to another socket."""
_MOST_CELLS: Final = 16


class RuleOutcome(msgspec.Struct, frozen=True):
    """What becomes of packets. when: of which; chain: of a jump or goto."""

    verdict: Verdict
    when: int
    chain: str = ""


class NewTarget(msgspec.Struct, frozen=True):
    """Where a rule sends packets instead. when: which.

    address, port: None where it stays what it is. is_own: an address of this machine, whichever it is.
    """

    when: int
    address: Wires | None = None
    port: Wires | None = None
    is_own: bool = False


class RulePlace(msgspec.Struct, frozen=True):
    """A rule, or a base chain's policy, in words. number: its handle; None of a policy.

    Without a chain: what is no rule, such as their order.
    """

    table: tuple[str, str]
    chain: str
    text: str
    number: int | None = None

    def __str__(self) -> str:
        return f"{self.table[0]} {self.table[1]} {self.chain}: {self.text}" if self.chain else self.text


NOWHERE: Final = RulePlace(("", ""), "", "")


class Unknowns:
    """Variables for what is not known.

    A doubt is about what a rule means: the answer has to be the same either way. A chance is about the packet
    or its time, such as whether a limit is exceeded: either may come about. calm: what of these holds while
    no limit is exceeded. asked_sets: what was found where a set was asked whether a key is in it.
    """

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.place = NOWHERE
        self.doubts: dict[int, RulePlace] = {}
        self.calm: list[int] = []
        self.asked_sets: dict[tuple[int, Wires], tuple[list[tuple[Group, int]], bool]] = {}

    def doubt(self) -> int:
        """A bit that depends on what the rule at hand means."""
        found = self._gates.make_variable()
        self.doubts[found] = self.place
        return found

    def doubt_bits(self, count: int) -> Wires:
        """So many."""
        return tuple(self.doubt() for _ in range(count))

    def chance(self) -> int:
        """A bit that depends on the packet."""
        return self._gates.make_variable()

    def chance_of_limit(self, *, is_over: bool) -> int:
        """Whether a limit means a packet. is_over: it does so beyond it, and not within."""
        found = self.chance()
        self.calm.append(-found if is_over else found)
        return found


class RuleRun:
    """A rule at work. reach: which packets come to it; truth: which it means, as far as it was run."""

    def __init__(
        self,
        at: Traveller,
        reach: int,
        unknowns: Unknowns,
        sets: SetContents,
        table: tuple[str, str],
        routes: Mapping[Family, RoutingTables] = MappingProxyType({}),
    ) -> None:
        self.at = at
        self.gates = at.gates
        self.unknowns = unknowns
        self.sets = sets
        self.table = table
        self.routes = routes
        self.truth = TRUE
        self.outcomes: list[RuleOutcome] = []
        self.translates = FALSE
        self.new_targets: list[NewTarget] = []
        self._reach = reach
        self._cells: dict[int, Wires] = {}

    @property
    def hits(self) -> int:
        """The packets that come to it, and that it means so far."""
        return self.gates.both(self._reach, self.truth)

    def require(self, condition: int) -> None:
        """From here on it means only such packets."""
        self.truth = self.gates.both(self.truth, condition)

    def end(self, verdict: Verdict, chain: str = "", *, when: int = TRUE) -> None:
        """It ends with that for the packets that it means; `when`: only for such."""
        self.outcomes.append(RuleOutcome(verdict, self.gates.both(self.truth, when), chain))
        self.require(-when)

    def load(self, register: int, bits: Wires) -> None:
        """Set a register; what is left of the last four octets is 0."""
        start = _locate_cell(register)
        padded = (*bits, *(FALSE,) * (-len(bits) % 32))
        for number in range(len(padded) // 32):
            self._cells[start + number] = padded[32 * number : 32 * number + 32]

    def read(self, register: int, octets: int) -> Wires:
        """So many octets from a register on. Raises ValueError for more than all registers have."""
        start, count = _locate_cell(register), -(-octets // 4)
        if start + count > _MOST_CELLS:
            raise ValueError(f"no register has {octets} bytes")
        cells = [
            self._cells.get(number) or self.unknowns.doubt_bits(32) for number in range(start, start + count)
        ]
        return tuple(bit for cell in cells for bit in cell)[: 8 * octets]

    def forget_registers(self) -> None:
        """Nothing is known of any register."""
        self._cells.clear()

    def change_mark(self, bits: Wires) -> None:
        """The packet's mark becomes that."""
        self.at.mark = self.gates.choose_each(self.hits, bits, self.at.mark)

    def change_connection_mark(self, bits: Wires) -> None:
        """The connection's mark becomes that, where there is one already."""
        at, doubt = self.at, self.unknowns.doubt
        is_there = TRUE
        if at.phase == "before conntrack":
            is_there = self.gates.both(at.is_looped, doubt())
        elif at.phase == "at conntrack":
            is_there = doubt()
        when = self.gates.all_of((self.hits, at.is_in_connection, is_there))
        self.at.connection_mark = self.gates.choose_each(when, bits, self.at.connection_mark)

    def change_headers(self) -> None:
        """The packet's headers may become any others."""
        at, doubts = self.at, self.unknowns.doubt_bits
        at.are_options_its_own = False
        at.network = self.gates.choose_each(self.hits, doubts(8 * NETWORK_OCTETS[at.family]), at.network)
        at.transport = self.gates.choose_each(self.hits, doubts(8 * TRANSPORT_OCTETS), at.transport)
        at.protocol = self.gates.choose_each(self.hits, doubts(8), at.protocol)
        self.change_target()

    def change_target(self) -> None:
        """Its target may be this machine's, or another's, whatever it was before."""
        at = self.at
        at.is_for_this_machine = self.gates.choose(self.hits, self.unknowns.doubt(), at.is_for_this_machine)

    def change_service_fields(self) -> None:
        """The service and the hops of the network's header may become any others."""
        at = self.at
        places = {*range(8, 16), *range(64, 72)} if at.family == "ip" else {*range(4, 12), *range(56, 64)}
        at.network = tuple(
            self.gates.choose(self.hits, self.unknowns.doubt(), bit) if place in places else bit
            for place, bit in enumerate(at.network)
        )

    def translate(self, new_target: NewTarget | None = None) -> None:
        """An address becomes another; where there is none that is free, the kernel drops the packet.

        new_target: where it is known what a target becomes.
        """
        if new_target is not None:
            self.new_targets.append(new_target)
        self.translates = self.gates.either(self.translates, self.hits)
        self.end("drop", when=self.unknowns.chance())
        self.end("accept")

    def untrack(self, when: int = TRUE) -> None:
        """It belongs to no connection, unless it has one already."""
        at, gates = self.at, self.gates
        is_early = {
            "before conntrack": TRUE,
            "at conntrack": self.unknowns.doubt(),
            "after conntrack": -at.connection.is_tracked,
        }[at.phase]
        is_early = gates.choose(gates.either(at.is_looped, at.has_template), self.unknowns.doubt(), is_early)
        at.untracked = gates.either(at.untracked, gates.all_of((self.hits, when, is_early)))

    def add_template(self) -> None:
        """Where conntrack has not seen it, what asks for a connection may find one that is none."""
        if self.at.phase != "after conntrack":
            self.at.has_template = self.gates.either(self.at.has_template, self.hits)

    def give_up(self) -> None:
        """What it does is not known: it may do anything to what it means, or nothing."""
        doubt = self.unknowns.doubt
        self.require(doubt())
        self.change_headers()
        self.change_mark(self.unknowns.doubt_bits(32))
        self.change_connection_mark(self.unknowns.doubt_bits(32))
        self.untrack(doubt())
        self.add_template()
        self.translates = self.gates.either(self.translates, self.gates.both(self.hits, doubt()))
        for verdict in ("drop", "accept", "escape"):
            self.end(verdict, when=doubt())


Load: TypeAlias = Callable[[RuleRun, Attributes], tuple[Wires, int]]
"""What an expression loads of a packet, and whether there is such a thing: else the rule ends."""


def decode_name(octets: bytes) -> str:
    """A name of a chain or set; what is not UTF-8 has surrogates."""
    return octets.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _locate_cell(register: int) -> int:
    return register - 8 if register >= 8 else (register - 1) * 4
