"""The throw-away machine of scripts/test-kernel: what comes out of it, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.waiting import idle, patience, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.machines]

CACHE = Path(os.environ.get("QMESH_KERNEL_CACHE") or CHECKOUT / ".cache" / "kernel")


# User-mode Linux takes long to build: it is tried where somebody has it already.
KINDS = ["emulated", *(["uml"] if any(CACHE.glob("uml-*")) else [])]


@pytest.fixture(params=KINDS)
def machine(request):
    """The command that starts one."""
    return started(request.param)


def started(kind: str) -> list[str | Path]:
    return [CHECKOUT / "scripts/test-kernel", *(["--uml"] if kind == "uml" else [])]


@pytest.fixture(autouse=True)
def nothing_is_left(request, tmp_path) -> Iterator[None]:
    """No file and no mount is left of a machine, and no process that knew of this test's folder."""
    mounts = Path("/proc/self/mounts").read_text()
    (tmp_path / "tmp").mkdir()
    yield
    wait_until(lambda: not {*processes_that_name(tmp_path), *(tmp_path / "tmp").iterdir()}, 10)
    assert Path("/proc/self/mounts").read_text() == mounts
    assert not list(CACHE.glob("half-made"))


def processes_that_name(folder: Path) -> list[str]:
    """The processes that have a folder in their arguments or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            if bytes(folder) in words:
                found.append(words.replace(b"\0", b" ").decode())
    return found


def environment(tmp_path: Path) -> Mapping[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "QMESH_HERE": "here too"}


def done(
    machine: list[str | Path],
    tmp_path: Path,
    *words: str,
    reluctant: bool = False,
    path: str = os.environ["PATH"],
) -> subprocess.CompletedProcess[bytes]:
    """What came of a command in a machine that may write to the test's folder `written`.

    reluctant: what it says is not read before no more of it fits where it is kept.
    """
    (tmp_path / "written").mkdir()
    command = [*machine, "--rw", tmp_path / "written", *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment(tmp_path), "PATH": path},
    ) as process:
        if reluctant:
            wait_until(lambda: is_full(process.stdout), 120)
            idle(1)
        try:
            output, errors = process.communicate(timeout=patience(300))
        finally:
            process.kill()
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def is_full(pipe: IO[bytes] | None) -> bool:
    """Whether whoever writes to it has to wait, but for less than a page."""
    assert pipe is not None
    kept = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
    return bool(kept > fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) - 4096)


def test_a_command_is_as_if_it_ran_here_but_for_what_it_writes(machine, tmp_path):
    script = f"""
        echo "$QMESH_HERE, $(uname -n), $(pwd)" >&2
        echo lost >{tmp_path}/lost
        echo kept >{tmp_path}/written/"$*"
        ip link add wg0 type wireguard || exit 1
        test -t 1 && exit 2
        sleep 1000 &
        seq 300000
        exit 7
    """
    ended = done(machine, tmp_path, "--run", "--", "sh", "-c", script, "--", "kept", reluctant=True)

    whole = "".join(f"{number}\n" for number in range(1, 300001)).encode()
    assert hashlib.sha256(ended.stdout).digest() == hashlib.sha256(whole).digest()
    assert ended.stderr.decode().splitlines()[-1] == f"here too, throwaway, {CHECKOUT}"
    assert ended.returncode == 7
    assert (tmp_path / "written/kept").read_text() == "kept\n"
    assert not (tmp_path / "lost").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--run", "busybox", "poweroff", "-f"), "error: the machine ended without an answer"),
        pytest.param(
            ("--timeout", "8", "--run", "sleep", "1000"),
            "error: the machine was not done after 8 s",
            marks=pytest.mark.long,
        ),
    ],
    ids=["dies", "hangs"],
)
def test_a_machine_that_does_not_answer_is_told_apart(machine, tmp_path, words, error):
    ended = done(machine, tmp_path, *words)

    assert ended.returncode == 125
    assert ended.stderr.decode().splitlines()[-2] == error
    assert ended.stdout == b""


def test_a_machine_that_hangs_in_its_boot_is_given_up_for_another_once(tmp_path):
    """By the emulator's command, which is called twice: of the second nothing but its end is known."""
    (tmp_path / "bin").mkdir()
    emulator = tmp_path / "bin/qemu-system-x86_64"
    emulator.write_text(
        f"#!/bin/sh\necho >>{tmp_path}/started\necho stuck\n"
        f"test $(wc -l <{tmp_path}/started) -gt 1 || exec sleep 1000\n"
    )
    emulator.chmod(0o755)

    ended = done(
        started("emulated"),
        tmp_path,
        *("--boot-timeout", "2", "--run", "true"),
        path=f"{tmp_path}/bin:{os.environ['PATH']}",
    )

    assert ended.stderr.decode().splitlines()[-5:-1] == [
        "stuck",
        "the machine was not up after 2 s, and another is started",
        "stuck",
        "error: the machine ended without an answer",
    ]
    assert ended.returncode == 125


# In the way that nobody can be told of; each of the others is a boot more.
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        *(
            pytest.param(each, marks=pytest.mark.long)
            for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        ),
    ],
)
def test_nothing_is_left_of_one_that_is_interrupted(machine, tmp_path, number):
    words = ("--rw", tmp_path, "--timeout", "300", "--run", "sh", "-c", "echo up; sleep 1000")
    with subprocess.Popen(
        [*machine, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"up\n":
            pytest.fail(process.communicate()[1].decode())
        assert processes_that_name(tmp_path)
        process.send_signal(number)
        output, errors = process.communicate(timeout=patience(30))

    assert process.returncode == -number
    assert (output, errors.splitlines()[1:]) == (b"", [])  # the first line is of scripts/install
