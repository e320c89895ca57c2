"""scripts/fresh: a pristine root of Debian, what is in it, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience, wait_until

pytestmark = pytest.mark.lab

SUITE = "trixie"
MAKING_S = 300
"""How long a root may take that has to be made first, from what the mirror has."""


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[Path]:
    """Where roots are put, of which no file, mount or process is left."""
    mounts = Path("/proc/self/mounts").read_text()
    scratch = folder / "scratch"
    scratch.mkdir()
    yield scratch
    assert list(scratch.iterdir()) == []
    assert processes_in(scratch) == []
    assert Path("/proc/self/mounts").read_text() == mounts
    # What another process makes at the same time is soon done.
    wait_until(lambda: not list((CHECKOUT / ".cache/fresh").glob("*.new")), seconds=60)


@pytest.fixture
def scratch(tmp_path) -> Iterator[Path]:
    with nothing_left(tmp_path) as scratch:
        yield scratch


def processes_in(folder: Path) -> list[str]:
    """The processes that were started with `folder` for their scratch folder, or in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if bytes(folder) in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


@contextlib.contextmanager
def started(scratch: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        # What is started beside something else ignores some signals, and a shell can't change that.
        ["env", "--default-signal=HUP,INT,TERM", CHECKOUT / "scripts/fresh", *words],
        env={**os.environ, "TMPDIR": str(scratch), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o077,  # as careful users have it: in the root others read what is made
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # what does not end is not waited for


def done(scratch: Path, *words: str, **variables: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command in a root."""
    with started(scratch, *words, **variables) as process:
        output, errors = process.communicate(timeout=patience(MAKING_S))
    return process.returncode, output, errors


class Seen(NamedTuple):
    """What was seen in one root. said: by each of LOOKS. folder: of the files that pip's settings name."""

    status: int
    said: dict[str, str]
    errors: str
    folder: Path


LOOKS = {
    "system": '. /etc/os-release && echo "$VERSION_CODENAME, $(cat /proc/sys/kernel/hostname), $PWD"',
    "checkout": "cat README.md",
    "programs": "command -v python3 sudo",
    "variables": 'echo "$QMESH_HERE, $QMESH_SOME_CACHE, $ANYTHING"',
    "nsenter": (
        "unshare --net nsenter --mount --net --pid --target 1 test -e /srv/qmesh/README.md && echo entered"
    ),
    "files": "touch /dev/of-fresh /tmp/of-fresh /run/of-fresh /etc/of-fresh",
    "pip": "cat /etc/pip.conf",
    "constraint": 'cat "$1"',
    "apt": "apt-get update -qq && apt-get install -qq netbase >/dev/null 2>&1 && cat /etc/protocols",
    "sources": "apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages'",
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("fresh")
    file = folder / "limits.txt"
    file.write_text("qmesh<1\n")
    index = folder / "index"
    index.mkdir()
    variables = {
        "QMESH_HERE": "here too",
        "QMESH_SOME_CACHE": "/here",
        "ANYTHING": "else",
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": f"file://{index} https://more.example/simple",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONSTRAINT": str(file),
    }
    parts = "".join(f"{look}\nprintf '\\0'\n" for look in LOOKS.values())
    script = f"{parts}shift; printf '%s\\n' \"$@\" >&2; exit 7"
    words = ("sh", "-c", script, "sh", str(file), "two words", "")
    with nothing_left(folder) as scratch:
        status, output, errors = done(scratch, SUITE, *words, **variables)
    assert output.count("\0") == len(LOOKS), errors
    return Seen(status, dict(zip(LOOKS, output.split("\0"), strict=False)), errors, folder)


def test_a_command_has_the_checkout_and_nothing_that_a_new_debian_has_not(seen):
    readme = subprocess.run(
        ["git", "show", "HEAD:README.md"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert seen.said["system"] == f"{SUITE}, {SUITE}, /srv/qmesh\n"
    assert seen.said["checkout"] == readme
    assert seen.said["programs"] == ""
    assert seen.said["variables"] == "here too, , \n"
    assert seen.said["nsenter"] == "entered\n"
    assert seen.errors.endswith("two words\n\n")
    assert seen.status == 7
    assert not [folder for folder in ("/dev", "/tmp", "/run", "/etc") if Path(folder, "of-fresh").exists()]


def test_packages_come_from_where_this_machine_has_them(seen):
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    here = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()

    assert "tcp\t6\tTCP" in seen.said["apt"], seen.errors
    assert here
    assert set(seen.said["sources"].splitlines()) >= set(here)


def test_pip_has_this_machines_settings_but_for_folders(seen):
    lines = seen.said["pip"].splitlines()
    assert lines[0] == "[global]"
    assert "index-url = https://index.example/simple" in lines
    assert "extra-index-url = https://more.example/simple" in lines
    assert f"constraint = {seen.folder / 'limits.txt'}" in lines
    assert seen.said["constraint"] == "qmesh<1\n"
    assert "find-links" not in seen.said["pip"]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_nothing_is_left_of_one_that_is_interrupted(scratch, number):
    with started(scratch, SUITE, "sh", "-c", "sleep 1000 & echo up; sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert processes_in(scratch)
        process.send_signal(number)
        process.send_signal(number)  # as Ctrl-C is pressed twice, or a runner hands it on
        process.communicate(timeout=patience(30))
    assert process.returncode == 128 + number


@pytest.mark.long  # three at once, each of which makes more than one: `.ci/run`
def test_what_a_killed_one_leaves_the_next_one_takes_away_and_two_at_once_know_nothing_of_each_other(scratch):
    with started(scratch, SUITE, "sh", "-c", "echo up; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        # Until what ran there has gone too: it had the other end.
        process.communicate(timeout=patience(30))
    (left,) = scratch.iterdir()
    touch = ("sh", "-c", "test ! -e /etc/mine && touch /etc/mine && echo mine && cat")
    with started(scratch, SUITE, *touch) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        (its,) = scratch.iterdir()
        assert its != left
        assert done(scratch, SUITE, *touch)[:2] == (0, "mine\n")
        assert first.communicate("and mine\n", timeout=patience(30))[0] == "and mine\n"
    assert first.returncode == 0


def test_a_suite_that_cannot_be_had_is_told_apart(scratch):
    status, output, errors = done(scratch, "nosuch", "true")

    assert (status, output) == (125, "")
    assert "error: there is no root of nosuch to be had" in errors
    assert not list((CHECKOUT / ".cache/fresh").glob("nosuch*"))
