"""The guard's first table is put back as it is written, by who holds the second one; no agent runs here."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.agent.preconditions import check_state
from qmesh.errors import KernelRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.firewall import guard_keeper as keeper
from qmesh.host.firewall import held_table, holder_client, nftables
from qmesh.host.firewall.guard_keeper import GuardKeeper
from qmesh.host.linux import Linux, unload_guard
from qmesh.host.state.directory import State
from qmesh.host.system import processes
from qmesh.mesh.guard.render import render_table
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.notifications.guard import AlterationCount, parse_alterations
from qmesh.mesh.plan.steps import LoadGuard
from qmesh.mesh.state import Guard
from tests.support import factories
from tests.support.keeping import let_fall
from tests.support.network import nft
from tests.support.waiting import idle, patience, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

guard = functools.partial(factories.guard, kind="tun", service_port=51820)


WHOLE = guard(40003, 40004, 40009)
HARMS = [
    f"delete table inet {TABLE}",
    "flush ruleset",
    f"flush table inet {TABLE}",
    f"flush chain inet {TABLE} closed_port",
    f"insert rule inet {TABLE} closed_port accept",
    f"delete element inet {TABLE} closed_ports {{ 40009 }}",
    f"add chain inet {TABLE} more",
    f"add table inet {TABLE} {{ flags dormant; }}",
    f"delete table inet {TABLE}; add table inet {TABLE}",
]
"""What other programs do to it."""


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state")
    state.create_directory()
    yield state
    processes.kill_lock_owner(state.hold_lock_file)


@pytest.fixture
def linux(state):
    return Linux(state, "qmesh0", ())


def is_loaded(guard: Guard) -> bool:
    return nftables.read_table(TABLE) == render_table(guard)


@contextlib.contextmanager
def kept(state: State) -> Iterator[GuardKeeper]:
    with contextlib.closing(GuardKeeper(state.directory)) as found:
        yield found


@pytest.mark.parametrize("harm", HARMS)
def test_g3_what_others_do_to_the_table_is_undone_without_an_agent(state, linux, harm):
    linux.apply(LoadGuard(None, WHOLE))
    nft(harm)

    wait_until(lambda: is_loaded(WHOLE))
    said = r"the guard's table was changed by nft \(process \d+\); load-guard "
    wait_until(lambda: re.search(said, state.log_file.read_text()))


def alterations(state: State) -> AlterationCount:
    """What the process that keeps the table has counted."""
    found = parse_alterations("holder", holder_client.read_alterations(state, wait_s=patience(5)))
    assert found is not None
    return found


def test_what_others_do_to_the_table_is_counted_and_what_commands_do_is_not(state, linux):
    before = None
    for number in range(5):
        after = guard(40003 + number)
        linux.apply(LoadGuard(before, after))
        before = after
    files.write(state.guard_file, render_load_script(WHOLE).encode())  # of one that was cut off
    wait_until(lambda: is_loaded(WHOLE))
    begun = alterations(state)
    assert begun.count == 0
    for number in (1, 2):
        nft("flush ruleset")
        wait_until(lambda: is_loaded(WHOLE))
        wait_until(lambda: alterations(state).count == number)  # noqa: B023
    told = alterations(state)
    assert told.start == begun.start
    assert re.fullmatch(r"nft \(process \d+\)", told.by)


def test_g3_also_while_a_command_has_the_lock(state, linux):
    linux.apply(LoadGuard(None, WHOLE))
    with state.lock():
        nft("flush ruleset")
        wait_until(lambda: is_loaded(WHOLE))


def test_g3_also_while_somebody_asks_its_holder_and_says_nothing(state, linux):
    linux.apply(LoadGuard(None, WHOLE))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(state.hold_socket))
        nft("flush ruleset")
        wait_until(lambda: is_loaded(WHOLE))


def test_g3_a_file_of_a_command_that_was_cut_off_before_it_loaded_is_loaded(state, linux):
    linux.apply(LoadGuard(None, WHOLE))
    files.write(state.guard_file, render_load_script(guard(40009)).encode())

    wait_until(lambda: is_loaded(guard(40009)))


def test_what_a_command_takes_away_does_not_come_back(state, linux):
    for _ in range(10):
        linux.apply(LoadGuard(None, WHOLE))
        flushing = subprocess.Popen(["nft", "flush ruleset"])
        unload_guard(state)
        assert flushing.wait() == 0
        assert nftables.run("list tables inet") == ""
    idle(2 * keeper.BREATH_S)
    assert nftables.run("list tables inet") == ""
    assert not state.guard_file.exists()
    assert not state.held_file.exists()


class CutOff(BaseException):
    """The command was killed here."""


CUTS = [
    (files, "remove"),
    (holder_client, "release_table"),
    (nftables, "run"),
    (holder_client, "end_holder"),
    (files, "remove"),
]
"""What taking the guard away does, step by step."""


@pytest.mark.parametrize("step", range(len(CUTS)))
def test_a_removal_that_is_cut_off_is_known_for_our_own_and_ended_when_run_again(
    state, linux, monkeypatch, step
):
    linux.apply(LoadGuard(None, WHOLE))
    module, name = CUTS[step]
    real, left = getattr(module, name), 1 if step == 4 else 0

    def cut(*words: object) -> object:
        nonlocal left
        if left:
            left -= 1
            return real(*words)
        raise CutOff

    with monkeypatch.context() as patched:
        patched.setattr(module, name, cut)
        with pytest.raises(CutOff):
            unload_guard(state)
    check_state(state, "uninstall")  # as `uninstall` begins
    unload_guard(state)

    assert nftables.run("list tables inet") == ""
    assert not state.guard_file.exists()
    assert not state.held_file.exists()


def test_a_command_has_the_last_word_whatever_is_flushed_meanwhile(state, linux):
    """Each finds another table than the last one left, or none, and the keeper quicker or slower."""
    stopped = threading.Event()

    def flush() -> None:
        while not stopped.is_set():
            subprocess.run(["nft", "flush ruleset"], check=True)

    flushing = threading.Thread(target=flush)
    before = None
    flushing.start()
    try:
        for number in range(25):
            after = guard(*range(40000 + number, 40010 + number))
            linux.apply(LoadGuard(before, after))
            before = after
    finally:
        stopped.set()
        flushing.join()
    assert before is not None
    wait_until(lambda: linux.observe_guard().guard == before)


def test_a_command_that_finds_its_change_done_already_is_content(state, linux):
    linux.apply(LoadGuard(None, WHOLE))
    files.write(state.guard_file, render_load_script(guard(40009)).encode())
    wait_until(lambda: is_loaded(guard(40009)))
    linux.apply(LoadGuard(WHOLE, guard(40009)))

    assert linux.observe_guard().guard == guard(40009)


@pytest.mark.parametrize("now", [None, guard(40009)], ids=["taken away", "changed"])
def test_a_command_that_was_quicker_than_the_keeper_is_not_undone(state, monkeypatch, now):
    """The keeper has read the file; then the command is through with all it does; then the keeper loads."""
    files.write(state.guard_file, render_load_script(WHOLE).encode())
    real = nftables.run

    def overtaken(script: str) -> str:
        if script == render_load_script(WHOLE):
            if now is None:
                state.guard_file.unlink()
            else:
                files.write(state.guard_file, render_load_script(now).encode())
        return real(script)

    monkeypatch.setattr(nftables, "run", overtaken)
    with kept(state) as keeper:
        assert keeper.ensure_loaded()
    assert nftables.read_table(TABLE) == (None if now is None else render_table(now))


def test_where_no_guard_is_wanted_a_table_is_left_to_others(state):
    nft(f"add table inet {TABLE}; add chain inet {TABLE} theirs")
    with kept(state) as keeper:
        assert not keeper.ensure_loaded()
    assert "theirs" in (nftables.read_table(TABLE) or "")


@pytest.mark.parametrize("text", ["", "\n", "nonsense\n", render_load_script(WHOLE)[:-20]])
def test_g3_a_file_that_is_damaged_takes_no_guard_away(state, text):
    nftables.run(render_load_script(WHOLE))
    state.guard_file.write_text(text)
    with kept(state) as keeper:
        assert not keeper.ensure_loaded()
    assert is_loaded(WHOLE)


def test_a_file_that_cannot_be_loaded_or_read_is_said(state):
    state.guard_file.write_text("nonsense\n")
    with kept(state) as keeper:
        with pytest.raises(KernelRefused, match="syntax error"):
            keeper.ensure_loaded()
        state.guard_file.write_bytes(b"\xff")
        with pytest.raises(StateUnreadable, match=r"guard\.nft cannot be read"):
            keeper.ensure_loaded()
        state.guard_file.unlink()
        state.guard_file.symlink_to(os.devnull)
        with pytest.raises(StateUnreadable, match=r"guard\.nft cannot be read"):
            keeper.ensure_loaded()


def test_its_holder_bears_a_file_that_is_damaged_and_goes_on(state, linux):
    linux.apply(LoadGuard(None, WHOLE))
    files.write(state.guard_file, b"nonsense\n")
    nft(f"delete table inet {TABLE}")
    wait_until(lambda: "could not be kept" in state.log_file.read_text())
    assert held_table.is_held()
    files.write(state.guard_file, render_load_script(WHOLE).encode())
    wait_until(lambda: is_loaded(WHOLE))


def test_what_the_test_lets_fall_stays_away(state, linux):
    """So that the others see who puts it back."""
    linux.apply(LoadGuard(None, WHOLE))
    let_fall(state)
    nft("flush ruleset")
    idle(keeper.LOOK_S)
    assert nftables.read_table(TABLE) is None


def test_a_directory_in_the_place_of_the_guards_file_leaves_no_descriptor_open(tmp_path):
    """Who holds the guard looks again and again: it would soon have none left."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(StateUnreadable, match="cannot be read"):
            keeper.read_script(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_g3_at_rest_no_table_is_listed_and_a_change_without_a_notice_is_seen(state, monkeypatch):
    monkeypatch.setattr(keeper, "WHOLE_S", 0.0)
    listed: list[str] = []
    real = nftables.read_table

    def read_table(name: str) -> str | None:
        listed.append(name)
        return real(name)

    monkeypatch.setattr(nftables, "read_table", read_table)
    nftables.run(render_load_script(WHOLE))
    files.write(state.guard_file, render_load_script(WHOLE).encode())
    with kept(state) as found:
        monkeypatch.setattr(found._notices, "take_notice", lambda: None)
        assert not found.ensure_loaded()
        assert listed.pop() == TABLE
        for _ in range(3):
            assert not found.ensure_loaded()
        assert listed == []
        nft("add table inet other")
        assert not found.ensure_loaded()
        assert listed == [TABLE]
        for harm in HARMS:
            nft(harm)
            assert found.ensure_loaded(), harm
            assert is_loaded(WHOLE)
            assert not found.ensure_loaded()
