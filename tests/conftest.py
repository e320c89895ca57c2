"""What holds for all tests: which may be skipped, and when a skip is a failure."""

import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from qmesh.host.firewall import nft_library
from tests.support.lab import fork_server
from tests.support.skips import CANNOT
from tests.support.waiting import comes_true, limit_time

# A machine that is busy with something else is slow, and no test of ours is about that.
settings.register_profile("few", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=20)
settings.register_profile("many", settings.get_profile("few"), max_examples=500)
settings.load_profile("few")

fork_server.enable()

HERE = Path("/proc/self/ns/net").readlink()


def refused_here(load: Callable[[], Any]) -> Callable[[], Any]:
    """Keeps the library out of the machine that the tests run on: its firewall is nobody's to change.

    Loaded once it would be inherited by all machines of the tests' own, and change this one's from there.
    """

    @functools.wraps(load)
    def loaded() -> Any:
        assert Path("/proc/self/ns/net").readlink() != HERE, "this test needs the fixture own_machine"
        return load()

    return loaded


nft_library.load = refused_here(nft_library.load)

# Who is started in the background may be deaf to it, and so would be all that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "own_machine" in getattr(item, "fixturenames", ()):
            item.add_marker("lab")
        if os.geteuid() != 0 and item.get_closest_marker("lab"):
            item.add_marker(pytest.mark.skip(reason="needs root: sudo ./scripts/test"))
        # Every branch has a test that goes there each time: what laws happen to reach does not count.
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("no_cover")


def limit_test() -> contextlib.AbstractContextManager[None]:
    """With QMESH_TEST_LIMIT_S a test that waits for ever fails, and the others come to their end."""
    limit_s = float(os.environ.get("QMESH_TEST_LIMIT_S", "0"))
    return limit_time(limit_s) if limit_s else contextlib.nullcontext()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup() -> Iterator[None]:
    """A command that an earlier test ran in this process lets what it says be seen, from then on."""
    talk = logging.getLogger("qmesh")
    talk.handlers.clear()
    talk.setLevel(logging.NOTSET)
    talk.propagate = True
    with limit_test():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call() -> Iterator[None]:
    with limit_test():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None):
    """No thread outlasts the last of the tests that go together: others fork."""
    done = yield
    if nextitem is None and not comes_true(lambda: threading.active_count() == 1, 10):
        names = ", ".join(each.name for each in threading.enumerate()[1:])
        pytest.fail(f"threads are left: {names}", pytrace=False)
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    fail_if_left_out(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    fail_if_left_out(report)
    return report


def fail_if_left_out(report: pytest.TestReport | pytest.CollectReport) -> None:
    """With QMESH_NO_SKIP=1 a test that was skipped without need has failed."""
    if os.environ.get("QMESH_NO_SKIP") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not reason.startswith(CANNOT):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {reason}"
