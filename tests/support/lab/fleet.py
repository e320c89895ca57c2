"""Bare servers with OpenSSH's own server, and an operator who runs the Ansible collection on them.

Ansible is that of .venv. `scripts/install --dev` unpacks OpenSSH: installed it would be started.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import Lab, Machine, Running
from tests.support.skips import CANNOT
from tests.support.waiting import patience

COLLECTION = CHECKOUT / "packaging/ansible"
_OPENSSH = CHECKOUT / ".cache/openssh"
_LIBRARIES = ":".join(map(str, (_OPENSSH / "usr/lib").glob("*-linux-*")))
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SSHD = f"""\
HostKey /etc/ssh/lab_key
AuthorizedKeysFile /etc/ssh/lab_authorized
PidFile none
PermitRootLogin prohibit-password
SetEnv PATH=/root/bin:{sys.prefix}/bin:{_SYSTEM_PATH} LANG=C.UTF-8
"""
_SSHD_PARTS = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
"""Programs of their own in newer versions."""
_RECAP = re.compile(r"^(\S+) +: ok=\d+ +changed=(\d+) +unreachable=(\d+) +failed=(\d+)", re.MULTILINE)


class Outcome(NamedTuple):
    """What became of a host."""

    changed: int
    unreachable: int
    failed: int


FINE = Outcome(changed=0, unreachable=0, failed=0)


class Played(NamedTuple):
    """What a run of Ansible said, and what became of each host."""

    code: int
    text: str
    hosts: Mapping[str, Outcome]

    @property
    def changed(self) -> int:
        return sum(each.changed for each in self.hosts.values())


class Operator:
    """A computer with Ansible, the collection, and a key for servers.

    Attributes:
        hosts: the inventory: by group the hosts with their variables.
        variables: of all hosts.
    """

    def __init__(self, lab: Lab, address: str = "203.0.113.250", ipv6: str | None = None) -> None:
        if not _OPENSSH.is_dir():
            pytest.skip(f"{CANNOT}there is no OpenSSH in .cache: `scripts/install --dev` unpacks it")
        self.machine = lab.machine("operator", address, ipv6)
        self.hosts: dict[str, dict[str, dict[str, Any]]] = {"qmesh_control": {}, "qmesh_workers": {}}
        self.variables: dict[str, Any] = {
            "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        self._environment = {
            "PATH": f"{_OPENSSH}/usr/bin:{sys.prefix}/bin:{_SYSTEM_PATH}",
            "LD_LIBRARY_PATH": _LIBRARIES,
            "ANSIBLE_COLLECTIONS_PATH": "/root/collections",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_TIMEOUT": "30",
        }
        for name in ("id_ed25519", "host_key"):
            self.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"/root/.ssh/{name}"])
        link_collection(self.machine.path("/root/collections"))

    def run(self, words: Iterable[str | Path], **options: Any) -> Any:
        """Run a program as the operator; it must end with 0 unless `check` is false."""
        self.machine.path("/root/.ssh").mkdir(mode=0o700, exist_ok=True)
        env = {**self._environment, **options.pop("env", {})}
        return self.machine.run(list(words), env=env, **options)

    def give_server(self, machine: Machine) -> Running:
        """Have a machine be a server that this operator may log in to; his computer knows its key."""
        machine.write("/etc/ssh/lab_key", self.machine.read("/root/.ssh/host_key"), 0o600)
        machine.write("/etc/ssh/lab_authorized", self.machine.read("/root/.ssh/id_ed25519.pub"))
        config = _SSHD + "".join(
            f"{key} {_OPENSSH}/usr/lib/openssh/{name}\n"
            for key, name in _SSHD_PARTS.items()
            if (_OPENSSH / "usr/lib/openssh" / name).exists()
        )
        machine.write("/etc/ssh/lab_config", config)
        users = machine.read("/etc/passwd")
        if "\nsshd:" not in users:
            machine.write("/etc/passwd", f"{users}sshd:x:199:65534::/run/sshd:/usr/sbin/nologin\n")
        machine.run(["mkdir", "-p", "/run/sshd"])
        known = self.machine.read("/root/.ssh/host_key.pub").split()[:2]
        with self.machine.path("/root/.ssh/known_hosts").open("a", encoding="utf-8") as file:
            for address in filter(None, (machine.ipv4, machine.ipv6)):
                file.write(f"{address} {' '.join(known)}\n")
        return self.start_sshd(machine)

    def give_user(self, machine: Machine, name: str) -> None:
        """Have a server where only a user may log in, who may do everything by sudo."""
        # Its plugins have their place built in.
        layers = f"lowerdir={_OPENSSH}/usr/libexec:/usr/libexec"
        machine.run(["mount", "-t", "overlay", "overlay", "-o", layers, "/usr/libexec"])
        home = f"/run/home-{name}"
        # Without a password, and not with one that is elsewhere: sudo asks PAM for the account.
        machine.write("/etc/sudoers", f"{name} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        machine.write("/etc/passwd", f"{machine.read('/etc/passwd')}{name}:*:1234:1234::{home}:/bin/sh\n")
        machine.run(["install", "-d", "-o", "1234", "-g", "1234", home])
        config = machine.read("/etc/ssh/lab_config").replace("prohibit-password", "no")
        machine.write("/etc/ssh/lab_config", config.replace("PATH=", f"PATH={_OPENSSH}/usr/bin:"))
        machine.kill("sshd")
        self.start_sshd(machine)

    def start_sshd(self, machine: Machine) -> Running:
        words = [_OPENSSH / "usr/sbin/sshd", "-D", "-e", "-f", "/etc/ssh/lab_config"]
        running = machine.start(list(map(str, words)), env={"LD_LIBRARY_PATH": _LIBRARIES})
        machine.run(["sh", "-c", "until ss -Hltn sport = 22 | grep -q .; do sleep 0.05; done"])
        return running

    def write_inventory(self) -> None:
        groups = {name: {"hosts": hosts} for name, hosts in self.hosts.items()}
        tree = {"all": {"vars": self.variables, "children": groups}}
        self.machine.write("/root/inventory.yml", yaml.safe_dump(tree))

    def words(self, playbook: str, *options: str) -> list[str]:
        return ["ansible-playbook", "-i", "/root/inventory.yml", *options, f"qmesh.fleet.{playbook}"]

    def play(self, playbook: str, *options: str, code: int | None = 0, **given: Any) -> Played:
        """Run a playbook of the collection; it must end with that exit code, any where it is None."""
        self.write_inventory()
        done = self.run(self.words(playbook, *options), check=False, timeout=300, **given)
        text = done.stdout + done.stderr
        assert code in {None, done.returncode}, f"{playbook} ended with {done.returncode}:\n{text}"
        return Played(done.returncode, text, read_outcomes(text))

    def start(self, playbook: str, *options: str) -> Running:
        """Start a playbook, for who wants to end it."""
        self.write_inventory()
        return self.machine.start(self.words(playbook, *options), env=self._environment)


def read_outcomes(text: str) -> dict[str, Outcome]:
    """By host, what Ansible says in the end."""
    return {name: Outcome(*map(int, numbers)) for name, *numbers in _RECAP.findall(text)}


def link_collection(folder: Path) -> None:
    """Have Ansible find the collection in a folder of collections."""
    (folder / "ansible_collections/qmesh").mkdir(parents=True)
    (folder / "ansible_collections/qmesh/fleet").symlink_to(COLLECTION)


def run_playbook(
    folder: Path, inventory: Mapping[str, Any], *words: str, seconds: float, **variables: str
) -> Played:
    """Run one on this machine, in a folder that has the collection. words: options, and the playbook."""
    (folder / "inventory.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
    done = subprocess.run(
        ["ansible-playbook", "-i", "inventory.yml", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=patience(seconds),
        env={
            "HOME": str(folder),
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": str(folder),
            "ANSIBLE_NOCOLOR": "1",
            "LANG": "C.UTF-8",
            **variables,
        },
    )
    text = done.stdout + done.stderr
    return Played(done.returncode, text, read_outcomes(text))


def make_fleet(
    lab: Lab, workers: int, *, ipv6: bool = False, start: Callable[[Machine], object] | None = None
) -> tuple[Operator, list[Machine]]:
    """An operator and that many bare servers besides one for the control node, in his inventory.

    ipv6: the inventory has addresses of IPv6 alone. start: what gives a server its service manager.
    """
    operator = Operator(lab, ipv6="2001:db8::250" if ipv6 else None)
    machines = []
    for number in range(workers + 1):
        name = f"srv-{number}"
        machine = lab.machine(name, f"203.0.113.{number + 5}", f"2001:db8::{number + 5}" if ipv6 else None)
        if start is not None:
            start(machine)
        operator.give_server(machine)
        group = "qmesh_workers" if number else "qmesh_control"
        address = machine.ipv6 if ipv6 else machine.ipv4
        operator.hosts[group][name] = {"ansible_host": address, "qmesh_worker_count": 2}
        if not number:
            operator.hosts[group][name] |= {"qmesh_endpoint": address, "qmesh_node": "1.4"}
        machines.append(machine)
    return operator, machines
