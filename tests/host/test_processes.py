"""What is done whole though its command is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from qmesh.errors import MachineRefused
from qmesh.host.system.processes import acquire_process_lock, defer_signals, is_locked, terminate_lock_owner
from tests.support.waiting import within

SAY_HANDLERS = (
    "import signal; print(*(int(signal.getsignal(each)) for each in (1, 15)), signal.pthread_sigmask(0, []))"
)
GIVES_BACK_LATE = """
import signal, sys, time
from pathlib import Path
from qmesh.host.system.processes import acquire_process_lock

told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with acquire_process_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    while not told:
        time.sleep(0.01)
time.sleep(1)
"""

KEEPS_ON = """
import signal, sys
from pathlib import Path
from qmesh.host.system.processes import acquire_process_lock

signal.signal(signal.SIGTERM, signal.SIG_IGN)
with acquire_process_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    while True:
        signal.pause()
"""


def test_who_has_a_lock_has_ended_when_he_was_ended(tmp_path):
    """Not only given it back: what is left of a process would be taken for one that goes on."""
    lock = tmp_path / "some.lock"
    owner = subprocess.Popen(
        [sys.executable, "-c", GIVES_BACK_LATE, str(lock)], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        terminate_lock_owner(lock, timeout_s=30)
        assert owner.poll() == 0
    with acquire_process_lock(lock) as alone:
        assert alone
    assert not is_locked(lock)


def test_who_does_not_end_is_named_and_waited_for_no_longer_than_was_said(tmp_path):
    lock = tmp_path / "some.lock"
    words = [sys.executable, "-c", KEEPS_ON, str(lock)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        try:
            with within(20), pytest.raises(MachineRefused, match=f"does not end .process {owner.pid}"):
                terminate_lock_owner(lock, timeout_s=0.2)
        finally:
            owner.kill()


def test_what_ends_a_command_is_heeded_after_what_is_done_whole():
    done = []

    @defer_signals()
    def be_interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_started_meanwhile_heeds_signals_as_ever():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has these tests ignore it
    try:
        with defer_signals():
            said = subprocess.run(
                [sys.executable, "-c", SAY_HANDLERS], capture_output=True, text=True, check=True
            )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert said.stdout == f"{signal.SIG_DFL:d} {signal.SIG_DFL:d} set()\n"


def test_what_is_ignored_stays_so():
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with defer_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
