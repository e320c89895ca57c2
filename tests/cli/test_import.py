"""`qmesh import` with real files: what it answers and refuses, and that it changes nothing."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.forked import type_command

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT)}
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SECRET = "5ec4e7a11b1e"
LIST = """\
# mine
p2p:
  peerPrivKey: 5ec4e7a11b1e
engine:
  fullProver: true
  dataWorkersMultiaddrs: []
  dataWorkerMultiaddrs:
    - /ip4/127.0.0.1/tcp/40000
    - /ip4/192.0.2.201/tcp/40001
    - /ip4/192.0.2.201/tcp/40002
"""


def run(
    *words: str | Path,
    code: int = 0,
    given: str = "",
    directory: str | Path = "/",
    before: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """before: the words of a program that starts it; else it is forked."""
    typed = ["import", *map(str, words)]
    if before:
        started = [*before, sys.executable, "-m", "qmesh", *typed]
        done = subprocess.run(
            started, capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=directory
        )
    else:
        done = type_command(*typed, given=given, directory=directory)
    assert done.returncode == code, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done


def refusal(*words: str | Path, code: int = 2, **options: Any) -> str:
    done = run(*words, code=code, **options)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"]
    return done.stderr


@pytest.fixture
def node(tmp_path):
    """A directory with the node's config directory in it; the state is to be in it too, and never is."""
    directory = tmp_path / "node/.config"
    directory.mkdir(parents=True)
    (directory / "config.yml").write_text(LIST)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    yield directory
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def state_of(node: Path) -> tuple[str, Path]:
    return "--state", node.parents[1] / "state"


def test_the_answer_in_json_has_the_documented_shape(node):
    told = json.loads(run("--config", node, "--json", *state_of(node)).stdout)
    assert list(told) == ["node", "base_port", "machines", "commands", "notes"]
    assert (told["node"], told["base_port"]) == ("2.0", 40000)
    control, member = told["machines"]
    assert control == {
        "name": "control",
        "address": None,
        "user": None,
        "ssh_port": None,
        "workers": 1,
        "cores": {"first": 1, "count": 1},
        "was": [1],
        "ports_were": [40000],
        "member": False,
    }
    assert (member["name"], member["address"]) == ("machine-192-0-2-201", "192.0.2.201")
    assert (member["cores"], member["was"]) == ({"first": 2, "count": 2}, [2, 3])
    assert told["commands"][0] == f"qmesh init --name control --workers 1 --node 2.0 --config {node}"
    assert told["commands"][-1] == f"qmesh render-config --write --config {node}"
    assert any("line 6, column 3: the node ignores dataWorkersMultiaddrs" in note for note in told["notes"])


def test_the_answer_in_words_is_a_shell_script_of_the_same_commands(node):
    text = run(*state_of(node), directory=node.parent).stdout
    commands = json.loads(run("--json", *state_of(node), directory=node.parent).stdout)["commands"]
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == ["(", "set -e", "cd ~root", *commands, ")"]
    checked = subprocess.run(["sh", "-n"], input=text, text=True, check=False, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_address_that_no_interface_has_is_this_machines_when_told_so(node):
    told = json.loads(run("--config", node, "--here", "192.0.2.201", "--json", *state_of(node)).stdout)
    (control,) = told["machines"]
    assert (control["address"], control["workers"]) == ("192.0.2.201", 3)
    assert told["commands"][0].endswith("--endpoint 192.0.2.201")
    assert "--here 192.0.2.9 is not" in refusal("--config", node, "--here", "192.0.2.9", *state_of(node))
    assert "is not an IP address" in refusal("--config", node, "--here", "x", *state_of(node))


def test_lines_come_from_a_file_or_from_standard_input(node, tmp_path):
    lines = "192.0.2.200/3\nroot@192.0.2.201/4\n"
    by_input = run("--csv", "-", "--json", *state_of(node), given=lines, directory="/").stdout
    file = tmp_path.parent / f"{tmp_path.name}.csv"
    file.write_text(lines)
    assert run("--csv", file, "--json", *state_of(node), directory="/").stdout == by_input
    told = json.loads(by_input)
    assert told["commands"][0] == "qmesh init --name control --workers 3 --node 2.1-rust"
    assert told["commands"][2].startswith("ssh root@192.0.2.201 'qmesh join -' < ")
    guess = "node 2.1-rust is a guess, as no config.yml was found here; otherwise pass --node"
    assert told["notes"][0] == guess
    with_config = run("--csv", file, "--config", node, "--node", "1.4", "--json", *state_of(node))
    assert f"--node 1.4 --config {node}" in json.loads(with_config.stdout)["commands"][0]
    assert not any("guess" in note for note in json.loads(with_config.stdout)["notes"])
    file.unlink()


@pytest.mark.parametrize(
    ("octets", "message"),
    [
        (LIST.encode(), "line 2: "),
        (b"\xff\xfe", "is not UTF-8"),
        (b"# " * 600_000, "longer than 1 MiB"),
        (b"", "there is no machine in any line"),
    ],
)
def test_a_file_that_is_no_list_of_machines_is_refused(node, tmp_path, octets, message):
    file = tmp_path.parent / f"{tmp_path.name}.csv"
    file.write_bytes(octets)
    assert message in refusal("--csv", file, *state_of(node))
    file.unlink()


def test_files_that_are_not_there_are_refused(node):
    assert "cannot be read" in refusal("--csv", "/none", *state_of(node))
    assert "cannot be read" in refusal("--csv", "/", *state_of(node))
    assert "there is no directory" in refusal("--config", "/none", *state_of(node))
    assert "there is no config.yml in" in refusal("--config", node.parent, *state_of(node))
    assert "there is no .config/config.yml here" in refusal(*state_of(node), directory="/")
    assert "is not one of 1.4, 2.0" in refusal("--config", node, "--node", "3", *state_of(node))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("/ip4/192.0.2.201/tcp/40002", "/dns4/b/tcp/40002", "line 10, column 7: core 3 has a DNS name"),
        ("/ip4/192.0.2.201/tcp/40002", SECRET, "line 10, column 7: core 3 has no IP address"),
        ("/ip4/192.0.2.201/tcp/40002", "[a]", "line 10, column 7: this entry"),
        ("  dataWorkerMultiaddrs:", "  dataWorkerMultiAddrs:", "has no worker list"),
        ("engine:", "engine: [", "config.yml, line"),
    ],
)
def test_a_damaged_config_is_refused_with_its_place(tmp_path, old, new, message):
    (tmp_path / "config.yml").write_text(LIST.replace(old, new))
    assert message in refusal("--config", tmp_path, "--state", tmp_path / "state")


@pytest.fixture
def open_directory():
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@pytest.mark.lab
@pytest.mark.parametrize("closed", ["nothing", "directory", "file", "state"])
def test_without_root_it_says_what_it_may_not_read(open_directory, closed):
    for name in ("directory", "state"):
        (open_directory / name).mkdir(mode=0o700 if name == closed else 0o755)
    file = open_directory / "directory/config.yml"
    file.write_text(LIST)
    file.chmod(0o600 if closed == "file" else 0o644)
    can = subprocess.run([*AS_NOBODY, sys.executable, "-c", "import qmesh"], check=False, env=ENVIRONMENT)
    if can.returncode:
        pytest.skip("this machine cannot: its users may not run this checkout")
    words = ("--config", open_directory / "directory", "--state", open_directory / "state")
    if closed == "nothing":
        assert "machine-192-0-2-201" in run(*words, before=AS_NOBODY, directory="/").stdout
    else:
        assert "cannot be read by this user" in refusal(*words, code=3, before=AS_NOBODY, directory="/")
