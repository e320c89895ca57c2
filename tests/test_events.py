"""What is logged and what the page says of it are the same: every event, its code and its level."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import get_args

from qmesh.mesh.events.catalogue import EVENTS, PRIORITIES
from qmesh.mesh.events.mesh_events import EVENT_WORDS, EventKind
from qmesh.mesh.notifications.change import KINDS
from tests.support.checkout import CHECKOUT
from tests.support.finding_codes import findings_in_the_code

PACKAGE = CHECKOUT / "qmesh"
CATALOGUE = PACKAGE / "mesh/events/catalogue.py"
PAGE = (CHECKOUT / "docs/events.md").read_text(encoding="utf-8")
MODULES = [module for module in sorted(PACKAGE.rglob("*.py")) if module != CATALOGUE]
RESIDENT = [
    module
    for module in MODULES
    if not module.is_relative_to(PACKAGE / "cli")
    and (not module.is_relative_to(PACKAGE / "agent/commands") or module.stem == "ready")
    and module.name not in {"events.py", "log_handlers.py", "node_units.py"}
]
"""What the agent, the holder, `undo` and `ready` may run: all but what only a command that is typed says.

`units` and `restart` do that in `node_units.py`.
"""


def calls_in(module) -> Iterator[ast.Call]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


@functools.cache
def codes_of_calls() -> set[str]:
    """Literal codes that are given to `report_event`."""
    return {
        str(call.args[0].value)
        for module in MODULES
        for call in calls_in(module)
        if ast.unparse(call.func).endswith("report_event") and isinstance(call.args[0], ast.Constant)
    }


def test_every_event_that_is_logged_is_in_the_catalogue_and_every_one_there_is_logged():
    assert codes_of_calls() <= EVENTS.keys()
    words = {
        node.value
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert EVENTS.keys() - words == set()
    assert len(codes_of_calls()) > 50


def test_the_page_has_every_event_with_its_level_once():
    rows = re.findall(r"^\| `([a-z-]+)` \| (err|warning|notice|info|debug) \| \S", PAGE, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == EVENTS


def test_the_page_has_every_level_with_its_number():
    for level in set(EVENTS.values()):
        assert f"| {level} | {PRIORITIES[level]} | " in PAGE


def test_what_happens_to_the_mesh_has_words_and_is_logged():
    assert set(get_args(EventKind)) == EVENT_WORDS.keys()
    assert {EVENTS[kind] for kind in EVENT_WORDS} == {"notice"}


def test_a_kind_of_a_notification_is_the_code_of_what_it_tells_and_in_the_page():
    own = set(KINDS) - EVENTS.keys() - findings_in_the_code()
    assert own == {"guard-not-whole", "finding", "test"}
    rows = re.findall(r"^\| `([a-z-]+)` \| (?:event|\[finding|only here)", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(KINDS)
    monitoring = (CHECKOUT / "docs/monitoring.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in monitoring] == []


def test_what_needs_you_says_in_the_page_what_to_do():
    rows = re.findall(r"^\| `([a-z-]+)` \| err \| (.*) \|$", PAGE, re.MULTILINE)
    silent = {
        code for code, text in rows if not re.search(r"Run `|Report|fix|tried again|hint|library", text)
    }
    assert silent == set()


def test_nothing_that_runs_as_long_as_its_machine_logs_anything_but_events():
    methods = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    loggers = {"log", "logger", "logging", "talk", "logging.getLogger('qmesh')"}
    direct = [
        f"{module.relative_to(PACKAGE)}: {ast.unparse(call)}"
        for module in RESIDENT
        for call in calls_in(module)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in methods
        and ast.unparse(call.func.value) in loggers
    ]
    assert direct == []


def test_a_code_of_a_finding_is_the_code_of_an_event_only_where_it_is_the_same_matter():
    assert EVENTS.keys() & findings_in_the_code() == {
        "agent-failing",
        "agent-missing",
        "claim-refuted",
        "clock",
        "config-stale",
        "membership-conflict",
        "node-keys",
        "node-program",
    }
