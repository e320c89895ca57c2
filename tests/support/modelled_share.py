"""How much of the rules that people run the prover understands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from qmesh.host.network import links
from qmesh.host.prover.ruleset_file import read_live_rules, read_routes
from qmesh.mesh.prover.gates import Gates
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.prover.rulesets import ProvedRuleset, build_ruleset
from qmesh.mesh.prover.traveller import Family, Traveller
from qmesh.mesh.prover.walk import COMING, Walk
from tests.support.rule_sets import RuleSet, list_rule_sets

_WAYS: Final = (
    (True, ("ingress", "prerouting", "input")),
    (True, ("ingress", "prerouting", "forward", "postrouting", "egress")),
    (False, ("output", "postrouting", "egress")),
)
"""Whether packets arrive, and the hooks that they pass."""
_INTERFACES: Final = ("eth0", "qmesh0")
"""That rules name by number."""
_FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")


class ModelledSet(NamedTuple):
    """Rules of a program, each way and family together.

    open: rules of which it is left open what they mean. uncertain: base chains to which not every packet
    comes that the hook has, and of which it is left open which do.
    """

    rules: RuleSet
    rule_count: int
    open: tuple[RulePlace, ...]
    uncertain: tuple[RulePlace, ...]


def list_modelled(names: list[str]) -> Iterator[ModelledSet]:
    """Of each set, or of those whose names have one of these words."""
    for name in _INTERFACES:
        links.create(name, "bridge")
    for rules in list_rule_sets():
        if not names or any(name in str(rules) for name in names):
            rules.load()
            try:
                found = read_live_rules()
            finally:
                rules.unload()
            ruleset = build_ruleset(found.listing, found.sets, read_routes(found.listing.rules))
            places = list_open_places(ruleset)
            uncertain = tuple(each for each in places if each.text == COMING)
            meant = tuple(each for each in places if each.text != COMING)
            yield ModelledSet(rules, len(found.listing.rules), meant, uncertain)


def list_open_places(ruleset: ProvedRuleset) -> list[RulePlace]:
    """Rules whose meaning a packet's fate may depend on, and that is not known."""
    found: dict[RulePlace, None] = {}
    for family in _FAMILIES:
        for arrives, hooks in _WAYS:
            gates = Gates()
            at = Traveller(gates, family, arrives=arrives)
            walk = Walk(gates, ruleset, at)
            for hook in hooks:
                if hook == "forward":
                    at.leave_by()
                walk.pass_hook(hook)
            cone = set(gates.list_cone([walk.alive, walk.escaped]))
            found |= dict.fromkeys(place for wire, place in walk.unknowns.doubts.items() if wire in cone)
    return list(found)
