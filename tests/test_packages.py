"""The packages of Debian that are installed: the README names them, and one place installs them."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience, wait_until

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ASKING_APT = re.compile(r"""(?:^|[;&|{(])\s*apt-get (?!indextargets)|\("apt-get",""", re.MULTILINE)
"""Where a script or a program runs apt-get, other than to be told of what is there."""


def listed(*options: str) -> list[str]:
    """What scripts/install says that it installs."""
    words = [str(CHECKOUT / "scripts/install"), *options, "--list"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def named(begin: str) -> list[str]:
    """The packages that a sentence of the README names, from its beginning until `by apt`."""
    sentence = README.split(begin)[1].split(" by apt")[0]
    return re.findall(r"`([^`]+)`", sentence)


def test_the_readme_names_what_the_demo_installs():
    assert named("it also installs what is missing of") == listed()


def test_the_readme_names_what_the_tests_install():
    demo = listed()
    packages = listed("--dev")
    assert packages[: len(demo)] == demo
    assert named("Besides what the demo installs, it installs") == packages[len(demo) :]


def test_an_emulated_machine_takes_some_of_what_the_tests_do():
    assert set(listed()) < set(listed("--kernel")) < set(listed("--dev"))


def test_only_the_installation_asks_apt():
    asking = {
        str(path.relative_to(CHECKOUT))
        for path in (CHECKOUT / "scripts").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and ASKING_APT.search(path.read_text(encoding="utf-8"))
    }
    # The latter two are run by the first.
    assert asking == {"scripts/install", "scripts/kernel/debian.py", "scripts/kernel/build-uml"}


@pytest.mark.lab
def test_who_installs_waits_for_who_has_apt():
    descriptor = os.open("/var/lib/apt", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with subprocess.Popen([CHECKOUT / "scripts/install", "--only", "netbase"]) as install:
            try:
                until_it_waits(install)
                assert install.poll() is None
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                assert install.wait(patience(300)) == 0
            finally:
                install.terminate()
    finally:
        os.close(descriptor)


def until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """Until somebody waits for the lock of apt that we have."""
    waiting = rf"-> FLOCK .*:{Path('/var/lib/apt').stat().st_ino} "
    wait_until(lambda: process.poll() is not None or re.search(waiting, Path("/proc/locks").read_text()), 300)
    assert process.poll() is None
