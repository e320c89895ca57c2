"""Processes that share the tests run each of them once, and no failure of one is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.sharing import ended_well

TESTS = """\
import os, pathlib, pytest
from tests.support.waiting import wait_until

FIRST, BEGUN = os.getpid(), pathlib.Path(__file__).with_name("begun")

@pytest.fixture(scope="module")
def shared(): return os.getpid()

@pytest.mark.parametrize("number", range(12))
def test_alone(number, tmp_path):
    (BEGUN / str(os.getpid())).touch()
    wait_until(lambda: len(list(BEGUN.iterdir())) == 3)
    assert os.getpid() == FIRST

@pytest.mark.parametrize("number", range(3))
def test_with_others(number, shared):
    assert shared == os.getpid()
"""


def test_each_test_is_run_once_and_another_process_that_fails_is_a_failure(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    for folder in ("share", "begun"):
        (tmp_path / folder).mkdir()
    share = ["-p", "tests.support.sharing", f"--share={tmp_path}/share", "--sharers=3"]
    place = ["-c", "pyproject.toml", "--rootdir=.", "-p", "no:cacheprovider", str(tmp_path)]
    words = [sys.executable, "-m", "pytest", "-q", f"--junitxml={tmp_path}/some.xml", *share, *place]
    done = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    ran = [
        [str(case.get("name")) for case in ET.parse(tmp_path / report).iter("testcase")]  # noqa: S314 - ours
        for report in ("some.xml", "some-1.xml", "some-2.xml")
    ]
    together = [name for names in ran for name in names]
    assert (len(together), len(set(together))) == (15, 15)
    assert sorted(sum(name.startswith("test_with") for name in names) for names in ran) == [0, 0, 3]
    for number in (1, 2):
        assert "FAILED test_some.py::test_alone" in (tmp_path / f"some-{number}.log").read_text(
            encoding="utf-8"
        )
    assert "FAILED" not in done.stdout
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("code", "has_report", "is_well"), [(0, True, True), (1, True, False), (0, False, False)]
)
def test_a_process_ended_well_with_0_and_a_report(tmp_path, code, has_report, is_well):
    report = tmp_path / "some-1.xml"
    if has_report:
        report.touch()
    process = os.fork()
    if process == 0:
        os._exit(code)
    assert ended_well(process, report) == is_well
