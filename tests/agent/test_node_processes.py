"""What is seen of the node's processes on a machine, by commands and by the agent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.local import Local, load_local
from qmesh.agent.node.node_processes import look_for_command, read_readings
from qmesh.agent.node.other_nodes import OtherNodeWatch
from qmesh.agent.node.process_watch import ProcessWatch
from qmesh.agent.node.worker_status import find_worker_note, probe_answers
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import PortReservations
from qmesh.mesh.audit.node.processes import own_process_findings
from qmesh.mesh.changes import set_worker_count
from qmesh.mesh.node_processes.reading_record import Reading, ReadingRecord
from qmesh.mesh.node_processes.readings import SLACK_S
from qmesh.mesh.node_processes.record import CUT_OFF_S, ProcessRecord
from qmesh.mesh.node_processes.unconnected import UnconnectedMachine
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.systemd.instructions import NodeHost
from tests.support.control_node import make_control_node
from tests.support.factories import key
from tests.support.fuse import mount_fuse
from tests.support.waiting import idle, wait_until, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWNER, STRANGER = 1001, 1002
HOME = Path("/run/alice")
CONFIG = HOME / ".config"
OWN, HUB = "10.77.0.1", "10.77.0.7"
ENTRIES = ", ".join(f"/ip4/{OWN}/tcp/{port}" for port in (40000, 40001, 40002))
LISTEN = "/ip4/0.0.0.0/udp/8336/quic-v1"
TEXT = f"engine:\n  dataWorkerMultiaddrs: [{ENTRIES}]\np2p:\n  listenMultiaddr: {LISTEN}\n"
PROGRAM = f"""
import os, socket, sys
os.setuid(int(sys.argv[1]))
kept = [socket.create_server(("{OWN}", int(port))) for port in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.read()
"""


def make() -> State:
    """A control node of three workers, whose node's directory is a user's."""
    Path("/run").chmod(0o755)
    CONFIG.mkdir(parents=True)
    (CONFIG / "config.yml").write_text(TEXT, encoding="utf-8")
    (CONFIG / "config.yml").chmod(0o600)
    for path in (HOME, CONFIG, CONFIG / "config.yml"):
        os.chown(path, OWNER, OWNER)
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, config=CONFIG)
    for address in (OWN, HUB):
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
    return state


@contextlib.contextmanager
def worker(user: int, *ports: int) -> Iterator[int]:
    """A process of a user that listens at these ports of this machine's tunnel address; its number."""
    words = [sys.executable, "-c", PROGRAM, str(user), *map(str, ports)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        idle(2 * SLACK_S)  # what is changed from here on, is so after its start as far as the kernel tells
        try:
            yield process.pid
        finally:
            process.kill()


def states(state: State, here: Local) -> list[str]:
    return [each.state for each in look_for_command(state, here)[0].report.workers]


def test_n2_a_users_program_at_a_workers_port_that_cannot_read_the_file_is_not_the_node():
    state = make()
    here = load_local(state)
    with worker(OWNER, 40000), worker(STRANGER, 40001) as stranger:
        look, _ = look_for_command(state, here)
        assert [each.state for each in look.report.workers] == ["alive", "not-the-node", "silent"]
        found = look.report.workers[1].process
        assert found is not None
        assert found.number == stranger
        ProcessWatch(state).look(here)
        # Anyone may read it: then it may be anyone's node.
        (CONFIG / "config.yml").chmod(0o644)
        assert states(state, here) == ["alive", "alive", "silent"]


OTHER_NODE = """
import socket, sys
tcp = socket.create_server((sys.argv[3] if len(sys.argv) > 3 else "", 40001))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 8336))
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def other_node(config: str, *address: str, cwd: Path = Path("/")) -> Iterator[int]:
    """A program that is called like a node's and was given that config directory; its number.

    address: at which it listens at a worker's port, if that is not every one.
    """
    program = Path("/run/other/quil-node")
    program.parent.mkdir(exist_ok=True)
    program.write_text(OTHER_NODE, encoding="utf-8")
    words = [sys.executable, str(program), "--config", config, *address]
    with subprocess.Popen(
        words, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def test_a_second_node_on_the_machine_is_not_mixed_up_with_this_one_and_names_the_ports_that_it_took():
    state = make()
    here = load_local(state)
    other = Path("/run/bob/.config")
    other.mkdir(parents=True)
    (other / "config.yml").write_text(TEXT, encoding="utf-8")
    with worker(OWNER, 40000), other_node(str(other)) as number:
        report = look_for_command(state, here)[0].report
        assert [each.state for each in report.workers] == ["alive", "silent", "silent"]
        assert report.control is not None
        assert (report.control.state, report.control.process) == ("silent", None)
        taken = [(each.protocol, each.port, each.core, each.process.number) for each in report.taken]
        assert sorted(taken) == [("tcp", 40001, 2, number), ("udp", 8336, None, number)]
        assert {each.directory for each in report.taken} == {str(other)}
        findings = list(own_process_findings(report, NodeHost(has_units=False)))
        assert [(each.code, each.subject) for each in findings] == [
            ("worker-not-ours", "control core 2"),
            ("control-silent", "control process"),
        ]
        for finding, port in zip(findings, ("40001", "8336"), strict=True):
            assert finding.wanted == f"port {port} free for this machine's node"
            assert finding.seen == f"another node has it, that of {other}: python (process {number})"
            assert f"{other}/config.yml" in finding.cure
        watch = ProcessWatch(state)
        wait_until(lambda: watch._look(here).report.taken != (), 30)
        assert watch._look(here).report == report
    # The same program with this node's directory, by whatever path, is this node.
    (Path("/run/bob") / "link").symlink_to(CONFIG)
    for path, cwd in ((str(CONFIG), Path("/")), ("/run/bob/link", Path("/")), (".config", HOME)):
        with other_node(path, cwd=cwd):
            report = look_for_command(state, here)[0].report
            assert report.taken == ()
            assert report.workers[1].state == "alive"
    # And so is one whose directory is not there, as within a container.
    with other_node("/run/nowhere"):
        assert look_for_command(state, here)[0].report.taken == ()


def test_what_a_second_node_has_answers_for_no_worker_of_this_one_and_is_not_noted_as_its_place():
    state = make()
    here = load_local(state)
    other = Path("/run/bob/.config")
    other.mkdir(parents=True)
    (other / "config.yml").write_text(TEXT, encoding="utf-8")

    def noted() -> MemberNote:
        return find_worker_note(here, OtherNodeWatch(wait_s=10.0).find)

    def why() -> str:
        answers = dict(probe_answers(here, notes=())["control"])
        return next(answer.why for worker, answer in answers.items() if worker.core == 2)

    for address in ("127.0.0.1", ""):
        with other_node(str(other), address):
            assert noted() == MemberNote()
    with other_node(str(other), "127.0.0.1"):
        assert why() == "absent"
    with other_node(str(CONFIG), "127.0.0.1"):
        assert noted() == MemberNote(elsewhere=((2, "127.0.0.1"),))
        assert why() == "elsewhere"


def test_the_agent_waits_for_no_directory_of_a_process_and_learns_whose_it_is_once_it_can_be_read():
    state = make()
    here = load_local(state)
    other = Path("/run/bob/.config")
    other.mkdir(parents=True)
    (other / "config.yml").write_text(TEXT, encoding="utf-8")
    watch = ProcessWatch(state)
    mounted = mount_fuse(other, user=0)
    with worker(OWNER, 40000), other_node(str(other)):
        for _ in range(3):
            with within(3.0):
                assert watch._look(here).report.taken == ()
        os.close(mounted)
        subprocess.run(["umount", "--lazy", str(other)], check=True)
        watch._other_nodes._asked_at -= 60.0
        wait_until(lambda: watch._look(here).report.taken != (), 30)


def test_n2_a_file_whose_disk_does_not_answer_hides_no_process():
    state = make()
    here = load_local(state)
    mount_fuse(CONFIG, user=0)
    with worker(OWNER, 40000, 40001, 40002):
        look, _ = look_for_command(state, here)
    assert [each.state for each in look.report.workers] == ["alive"] * 3
    assert look.readings is None
    assert not look.is_begun


def test_n2_a_process_that_is_stopped_is_looked_at_as_any_other():
    state = make()
    here = load_local(state)
    with worker(OWNER, 40000) as number:
        os.kill(number, signal.SIGSTOP)
        assert states(state, here)[0] == "stopped"
        os.kill(number, signal.SIGCONT)
        assert states(state, here)[0] == "alive"


def test_n2_what_changed_while_nobody_looked_is_known_of_the_files_time():
    state = make()
    here, watch = load_local(state), ProcessWatch(state)
    with worker(OWNER, 40000, 40001):
        watch.look(here)
        assert states(state, here) == ["alive", "alive", "silent"]
        record = state.process_record.read_valid()
        assert record is not None
        (CONFIG / "config.yml").write_text(TEXT.replace("40001", "40009"), encoding="utf-8")
        os.utime(CONFIG / "config.yml", (0, 0))
        # The same process has both ports; only what core 2 reads is another.
        assert states(state, here) == ["alive", "outdated", "silent"]
        assert state.process_record.read_valid() == record
        # As if the agent had been started again by now.
        later = ProcessWatch(state)
        later.look(here)
        assert states(state, here) == ["alive", "outdated", "silent"]
        (CONFIG / "config.yml").write_text(TEXT, encoding="utf-8")
        assert states(state, here) == ["alive", "alive", "silent"]


def test_n2_workers_that_were_started_with_another_key_are_outdated():
    state = make()
    here = load_local(state)
    keyed = f"{TEXT}  peerPrivKey: {'ab' * 57}\n"
    (CONFIG / "config.yml").write_text(keyed, encoding="utf-8")
    with worker(OWNER, 40000, 40001):
        ProcessWatch(state).look(here)
        (CONFIG / "config.yml").write_text(keyed.replace("ab", "AB"), encoding="utf-8")
        assert states(state, here) == ["alive", "alive", "silent"]
        (CONFIG / "config.yml").write_text(keyed.replace("ab", "cd"), encoding="utf-8")
        assert states(state, here) == ["outdated", "outdated", "silent"]
    assert "abab" not in state.process_record.path.read_text(encoding="utf-8")


def keys_read(here: Local, before: ReadingRecord | None = None) -> tuple[ReadingRecord, Reading | None]:
    """What the processes read by now, and of that keys.yml."""
    record = None if before is None else ProcessRecord(boot=before.boot, readings=before)
    found = read_readings(here, record)
    assert found is not None
    return found, found.keys


def test_n2_the_keys_yml_of_a_worker_machine_counts_by_what_it_says():
    state = make()
    here, keys = load_local(state), CONFIG / "keys.yml"
    keys.write_text("a: {id: a, privateKey: '01'}\n", encoding="utf-8")
    assert keys_read(here)[1] is None, "the control process writes its own"
    hub = msgspec.structs.replace(here.machine, name="hub", address=HUB, public_key=key(9), workers=1)
    mesh = msgspec.structs.replace(
        here.inventory, control="hub", machines=(here.machine, hub), node="2.1-rust", p2p_base_port=25000
    )
    here = msgspec.structs.replace(here, inventory=mesh)

    first, old = keys_read(here)
    assert old is not None
    assert keys_read(here, first)[0] is first
    keys.write_text("# mine\na: {privateKey: '01', id: a}\n", encoding="utf-8")
    assert keys_read(here, first)[1] == old
    keys.write_text("a: {id: a, privateKey: '02'}\n", encoding="utf-8")
    second, new = keys_read(here, first)
    assert new is not None
    assert new.digest != old.digest
    assert new.changed_s > old.changed_s
    keys.write_text("a: [", encoding="utf-8")
    assert keys_read(here, second)[1] == new
    keys.unlink()
    assert keys_read(here, second)[1] is None


def test_n2_a_damaged_record_is_as_none_and_made_again():
    state = make()
    here = load_local(state)
    ProcessWatch(state).look(here)
    state.process_record.path.write_text("{", encoding="utf-8")
    assert state.process_record.read_valid() is None
    ProcessWatch(state).look(here)
    assert state.process_record.read_valid() is not None


def test_n2_connections_of_another_machines_worker_are_cut_and_that_is_said_once(caplog):
    state = make()
    with Registry(state.registry_file) as registry:
        registry.change_mesh(
            lambda mesh: set_worker_count(mesh, mesh.control, 2),
            command="set",
            what="machine-changed",
            machine=load_local(state).inventory.control,
            now=1_800_000_000,
        )
    here = load_local(state)
    with worker(OWNER, 40000, 40001):
        assert look_for_command(state, here)[0].report.foreign == ()
    with worker(OWNER, 40000), socket.create_server((OWN, 40002)) as server:
        state.save_port_reservations(PortReservations((40002,)))
        calls = socket.create_connection((OWN, 40002), source_address=(HUB, 0))
        watch = ProcessWatch(state)
        for _ in range(2):
            watch._look(here)
        with pytest.raises(ConnectionError):
            calls.recv(1)
        calls.close()
        assert server.fileno() > 0
    said = [each for each in caplog.messages if "are cut" in each]
    assert len(said) == 1
    assert "a core that no machine of the mesh has: its connections through the tunnel are cut" in said[0]


def test_n2_a_machine_without_enough_connections_is_told_by_the_control_node_after_a_minute():
    state = make()
    here = load_local(state)
    other = msgspec.structs.replace(here.machine, name="other", address=HUB, public_key=key(9), workers=2)
    mesh = msgspec.structs.replace(
        here.inventory, machines=(here.machine, other), node="2.1-rust", p2p_base_port=25000
    )
    here, watch = msgspec.structs.replace(here, inventory=mesh), ProcessWatch(state)
    with (
        socket.create_server(("0.0.0.0", 8340)),  # noqa: S104 - as the control process has it
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as quic,
    ):
        assert watch._look(here).report.unconnected == ()
        assert watch._record is not None
        assert watch._record.unconnected == {}, "no control process, so that nobody can be connected"
        quic.bind(("0.0.0.0", 8336))  # noqa: S104 - the same
        watch._look(here)
        (begun_s,) = watch._record.unconnected.values()
        watch._record = msgspec.structs.replace(watch._record, unconnected={"other": begun_s - CUT_OFF_S})
        assert watch._look(here).report.unconnected == (UnconnectedMachine("other", (4, 5), 0),)
        with contextlib.ExitStack() as calls:
            for _ in range(2):
                calls.enter_context(socket.create_connection((OWN, 8340), source_address=(HUB, 0)))
            assert watch._look(here).report.unconnected == ()
            assert watch._record.unconnected == {}
