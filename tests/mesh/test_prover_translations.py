"""Packets that are shown although a rule gives them another target, or nobody has answered yet."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from qmesh.mesh.drill.shots import SYN
from qmesh.mesh.drill.shown_packets import build_shown_rows
from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.foreign.rulesets import ListedChain
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each
from qmesh.mesh.prover.examples import OwnInterface, OwnInterfaces
from qmesh.mesh.prover.rulesets import ProvedRuleset
from tests.support.kernel_expressions import (
    DROP,
    attribute,
    compares,
    ct,
    immediate,
    limit,
    meta,
    number,
    payload,
    verdict,
    xt,
)
from tests.support.prover_recordings import GUARDS, read_prover_recordings

WORKER, CONTROL = GUARDS["worker IPv4"], GUARDS["control IPv4"]
EMPTY = replace(read_prover_recordings()["advice"].ruleset, chains={}, rules={}, sets={})
OWN = {
    "eth0": OwnInterface(None, True, ("192.0.2.2/24",)),
    "docker0": OwnInterface("bridge", True, ("172.17.0.1/16",)),
    "qmesh0": OwnInterface("wireguard", False, ("10.77.0.2/20",)),
}
CONTAINER, HERE = "172.17.0.9", "192.0.2.2"
TO_PORT = [meta(16), compares(b"\x06"), payload(2, 2, 2)]
PUBLISHED, CLOSED = 18080, 40000


def rules(*chains: tuple[dict[str, Any], list[list[Expression]]]) -> ProvedRuleset:
    """Each a base chain of a table of its own."""
    found = EMPTY
    for place, (named, listed) in enumerate(chains):
        table = f"t{place}"
        chain = ListedChain(**{"family": "inet", "table": table, "name": "c", "hook": "prerouting", **named})
        of_chain = tuple(KernelRule("inet", table, "c", 5, tuple(each)) for each in listed)
        found = replace(
            found,
            chains={**found.chains, ("inet", table): {"c": chain}},
            rules={**found.rules, ("inet", table, "c"): of_chain},
        )
    return found


def translate(port: int, *ends: Expression) -> list[Expression]:
    return [*TO_PORT, compares(port.to_bytes(2, "big")), *ends]


def dnat(address: str, *ports: int, family: int = 2, flags: int = 0) -> list[Expression]:
    found = {1: number(1), 2: number(family), 3: number(1), 7: number(flags)}
    loads = [immediate(1, ip_address(address).packed)]
    for place, port in enumerate(ports):
        loads.append(immediate(8 + 4 * place + 8, port.to_bytes(2, "big")))
        found[5 + place] = number(8 + 4 * place + 8)
    return [*loads, Expression("nat", found)]


def redirect(port: int | None, flags: int = 0) -> list[Expression]:
    if port is None:
        return [Expression("redir", {3: number(flags)})]
    return [immediate(9, port.to_bytes(2, "big")), Expression("redir", {1: number(9), 3: number(flags)})]


def translate_by_iptables(address: str, *ports: int, flags: int = 0) -> list[Expression]:
    """`DNAT` as iptables has it for IPv4."""
    mapped = ip_address(address).packed
    content = struct.pack("=II4s4s", 1, 1 | (2 if ports else 0) | flags, mapped, mapped)
    return [xt("DNAT", 0, content + struct.pack("!HH", *(ports or (0, 0))), "target")]


def redirect_by_iptables(*ports: int) -> list[Expression]:
    """`REDIRECT`, of IPv4."""
    content = struct.pack("=II8x", 1, 2 if ports else 0) + struct.pack("!HH", *(ports or (0, 0)))
    return [xt("REDIRECT", 0, content, "target")]


NAT: dict[str, Any] = {"kind": "nat", "priority": -100}
REASONS: dict[str, tuple[str, ...]] = {
    "not proved": ("to what a rule translates it",),
    "not here": ("its addresses",),  # that address is not this machine's, as far as it is known
    "unclear": (),
}
KEPT_OUT: tuple[dict[str, Any], list[list[Expression]]] = (
    {"priority": -150},
    [[*TO_PORT, compares(CLOSED.to_bytes(2, "big")), DROP], [meta(16), compares(b"\x06", operator=1), DROP],
     [ct(0), compares((8).to_bytes(4, ORDER), operator=1), DROP]],
)  # fmt: skip
"""To a closed port nothing comes by its own number, and nothing but beginnings of TCP comes at all."""
ONE_PORT = replace(WORKER, ports=(CLOSED,), own_ports=(), control_ports=(), mesh_ports=())


def prove(found: ProvedRuleset, claim: ClaimCode, own: OwnInterfaces = OWN, guard: Any = ONE_PORT) -> Verdict:
    return prove_each(found, claim, own, guard)[0]


def prove_each(
    found: ProvedRuleset, claim: ClaimCode, own: OwnInterfaces = OWN, guard: Any = ONE_PORT
) -> list[Verdict]:
    """Of each of its cases."""
    cases = (each for each in build_cases(found, guard) if (each.claim, each.family) == (claim, "ip"))
    return [first for first, *_ in decide_each(cases, guard, {}, found.own_tables, own)]


def test_a_container_at_a_closed_port_that_is_published_is_reached_and_the_packet_is_shown():
    found = rules(KEPT_OUT, (NAT, [translate(PUBLISHED, *dnat(CONTAINER, CLOSED))]))
    shown = prove(found, "containers")
    assert shown.answer == "refuted"
    assert shown.packet is not None
    assert (shown.packet.target, shown.packet.target_port) in {
        (own, PUBLISHED) for own in ("192.0.2.2", "172.17.0.1", "10.77.0.2")
    }
    assert shown.packet.goes_by == "docker0 (bridge)"
    assert prove(found, "containers", {}).answer == "refuted"  # of a machine that is not known, too


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        (redirect(CLOSED), "refuted"),
        (dnat(HERE, CLOSED), "refuted"),
        (dnat(HERE, CLOSED, CLOSED), "refuted"),
        (dnat(HERE, CLOSED, CLOSED + 1), "not proved"),  # one of several
        (dnat(HERE, CLOSED, flags=4), "not proved"),  # by chance
        (redirect(CLOSED, flags=4), "not proved"),
        (redirect(None), "proved"),  # to the port that it had, which is none that is closed
        (redirect(22), "proved"),
        (dnat(HERE), "proved"),
        (dnat(HERE, 22), "proved"),
        (dnat(CONTAINER, CLOSED), "not here"),
        (dnat("2001:db8::2", CLOSED, family=10), "proved"),  # of the other family
        ([Expression("masq", {})], "not proved"),
        (translate_by_iptables(HERE, CLOSED, CLOSED), "refuted"),
        (translate_by_iptables(HERE, CLOSED, CLOSED + 1), "not proved"),
        (translate_by_iptables(HERE, CLOSED, CLOSED, flags=4), "not proved"),
        (translate_by_iptables(HERE), "proved"),
        (translate_by_iptables(CONTAINER, CLOSED, CLOSED), "not here"),
        (redirect_by_iptables(CLOSED, CLOSED), "refuted"),
        (redirect_by_iptables(CLOSED, CLOSED + 1), "not proved"),
        (redirect_by_iptables(), "proved"),
        ([xt("DNAT", 2, bytes(7), "target")], "unclear"),
    ],
)
def test_what_a_rule_leads_to_a_closed_port_is_shown_where_it_is_known_to_what(ends, answer):
    found = rules(KEPT_OUT, (NAT, [translate(PUBLISHED, *ends)]), ({"hook": "input", "drops": True}, [
        [*TO_PORT, compares(CLOSED.to_bytes(2, "big")), verdict(1)]
    ]))  # fmt: skip
    shown = prove(found, "outside")
    assert shown.answer == ("not proved" if answer in REASONS else answer)
    assert shown.unusual == REASONS.get(answer, ())
    assert bool(shown.unclear) == (answer == "unclear")
    if answer != "proved":
        assert shown.packet is not None
        assert shown.packet.target_port == PUBLISHED
        assert any("prerouting" in each for each in shown.path)


@pytest.mark.parametrize(
    ("priority", "answer"), [(-100, "not proved"), (-90, "not proved"), (-110, "refuted")]
)
def test_the_first_chain_that_translates_a_packet_is_the_only_one(priority, answer):
    """Of one priority nobody knows which is first."""
    found = rules(
        KEPT_OUT,
        (NAT, [translate(PUBLISHED, *dnat(HERE, 22))]),
        (NAT | {"priority": priority}, [translate(PUBLISHED, *redirect(CLOSED))]),
    )
    shown = prove(found, "outside")
    assert shown.answer == answer
    assert shown.unusual == (("to what a rule translates it",) if answer == "not proved" else ())


SENT: dict[str, Any] = {"hook": "output"}
TO_WORKER = [payload(2, 2, 2), compares(CLOSED.to_bytes(2, "big"))]
BUT_BY_LOOPBACK = [meta(7), compares(b"lo".ljust(16, b"\0"), operator=1)]
FIRST_ALONE = [ct(0), compares((8).to_bytes(4, ORDER), operator=1), DROP]


@pytest.mark.parametrize(
    ("before", "ends", "answer"),
    [
        ([], dnat(CONTAINER, 8080), "refuted"),
        ([], dnat(CONTAINER, 8080, 8081), "not proved"),  # one of several
        ([*BUT_BY_LOOPBACK, *TO_WORKER, DROP], dnat(CONTAINER, 8080), "refuted"),  # it has another way then
        ([*TO_WORKER, DROP], dnat(CONTAINER, 8080), "proved"),
    ],
)
def test_what_a_program_here_sends_to_a_worker_and_a_rule_leads_elsewhere_is_shown(before, ends, answer):
    """Rules at the hook see the interface of its first route; it leaves by another one."""
    found = rules(
        (SENT | {"priority": -150}, [FIRST_ALONE, before]),
        (SENT | NAT, [translate(CLOSED, *ends)]),
    )
    _, shown = prove_each(found, "containers")
    assert shown.answer == answer
    assert shown.unusual == (("to what a rule translates it",) if answer == "not proved" else ())
    if answer == "refuted":
        assert shown.packet is not None
        assert (shown.packet.goes_by, shown.packet.state) == ("docker0 (bridge)", "new")
        assert (shown.packet.target, shown.packet.target_port) in {
            (own, CLOSED) for own in ("192.0.2.2", "172.17.0.1", "10.77.0.2")
        }
        (_, unfired) = build_shown_rows([("containers", shown.packet)])
        assert unfired == ()


def test_who_was_asked_may_ask_back_before_he_has_answered():
    answers_alone = [[ct(1), compares(b"\1"), meta(16), compares(b"\x06"), verdict(1)]]
    shown = prove(rules(({"hook": "input", "drops": True}, answers_alone)), "outside")
    assert shown.answer == "refuted"
    assert shown.packet is not None
    assert (shown.packet.flags, shown.packet.state) == (("SYN",), "established, an answer")
    ((row,), unfired) = build_shown_rows([("outside", shown.packet)])
    assert unfired == ()
    assert row.before == ()
    (asked,) = row.openers
    assert (asked.way, asked.source, asked.flags) == (None, shown.packet.target, SYN)
    assert row.shots[0].flags == SYN


def at_most(rate: Expression) -> Expression:
    """An element of a set with a limit of its own."""
    nested = b"".join(attribute(kind, content) for kind, content in rate.attributes.items())
    return Expression("dynset", {7: attribute(1, b"limit\0") + attribute(2, nested)})


@pytest.mark.parametrize(
    ("ends", "answer"),
    [
        ([limit(5, over=True), DROP], "proved"),
        ([limit(5), DROP], "refuted"),
        ([at_most(limit(5, over=True)), DROP], "proved"),
        ([at_most(limit(5)), DROP], "refuted"),
        ([Expression("dynset", {}), DROP], "refuted"),
        ([DROP], "refuted"),
    ],
)
def test_members_reach_the_membership_service_while_no_limit_is_exceeded(ends, answer):
    to_service = [*TO_PORT, compares(CONTROL.service_port.to_bytes(2, "big"))]
    found = rules(({"hook": "input"}, [[*to_service, *ends]]))
    own = {**OWN, "qmesh0": OwnInterface("wireguard", False, ("10.77.0.1/20",))}
    shown = prove(found, "control", own, CONTROL)
    assert shown.answer == answer
    if shown.packet is not None:
        assert shown.packet.came_by == "qmesh0 (wireguard)"
        assert shown.packet.target_port == CONTROL.service_port


def test_an_answer_to_others_that_the_guard_drops_is_shown():
    answers = KernelRule("inet", TABLE, "c", 5, (ct(1), compares(b"\1"), DROP))
    chain = ListedChain(family="inet", table=TABLE, name="c", hook="output")
    found = replace(
        EMPTY, chains={("inet", TABLE): {"c": chain}}, rules={("inet", TABLE, "c"): (answers,)}
    )  # fmt: skip
    *_, sent = prove_each(found, "others")
    assert sent.answer == "refuted"
    assert sent.packet is not None
    assert sent.packet.state == "established, an answer"


PARTS = (
    dnat(CONTAINER, CLOSED), dnat(HERE, CLOSED, CLOSED + 1), dnat(HERE, 22), redirect(CLOSED), redirect(None),
    *([Expression(name, {})] for name in ("masq", "nat", "of tomorrow", "tproxy", "notrack")),
    [meta(3), compares(number(7)), DROP], [ct(2), compares(number(1)), DROP],
    [payload(2, 30, 2), compares(bytes(2)), DROP], [*TO_WORKER, DROP], [*BUT_BY_LOOPBACK, DROP], [DROP],
    [verdict(1)],
)  # fmt: skip
CHAINS = st.builds(
    lambda place, parts: (dict(zip(("hook", "kind", "priority"), place, strict=True)), list(parts)),
    st.sampled_from(
        [(hook, "filter", each) for hook in ("prerouting", "output") for each in (-350, -150, -100, 0)]
        + [(hook, "filter", 0) for hook in ("input", "forward", "postrouting")]
        + [("prerouting", "nat", -100), ("output", "nat", -100), ("input", "nat", 100)]
    ),
    st.lists(st.sampled_from(PARTS), max_size=3),
)


@settings(max_examples=settings().max_examples // 4)
@given(st.lists(CHAINS, max_size=4))
def test_what_is_not_proved_has_a_reason_and_what_is_refuted_a_packet(chains: Any):
    found = rules(*chains)
    cases = (each for each in build_cases(found, WORKER) if each.family == "ip")
    for shown, *_ in decide_each(cases, WORKER, {}, found.own_tables, OWN):
        reasons = (*shown.unclear, *shown.unusual)
        assert bool(reasons) == (shown.answer == "not proved")
        assert (shown.packet is None) == (shown.answer == "proved")
        assert all(place.text for place in shown.unclear)


@pytest.mark.parametrize(("claim", "number"), [("taken-up", 0), ("taken-up", 1), ("containers", 0)])
def test_a_packet_that_is_shown_leaves_and_a_proof_does_without_what_drops_it_at_last(claim, number):
    """Some ways out of the kernel pass no rule of that hook."""
    open_to_all = prove_each(rules(), claim)[number]
    dropped = prove_each(rules(({"hook": "postrouting"}, [[DROP]])), claim)[number]
    assert open_to_all.answer == "refuted"
    assert (dropped.answer, dropped.unusual) == ("not proved", ("that a rule drops it on its way out",))
    masked = rules(({"hook": "postrouting", "kind": "nat", "priority": 100}, [[Expression("masq", {})]]))
    assert prove_each(masked, claim)[number].answer == "refuted"
