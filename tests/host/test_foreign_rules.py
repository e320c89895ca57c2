"""What becomes of packets under other programs' rules: the kernel's word against the evaluator's."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import KernelRefused
from qmesh.host.firewall import foreign_rulesets, legacy_iptables, nftables
from qmesh.mesh.foreign.lookups import Answers, Lookups, Question
from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.rulesets import Listing, build_tables
from qmesh.mesh.foreign.walk import Drop, find_drops
from qmesh.mesh.guard.scripts import render_load_script
from tests.support.checkout import CHECKOUT
from tests.support.foreign_cases import (
    CASES,
    DATAGRAM,
    RECORDED,
    Recording,
    find_fate,
    read_recordings,
    record,
    replay,
)
from tests.support.kernel_verdicts import Wire, build_guard, list_packets, open_far_socket
from tests.support.rule_sets import (
    compare,
    judge_listing,
    list_one_of_each_file,
    list_rule_sets,
    read_for,
)
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OUR_OWN = "the guard's own"
LISTINGS = CHECKOUT / "tests/mesh/foreign_listings"


def judge(packet: Packet) -> tuple[list[Drop], Listing, Answers]:
    """What drops a packet under the rules that are loaded, and what was read for it."""
    listing = foreign_rulesets.read_rulesets()
    tables, answers = build_tables(listing), Answers()
    while True:
        lookups = Lookups(answers)
        drops = list(find_drops(tables, packet, lookups=lookups, interfaces=listing.interfaces))
        if not lookups.open:
            return drops, listing, answers
        found, unread = foreign_rulesets.answer_questions(lookups.open)
        assert unread == ()
        answers |= found


def test_the_kernel_and_the_evaluator_do_with_each_ruleset_what_is_expected():
    """With QMESH_WRITE_LISTINGS=NAME what the kernel says is kept for the pure tests."""
    wrong = []
    recordings: dict[str, Recording] = {}
    with Wire(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, open_far_socket() as there:
        here.bind(("0.0.0.0", DATAGRAM.target_port))  # noqa: S104
        here.settimeout(patience(5))
        for number, (name, (fate, ruleset)) in enumerate(CASES.items()):
            nftables.run("flush ruleset\n")
            nftables.run(ruleset)
            drops, listing, answers = judge(DATAGRAM)
            recordings[name] = record(listing, answers)
            if (ours := find_fate(drops)) != fate:
                wrong.append(f"{name}: {fate}, but qmesh says that it {ours}")
            here.settimeout(patience(5) if fate == "passes" and name != OUR_OWN else 0.1)
            there.sendto(f"{number}".encode(), (DATAGRAM.target, DATAGRAM.target_port))
            try:
                came = here.recv(100) == f"{number}".encode()
            except TimeoutError:
                came = False
            if name != OUR_OWN and fate != "unclear" and came is not (fate == "passes"):
                wrong.append(f"{name}: {fate}, but it {'came' if came else 'did not come'}")
    if kept_as := os.environ.get("QMESH_WRITE_LISTINGS"):
        (LISTINGS / f"{kept_as}.json").write_bytes(msgspec.json.encode(recordings) + b"\n")
    assert wrong == []


@pytest.mark.parametrize("is_whole", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_kernel_and_qmesh_say_the_same_of_each_packet_of_the_mesh_under_forty_rulesets(is_whole):
    """A rule that is not understood, or a limit that may be exceeded, is a disagreement too.

    is_whole: each file by each program that can load it; else by one.
    """
    unlike, unexpected = [], []
    with Wire() as wire:
        for rules in list_rule_sets() if is_whole else list_one_of_each_file():
            found = list(compare(wire, rules))
            unlike += [str(each) for each in found if not each.agrees]
            for version in rules.versions:
                of_version = [each for each in found if each.version == version]
                assert len(of_version) == (26 if version == 4 else 34)
                fate = "drops" if any(each.kernel == "drops" for each in of_version) else "passes"
                if fate != rules.read_expected(version):
                    unexpected.append(f"{rules}, IPv{version}: {fate}")
    assert unlike == []
    assert unexpected == []
    assert len({rules.path for rules in list_rule_sets()}) >= 40


def test_what_was_recorded_of_rulesets_is_what_the_kernel_says():
    """With QMESH_WRITE_LISTINGS=NAME it is recorded, for the pure tests."""
    packets = list_packets("worker", 0)
    recordings = {}
    with Wire():
        nftables.run(render_load_script(build_guard("worker")))
        for rules in list_rule_sets():
            if str(rules) in RECORDED:
                rules.load()
                recordings[str(rules)] = record(*read_for(packets))
                rules.unload()
                nftables.run(render_load_script(build_guard("worker")))
    assert set(recordings) == set(RECORDED)
    if kept_as := os.environ.get("QMESH_WRITE_LISTINGS"):
        (LISTINGS / f"{kept_as}-rule-sets.json").write_bytes(msgspec.json.encode(recordings) + b"\n")
    kept = read_recordings(LISTINGS / "kernel-rule-sets.json")
    for name, recording in recordings.items():
        assert judge_listing(*replay(recording), packets) == judge_listing(*replay(kept[name]), packets)


def test_a_set_of_twenty_thousand_networks_is_asked_and_not_read(monkeypatch):
    """What is received of the kernel is far less than the set."""
    elements = ",".join(f"12.{n >> 8}.{n & 255}.0/25" for n in range(20_000))
    chain = "chain c {\ntype filter hook input priority 0\nip saddr != @s drop\n}"
    nftables.run(
        "table inet geo {\nset s {\ntype ipv4_addr\nflags interval\n"
        f"elements = {{ {elements} }}\n}}\n{chain}\n}}\n"
    )
    received = []
    receive = socket.socket.recv

    def count(self: socket.socket, *arguments: int) -> bytes:
        octets = receive(self, *arguments)
        received.append(len(octets))
        return octets

    monkeypatch.setattr(socket.socket, "recv", count)
    assert find_fate(judge(DATAGRAM)[0]) == "drops"
    inside = msgspec.structs.replace(DATAGRAM, source="12.3.4.5")
    assert find_fate(judge(inside)[0]) == "passes"
    outside = msgspec.structs.replace(DATAGRAM, source="12.3.4.200")
    assert find_fate(judge(outside)[0]) == "drops"
    assert sum(received) < 100_000


def test_a_table_that_sleeps_is_left_out():
    nftables.run(
        "table inet sleeps { flags dormant; chain c { type filter hook input priority 0; drop; }; }\n"
    )
    assert foreign_rulesets.read_rulesets().tables == ()


def test_names_that_are_not_utf_8_are_followed():
    for words in ("-N b\\xff", "-A b\\xff -j DROP", "-A INPUT -j b\\xff"):
        subprocess.run(["bash", "-c", f"iptables-nft $(printf %b '{words}')"], check=True)
    (drop,) = judge(DATAGRAM)[0]
    assert drop.is_certain
    assert drop.chain.encode("utf-8", "surrogateescape") == b"b\xff"


def test_what_a_list_of_recent_addresses_has_is_asked():
    rule = ["-A", "INPUT", "-m", "recent", "--name", "seen", "--rcheck", "--seconds", "99", "-j", "DROP"]
    subprocess.run(["iptables-nft", *rule], check=True)
    assert judge(DATAGRAM)[0] == []
    Path("/proc/net/xt_recent/seen").write_text(f"+{DATAGRAM.source}\n")
    assert find_fate(judge(DATAGRAM)[0]) == "drops"


def test_no_program_is_run_so_that_nothing_depends_on_path(monkeypatch):
    for program in ("iptables-legacy", "iptables-nft"):
        rule = ["-A", "INPUT", "-p", "udp", "-m", "udp", "--dport", "51820", "-j", "DROP"]
        subprocess.run([program, *rule], check=True)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.delenv("PATH")
    assert [drop.table.program for drop in judge(DATAGRAM)[0]] == ["iptables", "iptables-legacy"]


def test_legacy_tables_whose_names_cannot_be_read_are_refused(tmp_path, monkeypatch):
    (tmp_path / "ip_tables_names").mkdir()
    monkeypatch.setattr(legacy_iptables, "LOADED", tmp_path)
    with pytest.raises(KernelRefused, match="ip_tables_names"):
        list(legacy_iptables.list_legacy_tables())


def test_a_set_that_is_gone_is_told():
    answers, unread = foreign_rulesets.answer_questions([Question("ipset", "eth0", "7", b"\1\2" + bytes(13))])
    assert answers == {}
    assert len(unread) == 1
    assert unread[0].startswith("set ipset eth0 7: ")
