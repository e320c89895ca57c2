"""Findings about machines that are unlike others, or short of memory."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.members import memory_findings, unlike_machine_findings
from qmesh.mesh.machine_facts.differences import FRESH_S, LEAST_LARGE, SLOW, list_fresh_facts
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts, WorkerFacts
from qmesh.mesh.systemd.instructions import NodeHost
from tests.support.factories import machine, mesh
from tests.support.machine_facts import FACTS

replace = msgspec.structs.replace
GB = 2**30


def unlike(**facts: MachineFacts) -> list[Finding]:
    return list(unlike_machine_findings(facts, own_name="a"))


def short_of_memory(**facts: MachineFacts) -> list[Finding]:
    return list(memory_findings(facts, own_name="a", host=NodeHost(has_units=True)))


def with_workers(*octets: int | None, memory: int = 64 * GB) -> MachineFacts:
    workers = tuple(WorkerFacts(core, each) for core, each in enumerate(octets, 1))
    return replace(FACTS, memory_bytes=memory, workers=workers)


def test_machines_that_are_alike_or_of_which_nothing_is_known_are_no_finding():
    assert unlike() == []
    assert unlike(a=FACTS) == []
    assert unlike(a=FACTS, b=FACTS, c=FACTS) == []
    assert unlike(a=FACTS, b=MachineFacts()) == []
    assert short_of_memory(a=FACTS, b=MachineFacts()) == []


def test_a_kernel_a_model_and_a_size_may_differ():
    other = replace(FACTS, kernel="6.1.0", cpu="B", cores=64, memory_bytes=GB * 500, nft="1.0.6", load=64.0)
    assert unlike(a=FACTS, b=other) == []


def test_who_has_an_older_qmesh_is_named_with_the_newest_version_first():
    newer, oldest = replace(FACTS, qmesh="0.10.0"), replace(FACTS, qmesh="0.9.0")
    (found,) = unlike(a=newer, b=FACTS, c=oldest, d=newer)
    assert (found.code, found.severity) == ("machine-versions", "info")
    assert found.seen == "0.10.0 on a, d; 0.9.0 on c; 0.1.0 on b"
    assert found.cure == "update qmesh on c, b, and run `qmesh restart` there"


def test_who_says_that_it_has_something_newer_is_looked_at_and_has_no_other_machine_updated():
    """It may be a machine that nobody can trust any more."""
    newer, older = replace(FACTS, qmesh="99.0", node="99.0"), replace(FACTS, qmesh="0.0.9", node="2.0")
    versions, programs = unlike(a=FACTS, b=newer, c=FACTS)
    assert versions.cure == "see `qmesh --version` on b; if that is newer than here, update qmesh here"
    assert programs.cure == "install the same program on all machines, and restart the node's processes there"
    versions, programs = unlike(a=FACTS, b=newer, c=older)
    assert versions.cure == "update qmesh on c, and run `qmesh restart` there"
    assert programs.cure == "install the same program on c, and restart the node's processes there"
    # Where this machine's own is not known, what most of them have counts.
    (found,) = unlike(a=replace(FACTS, node=""), b=replace(FACTS, node="99.0"), c=FACTS, d=FACTS)
    assert found.cure.startswith("install the same program on all machines")


def test_of_many_machines_some_are_named():
    older = {f"m{number}": replace(FACTS, qmesh="0.0.1") for number in range(200)}
    (found,) = unlike(a=FACTS, **older)
    assert found.seen == "0.1.0 on a; 0.0.1 on m0, m1, m10, m100 and 196 more"
    assert len(found.cure) < 120


def test_other_versions_of_the_nodes_program_are_named():
    (found,) = unlike(a=FACTS, b=replace(FACTS, node="2.1.0.9"))
    assert (found.code, found.seen) == ("node-builds", "2.1.0.25 on a; 2.1.0.9 on b")


def test_another_file_of_one_version_is_named_for_one_kind_of_processor():
    other = replace(FACTS, node_digest="cd" * 32)
    (found,) = unlike(a=FACTS, b=other, c=FACTS)
    assert found.code == "node-builds"
    assert found.seen == "SHA3-256 cdcdcdcdcdcd... on b; SHA3-256 abababababab... on a, c"
    assert unlike(a=FACTS, b=replace(other, architecture="aarch64")) == []
    assert unlike(a=FACTS, b=replace(FACTS, node_digest="")) == [], "it is being read"
    assert unlike(a=FACTS, b=replace(other, node="")) == []


@pytest.mark.parametrize(
    ("speeds", "slow"),
    [
        ((9000,), []),
        ((9000, 9000), []),
        ((9000, 6100), []),
        ((9000, 5000), ["b"]),
        ((9000, 9000, 9000, 5000), ["d"]),
        ((9000, 9000, 9000, None), []),
        ((2**53, 9000, 9000), []),
        ((9000, 2**53), ["a"]),
        ((0, 0), []),
    ],
)
def test_a_slow_core_is_one_that_is_slower_than_the_others_usually_are(speeds, slow):
    facts = {name: replace(FACTS, core_speed=speed) for name, speed in zip("abcd", speeds, strict=False)}
    found = unlike(**facts)
    assert [(each.code, each.severity, each.subject) for each in found] == [
        ("core-slow", "info", name) for name in slow
    ]


def test_many_slow_machines_are_one_note_the_slowest_first():
    quick = {f"q{number}": FACTS for number in range(200)}
    slow = {f"s{number}": replace(FACTS, core_speed=4000 - number, cpu="") for number in range(90)}
    (found,) = unlike(**quick, **slow)
    assert found.subject == "s89, s88, s87, s86 and 86 more"
    assert "3911 on s89; 3912 on s88" in found.seen
    assert len(found.seen) < 200


def test_many_versions_are_one_note_however_many_a_liar_invents():
    (found,) = unlike(**{f"m{number}": replace(FACTS, qmesh=f"0.1.{number}") for number in range(200)})
    assert found.seen.endswith("and 196 more")
    assert len(found.seen) + len(found.cure) < 300


def test_a_slow_machine_without_workers_holds_back_none():
    assert unlike(a=FACTS, b=replace(FACTS, core_speed=1, workers=())) == []


def test_the_model_of_a_slow_processor_is_named_where_it_is_known():
    slow = replace(FACTS, core_speed=round(SLOW * 9000) - 1)
    (found,) = unlike(a=FACTS, b=slow)
    assert slow.cpu in found.seen
    (found,) = unlike(a=FACTS, b=replace(slow, cpu=""))
    assert "(" not in found.seen


def test_workers_that_take_nearly_all_memory_are_a_warning_with_what_to_do():
    (found,) = short_of_memory(hel=with_workers(20 * GB, 20 * GB, 20 * GB))
    assert (found.code, found.severity, found.subject) == ("worker-memory", "warning", "hel")
    assert "60.0 GiB of 64.0 GiB" in found.seen
    assert "qmesh set hel --workers N" in found.cure
    assert short_of_memory(hel=with_workers(19 * GB, 19 * GB, 19 * GB)) == []
    assert short_of_memory(hel=replace(with_workers(GB), memory_bytes=None)) == []


@pytest.mark.parametrize(
    ("octets", "cores"),
    [
        ((GB, GB, GB, 4 * GB), ["core 4"]),
        ((GB, GB, None, 4 * GB, 4 * GB, GB, GB), ["cores 4-5"]),
        ((GB, GB, 3 * GB), []),
        ((GB // 4, GB // 4, LEAST_LARGE), []),
        ((GB, 9 * GB), []),
        ((None, None, 9 * GB), []),
        ((), []),
    ],
)
def test_a_worker_that_has_several_times_the_memory_of_the_usual_one_is_named(octets, cores):
    found = short_of_memory(b=with_workers(*octets))
    assert [(each.severity, each.subject) for each in found] == [("info", f"b, {each}") for each in cores]


def test_a_large_worker_is_restarted_where_it_is():
    large = with_workers(GB, GB, GB, 4 * GB)
    own, other = short_of_memory(a=large, b=large)
    assert own.cure == "systemctl restart qmesh-worker@4.service"
    assert other.cure == "on b: `qmesh check`"


def test_facts_that_are_old_count_no_more():
    inventory = mesh(machine("a", 1, 2), machine("b", 2, 1), machine("c", 3, 1), machine("d", 4, 1))
    told = (
        ToldFacts("10.77.0.2", 1000.0 - FRESH_S + 1, FACTS),
        ToldFacts("10.77.0.3", 1000.0 - FRESH_S, FACTS),
        ToldFacts("10.77.0.1", 1000.0, MachineFacts()),
        ToldFacts("10.77.0.99", 1000.0, FACTS),
    )
    assert list_fresh_facts(inventory, told) == {"a": MachineFacts(), "b": FACTS}
    assert list_fresh_facts(inventory, ()) == {}
