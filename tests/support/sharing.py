"""One run shared by several pytest processes: each takes what no other has begun with.

    pytest -p tests.support.sharing --share=FOLDER ...     as often as there are to be processes, all alike

The folder is empty at first. A test goes by itself; those that have a set-up of their module in common go
together. What takes long comes first, so that in the end no process is left alone with it.

It is no pytest-xdist, whose workers have threads: a process that runs these tests forks, and enters
namespaces.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path

import pytest

_SHARED_SCOPES = ("class", "module")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share", metavar="FOLDER", type=Path, help="take tests that no other process has taken"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    folder: Path | None = session.config.option.share
    if folder is not None and session.config.inipath is None:
        # Of an option's value apart from it, pytest makes a place to look for its settings.
        raise pytest.UsageError("pyproject.toml was not read: write --share=FOLDER")
    if folder is None or session.config.option.collectonly or session.testsfailed:
        return None
    for items in _taken(session.items, folder):
        for item, after in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    return True


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


def _rank(items: list[pytest.Item]) -> tuple[bool, int]:
    """The lower, the longer they take."""
    return "lab" not in items[0].path.parts, -len(items)
