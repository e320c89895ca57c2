"""The prover beside the kernel: what it reads, and what becomes of packets."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections import Counter
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
from tests.support.random_rules import QUIET
from tests.support.sent_packets import Judge, SentPacket, draw_packets
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

HERE = "192.0.2.2"
NAT = "table ip n {{\nchain c {{\ntype nat hook prerouting priority -100;\ntcp dport 443 {}\n}}\n}}\n"
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


def test_of_what_rules_translate_the_prover_is_sure_as_the_kernel_does_it():
    """Each way to another target, before each question about that."""
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)  # iptables' lock
    by_nft = ["redirect to :80", "redirect", f"dnat to {HERE}:80", f"dnat to {HERE}", f"dnat to {HERE}:80-90"]
    ends = [f"{HERE}:80", HERE, f"{HERE}:80-90", f"{HERE}:80 --random"]
    by_iptables = [f"DNAT --to-destination {end}" for end in ends] + ["REDIRECT --to-ports 80", "REDIRECT"]
    dialled = list(itertools.product((22, 80, 443), (HERE, "10.77.0.2")))
    sure: Counter[str] = Counter()
    numbers = itertools.count(1024)
    with PacketInlet() as inlet:
        for (is_nft, target), asked in itertools.product(
            [*((True, each) for each in by_nft), *((False, each) for each in by_iptables)],
            ("tcp dport 80", "tcp dport != 80", f"ip daddr != {HERE}"),
        ):
            nftables.run(f"flush ruleset\n{QUIET}" + ONE_CHAIN.format("", f"{asked} drop"))
            if is_nft:
                nftables.run(NAT.format(target))
            else:
                rule = f"*nat\n-A PREROUTING -p tcp --dport 443 -j {target}\nCOMMIT\n"
                subprocess.run(["iptables-nft-restore", "--noflush"], input=rule, text=True, check=True)
            packets = [dial(next(numbers), address, port) for port, address in dialled]
            came = inlet.send(packets)
            rules = read_live_rules()
            judged = Judge(build_ruleset(rules.listing, rules.sets), "ip", rules.listing.interfaces)
            for packet, fate in zip(packets, judged.list_fates(packets), strict=True):
                has_come = packet.number in came or (
                    fate == "passes" and bool(inlet.send([packet], wait_s=patience(0.3)))
                )
                assert fate in {"unclear", "passes" if has_come else "drops"}, (target, asked, packet)
                sure[fate] += packet.target_port == 443
    assert sure["drops"] > 15


def dial(number: int, address: str, port: int) -> SentPacket:
    """TCP, of a connection of its own."""
    return DATAGRAM._replace(
        number=number, protocol="tcp", flag="syn", source="192.0.2.9", source_port=number, target=address,
        target_port=port,
    )  # fmt: skip


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
