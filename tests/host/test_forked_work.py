"""Work in a copy of the process: its answer, and what there is in place of one."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from qmesh.host.system.forked_work import ForkedWork
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def others() -> set[int]:
    """Children of this process that other tests have left to it. Threads of theirs have ended."""
    wait_until(lambda: threading.active_count() == 1)
    return list_children()


def list_children() -> set[int]:
    listed = f"/proc/self/task/{os.getpid()}/children"
    with open(listed, encoding="ascii") as file:  # noqa: PTH123
        return {int(number) for number in file.read().split()}


def test_it_is_done_by_a_copy_of_the_process_while_this_one_goes_on(others):
    with ForkedWork(os.getpid, int) as work:
        assert list_children() - others
        assert work.collect() != os.getpid()
    assert not list_children() - others


def test_what_the_work_raises_is_raised_where_it_is_asked_for(others):
    with ForkedWork(lambda: 1 // 0, int) as work, pytest.raises(ZeroDivisionError):
        work.collect()
    assert not list_children() - others


def test_what_the_copy_does_not_answer_is_done_here():
    first = os.getpid()

    def end_copy() -> int:
        if os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return 5

    with ForkedWork(end_copy, int) as work:
        assert work.collect() == 5


def test_what_nobody_asks_for_is_ended_with_the_block(others):
    with ForkedWork(lambda: threading.Event().wait(600), bool):
        (child,) = list_children() - others
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_process_with_other_threads_is_not_copied():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        with ForkedWork(os.getpid, int) as work:
            assert work.collect() == os.getpid()
    finally:
        ended.set()
        thread.join()


def test_a_copy_holds_nothing_open_of_what_this_process_has():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)

    def is_closed() -> bool:
        with contextlib.suppress(BlockingIOError):
            return os.read(reading, 1) == b""
        return False

    with ForkedWork(lambda: threading.Event().wait(600), bool):
        os.close(writing)
        wait_until(is_closed)
    os.close(reading)


def test_a_copy_has_the_streams_of_nobody():
    with ForkedWork(lambda: os.listdir("/proc/self/fd"), list[str]) as work:  # noqa: PTH208
        assert len(work.collect()) == 5, "three streams, the answer's pipe, and the folder that is listed"
    with ForkedWork(lambda: [os.readlink(f"/proc/self/fd/{each}") for each in range(3)], list[str]) as work:  # noqa: PTH115
        assert work.collect() == ["/dev/null"] * 3


def test_a_copy_ends_by_itself_once_the_process_was_killed():
    read, write = os.pipe()
    if (parent := os.fork()) == 0:
        ForkedWork(lambda: threading.Event().wait(0.5), bool)
        os.write(write, " ".join(map(str, list_children())).encode())
        signal.pause()
    (child,) = map(int, os.read(read, 100).split())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    wait_until(lambda: not os.path.exists(f"/proc/{child}"))  # noqa: PTH110
    os.close(read)
    os.close(write)
