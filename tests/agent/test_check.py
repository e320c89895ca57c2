"""`check`, part by part: one that can't be looked at is a finding, and hides no other."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from qmesh.agent.audit.part_checks import REPORT, PartChecks
from qmesh.errors import Interrupted, KernelRefused
from qmesh.mesh.audit.findings import failed_check_finding


def raising(error: BaseException) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "why", "cure"),
    [
        (KernelRefused("the kernel said no", hint="ask again"), "the kernel said no", "ask again"),
        (
            OSError(errno.ENOENT, "gone"),
            "qmesh itself failed: FileNotFoundError at test_check.py:16",
            REPORT,
        ),
        (
            UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a secret"),
            "qmesh itself failed: UnicodeDecodeError at test_check.py:16",
            REPORT,
        ),
        (RecursionError(), "qmesh itself failed: RecursionError at test_check.py:16", REPORT),
    ],
)
def test_check_names_a_part_that_raises_whatever_it_is(error, why, cure):
    looks = PartChecks()
    assert looks.run("listeners", lambda: raising(error), "nothing") == "nothing"
    assert looks.run("keys", lambda: "seen", "nothing") == "seen"
    assert looks.failures == [failed_check_finding("listeners", why, cure)]
    assert (looks.failures[0].code, looks.failures[0].severity) == ("check-failed", "error")
    assert looks.skipped == {"listeners"}


def test_check_ends_where_its_user_says_so():
    for error in (Interrupted(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            PartChecks().run("keys", partial(raising, error), None)


def test_with_qmesh_traceback_a_bug_is_raised_and_a_refusal_told(monkeypatch):
    monkeypatch.setenv("QMESH_TRACEBACK", "1")
    looks = PartChecks()
    with pytest.raises(ValueError, match="bug"):
        looks.run("keys", lambda: raising(ValueError("bug")), None)
    looks.run("keys", lambda: raising(KernelRefused("no", hint="x")), None)
    assert [each.subject for each in looks.failures] == ["keys"]
