"""What sets and maps have in them, as ranges of their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

import msgspec

MOST_ELEMENTS: Final = 20_000
"""Of one set. What a larger one has is left open: both ways of each rule that asks it are followed."""
Range: TypeAlias = tuple[int, int]
"""First and last, as numbers."""


class SetElement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An element as the kernel lists it.

    key, last: where it begins, and ends where it says so itself. ends_range: it is not in the set, and ends
    a range. is_rest: it stands for all that is in no other. is_temporary: it goes by itself.
    value, verdict, chain: of a map.
    """

    key: bytes = b""
    last: bytes = b""
    ends_range: bool = False
    is_rest: bool = False
    is_temporary: bool = False
    value: bytes | None = None
    verdict: int | None = None
    chain: str = ""


class SetContent(msgspec.Struct, frozen=True, kw_only=True):
    """A set or map. elements: None where there are too many.

    fields: the lengths of what its keys are made of. changes: whether rules add elements; loses: whether they
    remove some. counts: whether its elements have limits of their own.
    """

    key_length: int
    fields: tuple[int, ...] = ()
    has_ranges: bool = False
    changes: bool = False
    loses: bool = False
    counts: bool = False
    elements: tuple[SetElement, ...] | None = ()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Elements of one meaning. value, verdict, chain: as in `SetElement`.

    ranges: of whole keys, ascending. boxes: of each field of a key, where fields have ranges of their own.
    """

    value: bytes | None = None
    verdict: int | None = None
    chain: str = ""
    is_temporary: bool = False
    ranges: tuple[Range, ...] = ()
    boxes: tuple[tuple[Range, ...], ...] = ()


SetKey: TypeAlias = tuple[str, str, str]
"""Family, table and name."""
SetContents: TypeAlias = Mapping[SetKey, SetContent]


def list_groups(content: SetContent) -> tuple[list[Group], SetElement | None]:
    """The elements by what they mean, and the one for all that is in no other. Raises ValueError."""
    elements = content.elements or ()
    rest = next((each for each in elements if each.is_rest), None)
    listed = [each for each in elements if not each.is_rest]
    if content.fields and (content.has_ranges or any(each.last for each in listed)):
        boxes: dict[_Meaning, list[tuple[Range, ...]]] = {}
        for each in listed:
            boxes.setdefault(_find_meaning(each), []).append(tuple(_split_fields(each, content.fields)))
        return [_make_group(meaning, boxes=found) for meaning, found in boxes.items()], rest
    ranges: dict[_Meaning, list[Range]] = {}
    for element, span in _join_ranges(listed, content):
        ranges.setdefault(_find_meaning(element), []).append(span)
    return [_make_group(meaning, ranges=sorted(found)) for meaning, found in ranges.items()], rest


_Meaning: TypeAlias = tuple[bytes | None, int | None, str, bool]


def _find_meaning(element: SetElement) -> _Meaning:
    return element.value, element.verdict, element.chain, element.is_temporary


def _make_group(
    meaning: _Meaning, ranges: Iterable[Range] = (), boxes: Iterable[tuple[Range, ...]] = ()
) -> Group:
    value, verdict, chain, is_temporary = meaning
    return Group(
        value=value, verdict=verdict, chain=chain, is_temporary=is_temporary, ranges=tuple(ranges),
        boxes=tuple(boxes),
    )  # fmt: skip


def _join_ranges(listed: Iterable[SetElement], content: SetContent) -> Iterable[tuple[SetElement, Range]]:
    """Each element with its keys. A range goes on until another begins, or one ends it."""
    top = (1 << 8 * content.key_length) - 1
    ordered = sorted(listed, key=lambda each: (each.key, not each.ends_range))
    for place, element in enumerate(ordered):
        if element.ends_range:
            continue
        first = int.from_bytes(element.key, "big")
        if element.last:
            yield element, (first, int.from_bytes(element.last, "big"))
        elif not content.has_ranges:
            yield element, (first, first)
        elif place + 1 < len(ordered):
            yield element, (first, int.from_bytes(ordered[place + 1].key, "big") - 1)
        else:
            yield element, (first, top)


def _split_fields(element: SetElement, fields: tuple[int, ...]) -> Iterable[Range]:
    """Of each field of a key its range. Each begins at four octets."""
    start = 0
    for length in fields:
        first, last = (each[start : start + length] for each in (element.key, element.last or element.key))
        yield int.from_bytes(first, "big"), int.from_bytes(last, "big")
        start += length + -length % 4
