"""What systemd and the journal say of units that failed: little of it, bounded, and not for long."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qmesh.host.system import systemd
from qmesh.host.system.systemd import read_unit_failures, read_unit_filters
from qmesh.mesh.foreign.other_hooks.unit_filters import UnitFilter
from qmesh.mesh.systemd.unit_failures import UnitFailure
from tests.support.waiting import patience, within

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

BLOCK = """\
Id=qmesh-worker@{core}.service
ActiveState=activating
Result=exit-code
NRestarts={restarts}
ExecMainCode={code}
ExecMainStatus={status}
"""
"""As systemd 252 prints it: in its own order, blocks with an empty line between."""
SHOWN = "\n".join(
    (
        BLOCK.format(core=4, restarts=17, code=1, status=1),
        BLOCK.format(core=5, restarts=0, code=2, status=9),
    )
)


SAID = """\
it begins
core 4 can start on 10.77.0.2 port 40003
error: no keys

core 4 does not listen on 10.77.0.2 port 40003: waiting
error: core 4 does not listen on 10.77.0.2 port 40003: its process ended
hint: see its log; check that it is started with this config.yml, and has the version that it is for
core 4 can start on 10.77.0.2 port 40003
"""
"""A worker that ends, between what `qmesh ready` says before and after it."""
PROGRAMS = Path("/run/bin")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(PROGRAMS), prepend=os.pathsep)


def install(name: str, script: str) -> None:
    """A program of this machine, which writes down how it was called."""
    PROGRAMS.mkdir(exist_ok=True)
    (PROGRAMS / name).write_text(f'#!/bin/sh\necho "{name} $*" >> /run/called\n{script}\n')
    (PROGRAMS / name).chmod(0o755)


def test_how_units_ended_is_told_with_the_last_line_that_is_no_hint() -> None:
    install("systemctl", f"cat <<'END'\n{SHOWN}END")
    install("journalctl", f"cat <<'END'\n{SAID}END")
    expected = {"state": "activating", "result": "exit-code", "last_line": "error: no keys"}
    assert read_unit_failures((4, 5, 6, 7)) == (
        UnitFailure(core=4, code=1, status=1, restarts=17, **expected),
        UnitFailure(core=5, code=2, status=9, restarts=0, **expected),
    )
    asked, *read = Path("/run/called").read_text().splitlines()
    assert asked.endswith("qmesh-worker@4.service qmesh-worker@5.service qmesh-worker@6.service")
    assert [line.rpartition(" ")[2] for line in read] == [
        f"_SYSTEMD_UNIT=qmesh-worker@{core}.service" for core in (4, 5)
    ]
    assert all("--lines=12" in line for line in read)
    assert read_unit_failures(()) == ()


def test_what_says_nothing_of_use_is_left_out() -> None:
    install("systemctl", "echo Failed to connect to bus; exit 1")
    assert read_unit_failures((4,)) == ()
    install("systemctl", f"cat <<'END'\n{BLOCK.format(core=4, restarts='', code=1, status=1)}END")
    assert read_unit_failures((4,)) == ()
    (PROGRAMS / "systemctl").write_bytes(b"\x7fELF")
    assert read_unit_failures((4,)) == ()


@pytest.mark.parametrize("script", ["exec sleep 600", "exec cat /dev/zero", "yes | tr -d '\\n'"])
def test_a_journal_that_never_ends_is_waited_for_no_longer_and_read_no_further(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "_ANSWERS_S", patience(0.5))
    install("systemctl", f"cat <<'END'\n{SHOWN}END")
    install("journalctl", script)
    with within(10):
        found = read_unit_failures((4, 5))
    assert [each.restarts for each in found] == [17, 0]
    assert max(len(each.last_line) for each in found) <= 64 * 1024


def test_units_that_refuse_addresses_are_told_by_what_systemd_shows() -> None:
    shown = (
        "Id=qmesh.service\nIPAddressAllow=\nIPAddressDeny=\n\n"
        "Id=qmesh-worker@4.service\nIPAddressAllow=127.0.0.0/8\nIPAddressDeny=::/0 0.0.0.0/0 x\n"
    )
    install("systemctl", f"cat << END\n{shown}END")
    assert read_unit_filters([4]) == ()
    Path("/run/systemd/system").mkdir(parents=True)
    refusing = UnitFilter("qmesh-worker@4.service", ("127.0.0.0/8",), ("::/0", "0.0.0.0/0"))
    assert read_unit_filters([4]) == (refusing,)
    called = Path("/run/called").read_text(encoding="ascii")
    assert called.endswith("qmesh.service qmesh-control.service qmesh-worker@4.service\n"), called
