"""The three ways of packets through a machine. What they were like as they came is `Walk.start`."""

from __future__ import annotations

from qmesh.mesh.prover.gates import Gates
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import Family, Traveller
from qmesh.mesh.prover.walk import Walk


def walk_inward(ruleset: ProvedRuleset, family: Family) -> Walk:
    """To a program of this machine, from outside or from another one here."""
    walk = _begin_walk(ruleset, family, arrives=True)
    for hook in ("ingress", "prerouting", "input"):
        walk.pass_hook(hook)
    return walk


def walk_through(ruleset: ProvedRuleset, family: Family) -> Walk:
    """From one interface to another, up to where it is translated for the last time."""
    walk = _begin_walk(ruleset, family, arrives=True)
    for hook in ("ingress", "prerouting"):
        walk.pass_hook(hook)
    walk.at.leave_by()
    walk.pass_hook("forward")
    return walk


def walk_outward(ruleset: ProvedRuleset, family: Family) -> Walk:
    """From a program of this machine, up to where it is translated for the last time."""
    walk = _begin_walk(ruleset, family, arrives=False)
    walk.pass_hook("output")
    return walk


def _begin_walk(ruleset: ProvedRuleset, family: Family, *, arrives: bool) -> Walk:
    gates = Gates()
    return Walk(gates, ruleset, Traveller(gates, family, arrives=arrives))
