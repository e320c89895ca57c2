"""Each line of advice, where it applies and where it does not."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.advice import AdviceInputs, list_advice
from qmesh.mesh.changes import set_announced_host
from tests.support.factories import TUTORIAL, cluster

FINE = AdviceInputs(name="a", memory=10**15, disk=10**15, reserved=frozenset(range(1, 65536)))
UNLIKE = (
    "b has 16 workers, c 4: machines of a cluster should be alike, because"
    " the slowest core slows down all others"
)


def test_a_cluster_that_is_fine_gets_none():
    assert list_advice(TUTORIAL, FINE) == ()


def test_a_handover_that_was_cut_off_is_said_with_both_ways_out():
    named = msgspec.structs.replace(TUTORIAL, successor="b")
    (said,) = list_advice(named, FINE)
    assert "handed over to b" in said
    assert "`qmesh handover b` continues it" in said
    assert "--cancel" in said


def test_a_control_node_that_was_off_while_the_role_moved_on_is_told_the_way_back():
    (said,) = list_advice(
        msgspec.structs.replace(TUTORIAL, successor="b"), msgspec.structs.replace(FINE, has_handed_over=True)
    )
    assert said.startswith("b is the control node since revision")
    assert said.endswith("run `qmesh invite a --replace` there")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (111, []),
        (112, ["112 workers: above 128 each proof costs more; 16 more fit before that"]),
        (128, []),
        (
            129,
            [
                (
                    "129 workers: above 128 each proof costs more; 1 fewer avoid that, and"
                    " 895 more fit before the next rise"
                ),
            ],
        ),
        (
            2048,
            [
                (
                    "2048 workers: above 1024 each proof costs more; 1024 fewer avoid"
                    " that, and 0 more fit before the next rise"
                ),
            ],
        ),
        (2049, ["2049 workers: above 2048 performance falls steeply; run 1 fewer"]),
    ],
)
def test_where_the_cluster_stands(count, expected):
    assert list(list_advice(cluster(count), FINE)) == expected
    newer = msgspec.structs.replace(
        set_announced_host(cluster(count), "a", "203.0.113.5"), node="2.1", p2p_base_port=25000
    )
    assert list_advice(newer, FINE) == ()


def test_machines_that_no_node_can_call_are_named_with_the_command():
    mesh = cluster(1, 1, 1, 1, node="2.1-rust", p2p_base_port=25000)
    (said,) = list_advice(mesh, FINE)
    assert said.startswith(
        "no other node can call the workers of a and b and 2 more: run `qmesh set a --announce"
    )
    for name in "abc":
        mesh = set_announced_host(mesh, name, "203.0.113.5")
    (said,) = list_advice(mesh, FINE)
    assert said.startswith(
        "no other node can call the workers of d: run `qmesh set d --announce ADDRESS` on a"
    )
    assert list_advice(set_announced_host(mesh, "d", "203.0.113.5"), FINE) == ()


def test_an_option_that_the_node_does_not_support_is_named():
    mesh = set_announced_host(
        cluster(1, node="2.1-rust", p2p_base_port=25000, master_proxy=True), "a", "a.org"
    )
    (said,) = list_advice(mesh, FINE)
    assert said.startswith("node 2.1-rust does not support --master-proxy: its workers speak plaintext")


@pytest.mark.parametrize(
    ("mesh", "here", "expected"),
    [
        (TUTORIAL, {"alive": 2}, "2 workers answer: node 2.0 proves nothing with fewer than 3"),
        (
            cluster(1, 16, 4),
            {},
            UNLIKE,
        ),
        (
            TUTORIAL,
            {"latencies": {"b": 0.1, "c": 0.02}},
            "slow connection: b 100 ms (the median is 60 ms); above 100 ms a worker's answers come late",
        ),
        (TUTORIAL, {"memory": 5 * 10**9}, "a has 5 GB of memory for 3 workers: each needs 2 GB"),
        (TUTORIAL, {"disk": 11 * 10**9}, "a has 11 GB of disk for 3 workers: each needs 4 GB"),
        (
            TUTORIAL,
            {"reserved": frozenset({40001})},
            (
                "an outgoing connection of a may take port 40000, 40002:"
                " run `qmesh apply` there, which reserves it"
            ),
        ),
        (
            TUTORIAL,
            {"uncalled": (4, 5, 6)},
            (
                "since it was started, the control process was not seen connected to the workers of cores"
                " 4-6: some builds of node 2.1 never call workers, newer ones do it every few seconds"
            ),
        ),
        (
            TUTORIAL,
            {"uncalled": (4,)},
            (
                "since it was started, the control process was not seen connected to the workers of core 4:"
                " some builds of node 2.1 never call workers, newer ones do it every few seconds"
            ),
        ),
    ],
)
def test_what_applies_is_said(mesh, here, expected):
    assert list_advice(mesh, msgspec.structs.replace(FINE, **here)) == (expected,)


@pytest.mark.parametrize(
    "here",
    [
        {"alive": 3},
        {"latencies": {"b": 0.099}},
        {"memory": 6 * 10**9},
        {"memory": None, "disk": None},
        {"reserved": frozenset(), "ephemeral": (40003, 60999)},
    ],
)
def test_what_does_not_apply_is_not(here):
    assert list_advice(TUTORIAL, msgspec.structs.replace(FINE, **here)) == ()
