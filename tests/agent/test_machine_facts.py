"""Facts of machines: what one gathers of itself, when it tells them, and what the control node keeps."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh import __version__
from qmesh.agent.commands.status import _describe_unlike_machines
from qmesh.agent.local import Local, load_local
from qmesh.agent.machine_facts import bench, gatherer
from qmesh.agent.machine_facts.gatherer import FactsGatherer, SpeedMeter, read_report_key
from qmesh.agent.machine_facts.keeper import REREAD_S, FactsKeeper, with_own_facts
from qmesh.agent.machine_facts.teller import FactsTeller
from qmesh.errors import MachineRefused
from qmesh.host.machine_facts import program_digest
from qmesh.host.machine_facts.core_speed import measure_core_speed
from qmesh.host.machine_facts.program_digest import ProgramDigest
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.machine import Machine
from qmesh.mesh.machine_facts.facts import MOST_RELABELLED, MachineFacts, ToldFacts, WorkerFacts
from qmesh.mesh.machine_facts.schedule import TELL_S
from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.workers import WorkerProcess
from qmesh.mesh.nodeconfig.program_version import NodeProgram, ProgramVersion
from qmesh.mesh.proof_report.report_keys import derive_report_keys
from qmesh.mesh.protocol.facts_report import decrypt_facts, encrypt_facts
from qmesh.mesh.values import Secret
from tests.support.factories import key
from tests.support.registries import MESH, NOW, invite, redeem

B, C = "10.77.0.2", "10.77.0.3"
FACTS = MachineFacts(qmesh="0.1.0", cpu="A", cores=4, workers=(WorkerFacts(5, 5, 1), WorkerFacts(6, 6, 0)))


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A control node, cores 1-3, with machine-b, cores 4-5, and machine-c, cores 6-7."""
    place = tmp_path_factory.mktemp("control")
    (place / "node").mkdir()
    state = State(place / "state")
    state.create_directory()
    Registry.create(state.registry_file, MESH, now=NOW)
    state.save_settings(
        Settings(
            mesh=MESH.mesh,
            name="control",
            control=True,
            interface="qmesh0",
            listen_port=51820,
            verification_key=bytes(32),
            config_directory=str(place / "node"),
            config_owner=os.geteuid(),
        )
    )
    with Registry(state.registry_file) as registry:
        for number, name in enumerate(("machine-b", "machine-c"), 1):
            redeem(registry, invite(registry, name), key(number))
    return load_local(state)


def control_directory(control: Local) -> Path:
    directory = control.settings.config_directory
    assert directory is not None
    return Path(directory).parent / "state"


def member(control: Local, name: str = "machine-b") -> Local:
    """That machine, as it knows the mesh."""
    settings = msgspec.structs.replace(control.settings, name=name, control=False)
    hub, own = control.inventory.control_node.public_key, control.inventory.machine(name).public_key
    return msgspec.structs.replace(control, settings=settings, preshared={hub: control.preshared[own]})


def told_by(here: Local, facts: MachineFacts = FACTS) -> bytes:
    return FactsTeller(lambda: ToldFacts(B, 1.0, facts)).build_report(here, here.inventory.control_node)


def keeper_of(*reports: dict[str, bytes]) -> FactsKeeper:
    waiting = list(reports)
    return FactsKeeper(lambda: waiting.pop(0) if waiting else {})


def known(keeper: FactsKeeper) -> dict[str, MachineFacts]:
    return {each.address: each.facts for each in keeper.list_facts()}


# What is told, and when


def test_facts_are_told_once_and_again_where_the_question_failed(control):
    here, teller = member(control), FactsTeller(lambda: ToldFacts(B, 1.0, FACTS))
    hub = here.inventory.control_node
    assert teller.build_report(here, hub)
    assert teller.build_report(here, hub), "nothing says that it was heard"
    waiting = [teller.is_waiting]
    teller.note_answer()
    assert [*waiting, teller.is_waiting] == [True, False]
    assert teller.build_report(here, hub) == b""
    teller.note_answer()
    assert teller.build_report(here, hub) == b""
    teller.note_failure()
    assert teller.build_report(here, hub)


def test_facts_are_told_again_after_some_minutes(control, monkeypatch):
    here, teller = member(control), FactsTeller(lambda: ToldFacts(B, 1.0, FACTS))
    hub = here.inventory.control_node
    assert teller.build_report(here, hub)
    teller.note_answer()
    later = time.monotonic() + TELL_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert teller.build_report(here, hub)


def test_facts_that_cannot_be_told_are_not_waited_for_without_end(control):
    here, teller = member(control), FactsTeller(lambda: None)
    hub = here.inventory.control_node
    for _ in range(100):
        teller.build_report(here, hub)
        teller.note_answer()
    waiting = [teller.is_waiting]
    teller.note_failure()
    assert [*waiting, teller.is_waiting] == [False, True]


def test_nothing_is_told_before_it_is_known_or_without_the_key_of_the_two(control):
    here = member(control)
    hub = here.inventory.control_node
    assert FactsTeller(lambda: None).build_report(here, hub) == b""
    beyond = msgspec.structs.replace(FACTS, cores=2**60)
    assert told_by(here, beyond) == b"", "it asks for the membership all the same"
    assert (
        FactsTeller(lambda: ToldFacts(B, 1.0, FACTS)).build_report(
            msgspec.structs.replace(here, preshared={}), hub
        )
        == b""
    )


def test_n3_only_the_control_node_reads_what_is_told(control):
    sealed = told_by(member(control))
    shared = control.preshared[control.inventory.machine("machine-b").public_key]
    assert decrypt_facts(sealed, shared, cores=range(1, 18)) == FACTS
    assert b"0.1.0" not in sealed


# What the control node keeps


def test_the_latest_facts_of_each_member_are_kept_and_of_its_own_cores_alone(control):
    of_b, of_c = told_by(member(control)), told_by(member(control, "machine-c"))
    newer = told_by(member(control), msgspec.structs.replace(FACTS, cpu="B"))
    keeper = keeper_of({B: of_b, C: of_c}, {B: newer})
    keeper.look(control)
    assert {at: [each.core for each in facts.workers] for at, facts in known(keeper).items()} == {
        B: [5],
        C: [6],
    }
    keeper.look(control)
    assert {at: facts.cpu for at, facts in known(keeper).items()} == {B: "B", C: "A"}
    assert all(abs(each.at - time.time()) < 60 for each in keeper.list_facts())


def test_n3_labels_of_a_member_that_change_again_and_again_are_kept_as_they_were(control):
    told = [
        told_by(member(control), msgspec.structs.replace(FACTS, cpu=f"model {number}", load=float(number)))
        for number in range(20)
    ]
    keeper = keeper_of(*({B: each} for each in told))
    found = set()
    for number in range(20):
        keeper.look(control)
        assert known(keeper)[B].load == number
        found.add(known(keeper)[B].cpu)
    assert len(found) == 1 + MOST_RELABELLED


def test_n3_a_machine_cannot_speak_for_another_one(control):
    of_b = told_by(member(control))
    keeper = keeper_of({C: of_b, "10.77.0.9": of_b, B: b"x" * 40})
    keeper.look(control)
    assert known(keeper) == {}


def test_n3_what_is_no_fact_hides_none(control):
    shared = control.preshared[control.inventory.machine("machine-b").public_key]
    lying = msgspec.structs.replace(FACTS, cores=4)
    sealed = encrypt_facts(lying, shared, nonce=bytes(12))
    keeper = keeper_of({B: told_by(member(control))}, {B: sealed[:-1]}, {B: b""})
    for _ in range(3):
        keeper.look(control)
    assert known(keeper)[B].qmesh == "0.1.0"


def test_n3_facts_go_with_their_machine_and_with_the_control_role(control):
    keeper = keeper_of({B: told_by(member(control)), C: told_by(member(control, "machine-c"))})
    keeper.look(control)
    others = tuple(each for each in control.inventory.machines if each.name != "machine-b")
    left = msgspec.structs.replace(
        control, inventory=msgspec.structs.replace(control.inventory, machines=others)
    )
    keeper.look(left)
    assert known(keeper).keys() == {C}
    with_new_key = tuple(
        msgspec.structs.replace(each, public_key=key(9)) if each.name == "machine-c" else each
        for each in others
    )
    inventory = msgspec.structs.replace(control.inventory, machines=with_new_key)
    keeper.look(msgspec.structs.replace(control, inventory=inventory))
    assert known(keeper) == {}
    keeper = keeper_of({B: told_by(member(control))})
    keeper.look(control)
    keeper.look(member(control))
    assert known(keeper) == {}


def a_revision_later(control: Local, machines: tuple[Machine, ...] | None = None) -> Local:
    """The same control node, with a newer membership. machines: of it; None for the same."""
    mesh = control.inventory
    newer = msgspec.structs.replace(mesh, revision=mesh.revision + 1, machines=machines or mesh.machines)
    return msgspec.structs.replace(control, inventory=newer)


def test_what_a_machine_tells_before_the_agent_knows_that_it_joined_is_kept(control):
    """A member tells at once, and then not for minutes; the agent's look may be older."""
    others = tuple(each for each in control.inventory.machines if each.name != "machine-b")
    mesh = msgspec.structs.replace(control.inventory, machines=others)
    before = msgspec.structs.replace(control, inventory=mesh)
    keeper = keeper_of({B: told_by(member(control))})
    keeper.look(before)
    keeper.look(before)
    assert known(keeper) == {}
    keeper.look(a_revision_later(control))
    assert known(keeper).keys() == {B}


def test_what_a_machine_tells_before_the_agent_knows_its_new_key_is_kept(control, monkeypatch):
    old = control.inventory.machine("machine-b").public_key
    machines = tuple(
        msgspec.structs.replace(each, public_key=key(9)) if each.name == "machine-b" else each
        for each in control.inventory.machines
    )
    rotated = a_revision_later(control, machines)
    same = msgspec.structs.replace(rotated, preshared={**control.preshared, key(9): control.preshared[old]})
    another = msgspec.structs.replace(
        rotated, preshared={**control.preshared, key(9): control.preshared[key(2)]}
    )
    keeper, replaced, late = (keeper_of({B: told_by(member(control))}) for _ in range(3))
    for each in (keeper, replaced, late):
        each.look(control)
    keeper.look(same)
    assert known(keeper).keys() == {B}
    replaced.look(another)
    assert known(replaced) == {}, "another machine has its place now"
    later = time.monotonic() + REREAD_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    late.look(same)
    assert known(late) == {}


def test_the_control_nodes_own_facts_are_among_them_once():
    told = (ToldFacts(B, 7.0, FACTS), ToldFacts("10.77.0.1", 8.0, FACTS))
    own = ToldFacts("10.77.0.1", 9.0, MachineFacts())
    assert with_own_facts(told, own) == (own, told[0])
    assert with_own_facts(told, None) == told


def test_status_notes_in_what_machines_are_unlike(control):
    other = msgspec.structs.replace(FACTS, qmesh="0.0.9", memory_bytes=10, workers=(WorkerFacts(4, 10),))
    told = (ToldFacts("10.77.0.1", 1000.0, FACTS), ToldFacts(B, 990.0, other), ToldFacts(C, 1.0, other))
    assert list(_describe_unlike_machines(control, told)) == [
        "qmesh: 0.1.0 on control; 0.0.9 on machine-b (machine-versions)",
        "machine-b: the workers have 0.0 GiB of 0.0 GiB: the kernel will end one of them (worker-memory)",
    ]
    assert list(_describe_unlike_machines(control, told[:1])) == []


# What a machine gathers of itself


def node_program(path: Path) -> tuple[NodeProgram, ...]:
    version = ProgramVersion(("2.1-rust",), "2.1.0.25")
    return (NodeProgram(path=str(path), version=version, core=0),)


def own_worker(core: int, number: int | None = None) -> WorkerProcess:
    return WorkerProcess(core, "alive", NodeProcess(number or os.getpid(), "node", 1.0))


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "node-2.1.0.25-linux-amd64"
    path.write_bytes(b"program" * 1000)
    path.chmod(0o755)
    return path


def test_a_machine_knows_what_it_is(control, program):
    gathering = FactsGatherer()
    gathering.look(control, (own_worker(1), own_worker(2), WorkerProcess(3, "silent")), node_program(program))
    assert gathering.told is not None
    facts = gathering.told.facts
    assert (facts.qmesh, facts.node, facts.kernel) == (__version__, "2.1.0.25", os.uname().release)
    assert facts.node_digest == hashlib.sha3_256(program.read_bytes()).hexdigest()
    assert facts.cores == os.cpu_count()
    assert facts.memory_bytes and facts.memory_available_bytes  # noqa: PT018 - both are numbers
    assert facts.memory_available_bytes < facts.memory_bytes
    assert facts.disk_bytes and facts.disk_free_bytes is not None  # noqa: PT018 - the same
    assert facts.disk_free_bytes < facts.disk_bytes
    assert facts.load is not None
    first, second, third = facts.workers
    assert first.memory_bytes == second.memory_bytes, "one process, two cores"
    assert third == WorkerFacts(3)
    assert first.memory_bytes is not None
    assert 1_000_000 < first.memory_bytes < facts.memory_bytes


def test_a_machine_tells_its_key_for_reports(control, tmp_path):
    state = State(tmp_path)
    assert read_report_key(state) == ""
    fingerprint = derive_report_keys(state.keys.ensure_private_key()).fingerprint
    gathering = FactsGatherer(lambda: read_report_key(state))
    gathering.look(control, (), ())
    assert gathering.told is not None
    told = decrypt_facts(
        encrypt_facts(gathering.told.facts, Secret(key(3)), nonce=bytes(12)), Secret(key(3)), cores=()
    )
    assert told.report_key == fingerprint
    state.keys.private_file.write_text("damaged")
    assert read_report_key(state) == ""


def test_a_worker_that_was_started_again_is_counted_between_two_looks(control, monkeypatch):
    gathering = FactsGatherer()
    gathering.look(control, (own_worker(1),), ())
    gathering.look(control, (own_worker(1, number=1),), ())
    later = time.monotonic() + gatherer.SOON_S
    monkeypatch.setattr(time, "monotonic", lambda: later)
    gathering.look(control, (own_worker(1),), ())
    assert gathering.told is not None
    assert gathering.told.facts.workers[0].restarts == 2


def test_a_machine_looks_again_after_a_while_and_sooner_where_workers_are_others(control, monkeypatch):
    now = time.monotonic()
    gathering = FactsGatherer()
    looks: list[MachineFacts] = []

    def gather(*_: object, **__: object) -> MachineFacts:
        looks.append(FACTS)
        return FACTS

    monkeypatch.setattr(gatherer, "gather_facts", gather)
    for after_s, number, seen in (
        (0, 1, 1),
        (4, 2, 1),
        (5, 2, 2),
        (9, 3, 2),
        (34, 3, 3),
        (63, 3, 3),
        (64, 3, 4),
    ):
        monkeypatch.setattr(time, "monotonic", lambda after_s=after_s: now + after_s)
        gathering.look(control, (own_worker(1, number=number),), ())
        assert len(looks) == seen, after_s


def test_a_removed_machine_has_nothing_to_tell(control):
    gathering = FactsGatherer()
    settings = msgspec.structs.replace(control.settings, removed=True)
    gathering.look(msgspec.structs.replace(control, settings=settings), (), ())
    assert gathering.told is None


def test_a_node_directory_that_cannot_be_read_hides_nothing_else(control, tmp_path):
    gone = msgspec.structs.replace(control.settings, config_directory=str(tmp_path / "gone"))
    gathering = FactsGatherer()
    gathering.look(msgspec.structs.replace(control, settings=gone), (), ())
    assert gathering.told is not None
    assert (gathering.told.facts.disk_bytes, gathering.told.facts.kernel) == (None, os.uname().release)


def test_the_speed_of_a_core_is_the_middle_of_small_pieces_taken_long_after_the_start(monkeypatch):
    pieces = iter([*range(100, 100 + gatherer._SLICES), 7])
    monkeypatch.setattr(gatherer, "measure_core_speed", lambda _: next(pieces))
    meter = SpeedMeter(0.0)
    meter.take_step(gatherer.SPEED_FIRST_S - 1)
    now = gatherer.SPEED_FIRST_S
    for _ in range(gatherer._SLICES - 1):
        meter.take_step(now)
        assert meter.value is None
    meter.take_step(now)
    assert meter.value == 105
    meter.take_step(now + gatherer.SPEED_AGAIN_S - 1)
    assert next(pieces) == 7, "no piece was taken meanwhile"


def test_a_core_is_as_quick_as_another_time_within_a_factor():
    first, second = (measure_core_speed(0.01) for _ in range(2))
    assert 0.2 < first / second < 5


def test_the_bench_measures_this_machine_and_has_of_others_what_they_told(control, monkeypatch):
    told = (
        ToldFacts("10.77.0.1", time.time() - 7, msgspec.structs.replace(FACTS, cpu="old", core_speed=1)),
        ToldFacts(B, time.time() - 60, msgspec.structs.replace(FACTS, core_speed=2**40)),
    )
    monkeypatch.setattr(bench, "_request_facts", lambda _: told)
    monkeypatch.setattr(bench, "_SLICES", 2)
    niceness: list[int] = []
    monkeypatch.setattr(os, "nice", niceness.append)
    found = bench.measure_machines(State(control_directory(control)))
    own, other, unknown = found.machines
    assert niceness == [bench._NICENESS]
    assert (found.name, own.machine, own.cpu == "old", own.age_s) == ("control", "control", False, 0.0)
    assert own.core_speed is not None
    assert own.core_speed > 100
    assert own.share == round(own.core_speed / 2**40, 3)
    assert (other.machine, other.share, round(other.age_s or 0)) == ("machine-b", 1.0, 60)
    assert unknown == bench.MachineSpeed("machine-c", "", None, None, None, None)


def test_the_bench_does_without_an_agent(control, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda _: None)
    monkeypatch.setattr(bench, "_SLICES", 2)
    own, *others = bench.measure_machines(State(control_directory(control))).machines
    assert own.share == 1.0
    assert [each.core_speed for each in others] == [None, None]


# The digest of a program


def take_steps(digest: ProgramDigest, path: Path) -> int:
    """Steps until it is known."""
    for count in range(1, 20):
        digest.take_step(path, os.geteuid())
        if not digest.is_partial:
            return count
    raise AssertionError


def test_a_program_is_read_in_steps_and_once(program, monkeypatch):
    monkeypatch.setattr(program_digest, "STEP", 2000)
    digest = ProgramDigest()
    assert take_steps(digest, program) == 4
    assert digest.value == hashlib.sha3_256(program.read_bytes()).hexdigest()
    monkeypatch.setattr(program_digest, "_read_step", lambda *_: pytest.fail("it was read again"))
    digest.take_step(program, os.geteuid())
    assert digest.value


def test_a_program_of_whole_steps_ends_too(program, monkeypatch):
    monkeypatch.setattr(program_digest, "STEP", 3500)
    digest = ProgramDigest()
    assert take_steps(digest, program) == 3
    assert digest.value == hashlib.sha3_256(program.read_bytes()).hexdigest()


def test_a_step_that_was_given_up_and_goes_on_later_changes_no_digest(program, monkeypatch):
    monkeypatch.setattr(program_digest, "STEP", 2000)
    read_step, given_up = program_digest._read_step, []

    def give_up(*words: Any) -> int:
        given_up.append(words)
        read_step(*words)
        raise MachineRefused("the disk does not answer", hint="")

    digest = ProgramDigest()
    with monkeypatch.context() as slow:
        slow.setattr(program_digest, "_read_step", give_up)
        digest.take_step(program, os.geteuid())
    assert given_up
    take_steps(digest, program)
    assert digest.value == hashlib.sha3_256(program.read_bytes()).hexdigest()


def test_a_program_that_changes_while_it_is_read_is_read_from_its_begin(program, monkeypatch):
    monkeypatch.setattr(program_digest, "STEP", 2000)
    digest = ProgramDigest()
    digest.take_step(program, os.geteuid())
    assert digest.is_partial
    program.write_bytes(b"another" * 700)
    take_steps(digest, program)
    assert digest.value == hashlib.sha3_256(b"another" * 700).hexdigest()
    program.write_bytes(b"last" * 700)
    assert take_steps(digest, program) == 2
    assert digest.value == hashlib.sha3_256(b"last" * 700).hexdigest()


def test_a_program_is_not_read_again_for_another_process_that_runs_it(program, tmp_path, monkeypatch):
    digest = ProgramDigest()
    take_steps(digest, program)
    known = digest.value
    digest.take_step(tmp_path / "gone", os.geteuid())
    assert (digest.value, digest.is_partial) == ("", False)
    monkeypatch.setattr(program_digest, "_read_step", lambda *_: pytest.fail("it was read again"))
    (tmp_path / "exe").symlink_to(program)
    digest.take_step(tmp_path / "exe", os.geteuid())
    assert digest.value == known


def test_the_file_that_runs_is_read_and_not_what_took_its_place(control, program, tmp_path):
    running = tmp_path / "running"
    running.write_bytes(b"running")
    running.chmod(0o755)
    (known,) = node_program(program)
    gathering = FactsGatherer()
    gathering.look(control, (), (msgspec.structs.replace(known, place=str(running)),))
    assert gathering.told is not None
    assert gathering.told.facts.node_digest == hashlib.sha3_256(b"running").hexdigest()


@pytest.mark.parametrize("what", ["gone", "pipe", "directory", "others write", "not executable"])
def test_what_is_no_program_of_the_nodes_user_is_not_read(program, what):
    digest = ProgramDigest()
    take_steps(digest, program)
    if what == "others write":
        program.chmod(0o777)
    elif what == "not executable":
        program.chmod(0o600)
    else:
        program.unlink()
    if what == "pipe":
        os.mkfifo(program, 0o755)
    elif what == "directory":
        program.mkdir()
    digest.take_step(program, os.geteuid())
    assert (digest.value, digest.is_partial) == ("", False)


def test_without_a_program_there_is_no_digest(control, program, monkeypatch):
    gathering = FactsGatherer()
    gathering.look(control, (), node_program(program))
    monkeypatch.setattr(gathering, "_due", 0.0)
    gathering.look(control, (), ())
    assert gathering.told is not None
    assert (gathering.told.facts.node, gathering.told.facts.node_digest) == ("", "")
