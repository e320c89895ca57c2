"""One run shared by several pytest processes: each takes what no other has begun with.

    pytest -p tests.support.sharing --share=FOLDER --sharers=6 ...

The folder is empty at first. The tests are collected once, then the process forks the others. Each has a
report and a log of its own beside those of the first: `NAME-1.xml` and `NAME-1.log` beside `NAME.xml`.

A test goes by itself; those that have a set-up of their module in common go together. What takes long comes
first, so that in the end no process is left alone with it.

It is no pytest-xdist, whose workers have threads: a process that runs these tests forks, and enters
namespaces.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path

import pytest
from _pytest.capture import CaptureManager
from _pytest.junitxml import xml_key

_SHARED_SCOPES = ("class", "module")
_LONGEST = ("lab", "bench", "tests")
"""The folders whose tests take longest by the clock: each by itself some seconds, or half a minute."""


def _list_open() -> set[str]:
    """What this process has open that has a state: two that share it would take from each other."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # what the list was read by
            found.add(str(path.readlink()))
    return {each for each in found if each.startswith(("socket:", "pipe:", "anon_inode:"))}


_OPEN_AT_FIRST = _list_open()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", metavar="FOLDER", type=Path, help="take tests that no other process has taken"
    )
    parser.addoption("--sharers", metavar="N", type=int, default=1, help="in so many processes")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    folder: Path | None = session.config.option.share
    if folder is not None and session.config.inipath is None:
        # Of an option's value apart from it, pytest makes a place to look for its settings.
        raise pytest.UsageError("pyproject.toml was not read: write --share=FOLDER")
    if folder is None or session.config.option.collectonly or session.testsfailed:
        return None
    others = _fork_others(session.config)
    try:
        _run_tests(session, folder)
    except BaseException as stopped:
        if type(stopped) is not KeyboardInterrupt:  # of Ctrl-C each is told
            for process in others:
                os.kill(process, signal.SIGINT)
        raise
    finally:
        session.testsfailed += sum(not ended_well(*other) for other in others.items())
    return True


def ended_well(process: int, report: Path) -> bool:
    """Whether all tests of another process passed, once it has ended. What a test ends has no report."""
    return os.waitpid(process, 0)[1] == 0 and report.exists()


def _run_tests(session: pytest.Session, folder: Path) -> None:
    from tests.support.waiting import forget_slowness  # noqa: PLC0415 - pytest rewrites it first

    for items in _taken(session.items, folder):
        forget_slowness()
        for item, after in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)


def _fork_others(config: pytest.Config) -> dict[int, Path]:
    """The other processes, each of which goes on like this one, and their reports; in one of them none."""
    if left_open := _list_open() - _OPEN_AT_FIRST:
        raise pytest.UsageError(f"collecting the tests opened what can't be shared: {', '.join(left_open)}")
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()  # to look through it for garbage would be to copy it
    others: dict[int, Path] = {}
    for number in range(1, config.option.sharers):
        first = Path(config.stash[xml_key].logfile)
        report = first.with_stem(f"{first.stem}-{number}")
        process = os.fork()
        if process == 0:
            _be_another(config, report)
            return {}
        others[process] = report
    return others


def _be_another(config: pytest.Config, report: Path) -> None:
    """What it says and reports goes elsewhere than what the first process does."""
    config.stash[xml_key].logfile = str(report)
    capture = config.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)
    capture.stop_global_capturing()
    log = os.open(report.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    capture.start_global_capturing()
    capture.suspend_global_capture()


def _taken(tests: list[pytest.Item], folder: Path) -> Iterator[list[pytest.Item]]:
    """The tests that are to be run here, in groups."""
    groups: dict[Hashable, list[pytest.Item]] = defaultdict(list)
    for item in tests:
        groups[_set_up(item) or (item.nodeid,)].append(item)
    for key in sorted(groups, key=lambda key: _rank(groups[key])):
        # The same for each process, in whatever order it has them.
        name = hashlib.sha256(min(item.nodeid for item in groups[key]).encode()).hexdigest()
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            continue
        yield groups[key]


def _set_up(item: pytest.Item) -> tuple[Hashable, ...]:
    """What a test has in common with others of its module; empty where there is nothing."""
    found = getattr(item, "_fixtureinfo", None)
    definitions = found.name2fixturedefs.values() if found else ()
    shared = {each[-1].argname for each in definitions if each[-1].scope in _SHARED_SCOPES}
    return (item.path, *sorted(shared)) if shared else ()


def _rank(items: list[pytest.Item]) -> tuple[int, int]:
    """The lower, the longer they take."""
    folder = items[0].path.parent.name
    return _LONGEST.index(folder) if folder in _LONGEST else len(_LONGEST), -len(items)
