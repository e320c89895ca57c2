"""Tests that touch a machine run on one of their own.

A test that uses the fixture `own_machine` runs as process 1 of fresh network, mount and process
namespaces, with loopback up, empty /run and /dev/shm, and a /proc of its own. What it started dies with it,
and what it raised is raised here.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.waiting import patience, slowness

TEST_TIMEOUT_S = float(os.environ.get("QMESH_TEST_TIMEOUT_S", "300"))

_NEW_MOUNTS, _NEW_NETWORK, _NEW_PIDS = 0x00020000, 0x40000000, 0x20000000  # CLONE_NEWNS, ...NET, ...PID
_PRIVATE = 0x4000 | 0x40000  # MS_REC, MS_PRIVATE
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP: of a struct ifreq

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def own_machine() -> None:
    """Run the test on a machine of its own; see this module's docstring."""


@contextlib.contextmanager
def small_disk(size: str = "64k") -> Iterator[Path]:
    """A file system with that much room. For the test itself to make: fixtures run outside its machine."""
    small = Path("/run/small")
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", small], check=True)
    try:
        yield small
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if "own_machine" not in pyfuncitem.fixturenames:
        return None
    outcome, text = _run_apart(pyfuncitem)
    if outcome == "skipped":
        pytest.skip(text)
    if outcome != "passed":
        pytest.fail(text, pytrace=False)
    return True


def _run_apart(pyfuncitem: pytest.Function) -> tuple[str, str]:
    slowness()  # so that the test knows, and does not measure it
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with _children_in_new_namespace():
        machine = os.fork()
        if machine == 0:
            os.close(reading)
            _be_machine(pyfuncitem, writing)
    os.close(writing)
    try:
        return _report(reading)
    finally:
        os.close(reading)
        # It is waited for until all that it started is gone too.
        os.kill(machine, signal.SIGKILL)
        os.waitpid(machine, 0)


@contextlib.contextmanager
def _children_in_new_namespace() -> Iterator[None]:
    """The first child is process 1 of a new namespace. By itself a process can make one only once."""
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _NEW_PIDS)
        try:
            yield
        finally:
            _call("setns", own, _NEW_PIDS)
    finally:
        os.close(own)


def _report(reading: int) -> tuple[str, str]:
    octets = b""
    while select.select([reading], [], [], patience(TEST_TIMEOUT_S))[0]:
        part = os.read(reading, 65536)
        if not part:
            return pickle.loads(octets) if octets else ("failed", "the test's process died")  # noqa: S301 - ours
        octets += part
    return "failed", f"the test did not end within {patience(TEST_TIMEOUT_S):.0f} s"


def _be_machine(pyfuncitem: pytest.Function, writing: int) -> NoReturn:
    leaks: list[str] = []
    sys.unraisablehook = lambda unraisable: leaks.append(repr(unraisable.exc_value))
    try:
        _call("prctl", _DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        _call("unshare", _NEW_MOUNTS | _NEW_NETWORK)
        _furnish()
        gc.freeze()  # what an earlier test left open in pytest's process is not this one's fault
        outcome = _outcome(pyfuncitem)
        gc.collect()
        if leaks and outcome[0] == "passed":
            outcome = "failed", "\n".join(["left open:", *leaks])
        os.write(writing, pickle.dumps(outcome))
    except BaseException as error:  # noqa: BLE001 - nothing may go back into pytest from here
        os.write(writing, pickle.dumps(("failed", f"no machine for the test: {error!r}")))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Process 1 ends: the kernel kills every other process of the namespace.
        os._exit(0)


def _outcome(pyfuncitem: pytest.Function) -> tuple[str, str]:
    names = pyfuncitem._fixtureinfo.argnames
    try:
        pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names})
    except pytest.skip.Exception as skipped:
        return "skipped", str(skipped)
    except BaseException:  # noqa: BLE001 - whatever it was, the test failed
        return "failed", str(pyfuncitem.repr_failure(pytest.ExceptionInfo.from_current()))
    return "passed", ""


def _furnish() -> None:
    _call("mount", b"none", b"/", None, _PRIVATE, None)
    _call("mount", b"proc", b"/proc", b"proc", 0, None)
    for folder in (b"/run", b"/dev/shm"):
        _call("mount", b"tmpfs", folder, b"tmpfs", 0, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        fcntl.ioctl(asking, _SET_FLAGS, struct.pack("16sh22x", b"lo", _UP))


def _call(name: str, *arguments: int | bytes | None) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
