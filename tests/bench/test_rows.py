"""The benchmarks run: each row at its smallest size, on a machine where all that it would leave is seen.

How long anything took is nobody's concern here, so what can be forked is not started.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.browser import find_browser
from tests.support.checkout import CHECKOUT
from tests.support.skips import CANNOT
from tests.support.waiting import patience, wait_until

pytestmark = pytest.mark.lab

BENCH = [sys.executable, f"{CHECKOUT}/scripts/bench.py"]
SHARED = {"measuring", "sample"}
ROWS = sorted({path.stem for path in (CHECKOUT / "scripts/benchmarks").glob("*.py")} - SHARED)
LONGEST_S = 60

_SECTION = re.compile(r"^### (\w+)$", re.MULTILINE)
_FIGURE = re.compile(r"\| [^|]+ \| [^|]* \| -?[\d,.]+ ?[^|]* \| [^|]* \| [^|]* \| [^|]* \| (?:kept)? ?\|")
"""A line of a table. What is a difference of two may be below zero on a busy machine."""


def environment(tmp_path: Path, **variables: str) -> Mapping[str, str]:
    """With a folder for temporary files that is this test's own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary), "QMESH_BENCH_FORKS": "1", **variables}


def bench(tmp_path: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BENCH, *words],
        capture_output=True,
        text=True,
        timeout=patience(LONGEST_S),
        env=environment(tmp_path, **variables),
        check=False,
    )


def others() -> list[str]:
    """The processes of this machine but for the test, which is its first: whoever lost its parent is here."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    assert os.getpid() == 1
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if process.name != "1":
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_text().replace("\0", " ")
                found.append(words or (process / "comm").read_text())
    return found


def traces(tmp_path: Path) -> dict[str, str]:
    """Of what else a row makes: interfaces, rules, mounts, and files where such are."""
    folders = " ".join([str(tmp_path / "tmp"), "/run", "/var/lib/qmesh", "/dev/shm"])
    asked = (
        "ip -o link",
        "ip netns",
        "nft list ruleset",
        "cat /proc/self/mountinfo",
        "cat /proc/sys/net/ipv4/ip_local_reserved_ports",
        f"find {folders} 2>/dev/null | sort",
    )
    return {
        script: subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout
        for script in asked
    }


def put_wg_in_the_way(tmp_path: Path, deed: str) -> str:
    """A PATH whose `wg syncconf` says who holds the guard, and does this; by then the row is under way."""
    program = tmp_path / "bin/wg"
    program.parent.mkdir()
    holder = f"pgrep -x qmesh-hold >{tmp_path}/half && mv {tmp_path}/half {tmp_path}/held"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = syncconf ] || exec /usr/bin/wg "$@"\n{holder}\n{deed}\n', encoding="utf-8"
    )
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


MARKS = {
    # What it makes is made by tests/lab/test_node_processes.py too.
    "node": pytest.mark.long,
    "page": pytest.mark.skipif(
        not find_browser(), reason=f"{CANNOT}there is no Chromium; `scripts/install --browser` unpacks one"
    ),
}


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[MARKS[row]] if row in MARKS else []) for row in ROWS]
)
def test_a_row_prints_its_table_and_leaves_nothing(own_machine, tmp_path, row):
    environment(tmp_path)
    before = traces(tmp_path)

    done = bench(tmp_path, "--smallest", row)

    assert done.returncode == 0, done.stdout + done.stderr
    assert _SECTION.findall(done.stdout) == [row]
    table, _, growth = done.stdout.partition("\nFrom ")
    figures = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert figures
    assert [line for line in figures if not _FIGURE.fullmatch(line)] == []
    assert bool(growth) == (row in {"agent", "guard", "rendering", "tunnel"})
    assert others() == []
    assert traces(tmp_path) == before


def test_a_row_that_fails_is_left_out_and_leaves_nothing(own_machine, tmp_path):
    path = put_wg_in_the_way(tmp_path, "exit 7")
    environment(tmp_path)
    before = traces(tmp_path)

    done = bench(tmp_path, "--smallest", "tunnel", "edits", PATH=path)

    assert done.returncode == 3
    assert "returned non-zero exit status 7" in done.stderr
    assert "error: could not be run: tunnel\n" in done.stderr
    assert _SECTION.findall(done.stdout) == ["edits"]
    assert (tmp_path / "held").exists()
    assert others() == []
    assert traces(tmp_path) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_of_one_that_is_interrupted(own_machine, tmp_path, number):
    variables = environment(tmp_path, PATH=put_wg_in_the_way(tmp_path, "exec sleep 1000"))
    before = traces(tmp_path)

    with subprocess.Popen([*BENCH, "--smallest", "tunnel"], env=variables, stdout=subprocess.PIPE) as process:
        try:
            wait_until(lambda: any(other.startswith("sleep 1000") for other in others()), seconds=LONGEST_S)
            process.send_signal(number)
            said, _ = process.communicate(timeout=patience(LONGEST_S))
        finally:
            process.kill()

    assert (tmp_path / "held").exists()
    assert process.returncode == -number
    assert said == b""
    wait_until(lambda: others() == [])
    assert traces(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nothing",), 2, "no such rows: nothing"),
        (("--page", "edits"), 2, "the page is of one whole run"),
        (("--measure", "edits", "{}"), 1, "error: only scripts/bench measures"),
    ],
    ids=["row", "page", "measure"],
)
def test_what_makes_no_sense_is_refused(own_machine, tmp_path, words, code, said):
    done = bench(tmp_path, *words)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["faults", "firewalls", "readers"])
def test_a_script_that_is_asked_for_what_there_is_not_says_so(own_machine, name):
    words = [sys.executable, f"{CHECKOUT}/scripts/{name}.py", "no-such-thing"]
    done = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"scripts/{name}: error: no " in done.stderr
