"""The process that holds the guard's second table: what no flush takes away, and what becomes of it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host import files
from qmesh.host.firewall import held_table, holder, holder_client, nftables
from qmesh.host.firewall.tables_and_chains import list_tables
from qmesh.host.lean.owned_table import HeldTable
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.host.system import background
from qmesh.host.system.processes import is_locked
from qmesh.mesh.guard.parse import parse_held_table
from qmesh.mesh.guard.render import render_table
from qmesh.mesh.guard.scripts import render_held_script, render_load_script
from qmesh.mesh.guard.tables import HELD, HELD_IN_KERNEL, STAGED, STAND_IN, TABLE
from qmesh.mesh.state import AlteredGuard, Guard
from tests.support import factories
from tests.support.network import nft
from tests.support.processes import read_of_each
from tests.support.rulesets import find_held_table, list_held_table
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

guard = functools.partial(factories.guard, kind="tun", service_port=51820)


def found() -> Guard | None:
    """The guard that is held; None when there is none."""
    listing = list_held_table()
    guard = None if listing is None else parse_held_table(listing)
    assert guard is None or isinstance(guard, Guard), listing
    return guard


def process() -> int:
    """The one process that holds."""
    (found,) = [
        number for number, line in read_of_each("stat") if "(qmesh-hold)" in line and ") Z" not in line
    ]
    return found


def test_what_is_written_is_held_and_by_the_same_process_when_it_is_another(state):
    holder_client.hold_guard(state, guard(40003))
    first = process()
    holder_client.hold_guard(state, guard(40004, 40005))

    assert found() == guard(40004, 40005)
    assert process() == first


OURS = {"family": "inet", "table": HELD_IN_KERNEL}
ATTEMPTS: dict[str, dict[str, object]] = {
    "delete table": {"delete": {"table": {"family": "inet", "name": HELD_IN_KERNEL}}},
    "flush table": {"flush": {"table": {"family": "inet", "name": HELD_IN_KERNEL}}},
    "insert rule": {"insert": {"rule": OURS | {"chain": "closed_port", "expr": [{"accept": None}]}}},
    "delete element": {"delete": {"element": OURS | {"name": "closed_ports", "elem": [40003]}}},
    "flush chain": {"flush": {"chain": OURS | {"name": "asked_for"}}},
    "add table": {"add": {"table": {"family": "inet", "name": HELD_IN_KERNEL}}},
}


def test_g3_no_other_program_takes_it_away_or_changes_it(state):
    holder_client.hold_guard(state, guard(40003))
    nftables.run("add table inet other")
    for attempt, command in ATTEMPTS.items():
        refused = subprocess.run(
            ["nft", "-j", "-f", "-"],
            check=False,
            input=json.dumps({"nftables": [command]}),
            text=True,
            capture_output=True,
        )
        assert "Operation not permitted" in refused.stderr, attempt
        assert found() == guard(40003), attempt
    with contextlib.closing(HeldTable()) as another, pytest.raises(KernelRefused, match="not permitted"):
        another.replace(render_held_script(guard(40004)))
    assert "other" in nftables.run("list tables")
    nft("flush ruleset")

    assert nftables.run("list tables") == f"table inet {HELD_IN_KERNEL}\n"
    assert found() == guard(40003)


def test_it_goes_with_its_process_and_the_next_call_brings_it_back(state):
    holder_client.hold_guard(state, guard(40003))
    first = process()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not held_table.is_held())
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


def test_the_held_table_saved_as_json_and_loaded_at_boot_makes_way(state):
    """nft's JSON has the table's name as it is, and in 1.0.6 not that it has an owner."""
    command = {"add": {"table": {"family": "inet", "name": HELD_IN_KERNEL}}}
    subprocess.run(["nft", "-j", "-f", "-"], input=json.dumps({"nftables": [command]}), text=True, check=True)
    assert not held_table.is_held()
    assert held_table.read_held_table(state.directory) is not None
    holder_client.hold_guard(state, guard(40003))

    assert found() == guard(40003)


def test_a_table_that_saved_rules_leave_beside_the_held_one_is_removed(state):
    files.write(state.guard_file, render_load_script(guard(40003)).encode())
    holder_client.hold_guard(state, guard(40003))
    wait_until(lambda: nftables.read_table(TABLE) is not None)
    assert linux(state).observe_guard().guard == guard(40003)

    nftables.run(f"table inet {HELD} {{ flags owner; }}")  # ends with its owner: nothing to do
    assert linux(state).observe_guard().guard == guard(40003)
    nftables.run(f"delete table inet {HELD}")
    nft(f'table inet {HELD} {{ comment "mine"; }}')  # somebody took the flag out of the file
    assert isinstance(linux(state).observe_guard().guard, AlteredGuard)
    holder_client.hold_guard(state, guard(40003))
    assert linux(state).observe_guard().guard == guard(40003)
    assert nftables.read_table(HELD) is None


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


ADMIN = """\
table inet admin {
	set allowed {
		type inet_service
		flags interval
		elements = { 22, 8000-8010 }
	}

	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport @allowed accept
	}
}
"""
LOADS = {
    "as it is": "nft -f {file}",
    "with a flush before it": "nft flush ruleset; nft -f {file}",
    "with a flush in it": "(echo flush ruleset; cat {file}) | nft -f -",
    "included": """echo 'flush ruleset; include "{file}"' | nft -f -""",
}


def test_a_saved_rule_set_with_the_guard_in_it_is_loaded_again_and_the_guard_stays(state, tmp_path):
    """Were the held table's name one that nft reads back, each of them would be refused as a whole."""
    files.write(state.guard_file, render_load_script(guard(40003)).encode())
    holder_client.hold_guard(state, guard(40003))
    wait_until(lambda: TABLE in nft("list", "tables"))
    (tmp_path / "admin").write_text(ADMIN)
    nft("-f", str(tmp_path / "admin"))
    saved = tmp_path / "nftables.conf"
    saved.write_text(nft("list", "ruleset"))
    assert find_held_table(saved.read_text())

    for how, command in LOADS.items():
        subprocess.run(["sh", "-ec", command.format(file=saved)], check=True)
        assert "chain input" in nft("list", "table", "inet", "admin"), how
        assert found() == guard(40003), how
        assert f"table inet {HELD}\n" not in nft("list", "tables"), how
        wait_until(lambda: nftables.read_table(TABLE) == render_table(guard(40003)))
    os.kill(process(), signal.SIGKILL)
    nft("flush", "ruleset")
    nft("-f", str(saved))  # as at boot, where nobody holds it yet
    assert sorted(nft("list", "tables").splitlines()) == ["table inet admin", f"table inet {TABLE}"]


def test_g3_a_holder_of_an_older_qmesh_makes_way_and_some_process_holds_the_table_throughout(state):
    older = start_older_holder(state, guard(40003))
    names = ({HELD}, {HELD, STAND_IN}, {STAND_IN}, {STAND_IN, HELD_IN_KERNEL}, {HELD_IN_KERNEL})
    seen: list[frozenset[str]] = []

    def look() -> None:
        seen.append(frozenset(each.name.decode() for each in list_tables()) - {STAGED})

    assert isinstance(linux(state).observe_guard().guard, AlteredGuard)
    with repeating(look):
        holder_client.hold_guard(state, guard(40003))
    assert set(seen) <= {frozenset(each) for each in names}, set(seen)
    assert frozenset({STAND_IN}) in seen  # the positive control: it was looked while neither of them held
    assert older.wait() == -signal.SIGTERM
    assert found() == guard(40003)
    assert not {HELD, STAGED, STAND_IN} & {each.name.decode() for each in list_tables()}


def test_its_lock_is_free_only_when_the_process_has_gone(state):
    """Whoever ends it takes a free lock for that, `uninstall` among them."""
    files.write(state.held_file, render_held_script(guard(40003)).encode())
    lingers = "holder.run_holder(Path(sys.argv[1])); print('over', flush=True); sys.stdin.read()"
    script = f"import sys; from pathlib import Path; from qmesh.host.firewall import holder; {lingers}"
    words = [sys.executable, "-c", script, str(state.directory)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_until(lambda: holder_client.is_responding(state, wait_s=10))
        holder_client.end_holder(state)
        assert process.stdout is not None
        assert process.stdout.readline() == "over\n"
        assert is_locked(state.hold_lock_file)
        process.communicate()
    assert not is_locked(state.hold_lock_file)


OLDER_HOLDER = """
import sys
from pathlib import Path

from qmesh.host.firewall import holder, nftables


class OlderTable:
    def replace(self, script):
        nftables.run(script)


holder.HeldTable = OlderTable
holder.run_holder(Path(sys.argv[1]))
"""


def start_older_holder(state: State, held: Guard) -> subprocess.Popen[bytes]:
    """One that holds the table under the name that its file has."""
    files.write(state.held_file, render_held_script(held).encode())
    older = subprocess.Popen([sys.executable, "-c", OLDER_HOLDER, str(state.directory)])
    wait_until(state.hold_socket.exists)
    assert nftables.read_table(HELD) is not None
    return older


@contextlib.contextmanager
def repeating(look: Callable[[], None]) -> Iterator[None]:
    """Do it over and over while the block runs."""
    is_over = threading.Event()

    def repeat() -> None:
        while not is_over.is_set():
            look()

    with ThreadPoolExecutor(1) as pool:
        task = pool.submit(repeat)
        try:
            yield
        finally:
            is_over.set()
        task.result()


def linux(state: State) -> Linux:
    return Linux(state, "qmesh0", [])


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
    memory = Path(f"/proc/{process()}/smaps_rollup").read_text()

    own = sum(int(line.split()[1]) for line in memory.splitlines() if line.startswith("Private_"))
    assert own < 8_000


def test_g3_while_a_holder_that_hangs_is_replaced_another_process_holds_the_guard(tmp_path, monkeypatch):
    state = State(tmp_path / "state")
    state.directory.mkdir(mode=0o700)
    files.write(state.held_file, render_held_script(guard(40003)).encode())
    flushed = []

    def flush(_state: State) -> None:
        nft("flush", "ruleset")
        flushed.append(nft("list", "tables"))

    monkeypatch.setattr(holder_client, "hold_saved_guard", flush)
    holder_client.replace_holder(state)
    assert flushed == [f"table inet {STAND_IN}\n"]
    assert nft("list", "tables") == ""


def test_one_that_has_ended_is_not_restarted_beside_who_may_be_starting_another(tmp_path, monkeypatch):
    """systemd would refuse a start that another command waits for."""
    asked: list[State] = []
    monkeypatch.setattr(background, "restart_holder", lambda: pytest.fail("systemd was told to restart it"))
    monkeypatch.setattr(holder_client, "hold_saved_guard", asked.append)
    holder_client.replace_holder(State(tmp_path))
    assert len(asked) == 1
