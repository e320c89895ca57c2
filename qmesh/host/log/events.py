"""The one way to log what happens: an event of the catalogue, with its level from there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from qmesh.mesh.events.catalogue import EVENTS, Level

if TYPE_CHECKING:
    from qmesh.mesh.audit.findings import Finding

_LEVELS: Final[dict[Level, int]] = {"err": 40, "warning": 30, "notice": 25, "info": 20, "debug": 10}
logging.addLevelName(_LEVELS["notice"], "NOTICE")

log = logging.getLogger("qmesh")


def report_event(
    code: str,
    message: str,
    *values: object,
    machine: str | None = None,
    error: BaseException | None = None,
    trace: str = "",
) -> None:
    """Log an event.

    code: of the catalogue.
    message, values: a line for people, in logging's format. No secret may be in it.
    machine: the machine that it is about, by its name in the mesh; None for this one.
    error: whose traceback belongs to it; trace: where a thread is, in the same format.
    """
    extra = {"qmesh_code": code, "qmesh_machine": machine, "qmesh_trace": trace}
    log.log(_LEVELS[EVENTS[code]], message, *values, extra=extra, exc_info=error, stacklevel=2)


def report_finding(finding: Finding, message: str, *values: object) -> None:
    """Log a finding as an event with its own code."""
    level = _LEVELS["err" if finding.severity == "error" else "warning"]
    log.log(level, message, *values, extra={"qmesh_code": finding.code}, stacklevel=2)
