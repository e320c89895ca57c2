"""Looks at parts of a machine for `check`: one that fails hides no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from qmesh.errors import Interrupted, QmeshError, describe_unexpected_error
from qmesh.mesh.audit.findings import Finding, failed_check_finding
from qmesh.mesh.audit.parts import Part

T = TypeVar("T")
U = TypeVar("U")

REPORT: Final = "report it with what `QMESH_TRACEBACK=1 qmesh check` shows"


class PartChecks:
    """Looks at parts of the machine. What any of them raises is a finding, and the part is left out."""

    def __init__(self) -> None:
        self.failures: list[Finding] = []
        self.skipped: set[Part] = set()

    def run(self, part: Part, look: Callable[[], T], otherwise: U) -> T | U:
        """What is seen there, or `otherwise`. With QMESH_TRACEBACK a bug is raised."""
        try:
            return look()
        except Interrupted:
            raise
        except QmeshError as error:
            self.add_failure(part, error.message, error.hint)
        except Exception as error:
            if os.environ.get("QMESH_TRACEBACK"):
                raise
            self.add_failure(part, f"qmesh itself failed: {describe_unexpected_error(error)}", REPORT)
        self.skip(part)
        return otherwise

    def add_failure(self, part: Part, why: str, cure: str) -> None:
        """Say that a part, or something of it, could not be audited."""
        self.failures.append(failed_check_finding(part, why, cure))

    def skip(self, *skipped: Part) -> None:
        """Leave parts out."""
        self.skipped.update(skipped)
