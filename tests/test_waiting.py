"""Tests wait in one way: for what they can see, for as long as the machine is slow."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import waiting
from tests.support.checkout import CHECKOUT
from tests.support.waiting import (
    Deadline,
    comes_true,
    forget_slowness,
    limit_time,
    slowness,
    wait_until,
    within,
)

TESTS = Path(__file__).parent
PROGRAMS = [path for path in sorted(TESTS.rglob("*.py")) if path != Path(waiting.__file__)]
SLEEPS = {"support/lab/programs/knock.py": "its machine has no more than the standard library when it begins"}


def sleeps(program: Path) -> bool:
    text = program.read_text()
    if "time.sleep" not in text:  # most need not be parsed
        return False
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return "time.sleep" in {ast.unparse(call.func) for call in calls}


def test_who_sleeps_says_what_for():
    """`idle`: nothing is to happen. `some_time`: a moment for a crash. `pause`: between asking and asking."""
    assert {str(path.relative_to(TESTS)) for path in PROGRAMS if sleeps(path)} == SLEEPS.keys()


KILLERS = {
    "test_documents.py": "names what pages may type",
    "drifts.py": "what it ends runs long since, and nothing starts another",
    "situations.py": "the same",
    "rented_servers.py": "the same",
}


def test_nobody_is_killed_by_a_name_that_another_may_be_about_to_have():
    """`Machine.kill` goes on until none is left."""
    found = {path.name for path in PROGRAMS if re.search(r"\bp[k]ill\b|\bkill[a]ll\b", path.read_text())}
    assert found == KILLERS.keys()


@pytest.fixture
def busy(monkeypatch):
    """A machine that gets ten times slower."""
    measured = iter([waiting.REFERENCE_S, 10 * waiting.REFERENCE_S])
    monkeypatch.setattr(waiting, "_measured", lambda: next(measured, 10 * waiting.REFERENCE_S))
    monkeypatch.setattr(waiting, "_slowest", [1.0])
    monkeypatch.delenv(waiting.HANDED_ON, raising=False)
    waiting._at_first.cache_clear()
    yield
    waiting._at_first.cache_clear()


def test_a_time_out_is_as_long_as_the_machine_is_slow_by_the_time_that_it_would_be_over(busy):
    deadline, began = Deadline(0.2), time.monotonic()
    assert slowness() == 1
    assert comes_true(deadline.is_over, 10)

    assert time.monotonic() - began >= 2
    assert slowness() == 10


def test_a_machine_that_is_quicker_is_given_the_time_of_an_idle_one(busy, monkeypatch):
    monkeypatch.setattr(waiting, "_measured", lambda: 0.0)
    assert slowness(anew=True) == 1


def test_a_moment_in_which_nothing_goes_on_makes_no_machine_endlessly_slow(busy, monkeypatch):
    monkeypatch.setattr(waiting, "_measured", lambda: 1000 * waiting.REFERENCE_S)
    assert slowness(anew=True) == 12


def test_between_tests_a_machine_whose_other_work_has_ended_is_as_quick_again(busy, monkeypatch):
    assert slowness(anew=True) == 10
    monkeypatch.setattr(waiting, "_measured", lambda: waiting.REFERENCE_S)
    monkeypatch.setattr(waiting, "_forgotten", [time.monotonic() + 1000])
    forget_slowness()
    assert slowness() == 10
    waiting._forgotten[0] = time.monotonic() - waiting._FORGOTTEN_S
    forget_slowness()
    assert slowness() == 1


def test_what_does_not_come_is_a_failure_that_says_how_long_it_was_waited_for(busy):
    with pytest.raises(AssertionError, match=r"not within 0\.01 s, 10\.0 times as long here"):
        wait_until(lambda: False, 0.01)
    with pytest.raises(AssertionError, match=r"longer than 0\.01 s"), within(0.01):
        waiting.idle(0.2)


ENDLESS = """\
import signal
import subprocess
import sys
import pytest

@pytest.fixture
def ready():
    signal.pause()

def test_one():
    signal.pause()

def test_two(ready):
    pass

def test_three():
    pass
"""


def pause_twice() -> None:
    """As what may not be cut off does."""
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


@pytest.mark.parametrize("wait", [signal.pause, pause_twice])
def test_what_waits_for_ever_is_given_up(wait):
    around = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(TimeoutError, match="not over after"), limit_time(0.01):
        wait()
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx(around, abs=10)


def test_a_test_that_waits_for_ever_fails_where_a_limit_is_given(tmp_path):
    (tmp_path / "test_endless.py").write_text(ENDLESS, encoding="utf-8")
    words = ["-c", "pyproject.toml", "--rootdir=.", "-p", "no:cacheprovider", "-p", "no:randomly", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", *words],
        cwd=CHECKOUT,
        env={**os.environ, "QMESH_TEST_LIMIT_S": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.findall(r"(FAILED|ERROR) \S+::(\w+) - (.*)", done.stdout) == [
        ("ERROR", "test_two", "TimeoutError: not over after 1 s"),
        ("FAILED", "test_one", "TimeoutError: not over after 1 s"),
    ]
    assert "1 failed, 1 passed, 1 error" in done.stdout


def test_an_interrupt_is_still_one_where_time_is_limited():
    around = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(KeyboardInterrupt), limit_time(60):
        signal.raise_signal(signal.SIGINT)
    assert signal.getitimer(signal.ITIMER_REAL) == pytest.approx(around, abs=10)
