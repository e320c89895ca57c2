"""What a changed config asks of a machine's processes: never more than needed."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.changes import (
    pause_machine,
    remove_machine,
    resume_machine,
    set_machine_fields,
    set_worker_count,
)
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.nodeconfig import build_desired_settings, edit_settings, parse_config
from qmesh.mesh.systemd.change_steps import list_change_steps
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.systemd.instructions import NodeHost
from qmesh.mesh.systemd.node_restarts import (
    describe_due_restarts,
    explain_restarts,
    find_due_restarts,
    is_managed_by_qmesh,
)
from qmesh.mesh.values import Endpoint
from tests.support.factories import TUTORIAL, cluster

HEAD = "# mine\np2p:\n  minPeers: 1\n"


def text(mesh: Inventory, name: str, before: str = HEAD) -> str:
    return edit_settings(before, build_desired_settings(mesh, name))


def follows(before: Inventory, after: Inventory, name: str) -> DueRestarts:
    old = text(before, name)
    return find_due_restarts(old, text(after, name, old), after, name)


def test_a_machine_that_joins_behind_restarts_the_control_process_alone():
    before, after = cluster(3, 4), cluster(3, 4, 10)
    assert follows(before, after, "a") == DueRestarts(control=True)
    assert follows(before, after, "b") == DueRestarts()
    assert not follows(before, after, "b")


def test_who_moves_restarts_its_workers_and_stops_those_it_has_no_more():
    after = remove_machine(TUTORIAL, "b")
    # Cores 8 to 13 of c are at other ports than before, as their numbers are 4 to 13 now.
    assert follows(TUTORIAL, after, "c") == DueRestarts(restart=(4, 5, 6, 7), stop=(14, 15, 16, 17))
    assert follows(TUTORIAL, after, "a") == DueRestarts(control=True)


def test_a_paused_machine_stops_all_and_starts_them_when_it_is_back():
    resting = pause_machine(TUTORIAL, "b")
    assert follows(TUTORIAL, resting, "b") == DueRestarts(stop=(4, 5, 6, 7))
    assert follows(resting, resume_machine(resting, "b"), "b") == DueRestarts(restart=(14, 15, 16, 17))


def test_a_machine_with_more_workers_starts_the_new_ones_only():
    assert follows(TUTORIAL, set_worker_count(TUTORIAL, "c", 12), "c") == DueRestarts(restart=(18, 19))
    assert follows(TUTORIAL, set_worker_count(TUTORIAL, "a", 4), "a") == DueRestarts(
        restart=(4,), control=True
    )


def test_what_every_worker_reads_restarts_all():
    before = set_mesh_options(TUTORIAL, MeshOptions(node="2.1"))
    after = set_mesh_options(before, MeshOptions(master_proxy=True))
    assert follows(before, after, "b") == DueRestarts(restart=(4, 5, 6, 7))
    assert follows(before, after, "a") == DueRestarts(restart=(1, 2, 3), control=True)


def test_what_is_announced_restarts_the_control_process_alone():
    before = set_mesh_options(TUTORIAL, MeshOptions(node="2.1-rust"))
    after = set_machine_fields(before, "b", announce="203.0.113.7")
    assert text(before, "b") != text(after, "b")
    assert follows(before, after, "b") == DueRestarts()
    assert follows(before, after, "a") == DueRestarts(control=True)
    (step,) = list_change_steps(before, after)
    assert (step.machine, step.start, step.control) == ("a", (), "first")
    # By IPv6 its workers have to listen there as well.
    assert follows(after, set_machine_fields(after, "b", announce="2001:db8::7"), "b").restart == (4, 5, 6, 7)


def test_what_is_due_already_is_kept_unless_it_is_known_better():
    first = DueRestarts(restart=(4, 5), stop=(9,), control=True)
    assert first.merge(DueRestarts(restart=(9,), stop=(5,))) == DueRestarts(
        restart=(4, 9), stop=(), control=True
    ).merge(DueRestarts(stop=(5,)))
    assert DueRestarts().merge(first) == first.merge(DueRestarts()) == first


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], False),
        (["/ip4/10.77.0.1/tcp/40000", "/ip4/10.77.0.9/tcp/40001"], True),
        (["/ip4/10.77.0.1/tcp/40000", "/ip4/192.168.0.9/tcp/40001"], False),
        (["/ip4/10.77.0.1/tcp/40000", "/dns4/b/tcp/40001"], False),
    ],
)
def test_what_the_owner_wrote_is_not_in_hand(entries, expected):
    config = HEAD + "engine:\n  dataWorkerMultiaddrs: [" + ", ".join(entries) + "]\n"
    assert is_managed_by_qmesh(config, TUTORIAL) == expected


def test_the_list_of_a_node_that_is_upgraded_is_in_hand_under_its_older_key():
    upgraded = set_mesh_options(TUTORIAL, MeshOptions(node="2.1"))
    assert is_managed_by_qmesh(text(TUTORIAL, "b"), upgraded)
    assert follows(TUTORIAL, upgraded, "b") == DueRestarts(restart=(4, 5, 6, 7))


def test_public_streams_are_in_hand_at_the_endpoints():
    machines = tuple(
        msgspec.structs.replace(machine, endpoints=(Endpoint(f"192.0.2.{place}", 51820),))
        for place, machine in enumerate(TUTORIAL.machines, 1)
    )
    mesh = msgspec.structs.replace(TUTORIAL, machines=machines)
    public = set_mesh_options(mesh, MeshOptions(node="2.1", stream="public"))
    assert is_managed_by_qmesh(text(public, "a"), public)
    assert not is_managed_by_qmesh(text(public, "a"), set_mesh_options(public, MeshOptions(stream="tunnel")))
    assert follows(public, remove_machine(public, "b"), "c").stop == (14, 15, 16, 17)


def test_no_list_and_no_sense_is_not_in_hand():
    assert not is_managed_by_qmesh("", TUTORIAL)
    with pytest.raises(BadInput):
        is_managed_by_qmesh("a: [", TUTORIAL)
    strange = HEAD + "engine:\n  dataWorkerMultiaddrs: [x]\n"
    assert find_due_restarts(strange, text(TUTORIAL, "b", strange), TUTORIAL, "b") == DueRestarts(
        restart=(4, 5, 6, 7)
    )
    assert find_due_restarts(HEAD, text(TUTORIAL, "b"), TUTORIAL, "b") == DueRestarts(restart=(4, 5, 6, 7))


def explained(before: Inventory | None, after: Inventory, name: str) -> str:
    old = None if before is None else parse_config(text(before, name))
    new = parse_config(text(after, name, HEAD if old is None else old.text))
    return explain_restarts(old, new, after, name).partition(":")[0]


def test_what_is_to_be_restarted_is_said_in_words():
    after = remove_machine(TUTORIAL, "b")
    assert explained(TUTORIAL, after, "c") == (
        "now restart this machine's workers, then the control process on a"
    )
    assert explained(None, after, "c") == "now restart this machine's workers, then the control process on a"
    assert explained(TUTORIAL, after, "a") == "now restart the workers of c, then the control process"
    behind = cluster(3, 4, 10, 2)
    assert explained(TUTORIAL, behind, "b") == ("now restart the workers of d, then the control process on a")
    fewer = set_worker_count(TUTORIAL, "c", 9)
    assert explained(TUTORIAL, fewer, "a") == (
        "no worker reads anything else than before; now restart the control process"
    )
    newer = set_mesh_options(TUTORIAL, MeshOptions(node="2.1-rust"))
    assert explained(None, newer, "b") == (
        "now restart the control process on a, then this machine's workers"
    )


def test_a_list_that_was_not_the_meshs_says_nothing_of_other_machines():
    new = parse_config(text(TUTORIAL, "a"))
    for old in ("p2p:\n", "engine:\n  dataWorkerMultiaddrs: [/ip4/192.0.2.1/tcp/1]\n"):
        assert explain_restarts(parse_config(old), new, TUTORIAL, "a").startswith(
            "now restart this machine's workers, then the control process:"
        )


@pytest.mark.parametrize("node", ["2.1", "2.1-rust"])
def test_a_control_node_that_has_moved_concerns_all_workers(node):
    before = set_mesh_options(TUTORIAL, MeshOptions(node=node))
    after = msgspec.structs.replace(before, control="b")
    for name, control, others in (("a", " on b", "b, c"), ("b", "", "a, c"), ("c", " on b", "a, b")):
        workers = f"this machine's workers, then the workers of {others}"
        todo = f"the control process{control}, then {workers} (they connect to b, 10.77.0.2)"
        assert explained(before, after, name) == f"now restart {todo}"
        due = find_due_restarts(text(before, name), text(after, name, text(before, name)), after, name)
        assert due.restart == tuple(after.core_numbers(name))


def test_many_machines_are_not_all_named():
    before = set_mesh_options(cluster(*[1] * 8), MeshOptions(node="2.1"))
    after = msgspec.structs.replace(before, control="b")
    assert "then the workers of b, c, d, e, f and 2 more machines" in explained(before, after, "a")


def test_what_stands_alone_tells_nothing_of_other_machines():
    before = set_mesh_options(TUTORIAL, MeshOptions(node="2.1"))
    proxied = parse_config(text(before, "b").replace("enableMasterProxy: false", "enableMasterProxy: true"))
    assert explain_restarts(proxied, parse_config(text(before, "b")), before, "b").startswith(
        "now restart the control process on a, then this machine's workers:"
    )


@pytest.mark.parametrize(
    ("node", "due", "said"),
    [
        ("2.0", {"restart": (1, 2, 3), "control": True}, ["now: WORKERS 1-3", "then: CONTROL"]),
        ("2.1-rust", {"restart": (1, 2, 3), "control": True}, ["now: CONTROL", "then: WORKERS 1-3"]),
        ("2.1-rust", {"restart": (1,)}, ["now: WORKERS 1"]),
        ("2.0", {"stop": (9,), "control": True}, ["core 9: another machine's now: STOP 9", "now: CONTROL"]),
        ("2.0", {}, []),
    ],
)
def test_what_is_due_is_said_in_the_order_of_the_nodes_version(node, due, said):
    words = {
        "STOP 9": "stop the worker of core 9",
        "WORKERS 1-3": "restart the workers of cores 1-3",
        "WORKERS 1": "restart the worker of core 1",
        "CONTROL": "restart the control process",
    }
    mesh = cluster(3, 4, node=node, p2p_base_port=None if node == "2.0" else 25000)
    lines = list(describe_due_restarts(DueRestarts(**due), mesh, "a", NodeHost(has_units=False)))
    assert lines == [f"{line.rpartition(': ')[0]}: {words[line.rpartition(': ')[2]]}" for line in said]
