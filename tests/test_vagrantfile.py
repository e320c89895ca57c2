"""The Vagrantfile is one that Vagrant accepts, and what it types on the machines is there to be typed.

No machine is started here; scripts/test-vagrant does that.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qmesh.cli.app import load_command
from tests.support.checkout import CHECKOUT
from tests.support.skips import CANNOT
from tests.support.waiting import patience

VAGRANTFILE = CHECKOUT / "Vagrantfile"


def require_vagrant() -> None:
    if shutil.which("vagrant"):
        return
    known = subprocess.run(
        ["apt-cache", "policy", "vagrant"], capture_output=True, text=True, check=True
    ).stdout
    if not re.search(r"Candidate: [^(]", known):
        pytest.skip(f"{CANNOT}have Vagrant: its distribution has no package of it")
    pytest.skip("Vagrant is not installed: scripts/install --dev")


def validated(vagrantfile: Path, scratch: Path) -> subprocess.CompletedProcess[str]:
    """What Vagrant says about that file. Nothing of it is kept, and nobody asked for a newer Vagrant."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "VAGRANT_HOME": str(scratch / "home"),
        "VAGRANT_DOTFILE_PATH": str(scratch / "dotfile"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_CWD": str(vagrantfile.parent),
        "VAGRANT_VAGRANTFILE": vagrantfile.name,
    }
    return subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        env=environment,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )


def test_vagrant_accepts_it(tmp_path):
    require_vagrant()
    done = validated(VAGRANTFILE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for machine in ("control", "worker-b", "worker-c"):
        assert f"==> {machine}: " in done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('type: "qmesh-join"', 'type: "qmesh-leave"'),
        *(
            pytest.param(right, wrong, marks=pytest.mark.long)
            for right, wrong in (
                ("machine.vm.hostname", "machine.vm.hostnam"),
                ("inline: INIT", "inline: INTI"),
                ("\nend\n", "\n"),
            )
        ),
    ],
)
def test_vagrant_refuses_a_mistake(tmp_path, right, wrong):
    require_vagrant()
    text = VAGRANTFILE.read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "Vagrantfile"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    assert validated(broken, tmp_path).returncode != 0


def typed() -> list[list[str]]:
    """The qmesh commands that the Vagrantfile types, word by word; what Ruby fills in is one word."""
    text = VAGRANTFILE.read_text(encoding="utf-8")
    code = re.sub(r"#\{[^}]*\}", "FILLED-IN", re.sub(r"^ *#.*", "", text, flags=re.MULTILINE))
    lines = re.findall(r"\bqmesh ([a-z][^\n\"'|]*)", code)
    return [[word for word in line.split() if ">" not in word] for line in lines]


def test_its_commands_are_found():
    assert [words[0] for words in typed()] == ["init", "invite", "join", "check"]


@pytest.mark.parametrize("words", typed(), ids=" ".join)
def test_qmesh_has_its_commands(words):
    # Only reads the words: an option that is not there is an error of usage.
    load_command(words[0]).make_context(words[0], words[1:])
