"""What is wrong with the node's processes: sockets and times in, states and findings out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.audit.node.processes import foreign_worker_findings, own_process_findings
from qmesh.mesh.audit.surroundings import NodeReport
from qmesh.mesh.changes import pause_machine
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.node_processes.control import (
    CALLED_S,
    ControlProcess,
    judge_control,
    list_called_cores,
    list_uncalled_cores,
)
from qmesh.mesh.node_processes.expected import ExpectedNode, build_expected_node, list_control_ports
from qmesh.mesh.node_processes.observed import Connection, ListeningSocket, NodeProcess, NodeSockets, Protocol
from qmesh.mesh.node_processes.other_nodes import TakenPort, find_taken_ports, set_aside_other_nodes
from qmesh.mesh.node_processes.reading_record import ConfigFacts, ReadingRecord
from qmesh.mesh.node_processes.readings import (
    MOST_EARLIER,
    digest_config,
    digest_keys,
    is_current,
    is_outdated,
    update_readings,
)
from qmesh.mesh.node_processes.record import (
    CUT_OFF_S,
    Absence,
    CalledWorkers,
    ProcessRecord,
    update_absences,
    update_calls,
)
from qmesh.mesh.node_processes.restart import describe_control_restart, describe_stop, describe_worker_restart
from qmesh.mesh.node_processes.workers import (
    ForeignWorker,
    WorkerProcess,
    WorkerState,
    find_foreign_workers,
    judge_workers,
    list_foreign_connections,
)
from qmesh.mesh.nodeconfig import build_desired_settings, edit_settings
from qmesh.mesh.rollback import BootTimestamp
from qmesh.mesh.systemd.instructions import NodeHost
from tests.support.factories import cluster, machine, mesh

RUST = cluster(1, 2, 3, node="2.1-rust", base_port=32500, p2p_base_port=25000)
"""Core 1 is a's, the control node; 2 and 3 are b's, 4 to 6 are c's."""
HUB, OWN, THIRD = "10.77.0.1", "10.77.0.2", "10.77.0.3"
FACTS = ConfigFacts(is_managed=True, is_private=True, control_ports=(("udp", 8336), ("tcp", 8340)))
WALL = 1_800_000_000.0
EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a socket is said to have


def process(number: int = 77, started: float = 100.0, unit: str = "") -> NodeProcess:
    return NodeProcess(number, "node", started, unit)


def listens(address: str, port: int, by: NodeProcess | None, user: int = 0, protocol: Protocol = "tcp"):
    return ListeningSocket(protocol, address, port, user, by)


def calls(number: int, remote: str, remote_port: int = 8340, address: str = OWN, port: int = 50000):
    return Connection(address, port, remote, remote_port, number)


def expected(mesh: Inventory = RUST, name: str = "b", **options: Any) -> ExpectedNode:
    return build_expected_node(mesh, name, **options)


def text(mesh: Inventory = RUST, name: str = "b", before: str = "p2p:\n  listenMultiaddr: ''\n") -> str:
    return edit_settings(before, build_desired_settings(mesh, name))


def stamp(changed_at: float, written_at: float | None = None) -> tuple[int, int, int, int]:
    """Of a file that was changed so many seconds after the machine's start, at Unix time `WALL`.

    written_at: where its owner has set its mode since, or the time itself.
    """
    written = changed_at if written_at is None else written_at
    return 5, round((WALL + changed_at) * 1e9), 700, round((WALL + written) * 1e9)


def look(
    config: str,
    before: ReadingRecord | None = None,
    *,
    at: float = 200.0,
    changed: float = 150.0,
    written: float | None = None,
    boot: str = "one",
    mesh: Inventory = RUST,
    name: str = "b",
    keys: tuple[str, tuple[int, int, int, int]] | None = None,
) -> ReadingRecord:
    return update_readings(
        before,
        digest_config(config, mesh.node, mesh.core_numbers(name)),
        profile=mesh.node,
        facts=FACTS,
        stamp=stamp(changed, written),
        now=BootTimestamp(boot, at),
        wall_s=WALL + at,
        keys=keys,
    )


def since(record: ReadingRecord) -> dict[int, float]:
    return {core: round(each.changed_s, 3) for core, each in record.cores.items()}


# What each process reads


def test_a_worker_reads_its_own_entries_and_what_stands_alone():
    before = digest_config(text(), RUST.node, range(1, 7))
    for old, new, whose in (
        ("/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32599", {2}),
        ("/ip4/0.0.0.0/tcp/25003", "/ip4/0.0.0.0/tcp/25099", {4}),
        ("/ip4/10.77.0.1/tcp/8340", "/ip4/10.77.0.3/tcp/8340", {1, 2, 3, 4, 5, 6}),
        ("listenMultiaddr: ''", "listenMultiaddr: /ip4/0.0.0.0/udp/9999/quic-v1", set()),
    ):
        assert text().count(old) == 1
        after = digest_config(text().replace(old, new), RUST.node, range(1, 7))
        assert {core for core in before.cores if before.cores[core] != after.cores[core]} == whose
        assert before.control != after.control
    assert digest_config(text() + "# mine\n", RUST.node, range(1, 7)) == before
    assert digest_config(text(), RUST.node, [2], more="keys").cores != {2: before.cores[2]}


def test_what_is_announced_is_read_by_the_control_process_alone():
    entries = ", ".join(f"/ip4/192.0.2.{core}/tcp/{24999 + core}" for core in (1, 2, 3))
    config = f"engine:\n  dataWorkerAnnounceP2PMultiaddrs: [{entries}]\n"
    before, after = (
        digest_config(each, RUST.node, [1, 2, 3]) for each in (config, config.replace("2.2/", "2.9/"))
    )
    assert before.cores == after.cores
    assert before.control != after.control


def test_a_profile_without_further_keys_is_digested_as_well():
    old = cluster(1, 2)
    digests = digest_config(edit_settings("", build_desired_settings(old, "b")), "2.0", [2, 3, 9])
    assert len({*digests.cores.values(), digests.control}) == 4
    with pytest.raises(BadInput):
        digest_config("engine: [", "2.0", [2])


def test_the_time_of_a_change_is_the_files_where_it_lies_between_two_looks():
    first = look(text(), at=200.0, changed=150.0)
    assert since(first) == {2: 150.0, 3: 150.0}
    other = text().replace("/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32599")
    second = look(other, first, at=300.0, changed=290.0)
    assert since(second) == {2: 290.0, 3: 150.0}
    assert second.control.changed_s == pytest.approx(290.0)
    # A file from elsewhere that is older than the last look, and one of the future.
    assert since(look(text(), second, at=400.0, changed=10.0))[2] == 400.0
    assert since(look(text(), second, at=400.0, changed=9999.0))[2] == 400.0
    # Its mode was changed after it was written; and its owner says that it was written before, or will be.
    assert since(look(text(), second, at=400.0, changed=395.0, written=390.0))[2] == pytest.approx(390.0)
    assert since(look(text(), second, at=400.0, changed=395.0, written=5.0))[2] == pytest.approx(395.0)
    assert since(look(text(), second, at=400.0, changed=395.0, written=9999.0))[2] == pytest.approx(395.0)
    # The same content, however often it is written.
    assert since(look(other, second, at=400.0, changed=395.0)) == since(second)


def test_a_process_is_not_outdated_that_has_read_what_was_put_back():
    other = text().replace("/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32599")
    record = look(text(), at=200.0, changed=150.0)
    for round_trip in range(1, MOST_EARLIER):
        at = 200.0 + 100 * round_trip
        record = look(other if round_trip % 2 else text(), record, at=at, changed=at - 10)
    reading = record.cores[2]
    assert reading.digest != record.cores[2].earlier[0][0]
    assert len(reading.earlier) == MOST_EARLIER - 1
    # Now the other text stands there, since 890; before that, from 790 on, the first one.
    assert [is_outdated(each, reading) for each in (100.0, 160.0, 300.0, 795.0, 895.0)] == [
        *(True, True, False, True, False)
    ]
    for more in range(5):
        at = 1000.0 + 100 * more
        record = look(text() if more % 2 == 0 else other, record, at=at, changed=at - 10)
        assert len(record.cores[2].earlier) == MOST_EARLIER
    # The first one stands there again, since 1390. Who was started with it at first, or of late, is known;
    # nothing is of those between.
    known = {160.0: False, 250.0: False, 300.0: True, 400.0: True, 895.0: True, 995.0: False, 1395.0: False}
    assert {each: is_outdated(each, record.cores[2]) for each in known} == known
    assert not is_outdated(0.0, None)


def test_a_file_that_is_older_than_the_machines_start_was_changed_before_it():
    assert since(look(text(), at=200.0, changed=-5000.0)) == {2: 0.0, 3: 0.0}


def test_what_was_changed_while_no_agent_ran_counts_from_the_files_time():
    first = look(text(), at=200.0)
    other = text().replace("/ip4/10.77.0.2/tcp/32501", "/ip4/10.77.0.2/tcp/32599")
    # Hours later, in the same start of the machine.
    assert since(look(other, first, at=9000.0, changed=5000.0))[2] == 5000.0
    # In the next one: all processes are younger than what did not change.
    again = look(other, first, at=60.0, changed=40.0, boot="two")
    assert since(again) == {2: 40.0, 3: 0.0}
    assert again.boot == "two"


def test_a_core_that_is_new_here_is_read_since_the_file_was_changed():
    first = look(text())
    more = cluster(1, 3, 3, node="2.1-rust", base_port=32500, p2p_base_port=25000)
    assert since(look(text(more), first, at=300.0, changed=290.0, mesh=more))[4] == 290.0


def test_a_record_is_current_for_its_file_profile_and_cores():
    record = look(text())
    assert is_current(record, stamp(150.0), None, "2.1-rust", range(2, 4))
    assert not is_current(record, stamp(151.0), None, "2.1-rust", range(2, 4))
    assert not is_current(record, stamp(150.0), stamp(140.0), "2.1-rust", range(2, 4))
    assert not is_current(record, stamp(150.0), None, "2.1", range(2, 4))
    assert not is_current(record, stamp(150.0), None, "2.1-rust", range(2, 5))
    with_keys = look(text(), keys=(digest_keys(b"a"), stamp(140.0)))
    assert is_current(with_keys, stamp(150.0), stamp(140.0), "2.1-rust", range(2, 4))


# Workers


def states(
    sockets: NodeSockets,
    *,
    wanted: ExpectedNode | None = None,
    readings: ReadingRecord | None = None,
    absent: dict[int, Absence] | None = None,
    now: float = 1000.0,
) -> dict[int, str]:
    judged = judge_workers(wanted or expected(), sockets, readings, absent or {}, now)
    return {each.core: each.state for each in judged}


def node(*connections: Connection, started: float = 160.0, user: int = 0) -> NodeSockets:
    """The worker of core 2, which is process 77; core 3 has none."""
    return NodeSockets((listens(OWN, 32501, process(77, started), user),), connections)


def test_a_worker_is_alive_that_listens_is_connected_and_up_to_date():
    assert states(node(calls(77, HUB)), readings=look(text())) == {2: "alive", 3: "silent"}


def test_a_worker_at_another_address_or_protocol_is_silent():
    sockets = NodeSockets((listens("127.0.0.1", 32501, process()), listens(OWN, 32501, process(), 0, "udp")))
    assert states(sockets) == {2: "silent", 3: "silent"}


def test_a_process_that_a_signal_stopped_is_named_with_the_command_that_lets_it_go_on():
    """Its sockets accept calls, so nothing else tells: as of a terminal in which Ctrl-Z was typed."""
    halted = msgspec.structs.replace(process(77), is_stopped=True)
    sockets = NodeSockets(tuple(listens(OWN, port, halted) for port in (32501, 32502)), (calls(77, HUB),))
    workers = judge_workers(expected(), sockets, look(text()), {}, 1000.0)
    assert [each.state for each in workers] == ["stopped", "stopped"]
    ports = tuple(msgspec.structs.replace(each, process=halted) for each in BOTH)
    control = judge_control(PORTS, NodeSockets(ports), None)
    assert control == ControlProcess("stopped", (), halted)
    report = NodeReport(name="b", control_node="a", directory="/n", workers=workers, control=control)
    found = [
        (each.code, each.severity, each.subject, each.cure)
        for each in own_process_findings(report, NodeHost(has_units=True))
    ]
    assert found == [
        ("control-silent", "error", "control process", "kill -CONT 77"),
        ("worker-silent", "error", "b cores 2-3", "kill -CONT 77"),
    ]


DOCKER = f"docker-{'0a1b2c3d' * 8}.scope"


@pytest.mark.parametrize(
    ("group", "cure"),
    [
        (f"system.slice/{DOCKER}", "docker unpause 0a1b2c3d0a1b"),
        (f"freezer/docker/{'0a1b2c3d' * 8}", "docker unpause 0a1b2c3d0a1b"),
        (f"machine.slice/libpod-{'0a1b2c3d' * 8}.scope", "podman unpause 0a1b2c3d0a1b"),
        ("system.slice/qmesh-worker@4.service", "systemctl thaw qmesh-worker@4.service"),
        ("user@7.service/x.service", "echo 0 > /sys/fs/cgroup/user@7.service/x.service/cgroup.freeze"),
        ("a b", "echo 0 > '/sys/fs/cgroup/a b/cgroup.freeze'"),
        ("freezer/x", "echo THAWED > /sys/fs/cgroup/freezer/x/freezer.state"),
    ],
)
def test_a_process_that_is_frozen_is_named_with_what_thaws_it(group, cure):
    """As Docker does that pauses a container: no signal tells it to go on."""
    frozen = msgspec.structs.replace(process(77), frozen=f"/sys/fs/cgroup/{group}")
    both = msgspec.structs.replace(frozen, number=78, is_stopped=True)
    sockets = NodeSockets((listens(OWN, 32501, frozen), listens(OWN, 32502, both)), (calls(77, HUB),))
    workers = judge_workers(expected(), sockets, look(text()), {}, 1000.0)
    assert [each.state for each in workers] == ["stopped", "stopped"]
    report = NodeReport(name="b", control_node="a", directory="/n", workers=workers, control=None)
    (found,) = own_process_findings(report, NodeHost(has_units=True))
    assert (found.code, found.cure) == ("worker-silent", f"{cure} && kill -CONT 78")
    assert "is frozen, as by `docker pause`" in found.seen


@pytest.mark.parametrize("everywhere", [EVERYWHERE, "::"])
def test_a_worker_at_every_address_listens_at_its_own_too(everywhere):
    """That it should not is `worker-wide`."""
    assert states(NodeSockets((listens(everywhere, 32501, process()),))) == {2: "connecting", 3: "silent"}


def test_a_worker_that_is_older_than_what_it_reads_is_outdated():
    sockets = node(calls(77, HUB), started=149.0)
    assert states(sockets, readings=look(text()))[2] == "outdated"
    # Or than its keys.yml, whatever that was written for.
    old, new = (digest_keys(each) for each in (b"old", b"new"))
    first = look(text(), at=200.0, changed=100.0, keys=(old, stamp(120.0)))
    again = look(text(), first, at=400.0, changed=100.0, keys=(old, stamp(380.0)))
    later = look(text(), again, at=600.0, changed=100.0, keys=(new, stamp(580.0)))
    assert [states(sockets, readings=each)[2] for each in (first, again, later)] == [
        "alive",
        "alive",
        "outdated",
    ]
    assert states(node(calls(77, HUB), started=590.0), readings=later)[2] == "alive"
    # Within the kernel's own resolution it is not told.
    assert states(node(calls(77, HUB), started=149.95), readings=look(text()))[2] == "alive"
    # Without a file that is known, nothing is.
    assert states(sockets)[2] == "alive"


def test_a_worker_without_a_connection_is_connecting_and_after_a_minute_cut_off():
    assert states(node())[2] == "connecting"
    assert states(node(), absent={2: Absence(77, 1000.0 - CUT_OFF_S + 1)})[2] == "connecting"
    assert states(node(), absent={2: Absence(77, 1000.0 - CUT_OFF_S)})[2] == "cut-off"
    # That was another process.
    assert states(node(), absent={2: Absence(76, 0.0)})[2] == "connecting"
    # Another node of the network, and another port of the control node.
    others = node(calls(77, "192.0.2.9"), calls(77, HUB, 9000))
    assert states(others, absent={2: Absence(77, 0.0)})[2] == "cut-off"


def test_a_worker_that_is_connected_to_another_machine_is_cut_off_at_once():
    (found, _) = judge_workers(expected(), node(calls(77, THIRD)), None, {}, 1000.0)
    assert (found.state, found.wrong_address) == ("cut-off", THIRD)
    assert states(node(calls(77, THIRD), calls(77, HUB)))[2] == "alive"
    # Where the control role was before, its process may run on.
    (found, _) = judge_workers(expected(), node(calls(77, "127.0.0.1")), None, {}, 1000.0)
    assert (found.state, found.wrong_address) == ("cut-off", "127.0.0.1")


def test_on_the_control_node_each_of_its_own_addresses_is_the_right_one():
    hub = expected(name="a")
    worker = listens(HUB, 32500, process(70))
    for remote in (HUB, "127.0.0.1", "192.168.0.200"):
        ends = (calls(70, remote, address=remote), calls(71, remote, 50000, address=remote, port=8340))
        assert states(NodeSockets((worker,), ends), wanted=hub) == {1: "alive"}
    assert states(NodeSockets((worker,), (calls(70, "192.0.2.9"),)), wanted=hub) == {1: "connecting"}


def test_what_is_not_known_of_a_profile_is_not_said():
    go = cluster(1, 2, node="2.1", base_port=32500, p2p_base_port=25000)
    assert states(node(), wanted=expected(go))[2] == "alive"
    assert states(node(calls(77, THIRD)), wanted=expected(go))[2] == "cut-off"
    old = cluster(1, 2, base_port=32500)
    assert states(node(calls(77, THIRD)), wanted=expected(old))[2] == "alive"


def test_a_process_that_the_kernel_does_not_show_is_alive_where_it_listens():
    assert states(NodeSockets((listens(OWN, 32501, None),)), readings=look(text()))[2] == "alive"


def test_a_user_who_cannot_read_the_config_runs_no_worker():
    wanted = expected(readers=[0, 1001])
    for user, state in ((0, "alive"), (1001, "alive"), (1002, "not-the-node")):
        assert states(node(calls(77, HUB), user=user), wanted=wanted)[2] == state


# Workers of other machines' cores


def test_a_worker_of_another_machines_core_is_found_by_its_port():
    sockets = NodeSockets(
        (
            listens(OWN, 32504, process(80)),
            listens(OWN, 32500, process(79)),
            listens(OWN, 32500, process(79)),
            listens(OWN, 32501, process(77)),
            listens(OWN, 32505, process(81), 0, "udp"),
            listens(EVERYWHERE, 32505, process(82)),
            listens(OWN, 32600, process(83)),
            listens(OWN, 40009, None),
        )
    )
    found = find_foreign_workers(expected(closed_ports=[40009, 32501]), sockets)
    assert [(each.port, each.core, each.owner) for each in found] == [
        (32500, 1, "a"),
        (32504, 5, "c"),
        (40009, None, None),
    ]


def test_another_nodes_sockets_are_set_aside_and_name_what_they_take_of_this_node():
    own, other = process(), process(90)
    control = FACTS.control_ports
    seen = NodeSockets(
        (
            listens(OWN, 32501, own),
            listens(EVERYWHERE, 32502, other),
            listens("127.0.0.1", 32501, other),  # which is in nobody's way
            listens(HUB, 32502, other),  # at another address
            listens(EVERYWHERE, 32502, None),
            listens(EVERYWHERE, 32502, other, protocol="udp"),
            listens("127.0.0.1", 8340, other),
            listens(EVERYWHERE, 8336, other, protocol="udp"),
        ),
        (calls(77, HUB), calls(90, HUB)),
    )
    ours = set_aside_other_nodes(seen, {90: "/b"})
    assert [each.process for each in ours.listening] == [own, None]
    assert ours.connections == (calls(77, HUB),)
    assert set_aside_other_nodes(seen, {}) == seen
    worker = TakenPort("tcp", EVERYWHERE, 32502, other, "/b", 3)
    ports = (
        TakenPort("tcp", "127.0.0.1", 8340, other, "/b", None),
        TakenPort("udp", EVERYWHERE, 8336, other, "/b", None),
    )
    found = msgspec.structs.replace(seen, listening=tuple(each for each in seen.listening if each.process))
    assert find_taken_ports(expected(), (), found, {90: "/b"}) == (worker,)
    assert find_taken_ports(expected(), control, found, {90: "/b"}) == (worker, *ports)
    assert find_taken_ports(expected(), control, found, {}) == ()
    # What this node has itself, nobody has taken.
    assert find_taken_ports(expected(), (), seen, {90: "/b"}) == ()
    assert judge_control(control, set_aside_other_nodes(found, {90: "/b"}), None) == ControlProcess(
        "silent", ("8336/udp", "8340/tcp")
    )


def test_ports_that_are_taken_on_purpose_are_no_workers():
    mesh = cluster(1, 2, node="2.1-rust", base_port=8330, p2p_base_port=25000, service_port=325)
    big = msgspec.structs.replace(mesh, machines=(*mesh.machines, *cluster(1, 1, 9).machines[2:]))
    sockets = NodeSockets((listens(OWN, 8340, process(9)), listens(OWN, 8336, process(9))))
    assert [each.port for each in find_foreign_workers(expected(big), sockets)] == [8336]


def test_a_paused_and_a_removed_machine_has_no_cores_left():
    paused = pause_machine(RUST, "b")
    sockets = node(calls(77, HUB))
    (found,) = find_foreign_workers(expected(paused), sockets)
    assert (found.port, found.core, found.owner) == (32501, 2, "c")
    (found,) = find_foreign_workers(expected(removed=True), sockets)
    assert (found.port, found.core, found.owner) == (32501, None, None)
    assert states(sockets, wanted=expected(removed=True)) == {}


def test_only_its_connections_through_the_tunnel_are_to_be_cut():
    own, foreign = process(77), process(80)
    to_hub, from_hub = calls(80, HUB), calls(80, HUB, 40000, port=32504)
    others = (calls(77, HUB), calls(80, "192.0.2.9"), calls(0, HUB, 40001, port=32501))
    sockets = NodeSockets(
        (listens(OWN, 32504, foreign), listens(OWN, 32501, own)), (to_hub, from_hub, *others)
    )
    found = find_foreign_workers(expected(), sockets)
    assert list_foreign_connections(expected(), sockets, found) == (to_hub, from_hub)
    # A process that has cores of this machine too loses only what came in for the others.
    both = NodeSockets((listens(OWN, 32504, own), listens(OWN, 32501, own)), (calls(77, HUB), from_hub))
    assert list_foreign_connections(expected(), both, find_foreign_workers(expected(), both)) == (from_hub,)
    unknown = NodeSockets((listens(OWN, 32504, None),), (calls(0, HUB), from_hub))
    assert list_foreign_connections(expected(), unknown, find_foreign_workers(expected(), unknown)) == (
        from_hub,
    )


# The control process


@pytest.mark.parametrize(
    ("listen", "profile", "ports"),
    [
        ("/ip4/0.0.0.0/udp/8336/quic-v1", "1.4", (("udp", 8336),)),
        ("/ip6/::/tcp/9999", "2.0", (("tcp", 9999),)),
        ("/ip4/0.0.0.0/udp/8336/quic-v1", "2.1", (("udp", 8336), ("tcp", 8340))),
        ("''", "2.1-rust", (("udp", 8336), ("tcp", 8340))),
        ("/unix/x", "2.1-rust", (("tcp", 8340),)),
        ("''", "2.1", (("tcp", 8340),)),
        ("''", "2.0", ()),
    ],
)
def test_where_the_control_process_is_reached_is_said_by_its_config(listen, profile, ports):
    assert list_control_ports(f"p2p:\n  listenMultiaddr: {listen}\n", profile) == ports


PORTS = FACTS.control_ports
BOTH = (listens(EVERYWHERE, 8336, process(60), 0, "udp"), listens(EVERYWHERE, 8340, process(60)))


def test_a_control_process_is_silent_outdated_or_alive():
    assert judge_control(PORTS, NodeSockets(BOTH), None) == ControlProcess("alive", (), process(60))
    young, old = look(text(), changed=50.0), look(text(), changed=150.0)
    assert judge_control(PORTS, NodeSockets(BOTH), young) == ControlProcess("alive", (), process(60))
    assert judge_control(PORTS, NodeSockets(BOTH), old) == ControlProcess("outdated", (), process(60))
    assert judge_control(PORTS, NodeSockets(), old) == ControlProcess("silent", ("8336/udp", "8340/tcp"))
    half = judge_control(PORTS, NodeSockets(BOTH[:1]), old)
    assert half == ControlProcess("silent", ("8340/tcp",), process(60))
    inside = NodeSockets((BOTH[0], listens("127.0.0.1", 8340, process(60))))
    assert judge_control(PORTS, inside, None) == half
    hidden = NodeSockets(tuple(msgspec.structs.replace(each, process=None) for each in BOTH))
    assert judge_control(PORTS, hidden, old) == ControlProcess("alive")
    assert judge_control((), NodeSockets(BOTH), old) is None


def test_which_workers_it_has_called_is_remembered_until_it_is_another_one():
    places = mesh(machine("a", 1, 1), machine("b", 2, 4), base_port=32500)
    control = ControlProcess("alive", (), process(60))
    seen = NodeSockets((), (calls(60, OWN, 32501), calls(61, OWN, 32502), calls(60, OWN, 9)))
    assert list_called_cores(control, seen, places) == {2}
    assert list_called_cores(None, seen, places) == list_called_cores(ControlProcess("silent"), seen, places)
    first = update_calls(None, control.process, frozenset({2}), 500.0)
    assert first == CalledWorkers(60, 100.0, 500.0, (2,))
    assert update_calls(first, control.process, frozenset({3}), 505.0) == CalledWorkers(
        60, 100.0, 500.0, (2, 3)
    )
    assert update_calls(first, process(60, 501.0), frozenset(), 505.0) == CalledWorkers(60, 501.0, 505.0)
    assert update_calls(first, None, frozenset(), 505.0) is None


def test_cores_are_uncalled_once_the_same_process_was_watched_for_a_while():
    called = CalledWorkers(60, 400.0, 500.0, (2,))
    record, own = ProcessRecord(boot="one", called=called), process(60, 400.0)
    late = BootTimestamp("one", 500.0 + CALLED_S)
    assert list_uncalled_cores(record, own, [2, 3], late) == (3,)
    assert list_uncalled_cores(record, own, [2, 3], BootTimestamp("one", 499.0 + CALLED_S)) == ()
    assert list_uncalled_cores(record, own, [2, 3], BootTimestamp("two", 9999.0)) == ()
    assert list_uncalled_cores(record, process(60, 450.0), [2, 3], late) == ()
    assert list_uncalled_cores(record, None, [2, 3], late) == ()
    assert list_uncalled_cores(ProcessRecord(boot="one"), own, [2, 3], late) == ()
    assert list_uncalled_cores(None, own, [2, 3], late) == ()


def test_who_has_no_connection_is_so_since_the_first_look_that_saw_it():
    before = {2: Absence(77, 10.0), 3: Absence(78, 11.0), 4: Absence(79, 12.0)}
    after = update_absences(before, {2: process(77), 3: process(99), 5: process(80)}, 20.0)
    assert after == {2: Absence(77, 10.0), 3: Absence(99, 20.0), 5: Absence(80, 20.0)}


def test_a_records_times_are_of_one_start_of_the_machine():
    assert ProcessRecord(boot="one").is_of(BootTimestamp("one", 5.0))
    assert not ProcessRecord(boot="one").is_of(BootTimestamp("two", 5.0))


# In words


def worker(core: int, state: WorkerState, by: NodeProcess | None, wrong: str | None = None) -> WorkerProcess:
    return WorkerProcess(core, state, by, wrong)


def test_a_unit_is_restarted_by_systemd_and_another_process_as_it_was_started():
    unit = worker(4, "outdated", process(7, unit="qmesh-worker@4.service"))
    bare, more = worker(5, "outdated", process(8)), worker(6, "outdated", process(9))
    ours = worker(5, "outdated", process(8, unit="node.service"))
    assert [
        describe_worker_restart(each, are_all=False, directory=where)
        for each, where in (
            ((unit,), "/n"),
            ((bare,), "/root/my node"),
            ((unit, bare, more), None),
            ((ours,), "/n"),
            ((worker(5, "silent", None),), "/n"),
        )
    ] == [
        "systemctl restart qmesh-worker@4.service",
        "restart the worker of core 5 (--config '/root/my node' --core 5); now node (process 8)",
        "restart the workers of cores 4-6; now node (process 7) in qmesh-worker@4.service and 2 more",
        "restart the worker of core 5 (--config /n --core 5); now node (process 8) in node.service",
        "restart the worker of core 5 (--config /n --core 5)",
    ]
    assert describe_worker_restart((unit,), are_all=True, directory="/n") == (
        "systemctl restart qmesh-workers.target"
    )
    assert [
        describe_control_restart(each, NodeHost(has_units=units, directory="/n"))
        for each, units in (
            (None, False),
            (None, True),
            (process(7), True),
            (process(7, unit="qmesh-control.service"), True),
        )
    ] == [
        "start the control process (--config /n)",
        "systemctl start qmesh-control.service",
        "restart the control process (--config /n); now node (process 7)",
        "systemctl restart qmesh-control.service",
    ]
    without = NodeHost(has_units=True, has_control_unit=False)  # a machine that has become the control node
    assert describe_control_restart(None, without) == (
        "qmesh units --write /etc/systemd/system && systemctl daemon-reload"
        " && systemctl enable --now qmesh-control.service"
    )
    foreign = ForeignWorker(OWN, 32504, process(7, unit="qmesh-worker@5.service"), 5, "c")
    assert describe_stop(foreign) == "systemctl stop qmesh-worker@5.service"
    for by, named in ((process(7), "node (process 7)"), (None, "a program")):
        bare_one = msgspec.structs.replace(foreign, process=by)
        assert describe_stop(bare_one) == f"stop {named}, which listens on {OWN} port 32504"


def findings(report: NodeReport) -> list[tuple[str, str, str]]:
    found = [*foreign_worker_findings(report), *own_process_findings(report, NodeHost(has_units=False))]
    assert {each.severity for each in found} <= {"error"}
    return [(each.code, each.subject, each.seen) for each in found]


def test_what_is_wrong_is_an_error_each_with_its_cores():
    report = NodeReport(
        name="b",
        control_node="a",
        directory="/n",
        workers=(
            worker(2, "alive", process(1)),
            worker(3, "outdated", process(2)),
            worker(4, "outdated", process(3)),
            worker(5, "cut-off", process(4)),
            worker(6, "cut-off", process(5), THIRD),
            worker(7, "not-the-node", process(6)),
            worker(8, "connecting", process(7)),
            worker(9, "silent", None),
        ),
        foreign=(
            ForeignWorker(OWN, 32504, process(8), 5, "c"),
            ForeignWorker("fd77::2", 32599, process(9), None, None),
        ),
    )
    assert findings(report) == [
        ("worker-not-ours", "10.77.0.2:32504", "node (process 8) runs core 5, which is c's"),
        (
            "worker-not-ours",
            "[fd77::2]:32599",
            "node (process 9) runs a core that no machine of the mesh has",
        ),
        ("worker-outdated", "b cores 3-4", "they were started before a file was changed"),
        ("worker-cut-off", "b core 5", "no connection for more than a minute"),
        ("worker-cut-off", "b core 6", "a connection to 10.77.0.3 in its place"),
        ("worker-not-ours", "b core 7", "node (process 6), of a user who cannot read config.yml"),
    ]
    cures = {each.subject: each.cure for each in own_process_findings(report, NodeHost(has_units=False))}
    assert cures["b core 5"].startswith("run `qmesh check` on a; if all is well there: restart the worker")
    hub = msgspec.structs.replace(report, name="a", workers=(worker(1, "cut-off", process(4)),), foreign=())
    assert [each.cure for each in own_process_findings(hub, NodeHost(has_units=False))] == [
        "restart the worker of core 1 (--config /n --core 1); now node (process 4)"
    ]
    one = msgspec.structs.replace(hub, workers=(worker(1, "outdated", process(4)),))
    assert findings(one) == [("worker-outdated", "a core 1", "it was started before a file was changed")]


def test_the_control_process_is_told_of_where_something_is_wrong_with_it():
    report = NodeReport(name="a", control_node="a", directory="/n")
    for control, told in (
        (ControlProcess("alive"), []),
        (
            ControlProcess("silent", ("8336/udp", "8340/tcp")),
            [("control-silent", "control process", "nothing listens on 8336/udp and 8340/tcp")],
        ),
        (
            ControlProcess("outdated", (), process(60)),
            [
                (
                    "control-outdated",
                    "control process",
                    "node (process 60) was started before config.yml was changed",
                )
            ],
        ),
    ):
        assert findings(msgspec.structs.replace(report, control=control)) == told
    assert list(foreign_worker_findings(None)) == []
