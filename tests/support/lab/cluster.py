"""Clusters in a lab, made by the product's own commands; for tests and whoever wants one."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import textwrap
from typing import Any, Final

from qmesh.host.system.processes import is_locked
from qmesh.mesh.guard.parse import parse_table
from qmesh.mesh.state import Guard
from qmesh.mesh.values import SERVICE_PORTS
from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import TOOLS, Lab, Machine, Running
from tests.support.waiting import comes_true, wait_until

STATE = "/var/lib/qmesh"
SERVICE = SERVICE_PORTS[0]
"""Where the membership service of a new mesh is."""
CONFIG = "/root/node/.config"
NODE_CONFIG = """\
# mine
engine:
  maxFrames: -1
  dataWorkerMultiaddrs: []
p2p:
  peerPrivKey: 5ec4e7a11b1e
  minPeers: 3
"""


def qmesh(
    machine: Machine, *words: str, code: int | None = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command of qmesh on a machine; it must end with that exit code, any where it is None."""
    done = machine.run(["qmesh", *words], check=False, **options)
    assert code in {None, done.returncode}, (
        f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done


def facts(machine: Machine, *words: str, code: int | None = 0, **options: Any) -> Any:
    """What a command of qmesh answers to --json."""
    return json.loads(qmesh(machine, *words, "--json", code=code, **options).stdout)


def checked(machine: Machine, *, code: int = 0) -> Any:
    """What `check` answers to --json, but for workers that nobody started."""
    report = facts(machine, "check", code=code)
    report["findings"] = [each for each in report["findings"] if each["code"] != "worker-silent"]
    return report


def refusal(machine: Machine, *words: str, code: int, **options: Any) -> str:
    """The error and hint, two lines each of its kind, of a command that must be refused."""
    done = qmesh(machine, *words, code=code, **options)
    lines = done.stderr.splitlines()
    assert done.stdout == ""
    assert [line.partition(": ")[0] for line in lines[-2:]] == ["error", "hint"], done.stderr
    assert all(line.isprintable() for line in lines)
    return done.stderr


def make_control(lab: Lab, *options: str, workers: int = 3) -> Machine:
    """Machine A with a config.yml of node 1.4, as the control node."""
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    usual = {"--workers": str(workers), "--node": "1.4", "--config": CONFIG, "--endpoint": "192.168.0.200"}
    words = [word for each in usual.items() if each[0] not in options for word in each]
    qmesh(machine, "init", *words, *options)
    return machine


def invite(control: Machine, machine: Machine, *options: str) -> str:
    """Invite a machine under its host name and put the invitation there; returns its text."""
    text = qmesh(control, "invite", machine.name, *options).stdout
    machine.write("/root/invitation", text, 0o600)
    return text


def newcomer(lab: Lab, number: int = 201) -> Machine:
    """Machine B (201) or another, in no mesh."""
    name = f"machine-{'bcdefgh'[number - 201]}"
    return lab.machine(name, f"192.168.0.{number}", f"fd00:1a::{number}")


def make_member(lab: Lab, control: Machine, number: int, workers: int) -> Machine:
    """Machine B (201) or another, joined."""
    machine = newcomer(lab, number)
    invite(control, machine, "--workers", str(workers))
    machine.run(["mkdir", "-p", CONFIG])
    done = qmesh(machine, "join", "invitation", "--config", CONFIG, code=None)
    assert done.returncode == 0, f"{done.stderr}\non the control node:\n{_describe_control(control)}"
    return machine


def _describe_control(control: Machine) -> str:
    """What may be why it does not answer."""
    shown = (["tail", "-n", "30", f"{STATE}/agent.log"], ["wg", "show"], ["qmesh", "check"], ["ps", "-ef"])
    return "\n".join(control.run(words, check=False).stdout for words in shown)


def make_cluster(lab: Lab) -> tuple[Machine, Machine]:
    """Machines A and B, with 3 workers and 4, and the list in the config.yml of both."""
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for machine in (control, member):
        qmesh(machine, "render-config", "--write", "--config", CONFIG)
    return control, member


def start_workers(machine: Machine, cores: str, *options: str) -> Running:
    """Stand-ins for a machine's data workers, as its config.yml has them."""
    running = machine.start(["python", TOOLS / "worker.py", "--config", CONFIG, "--core", cores, *options])
    running.wait_for("ready")
    return running


def dial(control: Machine) -> list[str | None]:
    """What each worker of the control node's list says, in order; None where none answers."""
    done = control.run(["python", TOOLS / "control.py", "--config", CONFIG], timeout=60)
    return [entry["by"] if entry["answered"] else None for entry in json.loads(done.stdout)]


AGENT, UNDOING, TUNNEL = "qmesh agent", "qmesh undo", "wireguard-go"
"""How a machine's processes that run on are known, for `processes` and `kill`."""
HOLDER = "qmesh hold|qmesh/host/lean/hold"
"""The same; the former of earlier versions."""


def stop_agent(machine: Machine, number: int = signal.SIGTERM) -> None:
    """End a machine's agent, which there must be, and wait until it is gone."""
    assert machine.kill(AGENT, number)


def start_agent(machine: Machine) -> Running:
    """Start the agent of a machine that has none, and wait until it is ready, as qmesh's commands do.

    It has looked at the machine by then and, on the control node, answers members.
    """
    place = "/run/agent-is-ready"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as told:
        told.bind(str(machine.path(place)))
        try:
            agent = machine.start(["qmesh", "agent"], env={"NOTIFY_SOCKET": place})
            wait_until(lambda: _says_ready(told) or agent.poll() is not None, 30)
        finally:
            machine.path(place).unlink()
    assert agent.poll() is None, agent.error_output()
    return agent


def _says_ready(told: socket.socket) -> bool:
    """Whether one of the messages that have come says so."""
    with contextlib.suppress(BlockingIOError):
        while b"READY=1" not in told.recv(4096, socket.MSG_DONTWAIT).splitlines():
            pass
        return True
    return False


def has_agent(machine: Machine) -> bool:
    """Whether there is one, as qmesh's commands ask it."""
    return is_locked(machine.path(f"{STATE}/agent.lock"))


def copy_state(machine: Machine, there: str, agent: str = AGENT) -> None:
    """Copy the state of a machine with an agent, as it is at one moment: files come and go with each look."""
    machine.freeze(agent)
    try:
        machine.run(["cp", "-a", STATE, there])
    finally:
        machine.thaw(agent)


def peers_of(machine: Machine) -> list[str]:
    """The public keys of the peers that have an address of the mesh: retired ones have none."""
    lines = machine.run(["wg", "show", "qmesh0", "allowed-ips"]).stdout.splitlines()
    found = dict(line.split("\t") for line in lines)
    return [key for key, allowed in found.items() if allowed.startswith("10.77.")]


def find_only(machine: Machine, pattern: str) -> int:
    """The machine's number of the one process that matches; what it starts is one for a moment too."""
    found: list[int] = []

    def is_alone() -> bool:
        found[:] = machine.processes(pattern)
        return len(found) == 1

    wait_until(is_alone)
    return found[0]


def count(machine: Machine, pattern: str) -> int:
    """How many agents or holders a machine has. What one starts is one for a moment too: it is waited for."""
    comes_true(lambda: len(machine.processes(pattern)) == 1, 5)
    return len(machine.processes(pattern))


def rules_of(machine: Machine) -> str:
    """All rules, table by table, but for who asked lately: that comes and goes."""
    words = ["sh", "-c", "nft -s list ruleset | sed '/set askers/,/^\\t}$/d'"]
    return "table ".join(sorted(machine.run(words).stdout.split("table ")))


def what_is_there(machine: Machine) -> dict[str, str]:
    """What qmesh could leave on a machine: state, interfaces, rules, sysctl, processes, units.

    But for what comes and goes with every look of an agent: locks, and SQLite's own files.
    """
    asked = {
        "state": f"cd {STATE} && find . -type f ! -name '*.lock' ! -name agent.log"
        " ! -name 'mesh.db-*' ! -name 'reserve.*' ! -name paths.json ! -name processes.json | sort",
        "links": "ip -o link | cut -d: -f2",
        "reserved": "cat /proc/sys/net/ipv4/ip_local_reserved_ports",
        "files": f"find /root /etc/systemd/system /run /tmp -path '{CHECKOUT}' -prune"
        " -o -newer /proc/1 -type f -print | sort",
    }
    whole = "; printf '\\0'; ".join(f"( {script} )" for script in asked.values())
    found = dict(zip(asked, machine.run(["sh", "-c", whole]).stdout.split("\0"), strict=True))
    found["rules"] = rules_of(machine)
    # One that is being started is for a moment as the one that starts it.
    return {**found, "processes": "\n".join(sorted(set(machine.processes("wireguard-go|qmesh").values())))}


def files_with(machine: Machine, secret: str) -> set[str]:
    """The files of a machine, and the arguments and environments of its processes, that hold a text."""
    script = (
        "import glob, os, sys\n"
        "secret = sys.stdin.buffer.read()\n"
        "paths = [os.path.join(top, name) for root in ('/root', '/run', '/tmp', '/etc/systemd', '/var/lib')"
        " for top, _, names in os.walk(root) for name in names]\n"
        "paths += glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ')\n"
        "def read(path):\n"
        "    try:\n"
        "        return open(path, 'rb').read()\n"
        "    except (FileNotFoundError, ProcessLookupError):\n"  # a process that has just ended has neither
        "        return b''\n"
        "for path in paths:\n"
        "    if os.path.isfile(path) and secret in read(path):\n"
        "        print(path)\n"
    )
    return set(machine.run(["python", "-c", script], input=secret).stdout.split())


SOON_S: Final = 1
"""Less than anything that the loop waits for: the lock for 3 seconds, the registry for 15."""


def is_back(machine: Machine) -> bool:
    """Whether a first table that was flushed comes back as it was, and soon."""
    listed = ["nft", "-s", "list", "table", "inet", "qmesh"]
    before = parse_table(machine.run(listed).stdout)
    assert isinstance(before, Guard)
    machine.run(["nft", "flush", "ruleset"])
    return comes_true(lambda: parse_table(machine.run(listed, check=False).stdout) == before, SOON_S)


REACH = textwrap.dedent("""
    import json, socket, sys
    from concurrent.futures import ThreadPoolExecutor
    from tests.support.waiting import patience
    def answers(port):
        try:
            with socket.create_connection((sys.argv[1], port), timeout=patience(0.7)) as connection:
                connection.settimeout(patience(0.7))
                return bool(connection.recv(1))
        except OSError:
            return False
    ports = list(map(int, sys.argv[2:]))
    with ThreadPoolExecutor(len(ports)) as each_at_once:
        print(json.dumps([port for port, is_open in zip(ports, each_at_once.map(answers, ports)) if is_open]))
""")


def reached(attacker: Machine, address: str, ports: list[int]) -> list[int]:
    """Those ports at which something answers it."""
    done = attacker.run(["python", "-c", REACH, address, *map(str, ports)], timeout=60)
    found: list[int] = json.loads(done.stdout)
    return found


def problems(machine: Machine) -> set[str]:
    """What `check` finds wrong, but for the node's config.yml, which nobody wrote, and its workers."""
    found = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)["findings"]
    return {each["code"] for each in found} - {"config-stale", "worker-silent"}


def held(machine: Machine) -> dict[str, object]:
    """The membership that a machine holds, without asking its qmesh, which would ask for a newer one."""
    signed = json.loads(machine.read(f"{STATE}/membership.json"))
    found: dict[str, object] = json.loads(base64.b64decode(signed["payload"]))
    return found


def all_hold(machines: list[Machine], revision: int, *, within_s: float) -> None:
    wait_until(lambda: all(held(machine)["revision"] == revision for machine in machines), seconds=within_s)
