"""What other programs' rules do to the mesh's packets, by what their programs print of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from qmesh.mesh.foreign import xtables
from qmesh.mesh.foreign.rules import TOO_MANY, Budget, Chain, Condition, Rule, Table, find_drops
from qmesh.mesh.foreign.rulesets import parse_foreign_tables
from tests.support.foreign_cases import CASES, DATAGRAM, SAVED, Fate, listing

LISTINGS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(Path(__file__).with_name("foreign_listings").glob("*.json"))
}
"""By the nft that printed them, the oldest that does so."""
ANSWER = replace(DATAGRAM, is_reply=True)
REQUEST = replace(DATAGRAM, protocol="tcp", traffic="tunnel in")


def fate(tables: tuple[Table, ...], packet: Any = DATAGRAM) -> Fate:
    found = list(find_drops(tables, packet))
    if any(drop.is_certain for drop in found):
        return "drops"
    return "unclear" if found else "passes"


@pytest.mark.parametrize("nft", LISTINGS)
@pytest.mark.parametrize("name", CASES)
def test_a_datagram_under_a_ruleset(name: str, nft: str) -> None:
    expected, _ = CASES[name]
    assert fate(parse_foreign_tables(listing(**LISTINGS[nft][name]))) == expected


def test_every_listing_is_of_a_case() -> None:
    assert set(LISTINGS) == {"nft-1.0.6", "nft-1.1.3"}
    assert all(set(printed) == set(CASES) for printed in LISTINGS.values())


def expressions(*found: Any) -> tuple[Table, ...]:
    """A table whose one rule has these expressions, as libnftables-json(5) has them."""
    chain = {"family": "inet", "table": "t", "name": "c", "handle": 1, "type": "filter", "hook": "input"}
    rule = {"family": "inet", "table": "t", "chain": "c", "handle": 2, "expr": list(found)}
    return parse_foreign_tables(
        listing(
            objects=[
                {"metainfo": {"json_schema_version": 1}},
                {"table": {"family": "inet", "name": "t", "handle": 1}},
                {"chain": {**chain, "prio": 0, "policy": "accept"}},
                {"rule": rule},
            ]
        )
    )


PORT = {"payload": {"protocol": "udp", "field": "dport"}}
DROP = {"drop": None}


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("unclear", [{"queue": None}]),
        ("unclear", [{"xt": None}, DROP]),
        ("unclear", [{"xt": {"type": "match", "name": "cpu"}}, DROP]),
        ("unclear", [{"xt": {"type": "target", "name": "TARPIT"}}]),
        ("drops", [{"xt": {"type": "target", "name": "LOG"}}, DROP]),
        ("unclear", [match({"rt": {"key": "nexthop"}}, 1), DROP]),
        ("unclear", [match({"ct": {"key": "state", "dir": "original"}}, 1), DROP]),
        ("unclear", [match(PORT, "ssh"), DROP]),
        ("unclear", [match(PORT, {"odd": 1}), DROP]),
        ("unclear", [match(PORT, {"range": [True, {"odd": 1}]}), DROP]),
        ("unclear", [match(PORT, {"range": ["a", "b"]}), DROP]),
        ("unclear", [match(PORT, "@nowhere"), DROP]),
        ("unclear", [match(PORT, 1, "~"), DROP]),
        ("unclear", [match(PORT, "x", "<"), DROP]),
        ("unclear", [match({"&": [PORT, 3]}, 1, "<"), DROP]),
        ("unclear", [match({"&": [PORT, "x"]}, 1), DROP]),
        ("unclear", [match({"&": [{"&": [PORT, 3]}, 1]}, 1), DROP]),
        ("unclear", [match({"concat": [{"&": [PORT, 3]}, PORT]}, 1), DROP]),
        ("unclear", [match({"ip saddr": 1, "udp dport": 2}, 1), DROP]),
        ("passes", [match({"&": [PORT, 1]}, 1), DROP]),
        ("unclear", [match({"&": [{"meta": {"key": "iifname"}}, 1]}, 1), DROP]),
        ("passes", [match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), DROP]),
        ("drops", [match({"meta": {"key": "l4proto"}}, 17), DROP]),
        ("passes", [match({"meta": {"key": "l4proto"}}, 99), DROP]),
        ("drops", [match(PORT, "0xca6c"), DROP]),
        ("unclear", [match({"payload": {"base": "th", "offset": 0, "len": 16}}, 1), DROP]),
        ("passes", [match({"payload": {"protocol": "ip", "field": "saddr"}}, "1.2.3.999"), DROP]),
        ("unclear", [match({"payload": {"protocol": "ip", "field": "saddr"}},
                           {"prefix": {"addr": "1.2.3.999", "len": 8}}), DROP]),
        ("drops", [{"mangle": {"key": {"rt": {"key": "x"}}, "value": 1}}, DROP]),
        ("unclear", [{"mangle": {"key": PORT, "value": {"odd": 1}}}, match(PORT, 51820), DROP]),
        ("unclear", [{"set": {"op": "add", "elem": PORT, "set": "@s", "stmt": [{"limit": {}}]}}, DROP]),
        ("drops", [{"map": {"op": "add", "elem": PORT, "data": 1, "map": "@s"}}, DROP]),
        ("unclear", [{"limit": {"rate": 1}}, DROP]),
        ("unclear", [{"vmap": {"key": PORT, "data": {"set": [[51820, {"queue": None}]]}}}]),
        ("unclear", [{"vmap": {"key": PORT, "data": {"set": [[51820, {"odd": None}]]}}}]),
        ("passes", [match(PORT, {"set": 22}), DROP]),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_never_taken_for_a_pass(expected: Fate, found: list[Any]) -> None:
    assert fate(expressions(*found)) == expected


@pytest.mark.parametrize("printed", LISTINGS.values(), ids=LISTINGS)
def test_an_answer_is_of_a_connection_whose_translation_is_not_known(printed: dict[str, Any]) -> None:
    for name, expected in (
        ("established or related", "drops"),
        ("new", "passes"),
        ("the direction", "passes"),
        ("translated", "unclear"),
    ):
        assert fate(parse_foreign_tables(listing(**printed[name])), ANSWER) == expected


@pytest.mark.parametrize("printed", LISTINGS.values(), ids=LISTINGS)
def test_a_rule_is_told_as_nft_prints_it_with_its_handle(printed: dict[str, Any]) -> None:
    (drop,) = find_drops(parse_foreign_tables(listing(**printed["the port"])), DATAGRAM)
    assert drop.rule is not None
    assert drop.rule.text == "udp dport 51820 drop"
    assert f"{drop.rule.text} # handle {drop.rule.handle}" in printed["the port"]["text"]
    (drop,) = find_drops(expressions(DROP), DATAGRAM)
    assert drop.rule is not None
    assert drop.rule.text == '[{"drop":null}]'


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("passes", ""),
        ("drops", "-A INPUT -p udp -m udp --dport 51820 -j DROP"),
        ("passes", "-A INPUT -p udp -m udp --dport 51821 -j DROP"),
        ("passes", "-A INPUT -p tcp -m tcp --dport 51820 -j DROP"),
        ("drops", "-A INPUT -p udp -m multiport --dports 22,51000:52000 -j REJECT --reject-with icmp-x"),
        ("drops", "-A INPUT -p udp -m multiport --dports 51000:51900,51800:52000 -j DROP"),
        ("drops", "-A INPUT -p udp --sport 51820: -j DROP"),
        ("drops", "-A INPUT -p udp --dport :51820 -j DROP"),
        ("passes", "-A INPUT -p udp ! --dport 51820 -j DROP"),
        ("drops", "-A INPUT -i eth+ -j DROP"),
        ("passes", "-A INPUT ! -i eth0 -j DROP"),
        ("passes", "-A INPUT -o eth0 -j DROP"),
        ("drops", "-A INPUT -s 192.0.2.0/24 -d 192.0.2.2/32 -j DROP"),
        ("passes", "-A INPUT -s 10.0.0.0/255.0.0.0 -j DROP"),
        ("drops", "-A INPUT -m conntrack --ctstate NEW -j DROP"),
        ("passes", "-A INPUT -m state --state RELATED,ESTABLISHED -j DROP"),
        ("drops", "-A INPUT -m conntrack --ctdir ORIGINAL -j DROP"),
        ("drops", "-A INPUT -m addrtype --dst-type LOCAL -j DROP"),
        ("passes", "-A INPUT -m mark --mark 0x1 -j DROP"),
        ("drops", "-A INPUT -m mark --mark 0x0/0xff -j DROP"),
        ("passes", "-A INPUT -p ipv6-icmp -j DROP\n-A INPUT -p icmpv6 -j DROP"),
        ("drops", '-A INPUT -m comment --comment "a b" -j DROP'),
        ("unclear", "-A INPUT -m recent --update --seconds 60 -j DROP"),
        ("unclear", "-A INPUT -m limit --limit 3/min -j DROP"),
        ("unclear", "-A INPUT -p udp --dport x -j DROP"),
        ("unclear", "-A INPUT -s nowhere -j DROP"),
        ("unclear", "-A INPUT --odd 1 2 -j DROP"),
        ("unclear", "-A INPUT -j TARPIT"),
        ("drops", "-A INPUT -j LOG --log-prefix x\n-A INPUT -j DROP"),
        ("drops", "-A INPUT -p udp\n-A INPUT -j other\n-A other -j DROP"),
        ("drops", "-A INPUT -j other\n-A INPUT -j DROP\n-A other -j RETURN"),
        ("passes", "-A INPUT -g other\n-A INPUT -j DROP"),
        ("passes", "-A INPUT -j ACCEPT\n-A INPUT -j DROP"),
        ("unclear", "-A INPUT -j MARK --set-xmark 0x1/0xffffffff\n-A INPUT -m mark --mark 0x1 -j DROP"),
        ("passes", "-A INPUT -j CT --notrack\n-A INPUT -m conntrack --ctstate NEW -j DROP"),
        ("passes", "-A INPUT -j NOTRACK\n-A INPUT -m conntrack --ctstate NEW -j DROP"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("program", ["iptables", "iptables-legacy"])
def test_a_datagram_under_what_iptables_saved(program: Any, expected: Fate, rules: str) -> None:
    saved = {(program, "ip"): SAVED.format(policy="ACCEPT", rules=rules)}
    assert fate(parse_foreign_tables(listing(saved=saved))) == expected


def test_the_policy_of_iptables_and_of_its_other_tables() -> None:
    assert (
        fate(parse_foreign_tables(listing(saved={("iptables", "ip"): SAVED.format(policy="DROP", rules="")})))
        == "drops"
    )
    text = "*nat\n:POSTROUTING ACCEPT [0:0]\n:INPUT DROP [0:0]\nCOMMIT\n"
    (table,) = parse_foreign_tables(listing(saved={("iptables", "ip"): text}))
    assert [(chain.hook, chain.priority) for chain in table.chains.values()] == [
        ("postrouting", 100),
        ("input", 100),
    ]
    six = {("iptables", "ip6"): SAVED.format(policy="DROP", rules="")}
    assert fate(parse_foreign_tables(listing(saved=six))) == "passes"


def test_a_table_of_iptables_is_read_once_and_in_its_own_words() -> None:
    """nft sees it too, but says of what it does not know that it is xt."""
    objects = [
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"table": {"family": "ip", "name": "mine", "handle": 2}},
    ]
    saved = {("iptables", "ip"): SAVED.format(policy="ACCEPT", rules="")}
    found = parse_foreign_tables(listing(objects=objects, saved=saved))
    assert [(table.program, table.name) for table in found] == [("nft", "mine"), ("iptables", "filter")]
    assert [table.program for table in parse_foreign_tables(listing(objects=objects))] == ["nft", "nft"]


NAMELESS = "jump {\n\t\t\tdrop\n\t\t}"
"""What libnftables prints, within its JSON, of a chain that has no name."""


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("unclear", [NAMELESS]),
        ("unclear", [match(PORT, 51820), NAMELESS]),
        ("passes", [match(PORT, 22), NAMELESS]),
        ("unclear", [{"jump": None}]),
        ("unclear", [{"jump": {"target": "nowhere"}}]),
        ("unclear", [{"goto": {"target": "nowhere"}}, DROP]),
        ("unclear", [{"vmap": {"key": PORT, "data": "@nowhere"}}]),
        ("unclear", [{"vmap": {"key": PORT, "data": {"set": [[22, {"accept": None}], "odd"]}}}]),
        ("unclear", [{}]),
        ("unclear", [{"a": 1, "b": 2}]),
        ("unclear", [7, DROP]),
    ],
)  # fmt: skip
def test_a_rule_that_raises_is_one_that_was_not_understood(expected: Fate, found: list[Any]) -> None:
    tables = expressions(*found)
    assert fate(tables) == expected
    (chain,) = tables[0].chains.values()
    assert all("not understood" not in rule.text and rule.text for rule in chain.rules)


WORDS = [
    *(
        "match",
        "vmap",
        "left",
        "right",
        "op",
        "set",
        "jump",
        "goto",
        "target",
        "mangle",
        "key",
        "value",
        "data",
    ),
    *("data", "xt", "payload", "protocol", "field", "concat", "&", "elem", "val", "prefix", "range"),
]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["@s", "udp", "c"]),
        lambda some: st.lists(some, max_size=3)
        | st.dictionaries(
                        st.sampled_from(WORDS),
            some,
            max_size=3,
        ),
        max_leaves=12,
    )
)  # fmt: skip
def test_law_whatever_a_rule_is_it_is_read_and_asked(expression: Any) -> None:
    fate(expressions(expression, DROP))


def test_a_chain_that_could_not_be_read_may_do_anything_and_a_table_that_sleeps_does_nothing() -> None:
    about = {"family": "inet", "table": "t", "name": "c", "hook": "input", "prio": 0, "policy": "accept"}
    table = {"family": "inet", "name": "t"}
    assert (
        fate(parse_foreign_tables(listing(objects=[{"table": table}, {"chain": about | {"unread": True}}])))
        == "unclear"
    )
    drops_all = about | {"policy": "drop"}
    assert fate(parse_foreign_tables(listing(objects=[{"table": table}, {"chain": drops_all}]))) == "drops"
    asleep = [{"table": table | {"dormant": True}}, {"chain": drops_all}]
    assert fate(parse_foreign_tables(listing(objects=asleep, text="table inet t {\n"))) == "passes"
    comment = 'table inet t {\n\tchain c {\n\t\tdrop comment "x\nflags dormant\n" # handle 9\n'
    assert (
        fate(parse_foreign_tables(listing(objects=[{"table": table}, {"chain": drops_all}], text=comment)))
        == "drops"
    )


def test_a_hook_of_devices_whose_names_begin_so() -> None:
    about = {"family": "netdev", "table": "t", "name": "c", "hook": "ingress", "prio": 0, "policy": "drop"}
    table = {"table": {"family": "netdev", "name": "t"}}
    for devices, expected in ((["eth*"], "drops"), (["lo", "eth0"], "drops"), (["eth1*"], "passes")):
        found = parse_foreign_tables(listing(objects=[table, {"chain": about | {"devices": devices}}]))
        assert fate(found) == expected


def test_jumps_that_multiply_are_given_up_and_told() -> None:
    names = [f"c{number}" for number in range(30)]
    chains = {
        name: Chain(name=name, rules=(Rule("jump", verdict="jump", target=following),) * 9)
        for name, following in zip(names, [*names[1:], "end"], strict=True)
    }
    base = Chain(name="base", hook="input", rules=(Rule("jump", verdict="jump", target="c0"),))
    table = Table(
        program="nft", family="inet", name="t", chains={**chains, "base": base, "end": Chain(name="end")}
    )
    (drop,) = find_drops([table], DATAGRAM, Budget(1000))
    assert not drop.is_certain
    assert drop.rule is TOO_MANY


def test_a_chain_that_leads_to_itself_is_given_up() -> None:
    chain = Chain(name="c", hook="input", rules=(Rule("jump", verdict="jump", target="c"),))
    (drop,) = find_drops([Table(program="iptables", family="ip", name="t", chains={"c": chain})], DATAGRAM)
    assert not drop.is_certain


class Odd:
    """A collection that raises."""

    def has(self, value: object) -> bool:
        raise TypeError(value)


def test_a_comparison_that_raises_is_not_understood() -> None:
    rule = Rule("odd", (Condition(("udp dport",), ((Odd(),),)),), "drop")
    chain = Chain(name="c", hook="input", rules=(rule,))
    (drop,) = find_drops([Table(program="nft", family="inet", name="t", chains={"c": chain})], DATAGRAM)
    assert not drop.is_certain


@pytest.mark.parametrize(
    ("expected", "rules"),
    [
        ("drops", ":it's - [0:0]\n-A INPUT -j it's\n-A it's -j DROP"),
        ("drops", ':"q - [0:0]\n-A INPUT -j "q\n-A "q -p udp -j DROP'),
        ("drops", '-A INPUT -i a"b -j ACCEPT\n-A INPUT -i " -j ACCEPT\n-A INPUT -j DROP'),
        ("drops", '-A INPUT -m comment --comment "x\nCOMMIT\n*filter\n:INPUT ACCEPT [0:0]\n" -j DROP'),
        ("drops", '-A INPUT -m comment --comment "a \\"b\\" \\\\" -j DROP'),
        ("drops", "-A INPUT -m comment --comment -j -j DROP"),
        ("drops", "-A INPUT -m comment --comment \u2028-j -j DROP"),
        ("drops", " \t-A INPUT -j DROP"),
        ("drops", "-A INPUT --reject-with icmp-port-unreachable -j DROP"),
        ("unclear", "-A INPUT -m"),
        ("unclear", "-A INPUT -j"),
        ("drops", "-A nowhere -j ACCEPT\n-A INPUT -j DROP"),
        ("drops", "-A\n:\n*\n\n-A INPUT -j DROP"),
    ],
)
def test_what_iptables_prints_of_names_that_mean_to_be_misread(expected: Fate, rules: str) -> None:
    saved = {("iptables-legacy", "ip"): SAVED.format(policy="ACCEPT", rules=rules)}
    if rules.startswith("-A\n"):
        saved = {("iptables-legacy", "ip"): SAVED.format(policy="ACCEPT", rules=rules.replace("*\n", ""))}
    assert fate(parse_foreign_tables(listing(saved=saved))) == expected


@given(st.text(st.sampled_from("*:-Aijm \n\"'\\!COMMITx[0]"), max_size=60))
def test_law_whatever_iptables_prints_it_is_read(text: str) -> None:
    for table in xtables.parse_iptables_save(
        f"*filter\n:INPUT ACCEPT [0:0]\n{text}\nCOMMIT\n", family="ip", program="iptables"
    ):
        list(find_drops([table], DATAGRAM))
