"""What the agent has to restart still, beside commands that ask for more."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest

from qmesh.agent.local import Local, load_local
from qmesh.agent.node import node_restarts
from qmesh.agent.node.node_restarts import REST, NodeConfigFollower, update_managed_config
from qmesh.errors import QmeshError
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.registry import Registry
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh.changes import set_worker_count
from qmesh.mesh.machine import Machine
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.values import Profile
from tests.support.control_node import make_control_node
from tests.support.factories import key
from tests.support.fuse import mount_fuse


def test_what_a_command_asks_for_while_workers_are_restarted_is_not_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.create_directory()
    follower = NodeConfigFollower(state)
    was, more = DueRestarts(restart=(1,), control=True), DueRestarts(restart=(1, 2), control=True)
    state.due_restarts.write(was)
    state.due_restarts.write(more)  # by `qmesh apply`, meanwhile
    for left in (None, DueRestarts(control=True)):
        assert not follower._save_remaining(was, left)
        assert state.due_restarts.read() == more
    assert follower._save_remaining(more, DueRestarts(control=True))
    assert state.due_restarts.read() == DueRestarts(control=True)
    assert follower._save_remaining(DueRestarts(control=True), None)
    assert state.due_restarts.read() is None


USER = 1001
HOME = Path("/run/alice")
CONFIG = HOME / ".config"
TEXT = "engine:\n  dataWorkerMultiaddrs: [/ip4/10.77.0.1/tcp/40000]\np2p: {}\ndb: {}\nkey: {}\n"
"""In qmesh's hands: its list lies in the tunnel."""


def made() -> State:
    """A control node of three workers, whose node's directory is a user's."""
    Path("/run").chmod(0o755)
    CONFIG.mkdir(parents=True)
    (CONFIG / "config.yml").write_text(TEXT, encoding="utf-8")
    for path in (HOME, CONFIG, CONFIG / "config.yml"):
        os.chown(path, USER, USER)
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, config=CONFIG)
    return state


@pytest.mark.lab
def test_whose_the_directory_is_was_remembered_and_stays_so(own_machine: None) -> None:
    state = made()
    assert state.settings().node_directory == ConfigDirectory(CONFIG, USER)
    assert update_managed_config(state, load_local(state))
    assert (CONFIG / "config.yml").read_text(encoding="utf-8").count("/ip4/10.77.0.1/") == 3
    assert state.due_restarts.read() == DueRestarts(restart=(2, 3), control=True)
    assert not update_managed_config(state, load_local(state))
    assert {path.stat().st_uid for path in CONFIG.iterdir()} == {USER}

    # As an earlier version left it.
    older = msgspec.structs.replace(state.settings(), config_owner=None)
    state.save_settings(older)
    assert not update_managed_config(state, load_local(state))
    assert state.settings().node_directory == ConfigDirectory(CONFIG, USER)


@pytest.mark.lab
def test_another_owner_is_not_followed_and_that_is_said_once(
    own_machine: None, caplog: pytest.LogCaptureFixture
) -> None:
    state = made()
    os.chown(CONFIG, 0, 0)
    follower = NodeConfigFollower(state)
    for _ in range(3):
        follower._look_at = 0.0
        follower.follow_changes(load_local(state))
    why = f"{CONFIG} belonged to user 1001, and belongs to user 0 now"
    assert [message.partition(" (hint")[0] for message in caplog.messages] == [
        f"config.yml is not up to date with the mesh: {why}"
    ]
    assert (CONFIG / "config.yml").read_text(encoding="utf-8") == TEXT


@pytest.mark.lab
def test_a_machine_that_was_the_control_node_follows_the_next_one_without_a_newer_revision(
    own_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    CONFIG.mkdir(parents=True)
    text = "engine:\n  dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500]\np2p: {}\n"
    (CONFIG / "config.yml").write_text(text, encoding="utf-8")
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, config=CONFIG, node="2.1-rust")
    follower, was = NodeConfigFollower(state), load_local(state)
    follower.follow_changes(was)
    assert "streamListenMultiaddr: /ip4/0.0.0.0/tcp/8340" in (CONFIG / "config.yml").read_text("utf-8")

    other = Machine(name="other", public_key=key(2), address="10.77.0.2", workers=1)
    mesh = msgspec.structs.replace(was.inventory, control="other", machines=(*was.inventory.machines, other))
    now = msgspec.structs.replace(
        was, settings=msgspec.structs.replace(was.settings, control=False), inventory=mesh
    )
    monkeypatch.setattr(node_restarts, "load_local", lambda _: now)
    follower._look_at = 0.0
    follower.follow_changes(now)
    assert "streamListenMultiaddr: /ip4/10.77.0.2/tcp/8340" in (CONFIG / "config.yml").read_text("utf-8")


@pytest.mark.lab
def test_what_changes_in_the_mesh_while_the_file_is_written_is_followed(
    own_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = made()
    follower, here = NodeConfigFollower(state), load_local(state)

    def update_while_the_mesh_changes(state: State, here: Local) -> bool:
        monkeypatch.undo()
        done = update_managed_config(state, here)
        with Registry(state.registry_file) as registry:
            registry.change_mesh(
                lambda mesh: set_worker_count(mesh, "control", 5),
                command="set",
                what="mesh-changed",
                machine="control",
                now=0,
            )
        return done

    monkeypatch.setattr(node_restarts, "update_managed_config", update_while_the_mesh_changes)
    for workers in (3, 5):
        follower._look_at = 0.0
        follower.follow_changes(here)
        assert (CONFIG / "config.yml").read_text(encoding="utf-8").count("/ip4/10.77.0.1/") == workers


@pytest.mark.lab
def test_the_agents_lock_is_free_while_a_users_file_is_waited_for(own_machine: None) -> None:
    """The disk never answers; the loop, which keeps the guard, wants the lock."""
    state = made()
    here = load_local(state)
    mount_fuse(CONFIG, user=0)
    ended: list[QmeshError] = []

    def follow() -> None:
        try:
            update_managed_config(state, here)
        except QmeshError as error:
            ended.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    while not ended:
        with state.lock():
            pass
    thread.join()
    assert "does not answer" in ended[0].message


@pytest.mark.lab
def test_who_changes_his_file_without_end_has_the_agent_rest_between(own_machine: None) -> None:
    state = made()
    follower, here = NodeConfigFollower(state), load_local(state)
    entries = "".join(f"    - /ip4/10.77.0.1/tcp/{40000 + number}\n" for number in range(5000))
    for _ in range(2):
        (CONFIG / "config.yml").write_text(
            f"engine:\n  dataWorkerMultiaddrs:\n{entries}    - &a x\n", encoding="utf-8"
        )
        follower._look_at = 0.0
        began, used = time.monotonic(), time.thread_time()
        follower.follow_changes(here)
        used = time.thread_time() - used
        assert follower._look_at - began >= REST * used / 2


@pytest.mark.lab
def test_a_list_that_its_owner_made_long_is_no_long_line_in_the_log(
    own_machine: None, caplog: pytest.LogCaptureFixture
) -> None:
    state = made()
    entries = "".join(f"    - /ip4/10.77.0.1/tcp/{40000 + number}\n" for number in range(15_000))
    (CONFIG / "config.yml").write_text(f"engine:\n  dataWorkerMultiaddrs:\n{entries}", encoding="utf-8")
    caplog.set_level("INFO", "qmesh")
    NodeConfigFollower(state).follow_changes(load_local(state))
    (said,) = [message for message in caplog.messages if message.startswith("core ")]
    assert said == "core 4-15000: another machine's now: stop the workers of cores 4-15000"
    assert max(map(len, caplog.messages)) < 1000
    assert state.due_restarts.read() is None


SYSTEMCTL = """#!/bin/sh
echo "$*" >> /run/said
case "$*" in
*LoadState*) printf 'LoadState=loaded\\n\\nLoadState=loaded\\n' ;;
*ActiveState*) echo active ;;
list-units*) printf 'qmesh-worker@%s.service loaded active running\\n' 1 2 9 ;;
esac
"""


def restart_due(
    node: Profile, waiting: DueRestarts, monkeypatch: pytest.MonkeyPatch, systemctl: str = SYSTEMCTL
) -> tuple[list[str], DueRestarts | None]:
    """What the agent of a control node asks of systemd, and what is left to do then."""
    Path("/run/systemd/system").mkdir(parents=True)
    Path("/run/bin").mkdir()
    Path("/run/bin/systemctl").write_text(systemctl, encoding="utf-8")
    Path("/run/bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", "/run/bin", prepend=os.pathsep)
    monkeypatch.setattr(systemd, "UNIT_DIRECTORY", Path("/run/bin"))
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, node=node)
    with Registry(state.registry_file) as registry:
        registry.change_mesh(
            lambda mesh: set_mesh_options(mesh, MeshOptions(restart=True)),
            command="set",
            what="mesh-changed",
            machine=load_local(state).settings.name,
            now=0,
        )
    state.due_restarts.write(waiting)
    NodeConfigFollower(state)._restart_due(load_local(state), waiting)
    said = Path("/run/said").read_text(encoding="utf-8").splitlines()
    return [line for line in said if "no-block" in line], state.due_restarts.read()


@pytest.mark.lab
@pytest.mark.parametrize("node", ["2.0", "2.1-rust"])
def test_agents_restart_what_is_due_in_the_order_of_the_nodes_version(
    own_machine: None, node: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd itself: `tests/lab/test_systemd_node.py`."""
    waiting = DueRestarts(restart=(1, 2), stop=(9,), control=True)
    jobs, left = restart_due(node, waiting, monkeypatch)
    workers = [
        "--no-block stop qmesh-worker@9.service",
        "--no-block restart qmesh-worker@1.service qmesh-worker@2.service",
    ]
    if node == "2.0":  # none of whose workers answers yet
        assert jobs == workers
        assert left == DueRestarts(control=True)
    else:
        assert jobs == ["--no-block try-restart qmesh-control.service", *workers]
        assert left is None


@pytest.mark.lab
def test_what_runs_in_no_unit_of_qmeshs_is_not_said_to_be_restarted(
    own_machine: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the node's owner has units of other names, or starts it in a terminal."""
    caplog.set_level("INFO", "qmesh")
    systemctl = SYSTEMCTL.replace("echo active", "echo inactive").replace("1 2 9 ;;", "2 ;;")
    waiting = DueRestarts(restart=(1, 2, 3), control=True)
    jobs, left = restart_due("2.1-rust", waiting, monkeypatch, systemctl)
    assert jobs == ["--no-block try-restart qmesh-worker@2.service"]
    assert left is None
    elsewhere = "where another unit or program runs"
    said = [message for message in caplog.messages if "restarted" in message or elsewhere in message]
    assert [message.partition(";")[0] for message in said] == [
        "qmesh-control.service does not run here, and is not started",
        "restarted the workers of core 2",
        "the units of cores 1, 3 do not run, and are not started",
    ]
    assert [elsewhere in message for message in said] == [True, False, True]


@pytest.mark.lab
def test_workers_are_restarted_where_the_control_process_is_in_no_unit(
    own_machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has just become the control node: systemctl fails for a unit that is not there."""
    gone = "*qmesh-control.service) case $* in *Active*) echo inactive ;; *) exit 5 ;; esac ;;"
    systemctl = SYSTEMCTL.replace("*ActiveState*", f"{gone}\n*ActiveState*")
    waiting = DueRestarts(restart=(1, 2), control=True)
    jobs, left = restart_due("2.1-rust", waiting, monkeypatch, systemctl)
    assert jobs == ["--no-block restart qmesh-worker@1.service qmesh-worker@2.service"]
    assert left is None


@pytest.mark.lab
def test_what_is_due_is_said_where_nobody_allowed_the_agent_to_restart(
    own_machine: None, caplog: pytest.LogCaptureFixture
) -> None:
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, node="2.1-rust")
    caplog.set_level("INFO", "qmesh")
    waiting = DueRestarts(restart=(1, 2, 3), stop=(9,), control=True)
    state.due_restarts.write(waiting)
    caplog.clear()
    NodeConfigFollower(state)._restart_due(load_local(state), waiting)
    assert caplog.messages == [
        "core 9: another machine's now: stop the worker of core 9",
        "now: restart the control process",
        "then: restart the workers of cores 1-3",
    ]
    assert state.due_restarts.read() is None


@pytest.mark.lab
def test_the_control_role_that_passes_is_something_new_though_the_revision_stays(own_machine: None) -> None:
    """The former control node's file has to be written again, as its workers call the next one."""
    state = made()
    follower, here = NodeConfigFollower(state), load_local(state)
    other = msgspec.structs.replace(here.machine, name="hel-2", public_key=key(9), address="10.77.0.2")
    machines = (*here.inventory.machines, other)
    before, after = (
        msgspec.structs.replace(
            here,
            settings=msgspec.structs.replace(here.settings, control=False),
            inventory=msgspec.structs.replace(here.inventory, machines=machines, control=name),
        )
        for name in (here.inventory.control, "hel-2")
    )
    assert follower._read_stamp(before) == follower._read_stamp(before)
    assert follower._read_stamp(before) != follower._read_stamp(after)
