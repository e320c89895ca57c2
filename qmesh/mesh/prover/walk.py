"""All packets at once on their way through the base chains of a hook: which are dropped, and by which rules.

A rule that is not understood is followed both ways. Each rule that ends something can be switched off, by a
wire of its own: so a proof says which rules it needs.
"""

from __future__ import annotations

import copy
from typing import Final

import msgspec

from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import ListedChain
from qmesh.mesh.prover.expression_steps import run_rule
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires
from qmesh.mesh.prover.rule_run import NewTarget, RuleOutcome, RulePlace, RuleRun, Unknowns
from qmesh.mesh.prover.rulesets import (
    DEFRAGMENTATION,
    ProvedRuleset,
    TableKey,
    describe_rule,
    list_changes,
)
from qmesh.mesh.prover.traveller import SOURCE_NAT, TARGET_NAT, Phase, Traveller

_DEEPEST: Final = 16
"""Jumps in jumps: NFT_JUMP_STACK_SIZE."""
MOST_RULES: Final = 200_000
"""That are run for one question, each as often as a jump leads to it."""
_CONNTRACK: Final = -200
_TARGET_TRANSLATION: Final = {"prerouting": -100, "output": -100}
_SOURCE_TRANSLATION: Final = {"input": 100, "postrouting": 100}
_OF_ARRIVALS: Final = frozenset({"prerouting", "input"})
"""Hooks at which connections of before count, which rules that are gone may have translated."""
COMING: Final = "whether packets come to this chain"
TOO_MANY: Final = RulePlace(("", ""), "", "more rules than qmesh follows")


class Passing(msgspec.Struct, frozen=True):
    """A rule that packets came to, and what it did. when: to which."""

    hook: str
    place: RulePlace
    verdict: str
    when: int


class Diversion(msgspec.Struct, frozen=True):
    """Packets to which rules gave another target. when: which. target, is_own: as it is then."""

    when: int
    target: Wires
    is_own: int


class Walk:
    """Packets on their way.

    at, start: the packet as it is now, and as it came.
    alive: those that nothing has dropped. escaped: those that may have gone on where no later rule counts.
    laws: what holds of all. plain: what holds of those whose addresses no rule translates. usual: of those
    that are the first of their connection, or translated by nobody, and of whose new target it is known.
    diversion: at the hook `prerouting`, or `output`.
    has_pieces: whether rules may see a packet's pieces, before it is whole.
    """

    def __init__(self, gates: Gates, ruleset: ProvedRuleset, at: Traveller) -> None:
        self.gates = gates
        self.at = at
        self.start = copy.copy(at)
        self.unknowns = Unknowns(gates)
        self.alive = TRUE
        self.escaped = FALSE
        self.laws: list[int] = at.list_laws()
        self.passings: list[Passing] = []
        self.switches: dict[int, RulePlace] = {}
        self.plain: list[int] = []
        self.usual: list[int] = []
        self.diversion = Diversion(FALSE, at.target, FALSE)
        self.has_pieces = not ruleset.tracks_connections(at.family) or ruleset.untracks_pieces(at.family)
        self._translates = FALSE
        self._new_targets: list[NewTarget] = []
        self._ruleset = ruleset
        self._budget = MOST_RULES
        self._hook = ""
        self._places: dict[int, RulePlace] = {}
        self._switch_of: dict[RulePlace, int] = {}
        self._changes: dict[TableKey, frozenset[str]] = {}

    def pass_hook(self, hook: str) -> None:
        """Let them through all base chains of a hook, and the address translations that are due there."""
        self._hook = self.at.hook = hook
        if (
            hook == "input" and self.has_pieces and self.at.family == "ip6"
        ):  # of IPv4 they are put together before
            self.at.is_piece = self.gates.make_variable()
        chains = self._ruleset.list_base_chains(hook, self.at.family)
        due = _TARGET_TRANSLATION.get(hook, _SOURCE_TRANSLATION.get(hook))
        translations = [chain for chain in chains if chain.kind == "nat"]
        others = [chain for chain in chains if chain.kind != "nat"]
        early = [chain for chain in others if due is None or chain.priority < due]
        self._pass_chains(early)
        if due is not None:
            self._translate(translations, is_target=hook in _TARGET_TRANSLATION)
            self._pass_chains([chain for chain in others if chain.priority >= due], uncertain=due)
        if hook == "output" and self.diversion.when != FALSE:  # it is routed anew behind the hook
            self.at.leave_by(self.diversion.when)
        self.at.phase = "after conntrack"

    def leave(self) -> int:
        """Let them through the last hooks; which packets come out. What is translated there is usual."""
        count = len(self.usual)
        for hook in ("postrouting", "egress"):
            self.pass_hook(hook)
        del self.usual[count:]
        return self.gates.either(self.alive, self.escaped)

    def _pass_chains(self, chains: list[ListedChain], *, uncertain: int | None = None) -> None:
        """uncertain: chains of this priority may come before or after something else."""
        for chain in chains:
            self.at.phase = self._find_phase(chain)
            beside = [each for each in chains if each.priority == chain.priority and each is not chain]
            if chain.priority == uncertain:
                beside.append(chain)  # before a translation it may have changed what behind it it does not
            changed = {change for each in beside for change in self._list_changes(each)}
            self._forget(changed)
            is_certain = (
                chain.priority != uncertain
                and self.at.phase != "at conntrack"
                and self._hook not in {"ingress", "egress"}
                and not (self._hook == "prerouting" and (self.has_pieces or chain.priority < DEFRAGMENTATION))
            )
            self._pass_chain(chain, self._doubt(chain) if not is_certain else TRUE)
            self._forget(changed)

    def _find_phase(self, chain: ListedChain) -> Phase:
        if self._hook == "ingress":
            return "before conntrack"
        if self._hook not in {"prerouting", "output"} or chain.priority > _CONNTRACK:
            return "after conntrack"
        return "at conntrack" if chain.priority == _CONNTRACK else "before conntrack"

    def _list_changes(self, chain: ListedChain) -> frozenset[str]:
        key = chain.family, chain.table
        if key not in self._changes:
            self._changes[key] = list_changes(self._ruleset, key)
        return self._changes[key]

    def _forget(self, changed: set[str]) -> None:
        """What a chain of the same priority changes, it may change before or after."""
        at, unknowns = self.at, self.unknowns
        unknowns.place = RulePlace(("", ""), "", "the order of chains that have one priority")
        if "mark" in changed:
            at.mark = unknowns.doubt_bits(32)
        if "connection mark" in changed:
            at.connection_mark = unknowns.doubt_bits(32)
        if "packet type" in changed:
            at.packet_type = unknowns.doubt_bits(8)
        if "template" in changed and at.phase != "after conntrack":
            at.has_template = TRUE
        if "tracking" in changed:
            at.untracked = self.gates.either(at.untracked, unknowns.doubt())
        if "headers" in changed:
            at.network = unknowns.doubt_bits(len(at.network))
            at.transport = unknowns.doubt_bits(len(at.transport))
            at.protocol = unknowns.doubt_bits(8)

    def _doubt(self, chain: ListedChain) -> int:
        self.unknowns.place = RulePlace((chain.family, chain.table), chain.name, COMING)
        return self.unknowns.doubt()

    def _translate(self, chains: list[ListedChain], *, is_target: bool) -> None:
        """What rules of type nat do, once for each connection; and what they did to those that are there."""
        at, gates = self.at, self.gates
        before, self._translates, self._new_targets = self._translates, FALSE, []
        priority: int | None = None
        for chain in chains:
            # The first packet of a connection comes there, until one of them translates it; others may.
            is_first, done = self.unknowns.chance(), self._translates
            related = gates.both(at.is_in_connection, at.connection.is_related)
            self._pass_chain(chain, gates.both(gates.either(at.is_new, related), is_first))
            self.usual.append(gates.either(-at.is_new, gates.same(is_first, -done)))
            if chain.priority == priority:  # which is first, is not known
                self.usual.append(gates.either(-at.is_new, -done))
            priority = chain.priority
        now, self._translates = self._translates, gates.either(before, self._translates)
        old = FALSE
        if self._hook in _OF_ARRIVALS:
            old = gates.both(at.is_in_connection, -at.is_new)
        elif self._hook == "output" and self._ruleset.translates_arrivals(at.family):
            old = gates.both(at.is_answer, at.connection.status[SOURCE_NAT])
        is_changed = gates.both(gates.make_variable(), gates.either(old, now))
        if is_target:
            surely = gates.any_of(map(self._is_surely_changed, self._new_targets))
            is_changed = gates.either(is_changed, surely)
        first = gates.both(at.is_new, now)
        self.plain += [-is_changed, -first]
        if is_target:
            begins = gates.either(at.is_new, gates.both(at.is_in_connection, at.connection.is_related))
            is_said = gates.either(at.connection.status[TARGET_NAT], gates.both(is_changed, begins))
            self.laws.append(gates.either(-is_changed, gates.either(is_said, at.connection.is_reply)))
            at.note_translation(is_said)
            target, port = at.target, at.target_port
            at.translate_target(is_changed)
            for each in self._new_targets:
                at.change_target(self._is_sure(each), *_complete(each, target, port))
            self._note_diversion(is_changed, first, target, port)
        else:
            at.translate_source(is_changed)
            self.usual += [-is_changed, -first]

    def _is_sure(self, new: NewTarget) -> int:
        """Which packets get that target, whatever was before: such as have ports."""
        return self.gates.both(new.when, self.gates.either(self.at.is_tcp, self.at.is_udp))

    def _is_surely_changed(self, new: NewTarget) -> int:
        """Which of these have another one than before."""
        at, gates = self.at, self.gates
        address, port = _complete(new, at.target, at.target_port)
        is_same = self._is_same(at.target_port, port)
        if address is not None:
            is_same = gates.both(is_same, self._is_same(at.target, address))
        return gates.both(self._is_sure(new), -is_same)

    def _is_same(self, bits: Wires, others: Wires) -> int:
        return self.gates.all_of(map(self.gates.same, bits, others))

    def _note_diversion(self, is_changed: int, first: int, target: Wires, port: Wires) -> None:
        """target, port: as they were before."""
        at, gates = self.at, self.gates
        known = gates.any_of(each.when for each in self._new_targets)
        self.usual += [
            gates.either(-first, gates.both(is_changed, known)),
            gates.either(-is_changed, first),
        ]
        for each in self._new_targets:
            address, new_port = _complete(each, target, port)
            is_there = at.is_for_this_machine if address is None else self._is_same(at.target, address)
            becomes = gates.both(is_there, self._is_same(at.target_port, new_port))
            self.usual.append(gates.either(-each.when, becomes))
        self.diversion = Diversion(is_changed, at.target, at.is_for_this_machine)

    def _pass_chain(self, chain: ListedChain, comes: int) -> None:
        gates = self.gates
        reach = gates.all_of((self.alive, -self.escaped, comes))
        fallen = self._walk_chain(chain, reach, 0)
        if chain.drops:
            place = RulePlace((chain.family, chain.table), chain.name, "policy drop")
            self._drop(place, gates.both(fallen, self._switch(place)))

    def _drop(self, place: RulePlace, when: int) -> None:
        self.alive = self.gates.both(self.alive, -when)
        self.passings.append(Passing(self._hook, place, "drop", when))

    def _switch(self, place: RulePlace) -> int:
        if place not in self._switch_of:
            wire = self._switch_of[place] = self.gates.make_variable()
            self.switches[wire] = place
        return self._switch_of[place]

    def _walk_chain(self, chain: ListedChain, reach: int, depth: int) -> int:
        """The packets that come out at the chain's end, or return."""
        gates = self.gates
        returned = FALSE
        for rule in self._ruleset.rules.get((chain.family, chain.table, chain.name), ()):
            if reach == FALSE:
                break
            reach, back = self._pass_rule(chain, rule, reach, depth)
            returned = gates.either(returned, back)
        return gates.either(reach, returned)

    def _pass_rule(self, chain: ListedChain, rule: KernelRule, reach: int, depth: int) -> tuple[int, int]:
        """The packets that come to the next rule, and those that leave the chain by its end."""
        gates = self.gates
        self._budget -= 1
        place = self._describe(rule)
        if self._budget < 0:
            place = TOO_MANY
            rule = KernelRule(rule.family, rule.table, rule.chain, 0, ())
        self.unknowns.place = place
        found = self._ruleset
        run = RuleRun(self.at, reach, self.unknowns, found.sets, (rule.family, rule.table), found.routes)
        if self._budget < 0:
            run.give_up()
        else:
            run_rule(run, rule.expressions)
        self._translates = gates.either(self._translates, run.translates)
        self._new_targets += run.new_targets
        left, returned = reach, FALSE
        for outcome in run.outcomes:
            when = gates.both(reach, outcome.when)
            if outcome.verdict in {"drop", "jump", "goto"}:
                when = gates.both(when, self._switch(place))
            left = gates.both(left, -when)
            if outcome.verdict == "drop":
                self._drop(place, when)
                continue
            words = f"{outcome.verdict} {outcome.chain}".rstrip()
            self.passings.append(Passing(self._hook, place, words, when))
            back = self._leave(chain, outcome, when, depth)
            if outcome.verdict == "jump":
                left = gates.either(left, back)
            else:
                returned = gates.either(returned, back)
        return left, returned

    def _leave(self, chain: ListedChain, outcome: RuleOutcome, when: int, depth: int) -> int:
        """The packets that come back from where a rule sends them: to the next one, or the chain's end."""
        match outcome.verdict:
            case "return":
                return when
            case "jump" | "goto":
                return self._follow(chain, outcome.chain, when, depth)
            case "escape":
                gone = self.gates.both(when, self.unknowns.doubt())
                self.escaped = self.gates.either(self.escaped, gone)
        return FALSE

    def _follow(self, chain: ListedChain, name: str, reach: int, depth: int) -> int:
        target = self._ruleset.chains[chain.family, chain.table].get(name)
        if target is not None and depth < _DEEPEST:
            return self._walk_chain(target, reach, depth + 1)
        self._drop(TOO_MANY, self.gates.both(reach, self.unknowns.doubt()))
        return reach

    def _describe(self, rule: KernelRule) -> RulePlace:
        if id(rule) not in self._places:
            self._places[id(rule)] = describe_rule(rule)
        return self._places[id(rule)]


def _complete(new: NewTarget, target: Wires, port: Wires) -> tuple[Wires | None, Wires]:
    """Address and port of a new target; what stays is as given. None for an address that is not known."""
    return None if new.is_own else new.address or target, new.port or port
