"""`prove`: whether any packet gets where none should, by all rules of this machine or of a file."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.local import linux_for, with_tunnel_and_guard
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.errors import BadInput
from qmesh.host.prover.ruleset_file import read_live_rules, read_rules_from_file
from qmesh.host.state.directory import State
from qmesh.mesh.prover.claims import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_cases
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.state import Guard


class ProofReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `prove` answers. rules, sets: how many there are. ports: that are closed."""

    machine: str
    source: str
    rules: int
    sets: int
    ports: tuple[int, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def is_proved(self) -> bool:
        """Whether every claim is."""
        return all(verdict.answer == "proved" for verdict in self.verdicts)


def prove(state: State, *, ruleset: Path | None = None) -> ProofReport:
    """Reason about every packet that may come to this machine. ruleset: a file, in place of what is loaded.

    Raises BadInput where this machine has no guard to be proved, or the file is none.
    """
    check_user("prove")
    here = with_tunnel_and_guard(load_checked(state, "prove"))
    guard = desired_and_observed_guard(here, linux_for(state, here.settings))[0].guard
    if not isinstance(guard, Guard):
        raise BadInput(
            f"{here.settings.name} closes no port, so there is nothing to prove",
            hint="run `qmesh apply`, then the same command again",
        )
    found = read_live_rules() if ruleset is None else read_rules_from_file(ruleset)
    rules = build_ruleset(found.listing, found.sets)
    verdicts = decide_cases(build_cases(rules, guard), guard, found.listing.interfaces, rules.own_tables)
    return ProofReport(
        machine=here.settings.name,
        source="what is loaded" if ruleset is None else str(ruleset),
        rules=len(found.listing.rules),
        sets=len(found.sets),
        ports=guard.closed_ports,
        verdicts=tuple(verdicts),
    )
