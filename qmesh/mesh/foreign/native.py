"""Read what `nft -j list ruleset` prints into values. Source: libnftables-json(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from qmesh.mesh.foreign.rules import (
    UNREAD,
    Chain,
    Condition,
    Ending,
    FieldChange,
    Rule,
    Table,
    build_unclear_rule,
)
from qmesh.mesh.foreign.values import (
    PROTOCOLS,
    ElementSet,
    MaskedSet,
    UnknownSet,
    UnsupportedExpression,
    ValueSet,
    parse_network,
    parse_scalar,
    parse_span,
)
from qmesh.mesh.guard import OWN_TABLES

FAMILIES: Final = frozenset({"inet", "ip", "ip6", "netdev"})
_HARMLESS: Final = frozenset({"counter", "log", "notrack", "ct helper", "ct timeout", "dup", "flow", "last"})
_ENDINGS: Final[Mapping[str, Ending]] = {
    "accept": "accept", "drop": "drop", "reject": "drop", "return": "return", "continue": "continue",
    "masquerade": "accept", "snat": "accept", "dnat": "unclear", "redirect": "unclear",
    "queue": "unclear", "tproxy": "unclear", "synproxy": "unclear", "fwd": "unclear",
}  # fmt: skip
_OURS: Final = frozenset(("inet", name) for name in OWN_TABLES)
_RULE = re.compile(r"(?P<text>.*[^{]) # handle (?P<handle>[0-9]{1,20})", re.DOTALL)
_LINE = re.compile(r'(?:"[^"]*+"|[^"\n])++')
_TABLE = re.compile(r"table (?P<table>\S+ \S+) \{")
_STATEMENT_OF_XT: Final = frozenset({"LOG", "NFLOG", "TRACE", "CT"})

Key = tuple[str, str]
Conditions = tuple[Condition, ...]


class _RulesetIndex(msgspec.Struct):
    """What a ruleset has, by family, table and name."""

    tables: dict[Key, dict[str, Any]]
    chains: dict[Key, dict[str, dict[str, Any]]]
    rules: dict[tuple[str, str, str], list[dict[str, Any]]]
    sets: dict[tuple[str, str, str], dict[str, Any]]


def parse_nft_ruleset(objects: list[dict[str, Any]], text: str) -> tuple[Table, ...]:
    """All tables of the families that an IP packet passes, but the guard's two and those that sleep.

    objects: as `nft -j` prints them; a table may have `dormant`, a chain its `devices`, and `unread` where
        its rules are not known. text: what `nft -a list ruleset` prints, to show rules by.
    A rule that can't be read is one that was not understood.
    """
    listing, texts = _index_objects(objects), _parse_rule_texts(text)
    return tuple(
        _TableParser(listing, key, texts).parse_table()
        for key, table in listing.tables.items()
        if key[0] in FAMILIES and key not in _OURS and not table.get("dormant")
    )


def _parse_rule_texts(text: str) -> dict[tuple[str, int], str]:
    """Each rule's text, by `family table` and handle. A comment may have line breaks."""
    texts: dict[tuple[str, int], str] = {}
    table = ""
    for line in map(str.strip, _LINE.findall(text)):
        if (begun := _TABLE.match(line)) is not None:
            table = begun["table"]
        elif (found := _RULE.fullmatch(line)) is not None:
            texts[table, int(found["handle"])] = found["text"]
    return texts


def _index_objects(objects: list[dict[str, Any]]) -> _RulesetIndex:
    listing = _RulesetIndex({}, {}, {}, {})
    for each in objects:
        for kind, found in each.items():
            key = (found.get("family", ""), found.get("table", ""))
            match kind:
                case "table":
                    listing.tables[found["family"], found["name"]] = found
                case "chain":
                    listing.chains.setdefault(key, {})[found["name"]] = found
                case "rule":
                    listing.rules.setdefault((*key, found["chain"]), []).append(found)
                case "set" | "map":
                    listing.sets[*key, found["name"]] = found
    return listing


class _TableParser:
    """Reads one table; each named set is read once."""

    def __init__(self, listing: _RulesetIndex, key: Key, texts: Mapping[tuple[str, int], str]) -> None:
        self._listing = listing
        self._key = key
        self._texts = texts
        self._members: dict[str, tuple[tuple[ElementSet, ...], ...]] = {}

    def parse_table(self) -> Table:
        family, name = self._key
        found = self._listing.chains.get(self._key, {})
        chains = {chain: self._parse_chain(about) for chain, about in found.items()}
        return Table(program="nft", family=family, name=name, chains=chains)

    def _parse_chain(self, about: dict[str, Any]) -> Chain:
        found = self._listing.rules.get((*self._key, about["name"]), [])
        rules = tuple(rule for each in found for rule in self._parse_rule(each))
        return Chain(
            name=about["name"],
            rules=(UNREAD,) if about.get("unread") else rules,
            hook=about.get("hook", ""),
            priority=int(about.get("prio", 0)),
            drops=about.get("policy") == "drop",
            devices=tuple(about.get("devices", ())),
        )

    def _parse_rule(self, about: dict[str, Any]) -> tuple[Rule, ...]:
        handle = about.get("handle", 0)
        text = self._texts.get((" ".join(self._key), handle)) or _render_expressions(about.get("expr"))
        conditions: list[Condition] = []
        try:
            return tuple(self._parse_expressions(about.get("expr", []), text, handle, conditions))
        except Exception:  # noqa: BLE001 - whatever it is, others wrote it
            unclear = build_unclear_rule(text, handle)
            return (msgspec.structs.replace(unclear, conditions=(*conditions, *unclear.conditions)),)

    def _parse_expressions(
        self, expressions: Any, text: str, handle: int, conditions: list[Condition]
    ) -> Iterator[Rule]:
        """The rule, or several that say the same: one for each verdict of a map.

        conditions: are told there, in the order of the rule, as far as it is read.
        """
        changes: list[FieldChange] = []
        for expression in expressions:
            ((word, content),) = expression.items()
            if word == "vmap":
                yield from self._parse_verdict_map(content, text, tuple(conditions), handle)
                return
            ending, target = _parse_verdict(word, content)
            if ending is not None:
                yield Rule(text, tuple(conditions), ending, target, tuple(changes), handle)
                return
            changed = {change.field for change in changes}
            conditions += [
                Condition() if changed.intersection(condition.fields) else condition
                for condition in self._parse_conditions(word, content)
            ]
            changes += _parse_changes(word, content)
        yield Rule(text, tuple(conditions), "continue", "", tuple(changes), handle)

    def _parse_verdict_map(self, content: Any, text: str, before: Conditions, handle: int) -> Iterator[Rule]:
        pairs = content["data"]
        if isinstance(pairs, str):
            pairs = self._listing.sets[*self._key, pairs[1:]].get("elem", [])
        else:
            pairs = pairs["set"]
        rest: Rule | None = None
        for key, verdict in pairs:
            ((word, where),) = verdict.items()
            ending, target = _parse_verdict(word, where)
            key_there = _unwrap_element(key)
            condition = self._parse_comparison(content["key"], "==", key_there)
            rule = Rule(text, (*before, condition), ending or "unclear", target, (), handle)
            if key_there == "*":
                rest = rule
            else:
                yield rule
        if rest is not None:  # of the element for everything else it is not known when it counts
            yield msgspec.structs.replace(rest, conditions=(*before, Condition()))

    def _parse_conditions(self, word: str, content: Any) -> Iterator[Condition]:
        if word == "match":
            yield self._parse_comparison(content["left"], content["op"], content["right"])
        elif word in {"set", "map"} and isinstance(content, dict) and content.get("stmt"):
            yield Condition()
        elif word == "xt":
            if (content or {}).get("name") not in _STATEMENT_OF_XT:
                yield Condition()
        elif word not in _HARMLESS | {"mangle", "set", "map"}:
            yield Condition()

    def _parse_comparison(self, left: Any, op: str, right: Any) -> Condition:
        try:
            fields, mask = _parse_fields(left)
            if op in {"<", ">", "<=", ">="}:
                return Condition(fields, ((_parse_inequality(op, right),),)) if mask is None else Condition()
            among: tuple[tuple[ValueSet, ...], ...] = self._resolve_members(right, fields)
            if op not in {"==", "!=", "in"}:
                return Condition()
            if mask is not None:
                among = tuple((MaskedSet(mask, row[0]),) for row in self._resolve_members(right, fields))
            return Condition(fields, among, op == "!=")
        except (UnsupportedExpression, KeyError, TypeError, ValueError, AttributeError):
            return Condition()

    def _resolve_members(self, right: Any, fields: tuple[str, ...]) -> tuple[tuple[ElementSet, ...], ...]:
        if isinstance(right, str) and right.startswith("@"):
            if right not in self._members:
                elements = self._listing.sets[*self._key, right[1:]].get("elem", [])
                self._members[right] = _parse_elements(elements, fields)
            return self._members[right]
        if isinstance(right, dict) and "set" in right:
            right = right["set"]
        return _parse_elements(right if isinstance(right, list) else [right], fields)


def _render_expressions(expressions: Any) -> str:
    return msgspec.json.encode(expressions).decode()


def _parse_verdict(word: str, content: Any) -> tuple[Ending | None, str]:
    if word in {"jump", "goto"}:
        return ("jump" if word == "jump" else "goto"), content["target"]
    if word == "xt" and (content or {}).get("type") == "target":
        return (None if content["name"] in _STATEMENT_OF_XT else "unclear"), ""
    return _ENDINGS.get(word), ""


def _parse_changes(word: str, content: Any) -> Iterator[FieldChange]:
    if word == "notrack":
        yield from (
            FieldChange("ct state", "untracked"),
            FieldChange("ct direction", None),
            FieldChange("ct status", None),
        )
    elif word == "mangle":
        value = content["value"]
        try:
            fields, mask = _parse_fields(content["key"])
        except UnsupportedExpression:
            return
        known = isinstance(value, int | str) and mask is None
        for field in fields:
            yield FieldChange(field, _name_protocol(parse_scalar(value), field) if known else None)


def _parse_fields(left: Any) -> tuple[tuple[str, ...], int | None]:
    """The names of what is compared, and the mask that is laid on it first."""
    ((kind, content),) = left.items()
    match kind:
        case "concat":
            parts = [_parse_fields(each) for each in content]
            if any(mask is not None for _, mask in parts):
                raise UnsupportedExpression("mask")
            return tuple(field for fields, _ in parts for field in fields), None
        case "&":
            fields, mask = _parse_fields(content[0])
            if mask is not None or not isinstance(content[1], int):
                raise UnsupportedExpression("mask")
            return fields, content[1]
    return (_parse_field(kind, content),), None


def _parse_field(kind: str, content: Any) -> str:
    match kind:
        case "payload" if "protocol" in content:
            return f"{content['protocol']} {content['field']}"
        case "meta":
            return f"meta {content['key']}"
        case "ct" if "dir" not in content:
            return f"ct {content['key']}"
        case "fib":
            flags = content["flags"]
            about = {flags} if isinstance(flags, str) else set(flags)
            (which,) = about & {"saddr", "daddr"}
            return f"fib {content['result']} {which}"
    raise UnsupportedExpression(kind)


def _unwrap_element(element: Any) -> Any:
    """An element of a set without its timeout, comment and counter."""
    return element["elem"]["val"] if isinstance(element, dict) and "elem" in element else element


def _parse_elements(elements: list[Any], fields: tuple[str, ...]) -> tuple[tuple[ElementSet, ...], ...]:
    values = [_unwrap_element(each) for each in elements]
    if len(fields) == 1:
        return ((ElementSet(_parse_element(each, fields[0]) for each in values),),)
    return tuple(
        tuple(
            ElementSet([_parse_element(part, field)])
            for part, field in zip(each["concat"], fields, strict=True)
        )
        for each in values
    )


def _parse_element(value: Any, field: str) -> int | str | tuple[int, int]:
    if isinstance(value, dict):
        if "prefix" in value:
            return parse_network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
        if "range" in value:
            return parse_span(*(_parse_field_value(each, field) for each in value["range"]))
        raise UnsupportedExpression(str(value))
    return _name_protocol(_parse_field_value(value, field), field)


def _parse_field_value(value: Any, field: str) -> int | str:
    if isinstance(value, bool):  # of a route that is missing
        return str(value)
    if not isinstance(value, int | str):
        raise UnsupportedExpression(str(value))
    if field.endswith((" saddr", " daddr")) or not isinstance(value, str):
        return parse_scalar(value)
    found = parse_scalar(value)
    if field.endswith("port") and isinstance(found, str):
        raise UnsupportedExpression(found)
    return value if field.startswith(("meta iif", "meta oif")) else found


def _name_protocol(value: int | str, field: str) -> int | str:
    if isinstance(value, int) and field in {"meta l4proto", "ip protocol", "ip6 nexthdr"}:
        return PROTOCOLS.get(value, str(value))
    return value


def _parse_inequality(op: str, right: Any) -> ValueSet:
    value = parse_scalar(right)
    if not isinstance(value, int):
        return UnknownSet()
    greatest = (1 << 128) - 1
    ends = {"<": (0, value - 1), "<=": (0, value), ">": (value + 1, greatest), ">=": (value, greatest)}
    return ElementSet([ends[op]])
