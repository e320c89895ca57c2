"""The steps of a change as they are printed: in order, each with its machine, and who takes them."""

from __future__ import annotations

import logging

import pytest

from qmesh.agent.commands.apply import TrialResult
from qmesh.cli.change_text import log_steps
from qmesh.cli.commands.apply import _warn_of_rollback
from qmesh.mesh.systemd.change_steps import StepText

STEPS = (
    StepText("hel-2", "stop it", "stop it otherwise", "no agent does this"),
    StepText("fra-1", "start that"),
)


@pytest.mark.parametrize("restarts_by_itself", [False, True])
def test_each_step_names_its_machine_and_what_agents_leave(
    restarts_by_itself: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "qmesh")
    log_steps((), restarts_by_itself=restarts_by_itself)
    assert caplog.messages == []
    log_steps(STEPS, restarts_by_itself=restarts_by_itself)
    head, *steps = caplog.messages
    assert ("agents do this" in head) == restarts_by_itself
    assert head.endswith("in this order:")
    why = " (no agent does this)" if restarts_by_itself else ""
    assert steps == [
        f"  on hel-2{why}: stop it",
        "    without systemd there: stop it otherwise",
        "  on fra-1: start that",
    ]


@pytest.mark.parametrize(
    ("opens", "others", "said"),
    [
        ((40003, 40004), (), "worker ports 40003-40004 are OPEN to everyone."),
        ((40003,), (8337, 9100), "worker ports 40003 are OPEN to everyone, and so are ports 8337, 9100."),
        ((), (9100,), "worker ports none are OPEN to everyone, and so are ports 9100."),
    ],
)
def test_a_roll_back_names_every_port_that_it_opens(caplog, opens, others, said):
    _warn_of_rollback(TrialResult((), 120, opens, others))
    assert caplog.messages[-1] == f"After the rollback there is no guard: {said}"
