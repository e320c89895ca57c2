"""What comes from outside as values of a type, or Malformed: all decoding goes through here.

A decoder fails in many ways: `[` a thousand times is a RecursionError, a length beyond the memory is a
MemoryError, a hook that does not know a value raises NotImplementedError, and a value's own rules raise
BadInput. Callers need only one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused, QmeshError

T = TypeVar("T")

Hook = Callable[[type, Any], Any]
"""Makes a value of a type that the decoder does not know; raises ValueError or BadInput."""

SAME_VERSION: Final = "use the same version of qmesh on both machines"
"""What helps where one machine does not understand another."""
_NO: Final = (QmeshError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError, MemoryError)


class Malformed(BadInput):
    """What was read is not what it should be. Nothing of it is repeated: it may hold secrets."""

    def __init__(self) -> None:
        super().__init__("what was read is not understood", hint=SAME_VERSION)


@contextlib.contextmanager
def translate_decode_errors() -> Iterator[None]:
    """Raise Malformed for whatever the block's reading trips over."""
    try:
        yield
    except _NO:
        raise Malformed from None


@contextlib.contextmanager
def refuse_malformed(message: str, hint: str = SAME_VERSION) -> Iterator[None]:
    """Raise EnrolmentRefused where what the block reads of another machine is not what it should be."""
    try:
        yield
    except BadInput:
        raise EnrolmentRefused(message, hint=hint) from None


def decode_json(octets: bytes | str, kind: type[T], hook: Hook | None = None) -> T:
    """Read JSON as a value of a type. Raises Malformed."""
    with translate_decode_errors():
        return msgspec.json.decode(octets, type=kind, dec_hook=hook)


def decode_msgpack(octets: bytes, kind: type[T]) -> T:
    """Read MessagePack as a value of a type. Raises Malformed."""
    with translate_decode_errors():
        return msgspec.msgpack.decode(octets, type=kind)


def convert_value(value: object, kind: type[T]) -> T:
    """A value of plain Python, or a struct, as one of a type, its rules kept. Raises Malformed."""
    with translate_decode_errors():
        return msgspec.convert(value, kind, from_attributes=True)
