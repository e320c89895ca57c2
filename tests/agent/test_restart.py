"""In which order `restart` replaces what runs under systemd, and what it leaves alone.

systemctl is a stand-in; tests/lab/test_restart.py has real processes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qmesh.agent.commands import restart
from qmesh.host.firewall import holder_client
from qmesh.host.state.directory import State
from qmesh.host.system import background, systemd
from qmesh.mesh.systemd.units import AGENT, BOOT_GUARD, HOLDER
from tests.support.control_node import make_control_node

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

SAID, UNITS = Path("/run/said"), Path("/run/units")
HOLDS = "another process holds the guard"
SYSTEMCTL = """#!/bin/sh
case $* in
    show*ActiveState*) [ -e "/run/stopped/$4" ] && echo inactive || echo active ;;
    show*UnitFileState*) shift 2; for unit; do echo "Id=$unit
UnitFileState=$([ -e "/run/disabled/$unit" ] && echo disabled || echo enabled)
"; done ;;
    *) echo "$@" >>/run/said ;;
esac
"""


def disable(*units: str, now: bool) -> None:
    """As by `systemctl disable`, with `--now` or without."""
    for each in units:
        Path("/run/disabled", each).touch()
        if now:
            Path("/run/stopped", each).touch()


def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A machine whose guard is held, with units of before."""
    state = State(tmp_path / "state")
    make_control_node(state)
    state.held_file.touch()
    for each in (
        Path("/run/systemd/system"),
        Path("/run/bin"),
        Path("/run/stopped"),
        Path("/run/disabled"),
        UNITS,
    ):
        each.mkdir(parents=True)
    Path("/run/bin/systemctl").write_text(SYSTEMCTL)
    Path("/run/bin/systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", "/run/bin", prepend=os.pathsep)
    for module in (systemd, background, restart):
        monkeypatch.setattr(module, "UNIT_DIRECTORY", UNITS)
    monkeypatch.setattr(holder_client, "restart_holder", lambda _: note(HOLDS))
    (UNITS / AGENT).touch()
    return state


def note(line: str) -> None:
    with SAID.open("a") as file:
        file.write(f"{line}\n")


def run(state: State) -> tuple[restart.RestartResult | None, list[str]]:
    """What `restart` says, and what it did, in order."""
    SAID.write_text("")
    return restart.restart_processes(state), SAID.read_text().splitlines()


def test_units_are_read_before_anything_is_restarted_and_the_holder_comes_first(tmp_path, monkeypatch):
    state = prepare(tmp_path, monkeypatch)
    (UNITS / AGENT).unlink()
    result, done = run(state)
    assert result is not None
    assert (result.holder, result.agent, result.kept) == (True, True, ())
    assert {AGENT, BOOT_GUARD, HOLDER} < set(result.written)
    assert done == ["daemon-reload", f"enable {BOOT_GUARD} {HOLDER} {AGENT}", HOLDS, f"restart {AGENT}"]

    result, done = run(state)
    assert result is not None
    assert (result.written, done) == ((), [HOLDS, f"restart {AGENT}"])


def test_what_was_disabled_or_edited_stays_so(tmp_path, monkeypatch):
    state = prepare(tmp_path, monkeypatch)
    disable(AGENT, HOLDER, now=True)
    result, done = run(state)
    assert result is not None
    assert (result.holder, result.agent, result.kept) == (False, False, (AGENT,))
    assert done == ["daemon-reload"]


def test_what_was_disabled_and_runs_still_is_replaced(tmp_path, monkeypatch):
    state = prepare(tmp_path, monkeypatch)
    disable(AGENT, HOLDER, now=False)
    result, done = run(state)
    assert result is not None
    assert (result.holder, result.agent) == (True, True)
    assert done == ["daemon-reload", HOLDS, f"restart {AGENT}"]


def test_the_new_agent_starts_without_the_lock_that_it_needs(tmp_path, monkeypatch):
    state = prepare(tmp_path, monkeypatch)

    def start(state: State) -> bool:
        with state.lock():
            return True

    monkeypatch.setattr(background, "restart_agent", start)
    assert run(state)[1][-1] == HOLDS


def test_where_no_guard_is_wanted_none_is_held_and_without_units_nothing_is_done(tmp_path, monkeypatch):
    state = prepare(tmp_path, monkeypatch)
    state.held_file.unlink()
    assert run(state)[1] == ["daemon-reload", f"restart {AGENT}"]
    (UNITS / AGENT).unlink()
    (UNITS / HOLDER).unlink()
    assert run(state)[1] == []
    assert not (UNITS / HOLDER).exists()
