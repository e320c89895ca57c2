"""The prover beside the kernel: what it reads, and what becomes of packets."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from random import Random

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.host.firewall import nftables
from qmesh.host.given_rules import read_given_rules
from qmesh.host.prover.ruleset_file import read_live_rules, read_routes, read_rules
from qmesh.mesh.prover.claims.claim_list import build_cases
from qmesh.mesh.prover.decide import decide_cases
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.prover.set_contents import MOST_ELEMENTS
from tests.support.prover_by_kernel import PacketInlet, compare, compare_wide, judge
from tests.support.prover_recordings import (
    DATAGRAM,
    FOLDER,
    GUARDS,
    list_scripts,
    make_recording,
    read_prover_recordings,
    render_both,
)
from tests.support.sent_packets import SentPacket, draw_packets

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

ONE_CHAIN = "table inet t {{\n{}\nchain c {{\ntype filter hook input priority 0; policy accept;\n{}\n}}\n}}\n"


def test_prover_and_kernel_say_the_same_of_every_packet():
    found = compare(range(20, 32), 60)
    assert found.unlike == ()
    assert found.rulesets > 6
    assert 0.1 < found.passed / found.packets < 0.7


def test_of_rules_of_all_kinds_the_prover_is_sure_of_nothing_that_the_kernel_does_not_do():
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # iptables' lock
    found = compare_wide(range(40, 52), 60)
    assert found.unlike == ()
    assert found.packets > found.open
    assert 0.1 < found.passed / found.packets < 0.9


def test_recorded_rulesets_are_as_the_kernel_has_them_and_judges_packets():
    """With QMESH_WRITE_LISTINGS=prover what the kernel says is kept for the pure tests."""
    recordings = {}
    with PacketInlet() as inlet:
        for number, (name, script) in enumerate(list_scripts().items()):
            nftables.run(f"flush ruleset\n{script}")
            rules = read_live_rules()
            if name.startswith("case"):
                packets: tuple[SentPacket, ...] = (DATAGRAM,)
            else:
                packets = tuple(draw_packets(Random(number), 40, 1000 * number + 1))  # noqa: S311 - nothing secret
            came = inlet.send(packets)
            for packet, fate in judge(rules, packets):
                assert fate in {"unclear", "passes" if packet.number in came else "drops"}, (
                    f"{name}: {packet}"
                )
            recordings[name] = make_recording(rules.listing, dict(rules.sets), packets, came)
    if os.environ.get("QMESH_WRITE_LISTINGS") == "prover":
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / "kernel.json").write_bytes(msgspec.json.encode(recordings) + b"\n")
    kept = read_prover_recordings()
    assert set(kept) == set(recordings)
    for name, recording in recordings.items():
        assert kept[name].packets == recording.packets, name
        assert kept[name].came == recording.came, name


@pytest.mark.parametrize("name", GUARDS)
def test_the_guard_as_it_is_loaded_is_proved(name: str):
    guard = GUARDS[name]
    nftables.run(render_both(guard))
    rules = read_live_rules()
    ruleset = build_ruleset(rules.listing, rules.sets)
    verdicts = decide_cases(build_cases(ruleset, guard), guard, rules.listing.interfaces, ruleset.own_tables)
    assert [verdict for verdict in verdicts if verdict.answer != "proved"] == []
    assert {verdict.without for verdict in verdicts} == {"", "qmesh", "qmesh-held"}


def test_routes_are_read_where_a_rule_asks_for_them_and_what_they_do_not_say_is_noted():
    nftables.run(ONE_CHAIN.format("", "tcp dport 22 drop"))
    assert read_routes(read_live_rules().listing.rules) == {}
    nftables.run(ONE_CHAIN.format("", "fib saddr . iif oif missing drop"))
    rules = read_live_rules().listing.rules
    with PacketInlet():
        found = read_routes(rules)
        assert {family: tables.is_whole for family, tables in found.items()} == {"ip": True, "ip6": True}
        assert ("198.51.0.0/16", "eth0") in {(each.network, each.interface) for each in found["ip"].routes}
        hops = "nexthop dev eth0 nexthop dev eth10"
        subprocess.run(f"ip route add 203.0.114.0/24 {hops}".split(), check=True)
        assert not read_routes(rules)["ip"].is_whole


@pytest.mark.parametrize("options", [("-j",), ()])
def test_a_file_with_rules_is_read_as_the_kernel_would_have_it(options: tuple[str, ...], tmp_path: Path):
    nftables.run(ONE_CHAIN.format("", 'iif "lo" accept\ntcp dport { 22, 80-90 } drop'))
    listed = subprocess.run(["nft", *options, "list", "ruleset"], capture_output=True, check=True).stdout
    nftables.run("flush ruleset\n")
    file = tmp_path / "rules"
    file.write_bytes(listed.replace(b'"lo"', b'"wan7"'))
    found = read_rules(read_given_rules(file))
    assert [len(rule.expressions) for rule in found.listing.rules] == [3, 5]
    assert set(found.listing.interfaces) == {"lo", "wan7"}
    assert len(found.sets) == 1
    assert read_live_rules().listing.rules == ()


def test_an_interface_in_a_map_or_of_a_hook_stands_for_the_one_of_the_file(tmp_path: Path):
    file = tmp_path / "rules.json"
    chain = {"family": "netdev", "table": "t", "name": "c", "type": "filter", "hook": "ingress", "prio": 0}
    match = {"vmap": {"key": {"meta": {"key": "iif"}}, "data": {"set": [["wan8", {"accept": None}]]}}}
    inet = {"family": "inet", "table": "u", "chain": "c"}
    file.write_bytes(
        msgspec.json.encode(
            {
                "nftables": [
                    {"table": {"family": "netdev", "name": "t"}},
                    {"chain": {**chain, "dev": "wan7", "policy": "accept"}},
                    {"table": {"family": "inet", "name": "u"}},
                    {"chain": {"family": "inet", "table": "u", "name": "c"}},
                    {"rule": {**inet, "expr": [match]}},
                ]
            }
        )
    )
    assert set(read_rules(read_given_rules(file)).listing.interfaces) == {"lo", "wan7", "wan8"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"table inet t {\n", "can't be loaded: nftables refused: "),
    ],
)
def test_a_file_that_is_no_ruleset_is_refused(content: bytes | None, words: str, tmp_path: Path):
    file = tmp_path / "rules"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        read_rules(read_given_rules(file))
    assert read_live_rules().listing.rules == ()


def test_a_large_set_is_not_read_and_leaves_what_depends_on_it_open():
    count = MOST_ELEMENTS + 500
    elements = ", ".join(
        f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(count)
    )
    nftables.run(
        ONE_CHAIN.format(
            f"set many {{\ntype ipv4_addr\nelements = {{ {elements} }}\n}}", "ip saddr @many drop"
        )
    )
    assert read_live_rules().sets["inet", "t", "many"].elements is None
