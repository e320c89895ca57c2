"""Answers of a copy of the process, and what there is where it takes too long, fails or is killed."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.errors import BadInput, KernelRefused, MachineRefused, MissingProgram
from qmesh.host.prover.timed_answers import collect_answers, drop_rights
from qmesh.host.unprivileged import NOBODY
from tests.support.waiting import patience, wait_until


def count_children() -> int:
    listed = f"/proc/self/task/{os.getpid()}/children"
    with open(listed, encoding="ascii") as file:  # noqa: PTH123
        return len(file.read().split())


def answer_for_ever() -> Iterator[bytes]:
    yield b"one"
    yield b""
    threading.Event().wait(600)


def test_all_answers_are_collected_of_another_process():
    before = count_children()
    large = bytes(300_000)
    answers, is_whole = collect_answers(lambda: [b"%d" % os.getpid(), b"", large], seconds=patience(30))
    assert is_whole
    assert int(answers[0]) != os.getpid()
    assert answers[1:] == [b"", large]
    assert count_children() == before


def test_what_takes_too_long_is_ended_and_what_it_had_found_is_kept():
    before = count_children()
    assert collect_answers(answer_for_ever, seconds=patience(1)) == ([b"one", b""], False)
    assert count_children() == before


def raise_input() -> list[bytes]:
    raise BadInput("no", hint="go away")


def raise_missing() -> list[bytes]:
    raise MissingProgram("no", hint="install it")


def fail() -> list[bytes]:
    raise ZeroDivisionError


def take_memory() -> list[bytes]:
    drop_rights()
    return [bytes(2 << 30)]


def end() -> list[bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [
        (raise_input, BadInput, "no"),
        (raise_missing, MachineRefused, "no"),
        (fail, MachineRefused, "qmesh itself failed: ZeroDivisionError"),
        (take_memory, MachineRefused, "needs more memory than the 1024 MB that it may have"),
        (end, KernelRefused, "was killed"),
    ],
)
def test_what_it_raises_is_raised_here(work, kind, words):
    with pytest.raises(kind, match=words):
        collect_answers(work, seconds=patience(30))


def tell_rights() -> Iterator[bytes]:
    limits = [resource.RLIMIT_FSIZE, resource.RLIMIT_CORE]
    drop_rights()
    yield repr((os.getresuid(), os.getresgid(), os.getgroups(), os.getsid(0) == os.getpid())).encode()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    yield repr(
        [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "NoNew"))]
    ).encode()
    yield repr([resource.getrlimit(limit) for limit in limits]).encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has no rights to drop")
def test_who_has_dropped_roots_rights_has_none_and_its_answers_arrive():
    answers, is_whole = collect_answers(tell_rights, seconds=patience(30))
    assert is_whole
    nobody = (NOBODY,) * 3
    assert answers == [
        repr((nobody, nobody, [], True)).encode(),
        b"['0000000000000000', '1']",
        b"[(0, 0), (0, 0)]",
    ]


@pytest.mark.parametrize("drops", [False, True])
def test_it_ends_with_the_process_that_asked(drops):
    read, write = os.pipe()

    def tell() -> Iterator[bytes]:
        if drops:
            drop_rights()
        os.write(write, b"%d" % os.getpid())
        yield from answer_for_ever()

    if (parent := os.fork()) == 0:
        collect_answers(tell, seconds=600)
        os._exit(0)
    child = int(os.read(read, 100))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"))  # noqa: PTH110
    os.close(read)
    os.close(write)
