"""Which protocol two machines speak, and which of two versions of qmesh is the newer one.

Each request and each answer says it in a header:

    qmesh-speaks: 2 1 0.2.0

its newest protocol, the oldest that it still understands, and its version of qmesh. Two machines understand
each other where one protocol is in both ranges. Version 0.1.0 says nothing, and speaks the first.

The number of the protocol grows with what another machine would misread or has to refuse. What it may pass
over, as a header, or what is added at the end of a list, needs no new one.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from qmesh import __version__
from qmesh.errors import EnrolmentRefused
from qmesh.mesh.machine_facts.facts import FactText, ProtocolNumber, clean_text


class SpokenProtocol(msgspec.Struct, frozen=True):
    """What a machine speaks. qmesh: its version; empty where it does not say."""

    newest: ProtocolNumber
    oldest: ProtocolNumber
    qmesh: FactText = ""

    def __str__(self) -> str:
        numbers = str(self.newest) if self.newest == self.oldest else f"{self.oldest} to {self.newest}"
        return f"qmesh {self.qmesh or FIRST_VERSION}, which speaks protocol {numbers}"


FIRST_VERSION: Final = "0.1.0"
SAYS_NOTHING: Final = SpokenProtocol(1, 1)
OWN: Final = SpokenProtocol(newest=2, oldest=1, qmesh=__version__)
"""This version's. `oldest` stays one behind at least: a mesh is updated machine by machine."""

_HEADER: Final = re.compile(r"([1-9][0-9]{0,3}) ([1-9][0-9]{0,3}) ([^ ]{1,80})")


def encode_protocol(spoken: SpokenProtocol = OWN) -> str:
    """The header's value."""
    return f"{spoken.newest} {spoken.oldest} {spoken.qmesh}"


def decode_protocol(header: bytes) -> SpokenProtocol:
    """What a header says. Who sends none, or none that is understood, speaks as one that says nothing."""
    said = _HEADER.fullmatch(header.decode("ascii", "replace"))
    return SAYS_NOTHING if said is None else SpokenProtocol(int(said[1]), int(said[2]), clean_text(said[3]))


def is_understood(other: SpokenProtocol, own: SpokenProtocol = OWN) -> bool:
    """Whether both speak one protocol."""
    return max(own.oldest, other.oldest) <= min(own.newest, other.newest)


class ProtocolsApart(EnrolmentRefused):
    """Two machines speak no protocol that both understand. Its words are right on both.

    other, own_name: what the two are called. spoken: what the other one speaks.
    """

    def __init__(
        self, other: str, spoken: SpokenProtocol, *, own_name: str, own: SpokenProtocol = OWN
    ) -> None:
        super().__init__(
            f"{other} and {own_name} do not understand each other: {other} has {spoken}, and {own_name} has"
            f" {own}",
            hint=describe_update(spoken, other=other, own=own, own_name=own_name),
        )
        self.spoken = spoken


def describe_update(spoken: SpokenProtocol, *, other: str, own_name: str, own: SpokenProtocol = OWN) -> str:
    """Which of two machines that do not understand each other has to be updated, in words."""
    is_own_newer = spoken.newest < own.oldest
    newer, name, older = (own, own_name, other) if is_own_newer else (spoken, other, own_name)
    # Words of a member's must be no instruction, such as where to take it from.
    version = newer.qmesh if _VERSION.fullmatch(newer.qmesh) else f"what {name} has,"
    return f"update qmesh on {older}, to {version} or newer"


_VERSION: Final = re.compile(
    r"(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,5})"
    r"(?:(?P<kind>a|b|rc)(?P<count>[0-9]{1,9}))?"
    r"(?:\.post(?P<post>[0-9]{1,9}))?"
    r"(?:\.dev(?P<dev>[0-9]{1,9}))?"
    r"(?:\+[A-Za-z0-9.]{1,40})?"
)
"""Source: PEP 440, in its normal form, without epochs."""


def rank_version(text: str) -> tuple[tuple[int, ...], int, int, int, float, str]:
    """By what versions of qmesh are compared, a newer one's being larger. 0.10 is newer than 0.9.

    A development version comes before what it develops: 0.2.0.dev3, 0.2.0a1, 0.2.0rc1, 0.2.0, 0.2.0.post1.
    What is no version is older than any.
    """
    found = _VERSION.fullmatch(text)
    if found is None:
        return (), 0, 0, 0, 0.0, text
    numbers = [int(number) for number in found["numbers"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    is_only_dev = found["dev"] is not None and found["kind"] is None and found["post"] is None
    stage = 0 if is_only_dev else ("a", "b", "rc", None).index(found["kind"]) + 1
    post = -1 if found["post"] is None else int(found["post"])
    dev = float("inf") if found["dev"] is None else float(found["dev"])
    return (1, *numbers), stage, int(found["count"] or 0), post, dev, text
