"""Every error that qmesh raises on purpose, its exit code and its hint.

    QmeshError
    ├── BadInput            2  what was typed, or a file that was given, is wrong
    ├── MachineRefused      3  this machine does not allow or lacks something
    │   ├── NeedsRoot
    │   ├── MissingProgram
    │   ├── KernelRefused
    │   ├── Busy               another command of qmesh is at work on this machine
    │   └── StateUnreadable    our own state is damaged: never read as "nothing there"
    ├── EnrolmentRefused    4  the invitation, or the other side, said no
    │   ├── RemovedFromMesh    this machine is no longer a member of its mesh
    │   └── ContradictedByMember  the control node is an older copy of itself
    └── Interrupted       130  the user said stop

Exit code 1 is no error: it is a result that says no (drift, a finding).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

JOIN_ANEW: Final = (
    "run `qmesh invite NAME --replace` on the control node, then `qmesh join` here with that invitation"
)
"""What makes a member whole that has lost its state, in the place that it had."""
RESTORE: Final = "run `qmesh uninstall --delete-state`, then `qmesh restore` with a backup"
"""The same for a control node."""


class QmeshError(Exception):
    """An error with what to do about it.

    Args:
        message: what is wrong, one line, no secret in it.
        hint: what to do, one line.
    """

    exit_code = 3

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(QmeshError):
    """What was typed, or a file that was given, is wrong."""

    exit_code = 2


class MachineRefused(QmeshError):
    """This machine does not allow or lacks something."""


class NeedsRoot(MachineRefused):
    """The command changes the machine and was not run as root."""


class MissingProgram(MachineRefused):
    """A program or library that qmesh needs is not installed."""


class KernelRefused(MachineRefused):
    """The kernel, or the WireGuard process that stands in for it, said no."""


class Busy(MachineRefused):
    """Another command of qmesh is at work on this machine."""


class StateUnreadable(MachineRefused):
    """State of our own is damaged, or too new to be understood."""


class EnrolmentRefused(QmeshError):
    """The invitation, or the control node, said no."""

    exit_code = 4


class RemovedFromMesh(EnrolmentRefused):
    """This machine is no longer a member of its mesh."""

    def __init__(self) -> None:
        super().__init__(
            "this machine was removed from its mesh: its tunnel and its worker ports are closed",
            hint="run `qmesh join` with a new invitation, or `qmesh uninstall` to remove qmesh from this"
            " machine",
        )


class ContradictedByMember(EnrolmentRefused):
    """The control node gives out a membership that cannot come after the one that this machine holds."""

    def __init__(self, held: int, offered: int) -> None:
        what = "another one of" if held == offered else "one of the older"
        super().__init__(
            f"this machine holds revision {held} of the mesh, signed by it, and the control node gives out"
            f" {what} revision {offered}: its registry is an older copy",
            hint="run `qmesh check` on the control node: it names the way out. This machine stays as it is",
        )


class Interrupted(QmeshError):
    """The user said stop: Ctrl-C."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted", hint="run the same command again: it starts over or goes on")


def build_bug_error(error: Exception) -> QmeshError:
    """An error that nobody foresaw, as one of ours, in one line."""
    return QmeshError(
        f"qmesh itself failed: {describe_unexpected_error(error)}",
        hint="run it again with QMESH_TRACEBACK=1, and report what that shows; `qmesh check` shows this"
        " machine's state",
    )


def describe_unexpected_error(error: Exception) -> str:
    """An error that nobody foresaw, by its kind and place; what it says may be anything, and is left out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    file = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{type(error).__name__} at {file}:{trace.tb_lineno}"
