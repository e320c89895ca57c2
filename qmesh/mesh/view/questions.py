"""What readers may ask this machine's agent, who they are, and how an answer begins.

A question is a word and a line feed. An answer is a line of JSON, an `AnswerHead`, and as many bytes as that
says.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused, MachineRefused, QmeshError
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.values import quote_text

ReaderQuestion: TypeAlias = Literal["status", "check", "log", "metrics", "view"]
QUESTIONS: Final[tuple[ReaderQuestion, ...]] = get_args(ReaderQuestion)
MOST_QUESTION: Final = 32
"""Bytes of a question with its line feed."""
MOST_HEAD: Final = 8192
"""Bytes of an answer's first line."""
MOST_ANSWER: Final = 1 << 24
"""Bytes of the rest: of 10,000 machines it has some seven million."""
OVERFLOW_ID: Final = 65534
"""A group that the kernel puts in the place of one that it can't name: its members may be anybody."""
ROOT: Final = 0
_GROUP: Final = re.compile(r"(?![0-9]+\Z)[^\s:,/\\'\"`$-][^\s:,/'\"`]{0,63}")


class AnswerHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an answer begins. octets: how many bytes follow. age_s: for how many seconds that has been known.

    error, hint, exit_code: of a `QmeshError`, where there is no answer.
    """

    octets: Annotated[int, msgspec.Meta(ge=0, le=MOST_ANSWER)] = 0
    age_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    error: str = ""
    hint: str = ""
    exit_code: Annotated[int, msgspec.Meta(ge=0, lt=256)] = 0


class Caller(msgspec.Struct, frozen=True):
    """A process at the other end of a socket, as it was when it connected: user, and all of its groups."""

    user: int
    groups: frozenset[int]


def validate_group_name(name: str) -> str:
    """The name of a group, as it may stand in a command. Raises BadInput."""
    if _GROUP.fullmatch(name) is None or not name.isprintable():
        raise BadInput(
            f"{quote_text(name)} is not the name of a group",
            hint="`getent group` shows the groups of this machine",
        )
    return name


def may_ask(caller: Caller, group: int) -> bool:
    """Whether that process may ask where the readers are that group."""
    return caller.user == ROOT or (group != OVERFLOW_ID and group in caller.groups)


def parse_question(line: bytes) -> ReaderQuestion:
    """The question of a line. Raises BadInput."""
    for question in QUESTIONS:
        if line == question.encode():
            return question
    raise BadInput(
        "this question is not one of those that readers may ask",
        hint=f"ask one of these: {', '.join(QUESTIONS)}",
    )


def render_head(head: AnswerHead) -> bytes:
    """The line, with its line feed. An error too long for one is cut."""
    octets = msgspec.json.encode(head)
    if len(octets) >= MOST_HEAD:
        cut = msgspec.structs.replace(head, error=head.error[:_MOST_TEXT], hint=head.hint[:_MOST_TEXT])
        octets = msgspec.json.encode(cut)
    return octets + b"\n"


_MOST_TEXT: Final = MOST_HEAD // 24
"""Characters of which two, each six bytes long in JSON, fit into a head."""


def parse_head(line: bytes) -> AnswerHead:
    """How an answer begins. Raises Malformed."""
    if len(line) > MOST_HEAD:
        raise Malformed
    return decode_json(line, AnswerHead)


def build_error_head(error: QmeshError) -> AnswerHead:
    """An error in an answer's place."""
    return AnswerHead(
        error=_replace_surrogates(error.message),
        hint=_replace_surrogates(error.hint),
        exit_code=error.exit_code,
    )


def _replace_surrogates(text: str) -> str:
    """Bytes of a file's name that were no text can't be written down."""
    return text.encode("utf-8", "replace").decode()


def find_error(head: AnswerHead) -> QmeshError | None:
    """The error that a head tells of; None where it tells of an answer."""
    if not head.error and not head.exit_code:
        return None
    return build_refusal(head.error, head.hint, head.exit_code)


def build_refusal(message: str, hint: str, exit_code: int) -> QmeshError:
    """An error of another process, of the kind that ends with that code."""
    kinds = {each.exit_code: each for each in (BadInput, MachineRefused, EnrolmentRefused)}
    return kinds.get(exit_code, MachineRefused)(message, hint=hint)
