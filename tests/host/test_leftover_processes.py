"""Which processes of qmesh's run on: by locks that root alone can have, and without waiting for any disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.host.disk_timeout import run_in_time
from qmesh.host.system.leftover_processes import list_processes
from qmesh.host.system.processes import list_opening_processes, send_signal
from tests.support.fuse import mount_fuse
from tests.support.waiting import comes_true, patience

pytestmark = pytest.mark.usefixtures("own_machine")

USER = 1000
PLACE = Path("/run/place")
HOLD = """
import fcntl, os, sys
kept = os.open(sys.argv[1], int(sys.argv[2]))
if sys.argv[3] == "lock":
    fcntl.flock(kept, fcntl.LOCK_EX)
os.setresuid(int(sys.argv[4]), 0, 0)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holding(path: Path, *, flags: int = os.O_RDWR, does: str = "lock", user: int = 0) -> Iterator[int]:
    """A process with root's rights that has a file open. user: who started it."""
    words = [sys.executable, "-c", HOLD, str(path), str(flags), does, str(user)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.kill()


def make_lock(owner: int) -> Path:
    PLACE.mkdir()
    lock = PLACE / "agent.lock"
    lock.touch(0o600)
    os.chown(lock, owner, owner)
    return lock


@pytest.mark.parametrize(("owner", "user"), [(USER, USER), (USER, 0), (0, USER)])
def test_no_user_has_a_process_taken_for_one_of_qmeshs(owner, user):
    """As by `su`, which waits for a password with root's rights, and a file that he has locked before."""
    with holding(make_lock(owner), user=user):
        assert list_processes() == ()


def test_a_process_of_roots_with_that_lock_is_one():
    lock = make_lock(0)
    with holding(lock) as number:
        (found,) = list_processes()
        assert (found.number, found.kind, found.state, found.is_there) == (number, "agent", PLACE, True)
        assert list_opening_processes(lock) == {number}
        lock.unlink()
        (found,) = list_processes()
        assert not found.is_there


def test_a_number_that_is_another_process_by_now_gets_no_signal():
    """A user can have all numbers used up, until the one comes again."""
    meant, later = subprocess.Popen(["sleep", "1000"]), []

    def replace(number: int) -> bool:
        meant.kill()
        meant.wait()
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
        later.append(subprocess.Popen(["sleep", "1000"]))
        return True

    send_signal(meant.pid, signal.SIGTERM, is_meant=replace)
    (other,) = later
    assert other.pid == meant.pid, "this test is about nothing else"
    send_signal(other.pid, signal.SIGTERM, is_meant=lambda _: False)
    assert not comes_true(lambda: other.poll() is not None, 0.2)
    send_signal(other.pid, signal.SIGTERM, is_meant=lambda _: True)
    assert other.wait(patience(10)) == -signal.SIGTERM
    send_signal(other.pid, signal.SIGTERM, is_meant=lambda _: True)  # of none there is none


def test_who_has_a_file_open_is_seen_beside_a_disk_that_does_not_answer():
    lock, away = make_lock(0), Path("/run/away")
    away.mkdir()
    kept = mount_fuse(away, user=0)
    with holding(lock) as number, holding(away, flags=os.O_PATH, does="look"):
        found = run_in_time(away, lambda: list_opening_processes(lock), wait_s=patience(10))
        assert found == {number}
    os.close(kept)
