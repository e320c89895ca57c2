"""The process that holds the guard's second table: what no flush takes away, and what becomes of it."""

from __future__ import annotations

import functools
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host import files
from qmesh.host.firewall import holder, holder_client, nftables
from qmesh.host.state.directory import State
from qmesh.mesh.guard import HELD, parse_held_table, render_held_script
from qmesh.mesh.state import Guard
from tests.support import factories
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

guard = functools.partial(factories.guard, kind="tun", service_port=51820)


def found() -> Guard | None:
    """The guard that is held; None when there is none."""
    listing = nftables.read_table(HELD)
    guard = None if listing is None else parse_held_table(listing)
    assert guard is None or isinstance(guard, Guard), listing
    return guard


def process() -> int:
    """The one process that holds."""
    lines = (path.read_text() for path in Path("/proc").glob("[0-9]*/stat"))
    (found,) = [line for line in lines if "(qmesh-hold)" in line and ") Z" not in line]
    return int(found.split()[0])


def test_what_is_written_is_held_and_by_the_same_process_when_it_is_another(state):
    holder_client.hold_guard(state, guard(40003))
    first = process()
    holder_client.hold_guard(state, guard(40004, 40005))

    assert found() == guard(40004, 40005)
    assert process() == first


@pytest.mark.parametrize(
    "attempt",
    [
        "flush ruleset",
        f"delete table inet {HELD}",
        f"flush table inet {HELD}",
        f"insert rule inet {HELD} closed_port accept",
        f"delete element inet {HELD} closed_ports {{ 40003 }}",
        f"flush chain inet {HELD} asked_for",
        f"add table inet {HELD} {{ flags dormant; }}",
    ],
)
def test_g3_no_other_program_takes_it_away_or_changes_it(state, attempt):
    holder_client.hold_guard(state, guard(40003))
    nftables.run("add table inet other")
    subprocess.run(["nft", attempt], check=False, capture_output=True)

    assert found() == guard(40003)
    assert ("other" in nftables.run("list tables")) is (attempt != "flush ruleset")


def test_it_goes_with_its_process_and_the_next_call_brings_it_back(state):
    holder_client.hold_guard(state, guard(40003))
    first = process()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: nftables.read_table(HELD) is None)
    holder_client.hold_saved_guard(state)

    assert found() == guard(40003)
    assert process() != first


def test_what_cannot_be_loaded_is_told_and_what_was_held_still_is(state):
    holder_client.hold_guard(state, guard(40003))
    files.write(state.held_file, b"add rule inet none none drop\n")

    with pytest.raises(KernelRefused, match="could not be held against a flush: nftables refused"):
        holder_client.hold_saved_guard(state)
    assert found() == guard(40003)


def test_a_first_process_that_cannot_load_is_told_with_where_to_read_on(state):
    files.write(state.held_file, b"nonsense\n")

    with pytest.raises(MachineRefused, match="`qmesh hold` did not start") as refused:
        holder_client.hold_saved_guard(state)
    assert str(state.log_file) in refused.value.hint
    assert "error: nftables refused" in state.log_file.read_text()


def test_a_table_of_that_name_which_nobody_holds_makes_way(state):
    nftables.run(f"add table inet {HELD}; add chain inet {HELD} mine")
    holder_client.hold_guard(state, guard(40003))

    assert found() == guard(40003)


def test_a_table_that_another_process_holds_is_told(state, tmp_path):
    other = State(tmp_path / "other")
    other.create_directory()
    holder_client.hold_guard(other, guard(40009))
    files.write(state.held_file, render_held_script(guard(40003)).encode())

    with pytest.raises(MachineRefused, match="`qmesh hold` did not start"):
        holder_client.hold_saved_guard(state)
    assert found() == guard(40009)


def test_a_second_one_is_refused_and_the_first_goes_on(state):
    holder_client.hold_guard(state, guard(40003))

    with pytest.raises(MachineRefused, match="another process holds the guard"):
        holder.run_holder(state.directory)
    assert found() == guard(40003)


def test_let_go_ends_it_and_takes_the_table_away_and_can_be_said_twice(state):
    holder_client.hold_guard(state, guard(40003))
    holder_client.remove_holder(state)

    assert found() is None
    holder_client.remove_holder(state)
    wait_until(lambda: not state.hold_socket.exists())
    holder_client.hold_guard(state, guard(40004))
    assert found() == guard(40004)


def test_g3_after_a_crash_what_lies_there_is_no_hindrance(state):
    holder_client.hold_guard(state, guard(40003))
    os.kill(process(), signal.SIGKILL)
    assert state.hold_socket.is_socket()
    holder_client.hold_guard(state, guard(40004))

    assert found() == guard(40004)


def test_its_socket_is_for_root_alone_and_no_link_is_followed(state, tmp_path):
    (tmp_path / "target").write_text("mine")
    state.hold_socket.symlink_to(tmp_path / "target")
    holder_client.hold_guard(state, guard(40003))

    assert state.hold_socket.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "target").read_text() == "mine"


def test_who_connects_and_says_nothing_does_not_stand_in_the_way(state, monkeypatch):
    monkeypatch.setattr(holder, "ANSWER_TIMEOUT_S", 10.0)
    holder_client.hold_guard(state, guard(40003))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(state.hold_socket))
        silent.close()
        holder_client.hold_guard(state, guard(40004))

    assert found() == guard(40004)


def test_a_state_directory_with_a_long_name_is_no_hindrance(tmp_path):
    state = State(Path(tmp_path, "x" * 200))
    state.create_directory()
    holder_client.hold_guard(state, guard(40003))

    assert found() == guard(40003)


def test_it_is_small(state):
    holder_client.hold_guard(state, guard(40003))
    status = Path(f"/proc/{process()}/status").read_text()

    assert int(status.partition("VmRSS:")[2].split()[0]) < 25_000
