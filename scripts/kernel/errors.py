"""Why there is no machine, and what helps."""

from __future__ import annotations


class NoMachine(Exception):
    """The machine can't be had, or was lost. `hint` says what helps."""

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
