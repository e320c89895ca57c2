"""Who goes, rests, comes back and grows: the laws of the core numbers, and what follows on the machines."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.changes import (
    clear_successor,
    find_renumbered_machines,
    pause_machine,
    promote_successor,
    refuse_control_replacement,
    remove_machine,
    resume_machine,
    serve_until_succeeded,
    set_endpoints,
    set_public_key,
    set_successor,
    set_worker_count,
)
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.machine import Cores, PendingKey
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.reachability.unsupported_options import (
    list_unsupported_options,
    refuse_unsupported_options,
)
from qmesh.mesh.systemd.change_steps import list_change_steps
from qmesh.mesh.systemd.node_restarts import workers_to_restart
from qmesh.mesh.values import Endpoint
from tests.support.factories import TUTORIAL, cluster, key


def machines_to_restart(before: Inventory, after: Inventory) -> tuple[str, ...]:
    steps = list_change_steps(before, after)
    return tuple(step.machine for step in steps if step.start or step.control != "no")


CALLED = set_endpoints(TUTORIAL, "b", [Endpoint("203.0.113.2", 51820)])


def test_the_control_role_goes_to_another_machine_in_two_changes_and_no_core_moves() -> None:
    named = set_successor(CALLED, "b")
    assert (named.control, named.successor, named.revision) == ("a", "b", CALLED.revision + 1)
    assert [machine.name for machine in named.hubs] == ["a", "b"]
    after = promote_successor(named)
    assert (after.control, after.successor, after.revision) == ("b", None, CALLED.revision + 2)
    assert [machine.name for machine in after.hubs] == ["b"]
    assert find_renumbered_machines(CALLED, after) == ()
    assert clear_successor(named) == msgspec.structs.replace(CALLED, revision=CALLED.revision + 2)
    assert clear_successor(CALLED) == CALLED


@pytest.mark.parametrize(
    ("name", "before", "complaint"),
    [
        ("a", CALLED, "a is the control node already"),
        ("b", pause_machine(CALLED, "b"), "b is paused, and cannot be the control node"),
        ("z", CALLED, "no machine is named 'z'"),
        ("b", CALLED, ""),
        ("c", set_endpoints(CALLED, "a", [Endpoint("203.0.113.1", 51820)]), ""),  # it calls both
        ("c", CALLED, "neither c nor a has an endpoint, so neither could connect to the other"),
        ("b", cluster(3, 4, 10), "neither b nor a has an endpoint, so neither could connect to the other"),
    ],
)
def test_the_control_role_goes_only_to_a_member_that_all_others_can_reach(
    name: str, before: Inventory, complaint: str
) -> None:
    if not complaint:
        assert set_successor(before, name).successor == name
        return
    with pytest.raises(BadInput) as caught:
        set_successor(before, name)
    assert caught.value.message == complaint


def test_who_is_no_active_machine_can_be_no_successor() -> None:
    with pytest.raises(BadInput, match="the control node b is paused"):
        msgspec.structs.replace(pause_machine(CALLED, "b"), successor="b")


def order(mesh: Inventory) -> str:
    return "".join(mesh.cores)


def moved(before: Inventory, after: Inventory) -> dict[str, tuple[int, int]]:
    found = find_renumbered_machines(before, after)
    return {each.machine: (each.was.first, each.now.first) for each in found if each.was and each.now}


def test_who_goes_leaves_a_gap_that_those_behind_close():
    after = remove_machine(TUTORIAL, "b")
    assert after.revision == 8
    assert after.cores == {"a": Cores(1, 3), "c": Cores(4, 10)}
    assert moved(TUTORIAL, after) == {"c": (8, 4)}
    assert machines_to_restart(TUTORIAL, after) == ("c", "a")
    assert machines_to_restart(TUTORIAL, remove_machine(TUTORIAL, "c")) == ("a",)


def test_the_last_machine_takes_the_place_of_one_with_as_many_workers():
    before = cluster(3, 4, 10, 4)
    after = remove_machine(before, "b")
    assert order(after) == "adc"
    assert moved(before, after) == {"d": (18, 4)}
    assert machines_to_restart(before, after) == ("d", "a")


def test_a_paused_machine_is_a_member_without_cores_and_comes_back_behind_all():
    resting = pause_machine(TUTORIAL, "b")
    assert resting.machine("b").state == "paused"
    assert order(resting) == "ac"
    assert [each.machine for each in find_renumbered_machines(TUTORIAL, resting)] == ["c", "b"]
    assert machines_to_restart(TUTORIAL, resting) == ("c", "a")
    back = resume_machine(resting, "b")
    assert back.cores["b"] == Cores(14, 4)
    assert find_renumbered_machines(resting, back)[0].was is None
    assert machines_to_restart(resting, back) == ("b", "a")
    assert order(remove_machine(resting, "b")) == "ac"


@pytest.mark.parametrize(
    ("counts", "name", "count", "expected"),
    [
        ((3, 4, 10), "c", 12, "abc"),
        ((3, 4, 10), "c", 2, "abc"),
        ((3, 4, 10), "b", 6, "abc"),
        ((3, 4, 10), "b", 2, "abc"),
        ((3, 4, 10, 2), "b", 2, "abdc"),
        ((3, 4, 10, 10, 4), "b", 6, "aecdb"),
        ((3, 4, 4), "a", 4, "abc"),
        ((3, 4, 4), "b", 4, "abc"),
    ],
)
def test_another_count_of_workers(counts, name, count, expected):
    before = cluster(*counts)
    after = set_worker_count(before, name, count)
    assert order(after) == expected
    assert after.cores[name].count == count
    assert (after.revision == 7) == (after == before) == (before.cores[name].count == count)


def test_a_machine_that_is_not_active_may_change_its_count_too():
    resting = set_worker_count(pause_machine(TUTORIAL, "b"), "b", 5)
    assert resting.machine("b").workers == 5
    assert machines_to_restart(pause_machine(TUTORIAL, "b"), resting) == ()


def test_which_workers_start_anew():
    grown = set_worker_count(TUTORIAL, "b", 6)
    assert workers_to_restart(TUTORIAL, grown, "a") == ()
    assert workers_to_restart(TUTORIAL, grown, "b") == (8, 9)
    assert workers_to_restart(TUTORIAL, grown, "c") == (18, 19)  # 10 to 17 are where they were
    assert workers_to_restart(TUTORIAL, pause_machine(TUTORIAL, "b"), "b") == ()


def test_another_endpoint_restarts_nobody():
    after = set_endpoints(TUTORIAL, "b", [Endpoint("192.0.2.2", 51820)])
    assert after.machine("b").endpoints == (Endpoint("192.0.2.2", 51820),)
    assert after.revision == 8
    assert machines_to_restart(TUTORIAL, after) == ()


def test_another_version_of_the_node_has_its_own_ports_and_restarts_all():
    after = set_mesh_options(TUTORIAL, MeshOptions(node="2.1"))
    assert (after.base_port, after.p2p_base_port) == (32500, 25000)
    assert machines_to_restart(TUTORIAL, after) == ("a", "b", "c")
    assert workers_to_restart(TUTORIAL, after, "b") == (4, 5, 6, 7)
    rust = set_mesh_options(after, MeshOptions(node="2.1-rust", base_port=33000))
    assert (rust.base_port, rust.p2p_base_port) == (33000, 25000)
    proxied = set_mesh_options(after, MeshOptions(master_proxy=True, restart=True))
    back = set_mesh_options(proxied, MeshOptions(node="2.0"))
    assert (back.base_port, back.p2p_base_port, back.master_proxy, back.restart) == (40000, None, False, True)


SIX = msgspec.structs.replace(
    TUTORIAL,
    network="fd77::/64",
    machines=tuple(
        msgspec.structs.replace(each, address=f"fd77::{at}") for at, each in enumerate(TUTORIAL.machines, 1)
    ),
)
REACHED = msgspec.structs.replace(
    TUTORIAL,
    machines=tuple(
        msgspec.structs.replace(each, endpoints=(Endpoint("192.0.2.1", 51820),)) for each in TUTORIAL.machines
    ),
)


@pytest.mark.parametrize(
    ("mesh", "options", "words"),
    [
        (
            REACHED,
            MeshOptions(node="2.1-rust", stream="public"),
            "does not support --stream public: its worker",
        ),
        (
            TUTORIAL,
            MeshOptions(node="2.1-rust", master_proxy=True),
            "does not support --master-proxy: its workers",
        ),
        (SIX, MeshOptions(node="2.1-rust"), "does not support --network fd77::/64: its control process"),
    ],
)
def test_what_the_rust_node_would_not_work_with_is_refused_and_of_a_mesh_of_before_told(mesh, options, words):
    with pytest.raises(BadInput, match=r"node 2\.1-rust") as refused:
        set_mesh_options(mesh, options)
    assert words in refused.value.message
    assert refused.value.hint
    go = set_mesh_options(mesh, msgspec.structs.replace(options, node="2.1"))
    assert list_unsupported_options(go) == ()
    with pytest.raises(BadInput, match=r"node 2\.1-rust"):
        set_mesh_options(go, MeshOptions(node="2.1-rust"))
    # One that was made before is read, told of, and changed in all else.
    older = msgspec.structs.replace(go, node="2.1-rust")
    assert words in " ".join(
        f"does not support {each.option}: {each.reason}" for each in list_unsupported_options(older)
    )
    assert set_mesh_options(older, MeshOptions(restart=True)).restart
    with pytest.raises(BadInput, match=r"node 2\.1-rust"):
        set_mesh_options(older, options)


def test_a_network_of_ipv6_is_left_out_of_a_new_mesh_and_only_an_old_one_has_to_be_made_again():
    mesh = msgspec.structs.replace(SIX, node="2.1-rust", p2p_base_port=25000)
    with pytest.raises(BadInput) as new:
        refuse_unsupported_options(mesh)
    assert new.value.hint == "leave out --network, or pass one of IPv4, such as 10.77.0.0/20"
    with pytest.raises(BadInput) as old:
        refuse_unsupported_options(SIX, {"node": "2.1-rust"})
    (listed,) = list_unsupported_options(mesh)
    assert old.value.hint == listed.hint
    assert listed.hint.startswith("make the mesh again: `qmesh uninstall --delete-state`")


def test_what_is_not_supported_is_told_before_what_it_lacks_besides():
    with pytest.raises(BadInput, match="does not support --stream public"):
        set_mesh_options(TUTORIAL, MeshOptions(node="2.1-rust", stream="public"))


def test_an_option_that_the_rust_node_does_not_support_can_be_given_up():
    older = msgspec.structs.replace(
        set_mesh_options(REACHED, MeshOptions(node="2.1", stream="public", master_proxy=True)),
        node="2.1-rust",
    )
    assert len(list_unsupported_options(older)) == 2
    tunnel = set_mesh_options(older, MeshOptions(stream="tunnel"))
    assert [each.option for each in list_unsupported_options(tunnel)] == ["--master-proxy"]
    assert list_unsupported_options(set_mesh_options(tunnel, MeshOptions(master_proxy=False))) == ()


def test_what_changes_nothing_has_no_new_revision():
    assert set_mesh_options(TUTORIAL, MeshOptions(node="2.0", restart=False)) is TUTORIAL
    older = set_mesh_options(TUTORIAL, MeshOptions(node="1.4"))
    assert older.base_port == 40000
    assert machines_to_restart(TUTORIAL, older) == ()


def test_what_cannot_be_done_is_refused():
    invited = msgspec.structs.replace(TUTORIAL.machine("c"), state="invited", workers=None)
    mesh = msgspec.structs.replace(TUTORIAL, machines=(*TUTORIAL.machines[:2], invited))
    for change, name, message in (
        (remove_machine, "a", "is the control node, and cannot be removed"),
        (pause_machine, "a", "is the control node, and cannot be paused"),
        (remove_machine, "c", "is not a member yet"),
        (pause_machine, "c", "is invited, and cannot be paused"),
        (resume_machine, "b", "is active, and cannot be resumed"),
        (remove_machine, "x", "no machine is named"),
    ):
        with pytest.raises(BadInput, match=message):
            change(mesh, name)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
def test_law_positions_are_core_numbers_whatever_changes(counts, data):
    mesh = cluster(*counts)
    for _ in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from([machine.name for machine in mesh.machines]))
        state = mesh.machine(name).state
        if name == "a" or data.draw(st.booleans()):
            mesh = set_worker_count(mesh, name, data.draw(st.integers(1, 6)))
        elif state == "paused":
            before, mesh = mesh, resume_machine(mesh, name)
            assert moved(before, mesh) == {}
        else:
            mesh = data.draw(st.sampled_from([remove_machine, pause_machine]))(mesh, name)
        workers = list(list_workers(mesh))
        assert [worker.core for worker in workers] == list(range(1, len(workers) + 1))
        assert [worker.port for worker in workers] == list(range(40000, 40000 + len(workers)))
        assert len({(worker.address, worker.port) for worker in workers}) == len(workers)
        assert next(iter(mesh.cores)) == "a"


STAND_INS = (PendingKey("b", key(90), "10.77.0.9"), PendingKey("c", key(91), None))


def test_another_key_is_all_that_is_another_and_no_stand_in_outlives_it():
    mesh = msgspec.structs.replace(TUTORIAL, stand_ins=STAND_INS)
    after = set_public_key(mesh, "b", key(50))
    assert after.machine("b") == msgspec.structs.replace(mesh.machine("b"), public_key=key(50))
    assert (after.stand_ins, after.revision) == (STAND_INS[1:], mesh.revision + 1)
    assert [after.machine(name) for name in "ac"] == [mesh.machine(name) for name in "ac"]
    assert machines_to_restart(mesh, after) == ()
    assert find_renumbered_machines(mesh, after) == ()
    assert set_public_key(mesh, "c", key(91)).machine("c").public_key == key(91)
    with pytest.raises(BadInput):  # another's
        set_public_key(mesh, "b", key(3))


def test_who_goes_takes_its_stand_ins_along():
    mesh = msgspec.structs.replace(TUTORIAL, stand_ins=STAND_INS)
    assert remove_machine(mesh, "b").stand_ins == STAND_INS[1:]


@pytest.mark.parametrize(
    "stand_in",
    [
        *(PendingKey("b", key(3), "10.77.0.9"), PendingKey("b", key(91), "10.77.0.9")),
        *(PendingKey("b", key(90), "10.77.0.3"), PendingKey("b", key(90), "10.77.0.8")),
    ],
)
def test_e5_a_stand_in_shares_no_key_and_no_address(stand_in):
    others = (PendingKey("c", key(91), "10.77.0.8"),)
    with pytest.raises(BadInput, match="two machines have the"):
        msgspec.structs.replace(TUTORIAL, stand_ins=(*others, stand_in))
    with pytest.raises(BadInput):
        PendingKey("b", "no key", None)


def test_the_control_node_is_not_replaced():
    refuse_control_replacement(TUTORIAL, "b")
    for name in ("a", "nobody"):
        with pytest.raises(BadInput):
            refuse_control_replacement(TUTORIAL, name)


def test_a_control_node_that_handed_over_serves_until_the_next_one_answers():
    assert serve_until_succeeded(TUTORIAL, TUTORIAL.control) is TUTORIAL
    passed = msgspec.structs.replace(TUTORIAL, control="b")
    served = serve_until_succeeded(passed, "a")
    assert (served.control, served.successor) == ("a", "b")
    assert served.machines == passed.machines
