"""The surgical edit of a config's worker list: every byte that is not the list's stays.

Three rules keep it safe. An edit only exchanges spans that the parser marked. What is written
in a way that has no such span is refused. And the result is parsed again: it has to hold the
wanted list and, outside of it, the same nodes in the same order, or nothing is returned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as AnySequence

from qmesh.errors import BadInput
from qmesh.mesh.model import Profile
from qmesh.mesh.nodeconfig.document import BOM, Mapping, Node, Scalar, Sequence, parse, wrong
from qmesh.mesh.nodeconfig.layout import (
    STEP,
    Edit,
    block_lines,
    edited,
    flow_value,
    indented,
    line_end,
    newline,
)
from qmesh.mesh.nodeconfig.multiaddr import listen_address
from qmesh.mesh.nodeconfig.profiles import Facts, facts
from qmesh.mesh.nodeconfig.worker_list import WorkerList, entries, entry, find, rest

_DASH = re.compile(r" *-[ \t]*")
_COLON = re.compile(r"[ \t]*:")


def with_workers(text: str, multiaddrs: AnySequence[str], profile: Profile) -> str:
    """The config with this worker list, in the order of the cores; all else byte for byte as it was.

    Entry by entry: those that are right stay as they are written, others change in their quotes,
    and new ones follow the last one's looks. A comment line stays, also inside a block list; the
    comment behind an entry goes with the entry. An empty list is written as `[]`.

    multiaddrs: `/ip4/ADDRESS/tcp/PORT` or `/ip6/...`.

    Raises BadInput, with line and column, when the text does not load, when the list cannot be
    exchanged without touching more, for a bad multiaddr, and for 2.1 profiles.
    """
    known = facts(profile)
    wanted = tuple(multiaddrs)
    for multiaddr in wanted:
        listen_address(multiaddr)
    body = text.removeprefix(BOM)
    place = find(parse(body), known)
    if entries(place) == wanted:
        return text
    new = edited(body, _edits(body, place, wanted, known))
    _check(place, new, wanted, known)
    return text[: len(text) - len(body)] + new


def _check(before: WorkerList, new: str, wanted: tuple[str, ...], known: Facts) -> None:
    try:
        after = find(parse(new), known)
        good = entries(after) == wanted and rest(after) == rest(before)
    except BadInput:
        good = False
    if not good:
        raise _unusual(before, known)


def _unusual(place: WorkerList, known: Facts) -> BadInput:
    return wrong(
        place.mark,
        "the worker list cannot be changed here without touching more than the list",
        f"write it as `{known.list_name}:` with one `- /ip4/ADDRESS/tcp/PORT` a line below it",
    )


def _edits(text: str, place: WorkerList, wanted: tuple[str, ...], known: Facts) -> list[Edit]:
    if place.sequence is not None:
        return _change_list(text, place, place.sequence, wanted, known)
    if place.section is not None:
        return _add_list(text, place, place.section, wanted, known)
    return _add_section(text, place, wanted, (known.section, known.list_name))


def _add_section(text: str, place: WorkerList, wanted: tuple[str, ...], names: tuple[str, ...]) -> list[Edit]:
    if place.root is not None and place.root.flow:
        return [_add_in_flow(text, place.root, place.section_key, place.section_null, wanted, names)]
    if place.section_key and place.section_null:
        step = _step(place)
        lines = indented(block_lines(names[1:], wanted, step), place.section_key.start.column + step)
        return [_without(text, place.section_null), _below(text, place.section_key, lines)]
    lines = block_lines(names, wanted, _step(place))
    return [_at_end(text, place, indented(lines, place.root.start.column if place.root else 0))]


def _add_list(
    text: str, place: WorkerList, section: Mapping, wanted: tuple[str, ...], known: Facts
) -> list[Edit]:
    if section.flow:
        return [_add_in_flow(text, section, place.list_key, place.list_null, wanted, (known.list_name,))]
    if place.list_key and place.list_null:
        return [_without(text, place.list_null), *_list_below(text, place, place.list_key, wanted)]
    assert place.section_key
    lines = block_lines((known.list_name,), wanted, _step(place))
    return [_below(text, place.section_key, indented(lines, section.start.column))]


def _list_below(text: str, place: WorkerList, key: Scalar, wanted: tuple[str, ...]) -> list[Edit]:
    if not wanted:
        return [_empty_list(text, key)]
    return [_below(text, key, indented(block_lines((), wanted), key.start.column + _step(place)))]


def _empty_list(text: str, key: Scalar) -> Edit:
    at = _behind_colon(text, key)
    return Edit(at, at, " []")


def _behind_colon(text: str, key: Scalar) -> int:
    """Where a key's missing value belongs. PyYAML's two parsers do not agree on that."""
    colon = _COLON.match(text, key.end.at)
    return colon.end() if colon else key.end.at


def _add_in_flow(
    text: str,
    parent: Mapping,
    key: Scalar | None,
    null: Scalar | None,
    wanted: tuple[str, ...],
    names: tuple[str, ...],
) -> Edit:
    """Give a key of `{...}` a value in the place of null, or add the key in front of the others."""
    if key is None or null is None:
        at = parent.start.at + 1
        pair = flow_value(names, wanted)[1:-1]
        return Edit(at, at, f"{pair}, " if parent.pairs else pair)
    value = flow_value(names[1:], wanted)
    if null.value:
        return Edit(null.start.at, null.end.at, value)
    at = _behind_colon(text, key)
    return Edit(at, at, f" {value}")


def _change_list(
    text: str, place: WorkerList, old: Sequence, wanted: tuple[str, ...], known: Facts
) -> list[Edit]:
    items = [_changeable(item) for item in old.items]
    if old.flow:
        return _change_flow(text, place, old, items, wanted)
    if wanted:
        return _change_lines(text, place, items, wanted, known)
    assert place.list_key
    return [_empty_list(text, place.list_key), *_without_lines(text, place, items, known)]


def _change_flow(
    text: str, place: WorkerList, old: Sequence, items: list[Scalar], wanted: tuple[str, ...]
) -> list[Edit]:
    if not wanted:
        return [Edit(old.start.at, old.end.at, "[]")]
    if not items and _stands_alone(place, old):
        assert place.list_key
        return [_without(text, old), *_list_below(text, place, place.list_key, wanted)]
    if not items:
        return [Edit(old.start.at + 1, old.start.at + 1, ", ".join(wanted))]
    edits = _exchanges(text, items, wanted)
    if len(wanted) < len(items):
        return [*edits, Edit(items[len(wanted) - 1].end.at, items[-1].end.at, "")]
    return [*edits, _more_in_flow(text, old, items, wanted[len(items) :])]


def _change_lines(
    text: str, place: WorkerList, items: list[Scalar], wanted: tuple[str, ...], known: Facts
) -> list[Edit]:
    edits = _exchanges(text, items, wanted)
    if len(wanted) > len(items):
        return [*edits, _more_lines(text, place, items[-1], wanted[len(items) :], known)]
    return edits + _without_lines(text, place, items[len(wanted) :], known)


def _exchanges(text: str, items: list[Scalar], wanted: tuple[str, ...]) -> list[Edit]:
    pairs = zip(items, wanted, strict=False)
    return [_exchange(text, item, new) for item, new in pairs if item.value != new]


def _stands_alone(place: WorkerList, brackets: Sequence) -> bool:
    """Whether `[]` is in its key's line with nothing but a comment behind, so that lines may follow."""
    assert place.section
    assert place.list_key
    return not place.section.flow and place.list_key.start.line == brackets.start.line == brackets.end.line


def _changeable(item: Node) -> Scalar:
    scalar = entry(item)
    if scalar.is_block or scalar.anchor is not None or scalar.tag is not None:
        raise wrong(
            item.start,
            "this entry of the worker list is not plain text",
            "write it as /ip4/ADDRESS/tcp/PORT, without &, !, | or >",
        )
    return scalar


def _exchange(text: str, item: Scalar, new: str) -> Edit:
    """Another value in the same quotes. An empty entry ends at its dash: there a space is wanted."""
    start, end = item.start.at, item.end.at
    space = " " if start == end and text[start - 1 : start] == "-" else ""
    return Edit(start, end, f"{space}{item.style}{new}{item.style}")


def _more_in_flow(text: str, old: Sequence, items: list[Scalar], more: tuple[str, ...]) -> Edit:
    """Further entries behind the last one, a line each where the last one has a line of its own."""
    last = items[-1]
    before = items[-2].start if len(items) > 1 else old.start
    margin = text[last.start.at - last.start.column : last.start.at]
    own_line = before.line < last.start.line and not margin.strip(" \t")
    separator = f",{newline(text, before.at)}{margin}" if own_line else ", "
    at = last.end.at
    return Edit(at, at, "".join(f"{separator}{last.style}{new}{last.style}" for new in more))


def _more_lines(text: str, place: WorkerList, last: Scalar, more: tuple[str, ...], known: Facts) -> Edit:
    """Further entries in lines of their own, which start as the last one's line does."""
    dash = _dash(text, place, last, known)
    lead = dash if dash.endswith((" ", "\t")) else f"{dash} "
    return _below(text, last, [f"{lead}{last.style}{new}{last.style}" for new in more])


def _without_lines(text: str, place: WorkerList, items: list[Scalar], known: Facts) -> list[Edit]:
    return [_without_line(text, place, item, known) for item in items]


def _without_line(text: str, place: WorkerList, item: Scalar, known: Facts) -> Edit:
    """Take an entry's line away, with the line break before it: the last line may have none behind."""
    _dash(text, place, item, known)
    start = item.start.at - item.start.column
    line_break = 2 if text[start - 2 : start] == "\r\n" else 1
    return Edit(start - line_break, line_end(text, item.end.at), "")


def _dash(text: str, place: WorkerList, item: Scalar, known: Facts) -> str:
    """What stands before an entry in its line: indentation, dash, spaces."""
    lead = text[item.start.at - item.start.column : item.start.at]
    if not _DASH.fullmatch(lead):
        raise _unusual(place, known)
    return lead


def _step(place: WorkerList) -> int:
    """Columns by which the file indents a level."""
    root = place.root.pairs if place.root else ()
    pairs = [(place.section_key, place.section), *root]
    steps = (
        value.start.column - key.start.column
        for key, value in pairs
        if key and isinstance(value, Mapping) and not value.flow
    )
    return next(steps, STEP)


def _without(text: str, node: Node) -> Edit:
    """Take a value away, with the spaces before it."""
    start = node.start.at
    while text[start - 1] in " \t":
        start -= 1
    return Edit(start, node.end.at, "")


def _below(text: str, node: Node, lines: list[str]) -> Edit:
    """Put lines below the one in which a node ends."""
    at = line_end(text, node.end.at)
    line_break = newline(text, at)
    return Edit(at, at, "".join(line_break + line for line in lines))


def _at_end(text: str, place: WorkerList, lines: list[str]) -> Edit:
    """Put lines behind the root's content; a last line without a line break is left without one."""
    at = len(text) if place.end is None else place.end
    line_break = newline(text)
    block = line_break.join(lines)
    if at == 0 or text[at - 1] in "\r\n":
        return Edit(at, at, block + line_break)
    return Edit(at, at, line_break + block)
