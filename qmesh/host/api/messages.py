"""What both ends of the channel agree on: where it is asked, how large it may be, and how it says no."""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.mesh.decode import Malformed, decode_json

MAX_BODY: Final = 16 * 1024
"""Octets of a request's body."""
MAX_ANSWER: Final = 32 * 1024 * 1024
"""Octets of an answer's body: a membership of thousands of machines."""
REDEMPTIONS: Final = "/v1/redemptions"
KEYS: Final = "/v1/keys"
SUCCESSION: Final = "/v1/succession"
MEMBERSHIP: Final = "/v1/membership"
HEALTH: Final = "/v1/health"
"""Answered to the control node itself alone, which so sees that its service serves."""
HOLDS: Final = "qmesh-holds"
"""The header of a question for a membership in which a member says, sealed, which one it holds: base64."""
_MOST_WORDS: Final = 300
"""Characters of another machine's words that are repeated, of what is wrong and of what to do each."""


class Refusal(msgspec.Struct):
    """The body of an answer that says no."""

    error: str
    hint: str


def quote_refusal(body: bytes) -> str | None:
    """What an answer that says no says, quoted, in one line that can be printed; None for what is no Refusal.

    They are another machine's words, or of whoever answers in its place: never to be said as qmesh's own.
    """
    try:
        said = decode_json(body, Refusal)
    except Malformed:
        return None
    advice = f" (its advice: {_quote_text(said.hint)})" if said.hint else ""
    return _quote_text(said.error) + advice


def _quote_text(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text[:_MOST_WORDS])
    return '"' + line.replace('"', "'") + '"'


class ControlNodeUnavailable(Exception):
    """The control node did not answer in time, or is in trouble itself; its text says which.

    was_reached: whether there was a connection, so that it may have done what it was asked for.
    """

    def __init__(self, why: str, *, was_reached: bool = True) -> None:
        super().__init__(why)
        self.was_reached = was_reached


class ServiceUnresponsive(MachineRefused):
    """The service of this machine has taken a question and gave no answer."""

    def __init__(self, why: str) -> None:
        super().__init__(f"it takes questions and does not answer: {why}", hint="the agent begins it anew")
