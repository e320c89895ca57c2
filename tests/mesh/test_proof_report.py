"""Reports about proofs: what is hashed, what a page says, and what is noticed when it is another."""

from __future__ import annotations

import base64
import html
import itertools
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from qmesh.errors import BadInput
from qmesh.mesh.decode import Malformed
from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import ListedChain, Listing
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock
from qmesh.mesh.proof_report.asked_rules import AskedRules, RuleSummary, summarize_rules
from qmesh.mesh.proof_report.differences import list_differences
from qmesh.mesh.proof_report.nft_hash import hash_nft_listing
from qmesh.mesh.proof_report.report_facts import (
    MOST_NAMED,
    ReportFacts,
    ReportOrigin,
    build_facts,
    describe_doubts,
    note_doubts,
)
from qmesh.mesh.proof_report.report_keys import (
    BEGIN,
    MOST_SIGNATURE,
    check_signature,
    derive_report_keys,
    render_public_key,
    sign_octets,
)
from qmesh.mesh.proof_report.report_page import MOST_OCTETS, ParsedReport, parse_page, render_page
from qmesh.mesh.proof_report.rule_parts import RulePart, hash_rule_parts, list_rule_parts
from qmesh.mesh.proof_report.verification import refuse_other_machine, verify_alone, verify_rules
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_cases
from qmesh.mesh.prover.examples import ExamplePacket
from qmesh.mesh.prover.rule_run import RulePlace
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.prover.set_contents import SetContent, SetElement, SetKey
from qmesh.mesh.state import Guard
from qmesh.mesh.values import Secret
from tests.support.kernel_expressions import DROP
from tests.support.prover_recordings import GUARDS

KEYS = derive_report_keys(Secret(base64.b64encode(bytes(range(32))).decode()))
OTHER = derive_report_keys(Secret(base64.b64encode(bytes(range(1, 33))).decode()))
ORIGIN = ReportOrigin(qmesh="9.9.9", mesh="5fa0", machine="hel-2", made_at=1_800_000_000, is_live=True)
GUARD = GUARDS["worker IPv4"]
TABLE = ("inet", "t")
EVIL = '</pre><script>alert("1")</script>&amp;\u202e\n\x1b[31m'


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def lookup(name: str) -> Expression:
    return Expression("lookup", {1: name.encode() + b"\0", 2: b"\0\0\0\1"})


def counter(packets: int) -> Expression:
    return Expression("counter", {1: bytes(8), 2: packets.to_bytes(8, "big")})


def rule(*expressions: Expression, chain: str = "c", handle: int = 1) -> KernelRule:
    return KernelRule(*TABLE, chain, handle, expressions)


CHAIN = ListedChain(family="inet", table="t", name="c", hook="input", kind="filter", priority=0)
ELEMENT = SetElement(key=b"\x9c\x40")
PASSING = SetElement(key=b"\0\1", is_temporary=True)
PORTS = SetContent(key_length=2, elements=(ELEMENT, SetElement(key=b"\x9c\x41", value=b"x")))
SETS = {("inet", "t", "__set0"): PORTS, ("inet", "t", "named"): PORTS}
RULES = (rule(lookup("__set0"), counter(5), DROP), rule(lookup("named"), DROP), rule(DROP))
LISTING = Listing(tables=(TABLE, ("ip", "a")), chains=(CHAIN,), rules=RULES)


def list_parts(listing: Listing = LISTING, sets: dict[SetKey, SetContent] | None = None) -> list[RulePart]:
    return list_rule_parts(listing, build_ruleset(listing, SETS if sets is None else sets))


def digest(listing: Listing = LISTING, sets: dict[SetKey, SetContent] | None = None) -> str:
    return hash_rule_parts(list_parts(listing, sets))


QUOTA = Expression("quota", {1: bytes(8), 4: b"used"})
SAME: dict[str, tuple[Listing, dict[SetKey, SetContent] | None]] = {
    "handles": (replace(LISTING, rules=tuple(replace(each, handle=77) for each in RULES)), None),
    "a counter": (replace(LISTING, rules=(rule(lookup("__set0"), counter(6), DROP), *RULES[1:])), None),
    "the order of tables": (replace(LISTING, tables=tuple(reversed(LISTING.tables))), None),
    "the order of elements": (
        LISTING, {key: replace(PORTS, elements=tuple(reversed(PORTS.elements or ()))) for key in SETS},
    ),
    "the number of a set without a name": (
        replace(LISTING, rules=(rule(lookup("__set4"), counter(5), DROP), *RULES[1:])),
        {("inet", "t", "__set4"): PORTS, ("inet", "t", "named"): PORTS},
    ),
    "an element that goes by itself": (
        LISTING,
        {**SETS, ("inet", "t", "named"): replace(PORTS, elements=(*(PORTS.elements or ()), PASSING))},
    ),
    "a chain of a table that is asleep": (
        replace(LISTING, chains=(*LISTING.chains, replace(CHAIN, table="asleep"))), None,
    ),
    "interfaces": (replace(LISTING, interfaces={"eth0": 7}), None),
}  # fmt: skip
DIFFERENT: dict[str, tuple[Listing, dict[SetKey, SetContent] | None]] = {
    "a table": (replace(LISTING, tables=(TABLE,)), None),
    "a chain": (replace(LISTING, chains=(replace(CHAIN, priority=1),)), None),
    "a policy": (replace(LISTING, chains=(replace(CHAIN, drops=True),)), None),
    "a rule": (replace(LISTING, rules=RULES[:2]), None),
    "the order of rules": (replace(LISTING, rules=tuple(reversed(RULES))), None),
    "a rule's chain": (replace(LISTING, rules=(*RULES[:2], rule(DROP, chain="d"))), None),
    "an element": (LISTING, {**SETS, ("inet", "t", "named"): replace(PORTS, elements=(ELEMENT,))}),
    "an element of a set without a name": (
        LISTING, {**SETS, ("inet", "t", "__set0"): replace(PORTS, elements=(ELEMENT,))},
    ),
    "a set of which nothing is asked": (
        LISTING, {**SETS, ("inet", "t", "named"): replace(PORTS, elements=None)},
    ),
    "a set that rules change": (LISTING, {**SETS, ("inet", "t", "named"): replace(PORTS, changes=True)}),
}  # fmt: skip


@pytest.mark.parametrize("what", SAME)
def test_what_changes_by_itself_is_not_hashed(what: str):
    assert digest(*SAME[what]) == digest()


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_has_a_meaning_is_hashed(what: str):
    assert digest(*DIFFERENT[what]) != digest()


NAMES = (
    "a", "c", "a ", "a b", "b c", "", " ", "\n", "\\n", "\\", '"', '"a"', '"a" "b"', "\udcff", "\\udcff",
    "\u202e", "é",
)  # fmt: skip
"""Which the kernel takes."""


def test_no_two_places_are_hashed_or_named_alike():
    """Whatever the kernel takes as a name, also what would end one where another begins."""
    hashes: set[str] = set()
    places: set[str] = set()
    for table, chain in itertools.product(NAMES, NAMES):
        listing = Listing(
            tables=(("inet", table),),
            chains=(replace(CHAIN, table=table, name=chain),),
            rules=(KernelRule("inet", table, chain, 1, (DROP,)),),
        )
        summary = summarize(listing, {})
        hashes.add(summary.asked.sha256)
        places |= summary.words.keys()
        assert {each.place for each in summary.asked.marks if each.kind == "rule"} == summary.words.keys()
    assert len(hashes) == len(places) == len(NAMES) ** 2
    assert all(each.isprintable() for each in places)
    assert {"inet a c", 'inet "a b" c', 'inet a "b c"', 'inet "\\n" "\\\\n"'} <= places


def test_a_part_does_not_end_where_its_octets_say():
    """Tables of iptables-legacy are octets as the kernel has them."""
    first, second = (RulePart(kind="iptables-legacy", place=place, octets=b"x") for place in ("ip a", "ip b"))
    longer = replace(first, octets=b'x\n["iptables-legacy", "ip b"] x')
    assert hash_rule_parts([first, second]) != hash_rule_parts([longer])


def test_elements_that_rules_add_are_not_hashed():
    named = ("inet", "t", "named")
    first = {**SETS, named: replace(PORTS, changes=True)}
    assert digest(sets=first) == digest(sets={**SETS, named: replace(PORTS, changes=True, elements=())})


def test_what_a_quota_has_used_is_not_hashed_and_its_size_is():
    def of(quota: Expression) -> str:
        return digest(replace(LISTING, rules=(rule(quota),)))

    assert of(QUOTA) == of(Expression("quota", {1: bytes(8), 4: b"more"}))
    assert of(QUOTA) != of(Expression("quota", {1: b"12345678", 4: b"used"}))
    assert of(Expression("objref", {1: b"x", 2: b"name"})) != of(Expression("objref", {1: b"x", 2: b"none"}))


def legacy(packets: int, policy: int = -2) -> LegacyBlock:
    info = struct.pack("=32sI5I5III", b"filter", 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 328)
    block = (
        struct.pack("=88xHHIQQ", 112, 152, 0, packets, 99)
        + struct.pack("=H29sBi4x", 40, b"", 0, policy)
        + struct.pack("=88xHH20x", 112, 176)
        + struct.pack("=H29sB32s", 64, b"ERROR", 0, b"ERROR")
    )
    return LegacyBlock("ip", info, block)


def test_tables_of_iptables_legacy_are_hashed_without_their_counters():
    found = [digest(replace(LISTING, legacy=(each,))) for each in (legacy(1), legacy(2), legacy(1, -1))]
    assert found[0] == found[1] != found[2]
    assert found[0] != digest()


def nft(*entries: dict[str, Any], version: str = "1.0.6") -> bytes:
    return msgspec.json.encode({"nftables": [{"metainfo": {"version": version}}, *entries]})


NFT_TABLE = {"table": {"family": "inet", "name": "t", "handle": 1}}
NFT_SET = {"set": {"family": "inet", "table": "t", "name": "s", "handle": 3, "elem": [443, 22]}}
NFT_RULE = {
    "rule": {"family": "inet", "table": "t", "chain": "c", "handle": 4,
             "expr": [{"counter": {"packets": 5, "bytes": 9}}, {"drop": None}]},
}  # fmt: skip
NFT_LAST = {"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 5, "expr": [{"accept": None}]}}


def test_the_hash_of_what_nft_prints_is_of_what_stays():
    first = hash_nft_listing(nft(NFT_TABLE, NFT_SET, NFT_RULE, NFT_LAST))
    assert first.version == "1.0.6"
    text = nft(NFT_RULE, NFT_LAST, NFT_TABLE, NFT_SET).replace(b"[443,22]", b"[22,443]").replace(b":5", b":6")
    assert hash_nft_listing(text).sha256 == first.sha256
    assert hash_nft_listing(nft(NFT_TABLE, NFT_SET, NFT_LAST, NFT_RULE)).sha256 != first.sha256
    for flags in ({"flags": ["dynamic"]}, {"flags": "timeout"}, {"timeout": 60}):
        entry = {"set": {**NFT_SET["set"], **flags}}
        other = {"set": {**entry["set"], "elem": [1]}}
        assert hash_nft_listing(nft(entry)) == hash_nft_listing(nft(other))
    assert hash_nft_listing(b'{"nftables":[{}]}').version == ""
    with pytest.raises(Malformed):
        hash_nft_listing(b"[]")


PACKET = ExamplePacket(
    family="ip", came_by="eth0", protocol="tcp", source="192.0.2.1", source_port=1024,
    target="192.0.2.2", target_port=40000, flags=("SYN",), state="new",
)  # fmt: skip
PLACE = RulePlace(TABLE, "c", EVIL, 5)
VERDICTS = (
    Verdict(claim="outside", family="ip", answer="proved", rules=(PLACE,)),
    Verdict(claim="outside", family="ip6", answer="proved"),
    Verdict(claim="outside", family="ip", answer="proved", without="qmesh"),
    Verdict(claim="outside", family="ip6", answer="proved", without="qmesh"),
)
BROKEN = (
    Verdict(claim="tunnel", family="ip", answer="refuted", packet=PACKET, path=(EVIL,)),
    Verdict(claim="tunnel", family="ip6", answer="proved", without="qmesh"),
    Verdict(claim="tunnel", family="ip6", answer="proved"),
    Verdict(
        claim="service",
        family="ip",
        answer="not proved",
        packet=PACKET,
        unclear=(PLACE,),
        unusual=("its mark",),
    ),
    Verdict(claim="service", family="ip6", answer="proved", without="qmesh"),
)


def summarize(
    listing: Listing = LISTING, sets: dict[SetKey, SetContent] | None = None, **more: Any
) -> RuleSummary:
    values: dict[str, Any] = {"listed": nft(NFT_TABLE), "marking": KEYS.marking, **more}
    return summarize_rules(listing, build_ruleset(listing, SETS if sets is None else sets), **values)


def make_facts(
    *verdicts: Verdict, origin: ReportOrigin = ORIGIN, asked: AskedRules | None = None, guard: Guard = GUARD,
    doubts: Sequence[str] | None = (), key: str = KEYS.fingerprint,
) -> ReportFacts:  # fmt: skip
    rules = SUMMARY.asked if asked is None else asked
    return build_facts(origin, rules, guard, verdicts=verdicts or VERDICTS, doubts=doubts, key=key)


SUMMARY = summarize()
FACTS = make_facts()
PAGE = render_page(FACTS, KEYS, made="2027-01-15 08:00:00 UTC")


def test_a_page_says_what_it_was_made_of():
    report = parse_page(PAGE)
    assert report.facts == FACTS
    assert report.is_unchanged(KEYS)
    assert not report.is_unchanged(OTHER)
    assert FACTS.is_proved
    text = PAGE.decode()
    assert "<h1>hel-2: every claim is proved</h1>" in text
    assert "of a file that was given" not in text
    assert "a worker machine" in text
    assert "proved: IPv4 and IPv6; also with either table of the guard alone" in text
    assert "Nothing: the meaning of every rule is known." in text
    assert FACTS.asked.sha256 in text
    assert f"{hash_nft_listing(nft(NFT_TABLE)).sha256}, by nft 1.0.6<" in text


def test_a_page_of_what_is_not_proved_has_the_packets():
    doubts = [RulePlace(("", ""), "", "the order of chains"), PLACE, RulePlace(("", ""), "", "")]
    doubts += [RulePlace(TABLE, "c", f"rule {number}") for number in range(MOST_NAMED)]
    xt = rule(Expression("match", {1: b"recent"}))
    sets = {**SETS, ("inet", "t", "big"): replace(PORTS, elements=None)}
    facts = make_facts(
        *BROKEN, guard=GUARDS["control IPv6"], doubts=describe_doubts(doubts),
        asked=summarize(replace(LISTING, rules=(xt,)), sets).asked, origin=replace(ORIGIN, is_live=False),
    )  # fmt: skip
    assert not facts.is_proved
    assert (len(facts.not_modelled or ()), facts.unnamed, facts.asked.not_in_nft) == (MOST_NAMED, 2, 1)
    text = render_page(facts, KEYS, made="x").decode()
    source = "by the rules of a file, NOT by what was loaded"
    for name in ("title", "h1"):
        assert f"<{name}>hel-2: NOT every claim is proved, {source}</{name}>" in text
    assert "Whether they were ever loaded" in text
    assert "a control node" in text
    assert "NOT what was loaded" in text
    assert "IPv4: <code>tcp SYN from 192.0.2.1:1024 to 192.0.2.2:40000 by eth0" in text
    assert "IPv4: it may be broken by <code>tcp SYN" in text
    assert "proved: IPv6; also with either table of the guard alone<" in text
    assert "proved: IPv6 without the table qmesh<" in text
    assert "<code>the order of chains</code>" in text
    assert "<code>and 2 more</code>" in text
    assert "the elements of the set inet t big, which are too many" in text
    assert "of 1 rules nft prints less than was asked" in text
    assert (
        "none: it could not be computed"
        in render_page(make_facts(asked=summarize(listed=None).asked), KEYS, made="x").decode()
    )


def test_a_page_says_where_the_time_was_over():
    late = Verdict(claim="tunnel", family="ip", answer="not proved", out_of_time=True)
    text = render_page(make_facts(*VERDICTS, late, doubts=None), KEYS, made="x").decode()
    assert "not proved: IPv4 (out of time)<" in text
    assert "The time was over before all rules were looked at" in text


def test_a_page_of_which_all_is_proved_may_not_know_what_was_not_modelled():
    facts = make_facts(doubts=None)
    assert facts.is_proved
    page = render_page(facts, KEYS, made="x")
    assert parse_page(page).facts == facts
    assert b"so this is not known" in page
    assert b"the meaning of every rule is known" not in page


def test_a_page_has_no_script_and_nothing_from_elsewhere_whatever_rules_say():
    facts = make_facts(*BROKEN, origin=replace(ORIGIN, machine=EVIL), doubts=describe_doubts([PLACE]))
    text = render_page(facts, KEYS, made=EVIL).decode()
    assert set(re.findall(r"<(\w+)", text)) <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "em", "code", "table", "tr", "th",
        "td", "ul", "li", "details", "summary", "pre",
    }  # fmt: skip
    assert re.search(r"(?i)\b(?:src|href|url|on\w+)\s*[=(]", re.sub("&[^;]*;", "", text)) is None
    assert parse_page(text.encode()).facts == facts


def test_cases_are_looked_at_for_what_is_not_known():
    unclear = rule(Expression("unknown", {}), DROP)
    listing = replace(LISTING, rules=(unclear,))
    ruleset = build_ruleset(listing, {})
    doubts: dict[RulePlace, None] = {}
    cases = note_doubts(build_cases(ruleset, GUARD), doubts)
    assert len(decide_cases(cases, GUARD, {}, ())) > 10
    assert "inet t c: unknown drop" in describe_doubts(doubts)


@pytest.mark.parametrize("place", range(0, len(PAGE), 97))
def test_each_change_of_a_page_is_noticed(place: int):
    """By the machine itself, and by anybody who has the signature."""
    changed = PAGE[:place] + bytes([PAGE[place] ^ 1]) + PAGE[place + 1 :]
    signature = sign_octets(PAGE, KEYS).encode()
    assert check_signature(changed, signature) is None
    try:
        report = parse_page(changed)
    except BadInput:
        return
    found = verify_alone(report, signature, KEYS, now_s=ORIGIN.made_at)
    assert {each.kind for each in found.differences} == {"signature", "report"}


def forge(**changes: Any) -> ParsedReport:
    """A page that its writer changed, where he has not the key."""
    return parse_page(render_page(replace(FACTS, **changes), OTHER, made="x"))


ORIGIN_FIELDS = {"qmesh": "1", "mesh": "x", "machine": "y", "made_at": 1, "is_live": False}
RULES_IN: dict[str, Any] = {
    "rules": 5, "sets": 5, "unread_sets": ("x",), "sha256": "0" * 64, "nft": None, "not_in_nft": 5,
    "marks": (),
}  # fmt: skip
FIELDS: dict[str, Any] = {
    **{f"origin.{name}": {"origin": replace(ORIGIN, **{name: it})} for name, it in ORIGIN_FIELDS.items()},
    **{f"asked.{name}": {"asked": replace(FACTS.asked, **{name: it})} for name, it in RULES_IN.items()},
    "guard": {"guard": replace(GUARD, ports=(1,))}, "claims": {"claims": FACTS.claims[:1]},
    "not_modelled": {"not_modelled": ("x",)}, "unnamed": {"unnamed": 5},
}  # fmt: skip


def test_no_field_is_left_out():
    named = {name.partition(".")[0] for name in FIELDS} | {"format", "key"}
    assert named == {field.name for field in msgspec.structs.fields(ReportFacts)}
    assert set(RULES_IN) == {field.name for field in msgspec.structs.fields(AskedRules)}
    assert set(ORIGIN_FIELDS) == {field.name for field in msgspec.structs.fields(ReportOrigin)}


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_that_another_changed_is_noticed(field: str):
    found = verify_alone(forge(**FIELDS[field]), None, KEYS, now_s=ORIGIN.made_at)
    assert [each.text for each in found.differences] == ["it was changed after this machine wrote it"]
    assert (found.signature, found.key) == ("none", None)


def test_a_page_by_another_key_says_that_a_change_cannot_be_seen():
    report = parse_page(render_page(make_facts(key=OTHER.fingerprint), OTHER, made="x"))
    signature = sign_octets(report.octets, OTHER).encode()
    found = verify_alone(report, signature, KEYS, now_s=ORIGIN.made_at + 5)
    assert [each.kind for each in found.differences] == ["signature", "report"]
    assert (found.signature, found.key, found.age_s) == ("other", OTHER.fingerprint, 5)


def test_a_page_of_the_future_is_noticed():
    found = verify_alone(parse_page(PAGE), None, KEYS, now_s=ORIGIN.made_at - 61)
    assert [each.text for each in found.differences] == ["its time is in the future, by this machine's clock"]
    assert found.age_s == 0


def test_a_page_that_nothing_differs_from_is_the_same_only_once_all_is_proved_again():
    signature = sign_octets(PAGE, KEYS).encode()
    said = verify_alone(parse_page(PAGE), signature, KEYS, now_s=ORIGIN.made_at + 100)
    assert (said.signature, said.key, said.is_same, said.is_live) == ("own", KEYS.fingerprint, False, True)
    assert verify_rules(said, FACTS, FACTS, SUMMARY.words).is_same
    broken = verify_rules(said, make_facts(*BROKEN), make_facts(*BROKEN), {})
    assert broken.broken == ("tunnel: refuted", "service: not proved")
    assert not broken.is_same


def test_another_machines_page_is_not_compared():
    assert refuse_other_machine(FACTS, mesh="5fa0", machine="hel-2") is None
    for mesh, machine in (("5fa0", "hel-3"), ("5fa1", "hel-2")):
        found = refuse_other_machine(FACTS, mesh=mesh, machine=machine)
        assert found is not None
        assert found.kind == "machine"


def compare(
    now: ReportFacts, words: Mapping[str, Sequence[str]] = SUMMARY.words, *, has_marks: bool = True
) -> list[str]:
    return [each.text for each in list_differences(FACTS, now, words, has_marks=has_marks)]


def compare_listing(listing: Listing = LISTING, sets: dict[SetKey, SetContent] | None = None) -> list[str]:
    found = summarize(listing, sets)
    return compare(make_facts(asked=found.asked), found.words)


def test_of_the_rules_each_difference_is_named():
    assert compare_listing() == []
    new = replace(LISTING, rules=(rule(lookup("other"), DROP), *RULES[1:]))
    assert compare_listing(new) == ["rule 1 of inet t c is gone", "new in inet t c: ? @other drop"]
    assert compare_listing(replace(LISTING, rules=tuple(reversed(RULES)))) == [
        "the rules of inet t c are in another order"
    ]
    assert compare_listing(replace(LISTING, rules=())) == ["rules of inet t c: is gone: 3 rules"]
    assert compare_listing(replace(LISTING, rules=(*RULES, rule(DROP, chain="d")))) == [
        "new in inet t d: drop"
    ]
    assert compare_listing(replace(LISTING, tables=(TABLE,))) == ["table ip a: is gone"]
    assert compare_listing(replace(LISTING, chains=(replace(CHAIN, drops=True),))) == [
        "chain inet t c: is another"
    ]
    assert compare_listing(sets={**SETS, ("inet", "t", "more"): PORTS}) == ["set inet t more: is new"]
    many = compare_listing(
        replace(LISTING, rules=(*RULES, *(rule(lookup(f"s{each}")) for each in range(60))))
    )
    assert len(many) == 51
    assert many[-1] == "inet t c: and 10 more"


def test_two_rules_that_are_alike_are_two():
    twice = replace(LISTING, rules=(*RULES, RULES[2]))
    assert compare_listing(twice) == ["new in inet t c: drop"]
    before = make_facts(asked=summarize(twice).asked)
    found = list_differences(before, FACTS, SUMMARY.words, has_marks=True)
    assert [each.text for each in found] == ["rule 3 of inet t c is gone"]


def test_what_differs_without_the_key_of_the_marks_is_not_named():
    fewer = summarize(replace(LISTING, rules=RULES[:2]))
    unknown = ["the rules are others, and which can't be said"]
    assert compare(make_facts(asked=fewer.asked), fewer.words, has_marks=False) == unknown
    assert compare(replace(FACTS, asked=replace(FACTS.asked, sha256="0"))) == unknown


def test_a_difference_that_only_nft_sees_is_named():
    comment = nft(NFT_TABLE, {"table": {"family": "bridge", "name": "b", "handle": 9}})
    (found,) = compare(make_facts(asked=summarize(listed=comment).asked))
    assert found.startswith("what nft prints has another hash, though what was asked is the same")
    assert compare(make_facts(asked=summarize(listed=nft(NFT_SET, version="2")).asked)) == []
    assert compare(make_facts(asked=summarize(listed=None).asked)) == []


def test_of_ports_and_claims_each_difference_is_named():
    guard = replace(GUARD, ports=(1, 2), mesh_ports=(), stream_port=None)
    assert compare(make_facts(guard=guard)) == [
        "ports: 40000, 40001, 40002, 40010 then, 1, 2 now",
        "mesh ports: 9200 then, none now",
        "stream port: 8340 then, none now",
    ]
    worse = (replace(VERDICTS[0], answer="refuted"), *VERDICTS[:3], *BROKEN[3:])
    unclear = (replace(VERDICTS[0], answer="not proved", unclear=(PLACE,)), *VERDICTS)
    assert compare(make_facts(*unclear)) == ["outside (IPv4): proved then, not proved now"]
    assert compare(make_facts(*worse)) == [
        "outside (IPv4): proved then, refuted now",
        "outside (IPv6, without the table qmesh): proved then, not asked now",
        "service (IPv4): not asked then, not proved now",
        "service (IPv6, without the table qmesh): not asked then, proved now",
    ]


def test_nothing_secret_is_shown_of_keys():
    assert repr(KEYS) == "ReportKeys(...)"
    assert KEYS.signing not in (OTHER.signing, KEYS.marking)
    assert render_public_key(KEYS.public_key).startswith("ssh-ed25519 AAAA")


SIGNATURE = sign_octets(PAGE, KEYS).encode()
BODY = b"".join(SIGNATURE.splitlines()[1:-1])


def wrap(body: bytes) -> bytes:
    lines = SIGNATURE.splitlines()
    return b"\n".join((lines[0], body, lines[-1]))


def with_octets(place: int, octets: bytes) -> bytes:
    blob = base64.b64decode(BODY)
    return wrap(base64.b64encode(blob[:place] + octets + blob[place + len(octets) :]))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\xff",
        BEGIN.encode(),
        wrap(b"*"),
        wrap(b"QQ"),
        wrap(BODY[:-8]),
        wrap(BODY + b"AAAA"),
        with_octets(0, b"X"),
        with_octets(9, b"\2"),
        with_octets(75, b"other"),
        SIGNATURE + b" " * MOST_SIGNATURE,
        SIGNATURE + b"more",
    ],
)
def test_what_is_no_signature_of_a_report_is_refused(octets: bytes):
    with pytest.raises(BadInput, match="no signature of a qmesh report"):
        check_signature(PAGE, octets)


def test_a_signature_holds_for_these_octets_and_this_key():
    found = check_signature(PAGE, SIGNATURE)
    assert found is not None
    assert found.fingerprint == KEYS.fingerprint
    assert check_signature(PAGE + b"x", SIGNATURE) is None
    assert check_signature(PAGE, with_octets(33, OTHER.public_key)) is None
    assert check_signature(PAGE, with_octets(33, b"\xff" * 32)) is None
    assert check_signature(PAGE, SIGNATURE.replace(b"\n", b"\r\n")) is not None


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"", "not a qmesh report"),
        (PAGE[:300], "damaged"),
        (PAGE.replace(b'content="', b'content="x', 1), "not a qmesh report"),
        (PAGE.replace(html.escape('"format":1').encode(), html.escape('"format":2').encode()), "damaged"),
        (PAGE + bytes(MOST_OCTETS), "no more than"),
    ],
)
def test_what_is_no_report_is_refused(octets: bytes, said: str):
    with pytest.raises(BadInput, match=said):
        parse_page(octets)
