"""The end of other processes, as the kernel tells it: nobody looks again and again. Source: pidfd_open(2)."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterable


def wait_for_readable(descriptors: Iterable[int], seconds: float) -> set[int]:
    """Wait until one of these can be read, or, of a pidfd, until its process has ended; which of them are.

    seconds: to wait at most; none of them is readable then.
    """
    waiting = select.poll()  # select(2) knows no descriptor beyond 1023
    for each in descriptors:
        waiting.register(each, select.POLLIN)
    return {descriptor for descriptor, _ in waiting.poll(max(0.0, seconds) * 1000)}


def wait_for_exit(number: int | None, seconds: float) -> bool:
    """Wait so many seconds, or until a process ends; whether it has. number: None to wait in any case."""
    if number is None:
        time.sleep(seconds)
        return False
    try:
        descriptor = os.pidfd_open(number)
    except ProcessLookupError:
        return True
    try:
        return bool(wait_for_readable([descriptor], seconds))
    finally:
        os.close(descriptor)


def wait_for_child(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """The same of a child of this process: its exit status is in `returncode` then.

    Popen's own wait sleeps and looks, and the longer the later it notices.
    """
    if child.returncode is None and not wait_for_exit(child.pid, seconds):
        return False
    child.wait()
    return True
