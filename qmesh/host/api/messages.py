"""What client and server agree on: paths, largest sizes, and the body of a refusal."""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.mesh.decode import Malformed, decode_json

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body."""
MAX_ANSWER: Final = 32 * 1024 * 1024
"""Bytes of an answer's body: a membership of thousands of machines."""
REDEMPTIONS: Final = "/v1/redemptions"
KEYS: Final = "/v1/keys"
SUCCESSION: Final = "/v1/succession"
MEMBERSHIP: Final = "/v1/membership"
NODE_FILES: Final = "/v1/node-files"
NODE_KEYS: Final = "/v1/node-keys"
FINDINGS: Final = "/v1/findings"
CONFLICTS: Final = "/v1/conflicts"
HEALTH: Final = "/v1/health"
"""Only for the control node itself, which asks whether its own service works."""
PACKETS: Final = "/v1/packets"
"""Answers as many bytes as it is asked for: by those a member sees which packets pass, in both directions."""
MAX_PADDING: Final = 16 * 1024
"""Bytes of such an answer: they fill a segment of any tunnel."""
HOLDS: Final = "qmesh-holds"
"""The header of a request for a membership: which one the member holds, encrypted, in base64."""
KEY_DIGESTS: Final = "qmesh-key-digests"
"""Another one of it: digests of the keys of the member's node, encrypted, in base64."""
MACHINE_FACTS: Final = "qmesh-facts"
"""Another one of it: facts of the member's machine, encrypted, in base64; not with each question."""
CAN_REPORT: Final = "qmesh-can-report"
"""Another one of it: that the member would report the findings of its check, where it is asked."""
NOTE: Final = "qmesh-note"
"""Another one of it: what the member notes of itself, as of `qmesh.mesh.protocol.member_note`."""
SPEAKS: Final = "qmesh-speaks"
"""The header of every request and answer: what its sender speaks, as of `qmesh.mesh.protocol.versions`."""
ASKED_FINDINGS: Final = "qmesh-asked-findings"
"""The header of an answer to it: the member is asked for its findings; its value says by which request."""
_MOST_WORDS: Final = 300
"""Characters of another machine's text that are quoted: of the error, and of the hint."""


class Refusal(msgspec.Struct):
    """The body of an answer that says no."""

    error: str
    hint: str


def quote_refusal(body: bytes) -> str | None:
    """The text of a Refusal, quoted, in one printable line; None for a body that is no Refusal.

    The text is from another machine, or from anything that answers in its place, so it is always quoted.
    """
    try:
        said = decode_json(body, Refusal)
    except Malformed:
        return None
    advice = f" (its hint: {_quote_text(said.hint)})" if said.hint else ""
    return _quote_text(said.error) + advice


def _quote_text(text: str) -> str:
    line = "".join(character if character.isprintable() else " " for character in text[:_MOST_WORDS])
    return '"' + line.replace('"', "'") + '"'


class ControlNodeUnavailable(Exception):
    """The control node did not answer in time, or has an error of its own; the text says which.

    was_reached: whether there was a connection, so that it may have done what it was asked for.
    """

    def __init__(self, why: str, *, was_reached: bool = True) -> None:
        super().__init__(why)
        self.was_reached = was_reached


class ServiceUnresponsive(MachineRefused):
    """The service of this machine accepted a request and gave no answer."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"it accepts requests and does not answer: {why}",
            hint="wait a minute, then run `qmesh check` again: the agent restarts this part by itself",
        )
