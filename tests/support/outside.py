"""What an edit of the worker list has to leave alone, found without the edit's own parser and check.

PyYAML composes both texts; the list's own characters are taken out of each; what is left has to be
the same, and what PyYAML loads of it too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

SECTION, LIST = "engine", "dataWorkerMultiaddrs"
"""Where the list of nodes 1.4 and 2.0 is; node 2.1 has others beside it."""
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_LARGE = 4000
"""Characters from which on PyYAML's parser in C is asked: the one in Python takes seconds."""


def _is_flow(node: yaml.Node | None) -> bool:
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


class _Found(NamedTuple):
    """The list's pair of key and value, and its section's: None where there is none."""

    root: yaml.MappingNode | None
    section: tuple[yaml.Node, yaml.Node] | None
    entry: tuple[yaml.Node, yaml.Node] | None


def entries_of(text: str, name: str = LIST) -> tuple[str, ...]:
    """The worker list as PyYAML loads it."""
    return _without_list(_loaded(text), name)[1]


def octets_changed(old: str, new: str, wanted: tuple[str, ...], name: str = LIST) -> int:
    """How many octets outside of the worker list an edit changed.

    Raises AssertionError where the new text does not hold the wanted list, or loads otherwise as
    something else than the old one.
    """
    before, entries = _without_list(_loaded(old), name)
    after, there = _without_list(_loaded(new), name)
    assert there == wanted, "the list is not the wanted one"
    assert after == before, "the file loads as something else"
    bodies = old.removeprefix("\ufeff"), new.removeprefix("\ufeff")
    marks = len(old) - len(bodies[0]), len(new) - len(bodies[1])
    found = _find(bodies[0], name), _find(bodies[1], name)
    changed = _difference(_outside(bodies[0], found[0], found[0]), _outside(bodies[1], found[1], found[0]))
    both = min(len(entries), len(wanted))
    lines = [_beside(body, each)[:both] for body, each in zip(bodies, found, strict=True)]
    beside = sum(_difference(*pair) for pair in zip(*lines, strict=bool(all(lines))))
    return changed + beside + (3 if marks[0] != marks[1] else 0)


def _loader(text: str, *, small: Any, large: Any) -> Any:
    return large if len(text) > _LARGE else small


def _loaded(text: str) -> Any:
    return yaml.load(text, Loader=_loader(text, small=yaml.BaseLoader, large=yaml.CBaseLoader))  # noqa: S506  # builds only text


def _without_list(loaded: dict[str, Any] | None, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """All but the list, and the list. A section with nothing else counts as none."""
    others = dict(loaded or {})
    section = others.pop(SECTION, None)
    section = dict(section) if isinstance(section, dict) else {}  # BaseLoader builds no None of null
    entries = section.pop(name, None)
    return others | ({SECTION: section} if section else {}), tuple(
        entries if isinstance(entries, list) else ()
    )


def _find(text: str, name: str) -> _Found:
    root = yaml.compose(text, Loader=_loader(text, small=yaml.SafeLoader, large=yaml.CSafeLoader))
    section = _pair(root, SECTION)
    assert root is None or isinstance(root, yaml.MappingNode)
    return _Found(root, section, _pair(section[1], name) if section else None)


def _pair(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return next((pair for pair in pairs if pair[0].value == name), None)


def _outside(text: str, found: _Found, old: _Found) -> str:
    """The text without what is the list's own. old: what was there before counts as not its own."""
    spans = list(_own(text, found, old))
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return text


def _own(text: str, found: _Found, old: _Found) -> Iterator[tuple[int, int]]:
    if found.section is None:
        return
    if old.section is None:
        yield from _pair_span(text, found.root, *found.section)
    elif isinstance(old.section[1], yaml.ScalarNode) and (
        isinstance(found.section[1], yaml.ScalarNode) or _is_flow(found.section[1])
    ):
        yield _value_span(text, found.section[1])
    elif found.entry is not None and old.entry is None:
        yield from _pair_span(text, found.section[1], *found.entry)
    elif found.entry is not None:
        yield from _list_spans(text, found.entry[1])


def _pair_span(
    text: str, parent: yaml.Node | None, key: yaml.Node, value: yaml.Node
) -> Iterator[tuple[int, int]]:
    """A key that was not there, with all below it."""
    if _is_flow(parent):
        comma = re.compile(r", |").match(text, value.end_mark.index)
        assert comma
        yield key.start_mark.index, comma.end()
        return
    yield _lines(text, key, key)
    if isinstance(value, yaml.MappingNode) and not _is_flow(value):
        for inner in value.value:
            yield from _pair_span(text, value, *inner)
    elif isinstance(value, yaml.SequenceNode) and not _is_flow(value):
        yield from _list_spans(text, value)


def _list_spans(text: str, value: yaml.Node) -> Iterator[tuple[int, int]]:
    if isinstance(value, yaml.SequenceNode) and not _is_flow(value):
        yield from (_lines(text, item, item) for item in value.value)
    else:
        yield _value_span(text, value)


def _value_span(text: str, value: yaml.Node) -> tuple[int, int]:
    """A value in its key's line, with the spaces before it."""
    start, end = value.start_mark.index, value.end_mark.index
    return len(text[:start].rstrip(" \t")) if start < end else start, end


def _lines(text: str, first: yaml.Node, last: yaml.Node) -> tuple[int, int]:
    """Whole lines, with the line break before them, or at the text's start with the one behind."""
    start = first.start_mark.index - first.start_mark.column
    behind = _BREAK.search(text, last.end_mark.index)
    if start == 0:
        return 0, behind.end() if behind else len(text)
    before = 2 if text[start - 2 : start] == "\r\n" else 1
    return start - before, behind.start() if behind else len(text)


def _beside(text: str, found: _Found) -> list[str]:
    """What stands in each entry's line besides the entry: indentation, dash, quotes, comment."""
    if found.entry is None or not isinstance(found.entry[1], yaml.SequenceNode) or _is_flow(found.entry[1]):
        return []
    rests = []
    for item in found.entry[1].value:
        start, end = _lines(text, item, item)
        value = text[item.start_mark.index : item.end_mark.index]
        quote = value[0] if value[:1] in {"'", '"'} else ""
        before, behind = text[start : item.start_mark.index], text[item.end_mark.index : end]
        rests.append(f"{before.rstrip()}{quote}{behind.rstrip()}")
    return rests


def _difference(one: str, other: str) -> int:
    """Octets from the first to the last that differ, of the longer text."""
    a, b = one.encode(), other.encode()
    if a == b:
        return 0
    shorter = min(len(a), len(b))
    head = next((at for at in range(shorter) if a[at] != b[at]), shorter)
    tail = next((at for at in range(shorter - head) if a[-1 - at] != b[-1 - at]), shorter - head)
    return max(len(a), len(b)) - head - tail
