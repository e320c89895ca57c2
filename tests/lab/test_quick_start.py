"""The quick start's blocks for node 2.1, typed as they stand on bare machines: none fails or is missing."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.lab.cluster import NODE_CONFIG, dial, facts
from tests.support.lab.machines import TOOLS, CommandFailed, Lab, Machine
from tests.support.lab.rust_node import CONFIG, PROGRAM, ask_node, earning_cores, install_node
from tests.support.lab.services import start_services
from tests.support.lab.systemd import control_group, start_systemd
from tests.support.pages import read_blocks, read_section, read_shown
from tests.support.waiting import comes_true, wait_until

pytestmark = pytest.mark.lab

SCREEN, THIRD = "All commands on one screen", "A third machine"
OLDER = "Older versions of the node"
OLDER_PROGRAM = f"""\
#!/bin/sh
case "$*" in *--core*) ;; *) exec sleep infinity ;; esac
PYTHONPATH={CHECKOUT} exec {sys.executable} {TOOLS / "worker.py"} "$@"
"""
ADDRESSES = {"fra-1": "203.0.113.5", "hel-2": "203.0.113.6", "ams-3": "203.0.113.7"}
SCP = """\
#!/bin/sh
# What is sent to a machine lies here until the lab takes it there.
for last; do :; done
there=/run/sent/$(expr "$last" : 'root@\\(.*\\):$') && mkdir -p "$there" && cp "$1" "$there"
"""
PROCESSORS = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
"""Of each server: it has a worker on the control node and two on the others, where there are two."""


class Servers:
    """Bare servers with the node's program, and somebody who types there what stands on a page."""

    def __init__(self, lab: Lab, start: Callable[[Machine], object] = start_services) -> None:
        """start: what gives a machine its service manager."""
        self.machines = {name: lab.machine(name, address) for name, address in ADDRESSES.items()}
        self.carried: list[str] = []
        self.answers: dict[tuple[str, str], str] = {}
        """What each command printed on each machine, the first time."""
        for machine in self.machines.values():
            start(machine)
            install_node(machine)
            machine.write("/root/bin/scp", SCP, 0o755)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def type_line(self, name: str, line: str) -> str:
        """Type a line on a machine; it must end with 0. What it sent by scp is carried there."""
        machine = self[name]
        words = ["taskset", "--cpu-list", PROCESSORS, "sh", "-c", f"PATH=/root/bin:$PATH; {{ {line}; }} 2>&1"]
        done = machine.run(words, check=False, timeout=100)
        assert done.returncode == 0, f"{name}# {line}\n{done.stdout}{done.stderr}"
        self.answers.setdefault((name, " ".join(line.split()[:2])), done.stdout)
        for target, address in ADDRESSES.items():
            with contextlib.suppress(OSError):
                for file in machine.path(f"/run/sent/{address}").iterdir():
                    self[target].write(f"/root/{file.name}", file.read_text(encoding="utf-8"), 0o600)
                    self.carried.append(file.name)
                    file.unlink()
        return done.stdout

    def type_blocks(self, heading: str) -> list[tuple[str, str]]:
        """Type all blocks of a section that are for one machine; what `check` and `status` said."""
        said = []
        for block in read_blocks("quick-start", heading):
            for line in block.lines if block.machine else ():
                answer = self.type_line(str(block.machine), line)
                if line in {"qmesh check", "qmesh status"}:
                    said.append((line, answer))
        return said

    def node_workers(self) -> dict[str, list[int]]:
        """By machine, the cores whose workers run there."""
        found = {}
        for name, machine in self.machines.items():
            shown = " ".join(machine.processes(re.escape(PROGRAM)).values())
            found[name] = sorted(map(int, re.findall(r"--core (\d+)", shown)))
        return found

    def wanted_workers(self, control: str) -> dict[str, list[int]]:
        """By machine, the cores that it has in the mesh."""
        members = facts(self[control], "status")["machines"]
        cores = {each["name"]: each["cores"] for each in members}
        return {
            name: list(range(cores[name]["first"], cores[name]["first"] + cores[name]["count"]))
            if name in cores and cores[name]["first"]
            else []
            for name in self.machines
        }

    def follow_steps(self, said: str) -> list[str]:
        """Do what a change printed, literally and in that order; the machines on which something was typed.

        Where agents may restart processes that is what no agent does.
        """
        steps = re.findall(r"^  on (\S+?)( \([^)]*\))?: (.*)$", said, re.MULTILINE)
        if "Their agents do this" in said:
            steps = [(name, why, step) for name, why, step in steps if why]
        for name, _, step in steps:
            line = re.sub(r"( \([^()]*\))+$", "", step)
            self.type_line(name, line.replace("--config DIR", f"--config {CONFIG}"))
            if copies := re.search(r"copy the node's directory, .* to ([a-z]+-[0-9])\)", step):
                copy_directory(self[name], self[copies[1]])
        return [name for name, _, _ in steps]

    def all_earn(self, control: str) -> bool:
        """Whether each machine runs its own cores and no other, all of them earn, and nothing is wrong."""
        wanted = self.wanted_workers(control)
        all_cores = sorted(core for cores in wanted.values() for core in cores)
        try:
            return self.node_workers() == wanted and earning_cores(self[control]) == all_cores
        except CommandFailed:  # the agent restarts the control process at this moment
            return False

    def is_well(self, control: str) -> bool:
        """Whether `check` has nothing against any member."""
        return not self.complaints(control)

    def complaints(self, control: str) -> dict[str, list[str]]:
        """By member, what `check` has against it; none where there is nothing."""
        found = {}
        for name in (each["name"] for each in facts(self[control], "status")["machines"]):
            said = json.loads(self[name].run(["qmesh", "check", "--json"], check=False).stdout)
            if codes := [each["code"] for each in said["findings"]]:
                found[name] = codes
        return found


def copy_directory(source: Machine, target: Machine) -> None:
    """What an operator does where a step says so."""
    target.run(["rm", "-rf", CONFIG])
    for file in source.path(CONFIG).rglob("*"):
        if file.is_file():
            inner = file.relative_to(source.path(CONFIG))
            target.write(f"{CONFIG}/{inner}", file.read_text(encoding="utf-8"), 0o600)


class Typed(NamedTuple):
    """A cluster that was made by typing what the page has, and what was seen of that.

    two, three: after the blocks for two servers, and after those for the third: seconds that it took, that
    `check` and `status` were typed, which files were carried, whose workers the control process served, and
    what it announced of each, for other provers and for streams.
    """

    servers: Servers
    two: Seen
    three: Seen


class Seen(NamedTuple):
    seconds: float
    said: list[str]
    carried: list[str]
    hosts: list[str]
    announced: list[tuple[str, str]]


@pytest.fixture(scope="module")
def typed():
    with Lab() as lab:
        servers = Servers(lab)
        start_node_once(servers)
        yield Typed(servers, type_and_look(servers, SCREEN), type_and_look(servers, THIRD))


def start_node_once(servers: Servers) -> None:
    """The first block: the node makes its files, and Ctrl-C ends it."""
    first = read_blocks("quick-start", SCREEN)[0]
    assert "start it once" in first.where
    (line,) = first.lines
    machine = servers["fra-1"]
    node = machine.start(["sh", "-c", line])
    node.wait_for("ready")
    assert machine.kill(re.escape(PROGRAM.rpartition("/")[2]), signal.SIGINT)
    assert node.wait(15) in {130, -signal.SIGINT}
    assert machine.path(f"{CONFIG}/keys.yml").exists()


def type_and_look(servers: Servers, heading: str) -> Seen:
    began = time.monotonic()
    said = servers.type_blocks(heading)
    wait_until(lambda: servers.all_earn("fra-1"))
    seconds = time.monotonic() - began
    node = ask_node(servers["fra-1"])
    hosts = [worker["host"] for worker in node["workers"]]
    announced = [(each["p2p"], each["stream"]) for each in node["announced"]]
    return Seen(seconds, [line for line, _ in said], list(servers.carried), hosts, announced)


def test_two_bare_servers_become_a_running_cluster_and_a_third_one_joins(typed, capsys):
    count = len(PROCESSORS.split(","))
    assert typed.two.said == typed.three.said == ["qmesh check", "qmesh check", "qmesh status"]
    assert typed.two.carried == ["hel-2.invitation"]
    assert typed.three.carried == ["hel-2.invitation", "ams-3.invitation"]
    on_control = max(1, count - 1)
    assert typed.two.hosts == [*["fra-1"] * on_control, *["hel-2"] * count]
    assert typed.three.hosts == [*typed.two.hosts, *["ams-3"] * count]
    stream = f"/ip4/{ADDRESSES['fra-1']}/tcp/8340"
    p2p = [f"/ip4/{ADDRESSES[host]}/tcp/{port}" for port, host in enumerate(typed.three.hosts, start=25000)]
    assert typed.three.announced == [(each, stream) for each in p2p]
    with capsys.disabled():
        figures = f"two bare servers {typed.two.seconds:.1f} s, a third one {typed.three.seconds:.1f} s"
        print(f"\n{figures}, files of the node carried by hand: 0")  # noqa: T201 - figures that are asked for


@pytest.mark.long
def test_the_lines_for_an_older_node_make_its_cluster():
    with Lab() as lab:
        servers = Servers(lab)
        for name in ("fra-1", "hel-2"):
            servers[name].write("/root/node/node-1.4.21-linux-amd64", OLDER_PROGRAM, 0o755)
        servers["fra-1"].write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
        said = dict(servers.type_blocks(OLDER))
        count = len(PROCESSORS.split(","))
        assert dial(servers["fra-1"]) == [
            *(f"core {core} on fra-1" for core in range(1, max(2, count))),
            *(f"core {core} on hel-2" for core in range(max(2, count), max(2, count) + count)),
        ]
        assert "node 1.4" in said["qmesh status"]


@pytest.mark.long
def test_after_each_change_its_printed_steps_alone_are_enough(typed, mistyped):
    servers = typed.servers
    servers.type_line("fra-1", "qmesh set hel-2 --endpoint 203.0.113.6:51820")
    for control, command, then in (
        ("fra-1", "qmesh pause hel-2", "fra-1"),
        ("fra-1", "qmesh resume hel-2", "fra-1"),
        ("fra-1", "qmesh handover hel-2", "hel-2"),
        ("hel-2", "qmesh set --restart", "hel-2"),
        ("hel-2", "qmesh handover fra-1", "fra-1"),
        ("fra-1", "qmesh remove hel-2", "fra-1"),
    ):
        said = servers.type_line(control, f"{command} 2>&1")
        assert servers.follow_steps(said) or "--restart" in command, said
        assert comes_true(functools.partial(servers.all_earn, then), 30), said
        # The guard lets go of ports that no worker has any more at the agent's next look.
        comes_true(functools.partial(servers.is_well, then), 15, every_s=1)
        assert servers.complaints(then) == {}, said


def outline(said: str) -> list[str]:
    """The lines that a command prints, without what is another on each machine."""
    said = re.sub(r"[0-9A-Za-z+/]{43}=", "KEY", said)
    said = re.sub(r"\b[0-9a-f]{16}\b", "MESH", said)
    return re.sub(r"\bcores? N", "cores N", re.sub(r"\d[\d.:-]*( \d\d:\d\d)?", "N", said)).splitlines()


def test_the_readmes_first_screen_shows_what_the_commands_print(typed):
    shown = read_shown("README.md")
    for typed_line in (
        *(("fra-1", "qmesh init"), ("fra-1", "qmesh invite")),
        *(("hel-2", "qmesh join"), ("hel-2", "qmesh check")),
    ):
        assert outline(shown[typed_line]) == outline(typed.servers.answers[typed_line])


MISTAKES = (
    # machine, line, what it ends with, a part of the error, a part of the hint
    ("fra-1", "qmesh init --name Fra_1 --endpoint 203.0.113.5", 2, "not a machine name", "1 to 63 of a-z"),
    (
        "fra-1",
        "qmesh init --name x --config /root/nod/.config",
        2,
        "there is no directory",
        "start the node once",
    ),
    (
        "fra-1",
        f"qmesh init --name x --config {CONFIG}/config.yml",
        2,
        "not a directory",
        "has config.yml in it",
    ),
    ("fra-1", "qmesh init --nam x", 2, "No such option: --nam", "did you mean --name?"),
    (
        "fra-1",
        "setpriv --reuid=1000 --clear-groups qmesh plan",
        3,
        "needs root",
        "the same command again, with `sudo`",
    ),
    ("fra-1", "qmesh invite hel-2", 2, "already in the mesh", "`qmesh invite hel-2 --replace`"),
    ("fra-1", "qmesh invite x --announce 10.0.0.3", 2, "a private network", "such as 203.0.113.7"),
    ("fra-1", "qmesh pause 203.0.113.6", 2, "'203.0.113.6' is hel-2", "use hel-2 in its place"),
    ("fra-1", "qmesh pause hel-3", 2, "no machine is named 'hel-3'", "fra-1, hel-2"),
    ("fra-1", "qmesh pause fra-1", 2, "cannot be paused", "`qmesh handover NAME`"),
    ("fra-1", "qmesh check hel-2", 2, "no further argument", "log in to hel-2"),
    ("fra-1", "qmesh ceck", 2, "no command 'ceck'", "did you mean `qmesh check`?"),
    (
        "fra-1",
        "qmesh set hel-2 --restart",
        2,
        "for the whole mesh, not for hel-2 alone: --restart",
        "`qmesh set --restart`",
    ),
    ("fra-1", "qmesh set --workers 4", 2, "none is named: --workers", "`qmesh set NAME --workers`"),
    ("fra-1", "qmesh set hel-2 --workers four", 2, "'four' is not a whole number", "`qmesh set --help`"),
    ("fra-1", "qmesh set hel-2 --guard-port 99999", 2, "99999 is out of range", "1 to 65535"),
    ("fra-1", "qmesh set hel-2 --guard-port 22", 2, "you would be locked out", "choose another port"),
    (
        "fra-1",
        "qmesh units --write /etc/systemd/sytem",
        2,
        "no directory /etc/systemd/sytem",
        "`--write /etc/systemd/system`",
    ),
    (
        "fra-1",
        "qmesh units --write /tmp --program /root/node/nod",
        2,
        "there is no program",
        "--program, such as",
    ),
    (
        "fra-1",
        "qmesh admit /root/node/.config/config.yml",
        2,
        "not a qmesh request",
        "`qmesh join --offline`",
    ),
    ("fra-1", "qmesh restore /root/node/.config/config.yml", 2, "not a qmesh backup", "`qmesh backup`"),
    ("hel-2", "qmesh invite x", 2, "hel-2 is not the control node", "`qmesh invite` on fra-1"),
    ("hel-2", "qmesh join hel-2.invitatio", 2, "cannot be read", "the file with the invitation"),
    ("hel-2", f"qmesh join {CONFIG}/config.yml", 2, "not a qmesh invitation", "from qmesh1 to its end"),
    ("hel-2", "qmesh apply --confirm 5", 2, "not a time to confirm in", "10 to 3600 seconds"),
    ("hel-2", "qmesh export wg-quik", 2, "no format 'wg-quik'", "wg-quick, nft, hosts, ansible"),
)


@pytest.fixture(scope="module")
def mistyped(typed: Typed):
    """Lines with a mistake that did not end as they should, and the mesh's revision before and after them.

    They are typed before any test that changes the cluster.
    """
    before = {name: facts(typed.servers[name], "status")["revision"] for name in ADDRESSES}
    wrong = []
    for name, line, code, error, hint in MISTAKES:
        done = typed.servers[name].run(["sh", "-c", f"cd /root; {line}"], check=False)
        first, last = ["", "", *done.stderr.splitlines()][-2:]
        is_said = (
            first.startswith("error: ") and error in first and last.startswith("hint: ") and hint in last
        )
        if not is_said or done.returncode != code or done.stdout:
            wrong.append((line, done.returncode, done.stdout, done.stderr))
    return wrong, before, {name: facts(typed.servers[name], "status")["revision"] for name in ADDRESSES}


@pytest.mark.long
def test_a_line_with_a_mistake_changes_nothing_and_says_what_to_type(mistyped):
    wrong, before, after = mistyped
    assert wrong == []
    assert after == before


@pytest.mark.long
def test_the_blocks_and_a_handover_with_restart_are_right_under_systemd_itself(capsys):
    with control_group() as group, Lab() as lab:
        servers = Servers(lab, lambda machine: start_systemd(machine, group))
        start_node_once(servers)
        two, three = type_and_look(servers, SCREEN), type_and_look(servers, THIRD)
        assert two.said == three.said == ["qmesh check", "qmesh check", "qmesh status"]
        servers.type_line("fra-1", "qmesh set hel-2 --endpoint 203.0.113.6:51820")
        servers.type_line("fra-1", "qmesh set --restart")
        figures = [f"two servers {two.seconds:.1f} s", f"a third one {three.seconds:.1f} s"]
        for control, successor in (("fra-1", "hel-2"), ("hel-2", "fra-1")):
            began = time.monotonic()
            said = servers.type_line(control, f"qmesh handover {successor} 2>&1")
            passed = time.monotonic()
            assert servers.follow_steps(said), said
            wait_until(functools.partial(servers.all_earn, successor), 60)
            figures.append(
                f"the role {passed - began:.1f} s, all earn {time.monotonic() - passed:.1f} s later"
            )
            comes_true(functools.partial(servers.is_well, successor), 15, every_s=1)
            assert servers.complaints(successor) == {}, said
        for name in ADDRESSES:
            assert servers.type_line(name, "systemctl --failed --no-legend") == ""
    with capsys.disabled():
        print(f"\nunder systemd: {'; '.join(figures)}")  # noqa: T201 - figures that are asked for


@pytest.mark.long  # each command by itself: test_backup.py, test_uninstall.py; the lines: test_edges.py
def test_a_lost_control_node_comes_back_elsewhere_and_all_goes_by_the_lines_of_the_recovery_page():
    with control_group() as group, Lab() as lab:
        servers = Servers(lab, lambda machine: start_systemd(machine, group))
        start_node_once(servers)
        type_and_look(servers, SCREEN)
        old, member, new = (servers[name] for name in ADDRESSES)
        servers.type_line("fra-1", "qmesh backup /root/mesh.backup")
        copy_directory(old, new)
        new.run(
            ["sh", "-c", "base64 -d >/root/mesh.backup"],
            input=old.run(["base64", "/root/mesh.backup"]).stdout,
        )
        cores = earning_cores(old)
        old.run(["ip", "link", "delete", "eth0"])

        where = ADDRESSES["ams-3"]
        words = f"qmesh restore /root/mesh.backup --plain --config {CONFIG} --endpoint {where}"
        said = servers.type_line("ams-3", words)
        assert "write its units, `qmesh units`" in said
        assert "hel-2" in said.partition("these machines dial the old control node's address")[2]
        (start,) = read_blocks("recovery", "Move the control node to new hardware")
        for line in start.lines:
            servers.type_line("ams-3", line)
        (endpoint,), (restart,) = (block.lines for block in read_blocks("recovery", "The members come back"))
        assert "203.0.113.9" in endpoint
        servers.type_line("hel-2", endpoint.replace("203.0.113.9", where))
        # They hold connections to the one that is gone, so that all looks well where they run.
        wait_until(lambda: names_cut_off_workers(new, "hel-2"), 120, every_s=2)
        servers.type_line("hel-2", restart)
        wait_until(lambda: earning_cores(new) == cores, 60)
        for machine in (new, member):
            comes_true(functools.partial(is_without_findings, machine), 20, every_s=1)
            assert is_without_findings(machine), machine.run(["qmesh", "check"], check=False).stdout
        servers.type_line("ams-3", "qmesh backup /root/mesh.backup")

        # The member's program is gone, and the control node is given up.
        blocks = re.findall(r"```sh\n(.*?)```", read_section("recovery", "Clean up by hand"), re.DOTALL)
        assert blocks[0].startswith("systemctl stop 'qmesh*'")
        assert blocks[-1] == "rm -rf /var/lib/qmesh\n"
        member.run(["sh"], input="".join(blocks), check=False)
        servers.type_line("ams-3", "qmesh uninstall --delete-state --yes fra-1")
        for machine in (member, new):
            wait_until(functools.partial(is_without_leftovers, machine), 15, every_s=0.5)
            assert machine.path(f"{CONFIG}/keys.yml").exists()


def names_cut_off_workers(control: Machine, name: str) -> bool:
    """Whether `check` on the control node says that a machine's workers are not connected."""
    findings = json.loads(control.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]
    return any(each["code"] == "worker-cut-off" and name in each["subject"] for each in findings)


def is_without_findings(machine: Machine) -> bool:
    """Whether `check` has nothing against a machine."""
    return not json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]


def is_without_leftovers(machine: Machine) -> bool:
    """Whether neither qmesh nor the node, its files aside, is on a machine."""
    looks = (
        "nft list tables",
        "ip -o link show type wireguard; ip -o link show type tun",
        "systemctl list-units --all --plain --no-legend 'qmesh*'",
        "find /etc/systemd/system -name '*qmesh*'",
        "find /var/lib/qmesh /run/qmesh -mindepth 1 2>/dev/null",
        "cat /proc/sys/net/ipv4/ip_local_reserved_ports",
    )
    found = [machine.run(["sh", "-c", look], check=False).stdout.strip() for look in looks]
    return not any(found) and not machine.processes(r"--state /var/lib/qmesh|node-2\.1\.0\.25")


def test_what_is_installed_is_what_the_readme_installs():
    screen, step = (
        block.lines
        for heading in (SCREEN, "Step 1: install")
        for block in read_blocks("quick-start", heading)
        if "apt-get install" in block.lines[0]
    )
    assert screen == step
    words = [str(CHECKOUT / ".ci/readme"), "--print", "Install on a machine"]
    readme = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    update, install, *others, _ = (
        readme.replace("sudo ", "").replace("install ./", "install -y ./").splitlines()
    )
    assert list(screen) == [f"{update} && {install.replace('install', 'install -y')}", *others]
