"""Steps of a plan, as JSON and in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.printable import escape_line

AS_DESIRED: Final = (
    "as desired: nothing to do\n"
    "  looked at: tunnel, guard, reserved ports\n"
    "  not looked at: keys, agent, config.yml, workers, others' firewalls and routes; for these run"
    " `qmesh check`"
)
"""What `plan` and `apply` print where there are no steps."""


class StepShown(msgspec.Struct, frozen=True):
    """One step as `plan` answers it."""

    kind: str
    subject: str
    detail: str


class Steps(msgspec.Struct, frozen=True):
    """The answer of `plan`, `apply` and `down`."""

    steps: tuple[StepShown, ...]

    @classmethod
    def from_steps(cls, steps: Iterable[Step]) -> Steps:
        """The steps as they are shown."""
        return cls(tuple(StepShown(step.kind, step.subject, describe_step(step)) for step in steps))

    def render_text(self) -> str:
        """A line a step; empty when there are none."""
        return "\n".join(escape_line(f"{step.kind:<16} {step.subject}: {step.detail}") for step in self.steps)
