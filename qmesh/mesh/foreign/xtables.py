"""Read what `iptables-save` and `ip6tables-save` print into values. Source: iptables-extensions(8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from qmesh.mesh.foreign.rules import (
    Chain,
    Condition,
    Ending,
    FieldChange,
    Program,
    Rule,
    Table,
    build_unclear_rule,
)
from qmesh.mesh.foreign.values import (
    ElementSet,
    MaskedSet,
    UnsupportedExpression,
    parse_network,
    parse_scalar,
    parse_span,
)

TABLES: Final = frozenset({"filter", "nat", "mangle", "raw", "security"})
_HOOKS: Final = {
    "PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward",
    "OUTPUT": "output", "POSTROUTING": "postrouting",
}  # fmt: skip
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
_ENDINGS: Final[Mapping[str, Ending]] = {
    "ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return",
    "MASQUERADE": "accept", "SNAT": "accept",
    **dict.fromkeys(
        ("LOG", "NFLOG", "ULOG", "TRACE", "CT", "NOTRACK", "MARK", "CONNMARK", "TCPMSS", "SET", "TOS",
         "DSCP", "TTL", "CLASSIFY", "CHECKSUM", "AUDIT", "TEE"), "continue",
    ),
}  # fmt: skip
_SAY_NOTHING: Final = frozenset({
    "tcp", "udp", "comment", "conntrack", "state", "addrtype", "multiport", "mark", "icmp", "icmp6", "icmpv6",
})  # fmt: skip
"""Matches that ask for nothing by being named, only by their options."""


_RAW: Final = frozenset({"-A", "-i", "-o", "-j", "-g", "--physdev-in", "--physdev-out"})
"""Before a name, which is printed as it is, quotes and all."""
_GAP = re.compile(r"[ \t]+")
_PLAIN = re.compile(r"[^ \t\n]+")
_QUOTED = re.compile(r'"(?P<text>(?:[^"\\]|\\.)*+)"(?=[ \t\n]|\Z)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def parse_iptables_save(text: str, *, family: str, program: Program) -> tuple[Table, ...]:
    """All tables of what a program saved. family: `ip` or `ip6`.

    A rule that can't be read is one that was not understood.
    """
    tables: list[Table] = []
    name = ""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line, words in _tokenize_lines(text):
        match words:
            case [first] if first.startswith("*"):
                name, policies, rules = first[1:], {}, {}
            case [first, policy, *_] if first.startswith(":"):
                policies[first[1:]] = policy
                rules[first[1:]] = []
            case ["-A", chain, *rest]:
                rules.setdefault(chain, []).append(_parse_rule(line, rest, policies))
            case ["COMMIT"]:
                chains = {
                    each: _build_chain(name, each, policies[each], tuple(rules[each])) for each in policies
                }
                tables.append(Table(program=program, family=family, name=name, chains=chains))
    return tuple(tables)


def _tokenize_lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each line with its words; a line goes on where a comment in quotes has a line break."""
    start = at = 0
    words: list[str] = []
    while at < len(text):
        if text[at] == "\n":
            yield text[start:at], words
            start = at = at + 1
            words = []
        elif gap := _GAP.match(text, at):
            at = gap.end()
        elif (quoted := _QUOTED.match(text, at)) and not (words and words[-1] in _RAW):
            words.append(_ESCAPED.sub(r"\1", quoted["text"]))
            at = quoted.end()
        else:
            plain = _PLAIN.match(text, at)
            assert plain is not None  # what is no gap is a word
            words.append(plain[0])
            at = plain.end()
    yield text[start:], words


def _build_chain(table: str, name: str, policy: str, rules: tuple[Rule, ...]) -> Chain:
    hook = _HOOKS.get(name, "") if policy != "-" else ""
    is_after = table == "nat" and hook in {"input", "postrouting"}
    priority = 100 if is_after else _PRIORITIES.get(table, 0)
    return Chain(name=name, rules=rules, hook=hook, priority=priority, drops=policy == "DROP")


def _parse_rule(line: str, words: list[str], chains: Mapping[str, str]) -> Rule:
    try:
        return _parse_rule_words(line, words, chains)
    except Exception:  # noqa: BLE001 - whatever it is, others wrote it
        return build_unclear_rule(line)


def _parse_rule_words(line: str, words: list[str], chains: Mapping[str, str]) -> Rule:
    conditions: list[Condition] = []
    negated = False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
        elif word == "--comment":
            words.pop(0)
        elif word in {"-j", "-g"}:
            ending, target = _parse_verdict(word, words[0], chains)
            return Rule(line, tuple(conditions), ending, target, tuple(_parse_changes(words)))
        else:
            arguments = _pop_arguments(words)
            conditions += _parse_conditions(word, arguments, negated=negated)
            negated = False
    return Rule(line, tuple(conditions))


def _pop_arguments(words: list[str]) -> list[str]:
    """The words up to the next option."""
    found = []
    while words and not (words[0].startswith("-") or words[0] == "!"):
        found.append(words.pop(0))
    return found


def _parse_verdict(word: str, target: str, chains: Mapping[str, str]) -> tuple[Ending, str]:
    if target in chains:
        return ("goto" if word == "-g" else "jump"), target
    return _ENDINGS.get(target, "unclear"), ""


def _parse_changes(words: list[str]) -> Iterator[FieldChange]:
    if words[0] == "NOTRACK" or "--notrack" in words:
        yield from (
            FieldChange("ct state", "untracked"),
            FieldChange("ct direction", None),
            FieldChange("ct status", None),
        )
    elif words[0] in {"MARK", "CONNMARK"}:
        yield from (FieldChange("meta mark", None), FieldChange("ct mark", None))


def _parse_conditions(word: str, arguments: list[str], *, negated: bool) -> Iterator[Condition]:
    if word == "-m":
        if arguments[0] not in _SAY_NOTHING:
            yield Condition()
    elif word != "--reject-with":
        yield _parse_condition(word, arguments, negated=negated)


def _parse_condition(word: str, arguments: list[str], *, negated: bool) -> Condition:
    known = _OPTIONS.get(word)
    if known is None or len(arguments) != 1:
        return Condition()
    field, understand = known
    try:
        members = understand(arguments[0])
    except (UnsupportedExpression, ValueError):
        return Condition()
    return Condition((field,), ((members,),), negated)


def _parse_interface(text: str) -> ElementSet:
    return ElementSet([text[:-1] + "*" if text.endswith("+") else text])


def _parse_protocol(text: str) -> ElementSet:
    return ElementSet([{"icmpv6": "ipv6-icmp"}.get(text, text)])


def _parse_network(text: str) -> ElementSet:
    return ElementSet([parse_network(text)])


def _parse_ports(text: str) -> ElementSet:
    parts = (part.partition(":") for part in text.split(","))
    return ElementSet(
        [parse_span(first or 0, last or (65535 if colon else first)) for first, colon, last in parts]
    )


def _parse_word_list(text: str) -> ElementSet:
    return ElementSet(text.lower().split(","))


def _parse_mark(text: str) -> ElementSet | MaskedSet:
    value, slash, mask = text.partition("/")
    members = ElementSet([parse_scalar(value)])
    return MaskedSet(int(mask, 0), members) if slash else members


_OPTIONS: Final[Mapping[str, tuple[str, Callable[[str], ElementSet | MaskedSet]]]] = {
    "-i": ("meta iifname", _parse_interface),
    "-o": ("meta oifname", _parse_interface),
    "-s": ("saddr", _parse_network),
    "-d": ("daddr", _parse_network),
    "-p": ("meta l4proto", _parse_protocol),
    "--dport": ("th dport", _parse_ports),
    "--sport": ("th sport", _parse_ports),
    "--dports": ("th dport", _parse_ports),
    "--sports": ("th sport", _parse_ports),
    "--ctstate": ("ct state", _parse_word_list),
    "--state": ("ct state", _parse_word_list),
    "--ctdir": ("ct direction", _parse_word_list),
    "--dst-type": ("fib type daddr", _parse_word_list),
    "--src-type": ("fib type saddr", _parse_word_list),
    "--mark": ("meta mark", _parse_mark),
}
