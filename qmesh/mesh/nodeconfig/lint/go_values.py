"""What a value is to the node's loader in Go (1.4, 2.0 and 2.1), which reads YAML 1.1.

Source: gopkg.in/yaml.v2 v2.4.0, resolve.go and decode.go; strconv and time of Go.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from fractions import Fraction
from typing import Final, Literal, NamedTuple, TypeAlias

from qmesh.mesh.nodeconfig.document import (
    Mapping,
    Node,
    Scalar,
    Sequence,
    flatten_merges,
    is_merge_key,
    list_merged,
    resolve_alias,
)
from qmesh.mesh.nodeconfig.known_keys import Form

Kind: TypeAlias = Literal["null", "bool", "int", "float", "text", "bytes"]

_TAGS: Final = "tag:yaml.org,2002:"
_TAG_KINDS: Final[dict[str, Kind]] = {
    f"{_TAGS}null": "null",
    f"{_TAGS}bool": "bool",
    f"{_TAGS}int": "int",
    f"{_TAGS}float": "float",
}
_TEXT_TAG: Final = f"{_TAGS}str"
_TIME_TAG: Final = f"{_TAGS}timestamp"
_BYTES_TAG: Final = f"{_TAGS}binary"
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_FLAGS: Final = frozenset(
    {"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"}
    | {"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"}
)
_NOT_FINITE: Final = {
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_MANAGERS: Final = frozenset({"file", "inMemory"})
_MANAGERS_AS_BYTES: Final = frozenset(base64.b64encode(name.encode()).decode() for name in _MANAGERS)
_INT = re.compile(
    r"(?P<sign>[+-]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<binary>[01]+)|0[oO]?(?P<octal>[0-7]+)"
    r"|(?P<decimal>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}")
_DURATION = re.compile(r"[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"([0-9]*\.?[0-9]*)([a-z\u00b5\u03bc]+)")
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,
    "\u03bcs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_MOST_DIGITS: Final = 400
"""Of a number that is looked at: one with more digits fits no key, and takes no time here."""
_BITS: Final[dict[Form, int]] = {"u8": 8, "u16": 16, "u32": 32, "u64": 64}


class GoValue(NamedTuple):
    """A scalar as the loader resolves it. number: of the kinds int and float."""

    kind: Kind
    number: int | float = 0


def resolve_go_value(scalar: Scalar) -> GoValue | None:
    """What a scalar is; None where its tag and its text do not go together, which the loader refuses."""
    if scalar.tag is None:
        return GoValue("text") if scalar.style else _resolve_plain(scalar.value)
    if scalar.tag == _TEXT_TAG:
        return GoValue("text")
    if scalar.tag == _BYTES_TAG:
        return GoValue("bytes") if _is_base64(scalar.value) else None
    if scalar.tag == _TIME_TAG:
        return GoValue("text") if _TIMESTAMP.match(scalar.value) else None
    wanted = _TAG_KINDS.get(scalar.tag)
    if wanted is None:
        return GoValue("text")
    value = _resolve_plain(scalar.value)
    if wanted == "float" and value.kind == "int" and abs(value.number) < 2**63:
        return GoValue("float", float(value.number))
    return value if value.kind == wanted else None


def is_go_null(node: Node) -> bool:
    """Whether a section that stands here is none afterwards, so that the node panics where it needs it."""
    value = resolve_alias(node)
    if not isinstance(value, Scalar):
        return False
    if value.tag is not None:
        return value.tag == f"{_TAGS}null" and value.value in _NULLS
    return not value.style and value.value in {"", "~", "null"}


def fits_go(form: Form, node: Node) -> bool:
    """Whether the loader takes a value of this form. A value's null is the same as none."""
    value = resolve_alias(node)
    if isinstance(value, Scalar):
        found = resolve_go_value(value)
        return found is not None and (found.kind == "null" or _fits_scalar(form, found, value.value))
    if isinstance(value, Sequence):
        return form == "texts" and all(map(_is_text, value.items))
    assert isinstance(value, Mapping)
    return form == "texts by name" and all(
        all(isinstance(merged, Mapping) for merged in list_merged(inner))
        if is_merge_key(key)
        else _is_text(inner)
        for mapping in flatten_merges(value, set())
        for key, inner in mapping.pairs
    )


def _fits_scalar(form: Form, found: GoValue, text: str) -> bool:
    match form:
        case "text":
            return True
        case "texts" | "texts by name":
            return False
        case "manager":
            return text in (_MANAGERS_AS_BYTES if found.kind == "bytes" else _MANAGERS)
        case "flag":
            return found.kind == "bool"
        case "float":
            return found.kind in {"int", "float"}
        case "duration":
            return _fits_signed(found) or (found.kind == "text" and _is_duration(text))
        case "int" | "long":
            return _fits_signed(found)
    return _fits_unsigned(found, _BITS[form])


def _is_text(node: Node) -> bool:
    return fits_go("text", node)


def _resolve_plain(text: str) -> GoValue:
    if text in _NULLS:
        return GoValue("null")
    if text in _FLAGS:
        return GoValue("bool")
    if text in _NOT_FINITE:
        return GoValue("float", _NOT_FINITE[text])
    if text[0] not in "+-.0123456789" or len(text) > _MOST_DIGITS:
        return GoValue("text")
    digits = text if text[0] == "." else text.replace("_", "")
    number = None if text[0] == "." else _parse_int(digits)
    if number is not None and -(2**63) <= number < 2**64:
        return GoValue("int", number)
    if _FLOAT.fullmatch(digits) and math.isfinite(float(digits)):
        return GoValue("float", float(digits))
    return GoValue("text")


def _parse_int(text: str) -> int | None:
    found = _INT.fullmatch(text)
    if found is None:
        return None
    bases = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
    (number,) = (int(found[name], base) for name, base in bases.items() if found[name] is not None)
    return -number if found["sign"] == "-" else number


def _fits_signed(found: GoValue) -> bool:
    """Whether it fits 64 bits. A float loses its fraction, and one that is too small becomes the smallest."""
    if found.kind == "int":
        return found.number < 2**63
    return found.kind == "float" and found.number <= 2.0**63


def _fits_unsigned(found: GoValue, bits: int) -> bool:
    """Whether it fits. A float loses its fraction; below zero it becomes one of the largest."""
    if found.kind == "int":
        return 0 <= found.number < 1 << bits
    if found.kind != "float" or not found.number <= 2.0**64:
        return False
    return bits == 64 or (math.isfinite(found.number) and 0 <= math.trunc(found.number) < 1 << bits)


def _is_duration(text: str) -> bool:
    if text.lstrip("+-") == "0" and len(text) < 3:
        return True
    if len(text) > _MOST_DIGITS or not _DURATION.fullmatch(text):
        return False
    total: Fraction | int = 0
    for number, unit in _DURATION_PART.findall(text):
        total += (Fraction(number) if "." in number else int(number)) * _NANOSECONDS[unit]
    return total < 2**63


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
