"""The demo: three machines become one guarded cluster, and a neighbour on their LAN attacks it.

The machines are namespaces (tests/support/lab), the commands are qmesh's own, typed as a user types
them. Stand-ins take the place of the node, of the version that `--node` names. That of 2.1-rust is
told by its files alone, as the real one is: a process for each core, whose workers connect to the
control process. The older ones are simpler: they listen where config.yml says.

Exit code 0 when everything held; 1 when something did not; 130 or 143 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from qmesh.mesh.nodeconfig import profile_facts
from qmesh.mesh.values import CONTROL_PORTS, DEFAULT_PROFILE, PROFILES, Profile
from tests.support.lab.attack import WAYS, Attempt, attack, attempts_on, make_gullible
from tests.support.lab.machines import TOOLS, Lab, Machine, Running
from tests.support.lab.rust_node import CONFIG, earning_cores, install_node, start_node
from tests.support.waiting import wait_until

SERVICE_PORT = 2222
SHOWN_FAILURES = 12

NODE_CONFIG = """\
# Written by the node at its first start. Holds this node's identity: keep a copy elsewhere.
key:
  keyManagerType: file
  keyManagerFile:
    path: .config/keys.yml
    createIfMissing: false
    encryptionKey: "{encryption_key}"
p2p:
  listenMultiaddr: /ip4/0.0.0.0/udp/8336/quic
  bootstrapPeers: []
  # the identity itself; whoever has it is this node
  peerPrivKey: {private_key}
  network: 0{p2p}
engine:
  provingKeyId: default-proving-key
  filter: "1111111111111111111111111111111111111111111111111111111111111111"
  statsMultiaddr: ""
  pendingCommitWorkers: 4   # as many as the disk bears
  difficulty: 0{engine}
db:
  path: .config/store
listenGrpcMultiaddr: ""
listenRESTMultiaddr: ""
logFile: ""
"""
OWN_KEYS: dict[Profile, dict[str, str]] = {
    "1.4": {"p2p": "\n  minPeers: 3", "engine": ""},
    "2.0": {"p2p": "", "engine": "\n  fullProver: false"},
    "2.1": {"p2p": "", "engine": "\n  archiveMode: false"},
}
"""What only a file of that version has, and in 2.1 nothing about Go and Rust. 2.1-rust makes its own."""
KEY_STORE = "default-proving-key:\n  id: default-proving-key\n  type: 0\n  privateKey: {private_key}\n"

console = Console(width=100, highlight=False, markup=False, soft_wrap=False)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM; the exit code is the shell's way to tell which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Failed(Exception):
    """A command did not do what the rest of the demo needs."""


@dataclass
class Member:
    """A machine of the cluster and what the demo knows about it."""

    machine: Machine
    workers: int
    address: str = ""
    cores: range = range(0)
    ports: list[int] = field(default_factory=list)
    processes: list[Running] = field(default_factory=list)
    file: str = ""
    reached_by_control: int = 0

    @property
    def core_range(self) -> str:
        """The cores as the worker's `--core` takes them."""
        return f"{self.cores[0]}..{self.cores[-1]}"


class Demo:
    """What happens, in order, and what is known meanwhile."""

    def __init__(self, lab: Lab, node: Profile) -> None:
        self.lab = lab
        self.node = node
        self.known = profile_facts(node)
        self.control_process: list[Running] = []
        self.members: list[Member] = []
        self.failures: list[str] = []
        self.attempts: list[Attempt] = []
        self.times: list[tuple[str, str]] = []

    def run(self) -> int:
        """Do all of it; return the exit code."""
        try:
            self.make_the_mesh()
            self.join_the_first()
            self.join_the_second()
            self.check_everything()
            self.attack_everything()
        except Failed as failure:
            self.failures.append(str(failure))
        self.show()
        return 1 if self.failures else 0

    # The cluster

    def make_the_mesh(self) -> None:
        """Machine A becomes the control node, with 3 workers of its own."""
        heading("Machine A runs a node already. It becomes the control node, with 3 workers.")
        control = Member(self.lab.machine("machine-a", "192.168.0.200", "fd00:1a::200"), 3)
        self.members.append(control)
        if self.is_rust:
            self.restart_control()  # its first start makes the files, for every user to read
            self.type_in(control, f"chmod 600 {CONFIG}/config.yml {CONFIG}/keys.yml")
        else:
            self.write_files(control.machine)
        options = f"--workers 3 --node {self.node} --config {CONFIG}{self.announce('machine-a')}"
        self.type_in(control, f"qmesh init --endpoint 192.168.0.200 {options}")
        self.render(control)
        self.start_workers()

    def announce(self, name: str) -> str:
        """The option that says where the internet reaches a machine, whose own addresses are the LAN's."""
        return f" --announce {name}.example.org" if self.known.announce_keys else ""

    def write_files(self, machine: Machine) -> None:
        """Write the files that a node of an older version has made at its first start."""
        identity = {"encryption_key": secrets.token_hex(32), "private_key": secrets.token_hex(114)}
        text = NODE_CONFIG.format(**identity, **OWN_KEYS[self.node])
        machine.write(f"{CONFIG}/config.yml", text, 0o600)
        machine.write(f"{CONFIG}/keys.yml", KEY_STORE.format(private_key=secrets.token_hex(57)), 0o600)

    def join_the_first(self) -> None:
        """Machine B joins with 4 workers, and the clock runs."""
        heading("Machine B joins with 4 workers, by a one-use invitation.")
        member = Member(self.lab.machine("machine-b", "192.168.0.201", "fd00:1a::201"), 4)
        seconds = self.join(member)
        self.times.append(("qmesh join until the control node reached machine-b", f"{seconds:.2f} s"))
        self.render(self.control)
        self.start_workers()
        self.dial_all()

    def join_the_second(self) -> None:
        """Machine C joins with 10 workers, and every file is brought up to date."""
        heading("Machine C joins with 10 workers.")
        member = Member(self.lab.machine("machine-c", "192.168.0.203", "fd00:1a::203"), 10)
        seconds = self.join(member)
        self.times.append(("qmesh join until the control node reached machine-c", f"{seconds:.2f} s"))
        for each in self.members:
            self.render(each)
        self.start_workers()
        self.dial_all()

    def join(self, member: Member) -> float:
        """Invite a machine and let it join; seconds from `join` to its worker's first answer."""
        name, machine = member.machine.name, member.machine
        file = f"{name}.invitation"
        files = " --node-files" if self.known.secrets else ""
        options = f"--workers {member.workers}{files}{self.announce(name)}"
        self.type_in(self.control, f"qmesh invite {name} {options} --out {file}")
        machine.write(f"/root/{file}", self.control.machine.read(f"/root/{file}"), 0o600)
        say(f"  ({file} is carried to {name})")
        self.members.append(member)
        self.learn()
        self.type_in(member, "mkdir -p node/.config")
        first = f"{member.address}:{member.ports[0]}"
        dialler = self.control.machine.start(["python", TOOLS / "control.py", "--first", first])
        began = time.monotonic()
        self.type_in(member, f"qmesh join {file} --config {CONFIG}{files}")
        self.restart_workers(member)
        if dialler.wait():
            raise Failed(f"the control node did not reach {name}: {dialler.error_output().strip()}")
        answer = json.loads(dialler.output())
        say(f"  (the control node's first connection: {answer['by']!r})")
        return float(answer["at"]) - began

    def render(self, member: Member) -> None:
        """Bring a machine's config.yml up to date."""
        self.type_in(member, "qmesh render-config --write")

    def learn(self) -> None:
        """Ask the control node for every machine's address, cores and ports."""
        told = self.facts(self.control, "qmesh status")["machines"]
        by_name = {machine["name"]: machine for machine in told if machine["role"] != "control"}
        by_name[self.control.machine.name] = next(machine for machine in told if machine["role"] == "control")
        for member in self.members:
            machine = by_name[member.machine.name]
            first, count = machine["cores"]["first"], machine["cores"]["count"]
            member.address = machine["address"]
            if first is None:  # invited: it will stand behind the others
                first = self.members[-2].cores[-1] + 1
            member.cores = range(first, first + count)
            member.ports = machine["ports"] or [self.control.ports[0] + core - 1 for core in member.cores]

    # The node's stand-ins

    @property
    def is_rust(self) -> bool:
        """Whether the stand-in is the one that behaves as node 2.1-rust."""
        return self.node == "2.1-rust"

    def start_workers(self) -> None:
        """Start the control process anew, and the workers of every machine whose config.yml has changed.

        A worker of 2.1-rust reads its own entries, and goes on when others are added.
        """
        self.learn()
        self.restart_control()
        for member in self.members:
            file = member.machine.read(f"{CONFIG}/config.yml")
            if not member.processes or (file != member.file and not self.is_rust):
                self.restart_workers(member)
            member.file = file

    def restart_control(self) -> None:
        """End the control process and start it again."""
        for process in self.control_process:
            process.stop()
        prompt(self.control, "node &    (a stand-in for the control process)")
        if self.is_rust:
            install_node(self.control.machine)
            self.control_process = start_node(self.control.machine, 0)
        else:
            ports = [f"{port}/tcp" for port in CONTROL_PORTS[self.node]]
            words = ["python", f"{TOOLS}/control.py", "--listen", "8336/udp", *ports]
            self.control_process = [self.control.machine.start(words)]
            self.control_process[0].wait_for("ready")

    def restart_workers(self, member: Member, *, careless: bool = False) -> None:
        """End the workers of a machine and start them again. careless: listening on every address."""
        for process in member.processes:
            process.stop()
        how = "listens on every address" if careless else "listens where config.yml says"
        prompt(member, f"node --core {member.core_range} &    (a stand-in: {how})")
        try:
            if self.is_rust and not careless:
                install_node(member.machine)
                member.processes = start_node(member.machine, *member.cores)
                return
            where = ("--config", CONFIG, "--list", self.known.list_key.name, *(["--careless"] * careless))
            words = ["python", f"{TOOLS}/worker.py", *where, "--core", member.core_range]
            member.processes = [member.machine.start(words)]
            member.processes[0].wait_for("ready")
        except TimeoutError as late:
            raise Failed(f"the workers of {member.machine.name} did not start: {late}") from late

    def dial_all(self) -> None:
        """Let the control process dial every worker of its list, in order."""
        prompt(self.control, "dial    (every worker of the list, in order, as the control process does)")
        words = ["python", f"{TOOLS}/control.py", "--config", CONFIG, "--list", self.known.list_key.name]
        dialled = json.loads(self.control.machine.run(words, timeout=60).stdout)
        for member in self.members:
            answers = [f"core {core} on {member.machine.name}" for core in member.cores]
            by = [entry["by"] for entry in dialled if entry["core"] in member.cores]
            member.reached_by_control = sum(map(str.__eq__, by, answers))
            self.expect(by == answers, f"{member.machine.name}: wanted {answers}, got {by}")
        wanted = sum(member.workers for member in self.members)
        self.expect(len(dialled) == wanted, f"the list has {len(dialled)} entries instead of {wanted}")
        slowest = max((entry["milliseconds"] for entry in dialled), default=0.0)
        answered = sum(entry["answered"] for entry in dialled)
        say(f"  {answered} of {wanted} workers answered in their places, the slowest after {slowest} ms")

    # The proof

    def check_everything(self) -> None:
        """`check` on every machine, and the cluster at a glance."""
        heading("All three say that everything is as it should be.")
        if self.is_rust:
            cores = [core for member in self.members for core in member.cores]
            wait_until(lambda: earning_cores(self.control.machine) == cores)
            say(f"  all {len(cores)} workers are connected to the control process, with its node's identity")
        for member in self.members:
            self.type_in(member, "qmesh check")
        self.type_in(self.control, "qmesh status")

    def attack_everything(self) -> None:
        """Every worker, by every way, twice: as rendered, and with the guard as the only obstacle."""
        heading("A neighbour on the LAN attacks all 17 workers, by 5 ways, twice.")
        attacker = self.lab.machine("attacker", "192.168.0.66", "fd00:1a::66")
        for member in self.members:
            make_gullible(member.machine)
            member.machine.start(["python", TOOLS / "service.py", str(SERVICE_PORT)]).wait_for("ready")
        say("1. against the workers as config.yml has them: listening on the tunnel address only")
        self.attack_once(attacker)
        say("2. against careless workers, listening on every address: only the guard is in the way")
        for member in self.members:
            self.restart_workers(member, careless=True)
        self.dial_all()
        self.attack_once(attacker)

    def attack_once(self, attacker: Machine) -> None:
        """One attempt by each way on every worker and, as positive control, on an ordinary service."""
        attempts = [
            attempt
            for member in self.members
            for attempt in attempts_on(
                member.machine,
                [*member.ports, SERVICE_PORT],
                tunnel_address=member.address,
                control_address=self.control.address,
            )
        ]
        began = time.monotonic()
        made = attack(attacker, [member.machine for member in self.members], attempts)
        at_workers = [attempt for attempt in made if attempt.port != SERVICE_PORT]
        at_service = [attempt for attempt in made if attempt.port == SERVICE_PORT]
        say(f"  workers reached: {count(at_workers)} attempts, {time.monotonic() - began:.1f} s")
        say(f"  an ordinary service on the same machines, port {SERVICE_PORT}: {count(at_service)}")
        self.attempts += made
        for attempt in at_workers:
            self.expect(not attempt.reached, f"the attacker reached a worker: {attempt}")
        for attempt in at_service:
            self.expect(attempt.reached, f"an attack that proves nothing: {attempt}")

    # The answer

    def show(self) -> None:
        """The table, the times, and what did not hold."""
        heading("What it came to")
        console.print(self.table())
        say("control node: workers that answered it, each in its place.")
        say("ipv4 ... forged source: workers that the attacker reached that way. None is right.")
        say("service: the same attempts on an ordinary port of these machines. All must arrive.")
        say("")
        reached = {(attempt.machine, attempt.port) for attempt in self.attempts if attempt.reached}
        workers = {(member.machine.name, port) for member in self.members for port in member.ports}
        by_control = sum(member.reached_by_control for member in self.members)
        say(f"workers that the control node reached: {by_control} of {len(workers)}")
        say(f"workers that the attacker reached: {len(workers & reached)} of {len(workers)}")
        for what, took in self.times:
            say(f"{what}: {took}")
        for failure in self.failures[:SHOWN_FAILURES]:
            say(f"did not hold: {failure}")
        if len(self.failures) > SHOWN_FAILURES:
            say(f"did not hold: {len(self.failures) - SHOWN_FAILURES} more of the kind")

    def table(self) -> Table:
        """A row per machine."""
        table = Table()
        ways = [way.replace("-", "\n") for way in WAYS]
        for title in ("machine", "cores", "ports", "control\nnode", *ways, "service"):
            table.add_column(title, justify="left" if title == "machine" else "right")
        for member in self.members:
            table.add_row(*self.row(member))
        return table

    def row(self, member: Member) -> list[str]:
        """The cells of a machine."""
        name = member.machine.name
        made = [attempt for attempt in self.attempts if attempt.machine == name]
        at_workers = [attempt for attempt in made if attempt.port != SERVICE_PORT]
        return [
            name,
            f"{member.cores[0]}-{member.cores[-1]}" if member.cores else "",
            f"{member.ports[0]}-{member.ports[-1]}" if member.ports else "",
            f"{member.reached_by_control}/{member.workers}",
            *(workers_reached(at_workers, way) for way in WAYS),
            count([attempt for attempt in made if attempt.port == SERVICE_PORT]),
        ]

    # Means

    @property
    def control(self) -> Member:
        """The control node."""
        return self.members[0]

    def type_in(self, member: Member, line: str) -> None:
        """Run a command as a user types it, and show it with its answer; it must exit with 0."""
        prompt(member, line)
        done = member.machine.run(shlex.split(line), check=False, timeout=90)
        if answer := f"{done.stdout}{done.stderr}".rstrip("\n"):
            say(answer)
        if done.returncode:
            raise Failed(f"{member.machine.name}# {line}: exit code {done.returncode}")

    def facts(self, member: Member, line: str) -> Any:
        """What a command answers to `--json`."""
        done = member.machine.run([*shlex.split(line), "--json"], check=False)
        if done.returncode:
            raise Failed(f"{member.machine.name}# {line} --json: {done.stderr}")
        return json.loads(done.stdout)

    def expect(self, held: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as a sentence
        """Note what did not hold."""
        if not held:
            self.failures.append(otherwise)


def workers_reached(attempts: Sequence[Attempt], way: str) -> str:
    """`reached/tried` workers that way; a worker counts as reached when one of the attacks did."""
    tried = {attempt.port: False for attempt in attempts if attempt.way == way}
    for attempt in attempts:
        if attempt.way == way:
            tried[attempt.port] |= attempt.reached
    return f"{sum(tried.values())}/{len(tried)}"


def count(attempts: Sequence[Attempt]) -> str:
    """`reached/made`."""
    return f"{sum(attempt.reached for attempt in attempts)}/{len(attempts)}"


def heading(text: str) -> None:
    """What comes next."""
    console.print(f"\n== {text}", style="bold")


def prompt(member: Member, line: str) -> None:
    """A command as it stands in a terminal."""
    console.print(f"{member.machine.name}# {line}", style="cyan", soft_wrap=True)


def say(text: str) -> None:
    """A line of output."""
    console.print(text, soft_wrap=True)


def interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave at once, but tidily: further signals have nothing to add."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Run the demo in a lab, and take the lab down whatever happens."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="three machines, one guarded cluster, and an attacker"
    )
    parser.add_argument("--node", choices=PROFILES, default=DEFAULT_PROFILE, help="the node's version")
    node: Profile = parser.parse_args().node
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, interrupt)
    began = time.monotonic()
    try:
        with Lab() as lab:
            exit_code = Demo(lab, node).run()
    except Interrupted as interrupted:
        say("\ninterrupted: all machines were taken down, nothing is left of them")
        return interrupted.exit_code
    say(f"the demo took {time.monotonic() - began:.1f} s; nothing of it is left on this machine")
    say("Everything held." if exit_code == 0 else "NOT everything held, see above.")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
