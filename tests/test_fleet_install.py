"""The role that installs, by real Ansible on a pristine Debian; tests/lab/test_fleet.py has the others."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.support.checkout import CHECKOUT
from tests.support.fresh import FRESH
from tests.support.lab.fleet import FINE, Outcome, link_collection, run_playbook
from tests.support.packages import build_package
from tests.support.waiting import patience, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.long]

SUITE = "bookworm"
SSH = f"""#!{sys.executable} -I
import os, sys
root = "PROCESS"
with open(f"/proc/{{root}}/environ", "rb") as file:
    environment = dict(each.split(b"=", 1) for each in file.read().split(b"\\0") if each)
words = ["nsenter", "--target", root, "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
os.execve("/usr/bin/nsenter", [*words, "/bin/sh", "-c", sys.argv[-1]], environment)
"""
"""Takes a command into the root instead of to a server."""


HOLDS = """\
perl -e 'use Fcntl; open(F, ">", "LOCK");
    fcntl(F, F_SETLK, pack("s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0)) or die; sleep 30' >/dev/null 2>&1 &
"""
"""Has one of apt's locks for a while."""


class Server:
    """A pristine root that Ansible takes for a server. process: one that is in it."""

    def __init__(self, folder: Path, process: int) -> None:
        self.root = Path(f"/proc/{process}/root")
        self.folder = folder
        self.ssh = folder / "ssh"
        self.ssh.write_text(SSH.replace("PROCESS", str(process)), encoding="utf-8")
        self.ssh.chmod(0o755)
        link_collection(folder)

    def run(self, command: str) -> str:
        words = [str(self.ssh), command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def play(self, tasks: str, **variables: str) -> Outcome:
        """Run tasks of the role."""
        task = {"ansible.builtin.include_role": {"name": "qmesh.fleet.install", "tasks_from": tasks}}
        play = {"hosts": "all", "gather_facts": False, "become": True, "tasks": [task]}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")
        settings = {
            "ansible_user": "root",
            "ansible_pipelining": True,
            "ansible_ssh_executable": str(self.ssh),
            "ansible_ssh_transfer_method": "piped",
            "ansible_python_interpreter": "/usr/bin/python3",
            **variables,
        }
        inventory = {"all": {"hosts": {"srv-1": settings}}}
        played = run_playbook(self.folder, inventory, "play.yml", seconds=600)
        assert played.code == 0, played.text
        return played.hosts["srv-1"]


@contextlib.contextmanager
def make_server(folder: Path) -> Iterator[Server]:
    subprocess.run([FRESH, SUITE, "true"], check=True, timeout=patience(300), capture_output=True)
    name = f"server-of-{os.getpid()}-{folder.name}"
    words = [FRESH, SUITE, "bash", "-c", f"exec -a {name} sleep infinity"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as running:
        try:
            found: list[int] = []

            def is_there() -> bool:
                each = subprocess.run(
                    ["pgrep", "-f", f"^{name} "], capture_output=True, text=True, check=False
                )
                found[:] = map(int, each.stdout.split())
                return bool(found)

            wait_until(is_there, 60)
            yield Server(folder, found[0])
        finally:
            running.terminate()
            running.wait()


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    with make_server(tmp_path) as server:
        yield server


def test_a_bare_debian_gets_the_package_and_another_one_when_it_is_upgraded(server, tmp_path):
    files = {version: str(build_package(tmp_path, version)) for version in ("1.0", "2.0")}
    given = {"qmesh_install_method": "package", "qmesh_package_file": files["1.0"]}
    assert server.play("main", **given).changed
    assert server.run("qmesh --version") == "qmesh 1.0"
    assert server.play("main", **given) == FINE

    given["qmesh_package_file"] = files["2.0"]
    assert server.play("main", **given) == FINE, "it is there already"
    assert server.play("put", **given).changed == 1
    assert server.run("qmesh --version") == "qmesh 2.0"
    assert server.play("put", **given) == FINE
    assert server.run("find / -xdev -name 'qmesh_*.deb'") == ""


def test_what_another_apt_is_doing_is_waited_for(server, tmp_path):
    """As on a server that has just started, which updates itself."""
    given = {"qmesh_install_method": "package", "qmesh_package_file": str(build_package(tmp_path, "1.0"))}
    for lock in ("lib/apt/lists", "cache/apt/archives"):
        server.run(HOLDS.replace("LOCK", f"/var/{lock}/lock"))
    assert server.play("main", **given).changed
    assert server.run("qmesh --version") == "qmesh 1.0"
    server.run(HOLDS.replace("LOCK", "/var/lib/apt/lists/lock"))
    assert server.play("put", **given) == FINE


def list_versions(text: str) -> dict[str, str]:
    """By name, where a version is named; what is told to be elsewhere is left out."""
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


def test_a_bare_debian_gets_the_wheel_with_the_versions_of_the_lock(server, tmp_path):
    subprocess.run([CHECKOUT / "packaging/python", "--output", tmp_path], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    (constraints,) = tmp_path.glob("*-constraints.txt")
    given = {
        "qmesh_install_method": "pipx",
        "qmesh_wheel": str(wheel),
        "qmesh_constraints": str(constraints),
    }
    assert server.play("main", **given).changed
    assert server.run("qmesh --version").startswith("qmesh ")
    python = server.run("head -n 1 /usr/local/bin/qmesh").removeprefix("#!").split()[0]
    installed = list_versions(server.run(f"{python} -m pip freeze"))
    assert {"cryptography", "typer"} <= installed.keys()
    assert installed.items() <= list_versions(constraints.read_text("utf-8")).items()
    assert server.play("main", **given) == FINE
    assert server.run("find / -xdev -name 'qmesh-*.whl'") == ""
