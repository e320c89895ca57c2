"""scripts/fresh: a pristine root of Debian, what is in it, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

pytestmark = pytest.mark.lab

SUITE = "trixie"
MAKING_S = 300
"""How long a root may take that has to be made first, from what the mirror has."""


@pytest.fixture
def scratch(tmp_path) -> Iterator[Path]:
    """Where roots are put, of which no file, mount or process is left."""
    mounts = Path("/proc/self/mounts").read_text()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    yield scratch
    assert list(scratch.iterdir()) == []
    assert processes_in(scratch) == []
    assert Path("/proc/self/mounts").read_text() == mounts
    assert not list((CHECKOUT / ".cache/fresh").glob("*.new"))


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


def test_a_command_has_the_checkout_and_nothing_that_a_new_debian_has_not(scratch):
    script = """
        . /etc/os-release && echo "$VERSION_CODENAME, $(cat /proc/sys/kernel/hostname), $PWD"
        cat README.md
        command -v python3 sudo
        echo "$QMESH_HERE, $QMESH_SOME_CACHE, $ANYTHING"
        unshare --net nsenter --mount --net --pid --target 1 test -e /srv/qmesh/README.md && echo entered
        touch /dev/of-fresh /tmp/of-fresh /run/of-fresh /etc/of-fresh
        printf '%s\\n' "$@" >&2
        exit 7
    """
    variables = {"QMESH_HERE": "here too", "QMESH_SOME_CACHE": "/here", "ANYTHING": "else"}
    status, output, errors = done(scratch, SUITE, "sh", "-c", script, "sh", "two words", "", **variables)

    readme = subprocess.run(
        ["git", "show", "HEAD:README.md"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    assert output == f"{SUITE}, {SUITE}, /srv/qmesh\n{readme}here too, , \nentered\n"
    assert errors.endswith("\ntwo words\n\n") or errors == "two words\n\n"
    assert status == 7
    assert not [folder for folder in ("/dev", "/tmp", "/run", "/etc") if Path(folder, "of-fresh").exists()]


def test_packages_come_from_where_this_machine_has_them(scratch):
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    here = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    script = """
        apt-get update -qq && apt-get install -qq netbase >/dev/null 2>&1 && cat /etc/protocols &&
        apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages'
    """
    status, output, errors = done(scratch, SUITE, "sh", "-c", script)

    assert (status, "tcp\t6\tTCP" in output) == (0, True), errors
    assert here
    assert set(output.splitlines()) >= set(here)


def test_pip_has_this_machines_settings_but_for_folders(scratch, tmp_path):
    file = tmp_path / "limits.txt"
    file.write_text("qmesh<1\n")
    folder = tmp_path / "index"
    folder.mkdir()
    variables = {
        "PIP_INDEX_URL": "https://index.example/simple",
        "PIP_EXTRA_INDEX_URL": f"file://{folder} https://more.example/simple",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONSTRAINT": str(file),
    }
    status, output, errors = done(scratch, SUITE, "cat", "/etc/pip.conf", str(file), **variables)

    assert status == 0, errors
    lines = output.splitlines()
    assert lines[0] == "[global]"
    assert "index-url = https://index.example/simple" in lines
    assert "extra-index-url = https://more.example/simple" in lines
    assert f"constraint = {file}" in lines
    assert lines[-1] == "qmesh<1"
    assert "find-links" not in output


def test_two_at_once_know_nothing_of_each_other(scratch):
    touch = ("sh", "-c", "test ! -e /etc/mine && touch /etc/mine && echo mine && cat")
    with started(scratch, SUITE, *touch) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        assert done(scratch, SUITE, *touch)[:2] == (0, "mine\n")
        assert first.communicate("and mine\n", timeout=patience(30))[0] == "and mine\n"
    assert first.returncode == 0


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


def test_what_a_killed_one_leaves_the_next_one_takes_away(scratch):
    with started(scratch, SUITE, "sh", "-c", "echo up; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        # Until what ran there has gone too: it had the other end.
        process.communicate(timeout=patience(30))
    assert list(scratch.iterdir())
    assert done(scratch, SUITE, "true")[0] == 0


def test_a_suite_that_cannot_be_had_is_told_apart(scratch):
    status, output, errors = done(scratch, "nosuch", "true")

    assert (status, output) == (125, "")
    assert "error: there is no root of nosuch to be had" in errors
    assert not list((CHECKOUT / ".cache/fresh").glob("nosuch*"))
