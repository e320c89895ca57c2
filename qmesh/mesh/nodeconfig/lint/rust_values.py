"""What a value is to the node's loader in Rust (2.1-rust), which reads YAML 1.2.

Source: serde_yaml 0.9, de.rs; the standard library's parsers of numbers.
"""

from __future__ import annotations

import math
import re
from typing import Final

from qmesh.mesh.nodeconfig.document import Mapping, Node, Scalar, Sequence, resolve_alias
from qmesh.mesh.nodeconfig.known_keys import Form

_TAGS: Final = "tag:yaml.org,2002:"
_NULLS: Final = frozenset({"~", "null", "Null", "NULL"})
_FLAGS: Final = frozenset({"true", "True", "TRUE", "false", "False", "FALSE"})
_MANAGERS: Final = frozenset({"file", "inMemory", "inmemory"})
_INT = re.compile(
    r"(?P<sign>[+-]?)(?:0x(?P<hex>[0-9a-fA-F]+)|0o(?P<octal>[0-7]+)|0b(?P<binary>[01]+)"
    r"|(?P<decimal>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE: Final = frozenset(
    {".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", ".nan", ".NaN", ".NAN"}
)
_ZERO_FIRST = re.compile(r"[+-]?0[0-9]+")
_DURATION = re.compile(
    r"(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|\u00b5s|ms|s|m|h))*(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)?"
)
_MOST_DIGITS: Final = 400
"""Of a number that is looked at: one with more digits fits no key, and takes no time here."""
_RANGES: Final[dict[Form, tuple[int, int]]] = {
    "int": (-(2**31), 2**31),
    "long": (-(2**63), 2**63),
    "u8": (0, 2**8),
    "u16": (0, 2**16),
    "u32": (0, 2**32),
    "u64": (0, 2**64),
}


def fits_rust(form: Form, node: Node) -> bool:
    """Whether the loader takes a value of this form."""
    value = resolve_alias(node)
    if form == "texts":
        return is_rust_empty(value) or (
            isinstance(value, Sequence)
            and all(isinstance(resolve_alias(item), Scalar) for item in value.items)
        )
    if form == "texts by name":
        return is_rust_empty(value) or (
            isinstance(value, Mapping)
            and all(isinstance(resolve_alias(inner), Scalar) for _, inner in value.pairs)
        )
    if not isinstance(value, Scalar):
        return False
    match form:
        case "text":
            return True
        case "manager":
            return _is_manager(value)
        case "duration":
            return _is_duration(value)
        case "flag":
            return _is_plain(value, "bool") and value.value in _FLAGS
        case "float":
            return _is_plain(value, "float") and _is_float(value.value)
    if not _is_plain(value, "int"):
        return False
    number = _parse_int(value.value, is_signed=form in {"int", "long"})
    first, end = _RANGES[form]
    return number is not None and first <= number < end


def is_rust_empty(node: Node) -> bool:
    """Whether nothing at all stands there: that is an empty list or section. `~` is not."""
    value = resolve_alias(node)
    return isinstance(value, Scalar) and not value.style and not value.value


def is_rust_null(node: Node) -> bool:
    """Whether the loader takes it for none where a section need not be there."""
    value = resolve_alias(node)
    if not isinstance(value, Scalar) or value.style:
        return False
    if value.tag is not None:
        return value.tag == f"{_TAGS}null" and value.value in _NULLS
    return not value.value or value.value in _NULLS


def _is_plain(value: Scalar, tag: str) -> bool:
    """Whether it is looked at as more than a text: a plain one, or a block that says so by its tag."""
    return not value.style or (value.style == "|" and value.tag == f"{_TAGS}{tag}")


def _is_manager(value: Scalar) -> bool:
    """A tag of the file's own is the name of the choice, with nothing behind it."""
    if value.tag is not None and value.tag.startswith("!"):
        return value.tag[1:] in _MANAGERS and not value.value
    return value.value in _MANAGERS


def _parse_int(text: str, *, is_signed: bool) -> int | None:
    found = _INT.fullmatch(text) if len(text) <= _MOST_DIGITS else None
    if found is None or (found["sign"] == "-" and not is_signed):
        return None
    bases = {"hex": 16, "octal": 8, "binary": 2, "decimal": 10}
    (number,) = (int(found[name], base) for name, base in bases.items() if found[name] is not None)
    return -number if found["sign"] == "-" else number


def _is_float(text: str) -> bool:
    if text in _NOT_FINITE:
        return True
    return len(text) <= _MOST_DIGITS and bool(_FLOAT.fullmatch(text)) and math.isfinite(float(text))


def _is_duration(value: Scalar) -> bool:
    """A number of milliseconds, or a text of Go's kind; nothing at all is 0."""
    if is_rust_null(value):
        return True
    text, tag = value.value, value.tag or f"{_TAGS}str"
    if not tag.startswith(_TAGS) or tag.removeprefix(_TAGS) in {"bool", "float", "null"}:
        return False
    if tag == f"{_TAGS}int":
        return _is_milliseconds(text)
    if not value.style and value.tag is None and _is_no_text(text):
        return _is_milliseconds(text)
    return len(text) <= _MOST_DIGITS and bool(_DURATION.fullmatch(text.strip()))


def _is_no_text(text: str) -> bool:
    """Whether what is written plain is a flag or a number. Digits behind a zero are neither."""
    if text in _FLAGS or _parse_int(text, is_signed=True) is not None:
        return True
    return not _ZERO_FIRST.fullmatch(text) and _is_float(text)


def _is_milliseconds(text: str) -> bool:
    number = _parse_int(text, is_signed=True)
    return number is not None and 0 <= number < 2**64
