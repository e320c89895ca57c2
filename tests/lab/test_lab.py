"""The lab itself: that it is a lab, that it leaves nothing behind, and that its attacks are attacks."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from qmesh.host.firewall import nft_library
from tests.support.checkout import CHECKOUT
from tests.support.lab import machines
from tests.support.lab.cluster import AGENT, HOLDER, NODE_CONFIG
from tests.support.lab.fork_server import residents_start
from tests.support.lab.machines import TOOLS, CommandFailed, Lab, Machine, Running, host_state
from tests.support.processes import read_of_each
from tests.support.waiting import comes_true, wait_until, within

pytestmark = pytest.mark.lab

CONTROL, TUNNEL, NETWORK = "10.77.0.1", "10.77.0.2", "10.77.0.0/20"
WORKER_PORT, SERVICE_PORT = 40003, 2222


def own_namespaces(pid: int | str) -> set[str]:
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid", "uts")}


def namespaces_in_use() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            found |= {str(link.readlink()) for link in (process / "ns").iterdir()}
    return found


def children_named(parent: int, name: str) -> list[int]:
    found = set(map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()))
    return [number for number, words in read_of_each("cmdline") if number in found and name in words]


def test_the_firewall_of_the_machine_that_the_tests_run_on_is_out_of_reach():
    with pytest.raises(AssertionError, match="own_machine"):
        nft_library.load()


class TestMachine:
    def test_has_a_world_of_its_own(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        assert machine.run(["hostname"]).stdout == "machine-a\n"
        assert machine.run(["sh", "-c", "ls /sys/class/net"]).stdout.split() == ["eth0", "lo"]
        assert machine.run(["sh", "-c", "ls -A /run /var/lib/qmesh; pwd"]).stdout.split() == [
            "/run:",
            "/var/lib/qmesh:",
            "/root",
        ]

    def test_writes_nothing_to_the_host(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        paths = ["/etc/qm-lab", "/var/lib/qm-lab", "/var/lib/qmesh/qm-lab", "/run/qm-lab", "/root/qm-lab"]
        for path in paths:
            machine.write(path, "here", 0o640)
            assert machine.read(path) == "here"
            assert machine.run(["stat", "-c%a", path]).stdout == "640\n"
            assert not Path(path).exists()

    def test_cannot_change_sysctls_of_the_host(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        assert machine.run(["sh", "-c", "echo 1 >/proc/sys/kernel/panic"], check=False).returncode
        machine.run(["sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=40000-40016"])
        assert "40016" not in Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text()

    def test_runs_the_product_of_this_interpreter(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        said = machine.run(["python", "-c", "import sys, qmesh; print(sys.prefix, qmesh.__file__)"]).stdout
        assert said.split() == [sys.prefix, str(CHECKOUT / "qmesh/__init__.py")]

    def test_a_command_is_inside_whatever_its_number(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        # The next number of the machine's is the one that its first process has in the host.
        with machines._next_child_in(machine._pids):
            subprocess.run(["sh", "-c", f"echo {machine.pid - 1} >/proc/sys/kernel/ns_last_pid"], check=True)
        said = machine.run(["sh", "-c", "echo $$; hostname"]).stdout.split()
        assert said == [str(machine.pid), "machine-a"]

    def test_reaches_its_neighbours_at_once(self, lab):
        a = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        b = lab.machine("machine-b", "192.168.0.201", "fd00:1a::201")
        b.start(["python", TOOLS / "service.py", SERVICE_PORT]).wait_for("ready")
        for address in (b.ipv4, b.ipv6, f"{b.link_local}%eth0"):
            script = f"import socket; print(socket.create_connection(({address!r}, 2222), 9).recv(99))"
            assert "service on machine-b" in a.run(["python", "-c", script]).stdout

    def test_is_made_within_half_a_second(self, lab):
        with within(0.5):
            lab.machine("machine-a", "192.168.0.200")


class TestRun:
    def test_passes_input_and_environment_and_nothing_else(self, lab, monkeypatch):
        monkeypatch.setenv("QM_HOST_SECRET", "x")
        machine = lab.machine("machine-a", "192.168.0.200")
        said = machine.run(["sh", "-c", "cat; env"], input="in", env={"QM": "1"}).stdout
        assert said.startswith("in")
        assert "QM=1\n" in said
        assert "QM_HOST_SECRET" not in said

    def test_a_failure_shows_what_was_said(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        with pytest.raises(CommandFailed, match="the reason"):
            machine.run(["sh", "-c", "echo the reason >&2; exit 3"])
        assert machine.run(["sh", "-c", "exit 3"], check=False).returncode == 3

    def test_does_not_wait_for_a_daemon(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.run(["sh", "-c", "sleep 1000 & echo started"])
        wait_until(lambda: machine.processes("sleep 1000"))

    def test_kills_what_takes_too_long(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        with pytest.raises(subprocess.TimeoutExpired):
            machine.run(["sleep", "31"], timeout=0.1)
        assert "sleep 31" not in machine.run(["ps", "ax"]).stdout

    def test_signals_reach_the_command_itself(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        started = machine.start(
            ["sh", "-c", "trap 'echo caught; exit 7' TERM; echo up; while :; do sleep .01; done"]
        )
        started.wait_for("up")
        assert started.stop() == 7
        assert "caught" in started.output()

    def test_orphans_are_reaped(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.run(["sh", "-c", "(sleep 1000 &)"])
        machine.kill("sleep 1000")
        wait_until(lambda: "sleep" not in machine.run(["ps", "ax"]).stdout)  # not even as a zombie


def seen_of(process: int) -> dict[str, object]:
    """What others see of a process, but for its words and what makes it another one."""
    there = Path(f"/proc/{process}")
    fields = dict(line.split(":\t", 1) for line in (there / "status").read_text().splitlines())
    same = ("Name", "Umask", "Uid", "Gid", "Groups", "PPid", "SigCgt", "SigBlk", "CapEff", "CapBnd")
    return {
        **{name: fields[name] for name in same},
        "ignored": int(fields["SigIgn"], 16) & 0x7FFFFFFF,  # signal 32 and above are the C library's own
        "is leader": os.getsid(process) == os.getpgid(process) == process,
        "namespaces": {link.name: link.readlink() for link in (there / "ns").iterdir()},
        "open": {int(link.name) for link in (there / "fd").iterdir() if int(link.name) < 3},
        "at": [(there / name).readlink() for name in ("cwd", "root", "exe")],
        "limits": (there / "limits").read_text(),
    }


def open_files(process: Path) -> Iterator[str]:
    for link in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            yield str(link.readlink())


def left_behind(machine: Machine, process: int) -> dict[str, object]:
    """What others see of a process that goes on in a machine."""
    seen = seen_of(process)
    parent = seen.pop("PPid")
    del seen["namespaces"]
    there = Path(f"/proc/{process}")
    return {
        **seen,
        "is the first's": parent == str(machine.pid),
        "is inside": own_namespaces(process) == own_namespaces(machine.pid),
        "at": [str((there / name).readlink()) for name in ("cwd", "root", "exe")],
        "words": (there / "cmdline").read_bytes().rstrip(b"\0").split(b"\0"),
        "threads": len(list((there / "task").iterdir())),
        "open": sorted(re.sub(r"\d+", "N", each) for each in open_files(there)),
        "of the server": [link.name for link in (there / "fd").iterdir() if int(link.name) > 60],
    }


def are_alike(*seen: Callable[[], object]) -> bool:
    first, *others = (each() for each in seen)
    return all(each == first for each in others)


class TestForking:
    """A command of qmesh that is forked is as one that is started."""

    def both(self, machine: Machine, *words: str, input: str | None = None) -> list[Running]:  # noqa: A002
        return [
            machine._start(["qmesh", *words], input=input, env=None, may_fork=may_fork)
            for may_fork in (True, False)
        ]

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("--version",), 0),
            (("status", "--help"), 0),
            (("status",), 2),
            (("check", "--json"), 2),
            (("join", "-"), 2),
            (("no-such-command",), 2),
            (("init", "--workers", "0"), 2),
        ],
    )
    def test_says_the_same(self, lab, words, code):
        machine = lab.machine("machine-a", "192.168.0.200")
        ended = self.both(machine, *words, input="no invitation")
        assert [each.wait(30) for each in ended] == [code, code]
        for said in (Running.output, Running.error_output):
            forked, started = map(said, ended)
            assert forked == started

    def test_a_script_says_the_same(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        script = (
            "import os, sys\n"
            "print(sys.argv, os.getcwd(), sorted(os.environ), __name__, sys.path[0], sys.stdin.read())\n"
            "sys.exit(eval(sys.argv[1]))\n"
        )
        for word, code in (("7", 7), ("None", 0), ("'no'", 1), ("1 / 0", 1), ("open('/nothing')", 1)):
            words = ["python", "-c", script, word, "ä b"]
            forked, started = (
                machine._start(words, input="given", env=None, may_fork=may_fork)
                for may_fork in (True, False)
            )
            assert (forked.wait(30), started.wait(30)) == (code, code)
            assert forked.output() == started.output() != ""
            assert forked.error_output().splitlines()[-1:] == started.error_output().splitlines()[-1:]

    def test_is_seen_as_the_same(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.write("/root/config.yml", CONFIG.replace("127.0.0.1", machine.ipv4), 0o600)
        both = self.both(machine, "ready", "1", "--config", "/root", "--timeout", "60", "--listening")
        # One of them begins as other programs, which make it what it is.
        comes_true(lambda: len({str(seen_of(each.pid)) for each in both}) == 1, 15)
        forked, started = (seen_of(each.pid) for each in both)
        assert forked == started
        for each in both:
            each.kill()
        assert [each.wait(10) for each in both] == [-signal.SIGKILL, -signal.SIGKILL]

    def test_what_it_leaves_behind_is_seen_as_the_same(self, lab):
        both = [lab.machine("machine-a", f"192.168.0.{number}") for number in (200, 201)]
        node = ("--node", "1.4", "--config", "/root", "--endpoint", "192.168.0.200", "--workers", "1")
        for machine in both:
            machine.write("/root/config.yml", NODE_CONFIG, 0o600)
        both[0].run(["qmesh", "init", *node])
        with residents_start():
            both[1].run(["qmesh", "init", *node])
        for name in (AGENT, HOLDER):
            forked, started = (
                partial(left_behind, machine, *machine._on_host(machine.processes(name))) for machine in both
            )
            alike = comes_true(partial(are_alike, forked, started), 15)
            assert alike, (forked(), started())

    def test_is_started_where_that_may_matter(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(machines, "fork", lambda *_: pytest.fail("it was forked"))
            machine.start(["qmesh", "--version"]).wait(30)
            machine.run(["qmesh", "--version"], env={"PYTHONDEVMODE": "1"})
            machine.run(["sh", "-c", "qmesh --version"])
            machine.run(["qmesh", "ready", "1", "--config", "/", "--timeout", "0"], check=False)


class TestClosing:
    def test_leaves_nothing(self):
        before = host_state()
        with Lab() as lab:
            machine = lab.machine("machine-a", "192.168.0.200")
            machine.start(["sleep", "1000"])
            machine.run(["sh", "-c", "setsid sleep 1001 & nft add table inet lab"])
            namespaces = own_namespaces(machine.pid)
            assert namespaces <= namespaces_in_use()
        # What had entered them from outside sees the machine's end, and ends.
        wait_until(lambda: not namespaces & namespaces_in_use())
        assert host_state() == before

    def test_leaves_nothing_after_a_failure(self):
        before = host_state()
        with contextlib.suppress(ZeroDivisionError), Lab() as lab:
            lab.machine("machine-a", "192.168.0.200").start(["sleep", "1000"])
            raise ZeroDivisionError
        assert host_state() == before

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize(
        ("what", "make"),
        [
            ("_boot", lambda lab, _: lab.machine("machine-b", "192.168.0.201")),
            ("Running", lambda _, machine: machine.start(["sleep", "1000"])),
        ],
        ids=["machine", "command"],
    )
    def test_leaves_nothing_when_interrupted_before_a_child_is_known(self, monkeypatch, number, what, make):
        made = getattr(machines, what)

        def interrupted(*arguments, **options):
            child = made(*arguments, **options)
            signal.raise_signal(number)
            return child

        def leave(*_: object):
            raise ZeroDivisionError

        before, handler = host_state(), signal.signal(number, leave)
        try:
            with Lab() as lab:
                machine = lab.machine("machine-a", "192.168.0.200")
                monkeypatch.setattr(machines, what, interrupted)
                with pytest.raises(ZeroDivisionError):
                    make(lab, machine)
            assert signal.getsignal(number) is leave
        finally:
            signal.signal(number, handler)
        assert host_state() == before

    def test_leaves_nothing_when_its_python_is_killed(self):
        before = host_state()
        script = """
            import os, time
            from tests.support.lab import fork_server
            from tests.support.lab.machines import Lab
            fork_server.enable()
            with Lab() as lab:
                a, b = lab.machine("machine-a", "192.168.0.200"), lab.machine("machine-b", "192.168.0.201")
                a.start(["sleep", "1000"])
                a.run(["sh", "-c", "setsid sleep 1001 &"])
                a.run(["qmesh", "--version"])
                print(a.pid, b.pid, flush=True)
                time.sleep(60)
        """
        words = [sys.executable, "-c", textwrap.dedent(script)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT) as holder:
            assert holder.stdout is not None
            namespaces: set[str] = set().union(*map(own_namespaces, holder.stdout.readline().split()))
            namespaces -= own_namespaces("self")
            assert namespaces <= namespaces_in_use()
            (server,) = children_named(holder.pid, "fork_server.py")
            holder.send_signal(signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{server}").exists())
        wait_until(lambda: not namespaces & namespaces_in_use())
        wait_until(lambda: host_state() == before)


CONFIG = """\
engine:
  dataWorkerMultiaddrs:
  - /ip4/127.0.0.1/tcp/40000
  - /ip6/::1/tcp/40001
  - /ip4/127.0.0.2/tcp/40002
"""


class TestStandIns:
    def dialled(self, machine: Machine) -> str:
        return machine.run(["python", TOOLS / "control.py", "--config", "/root"]).stdout

    def worker(self, machine: Machine, *arguments: str) -> Running:
        return machine.start(["python", TOOLS / "worker.py", "--config", "/root", *arguments])

    def test_each_worker_answers_at_its_entry(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.write("/root/config.yml", CONFIG)
        self.worker(machine, "--core", "1").wait_for("ready")
        self.worker(machine, "--core", "2..3").wait_for("ready")
        said = self.dialled(machine)
        assert said.count('"answered": true') == 3
        assert '"by": "core 3 on machine-a"' in said
        with pytest.raises(CommandFailed):
            machine.run(
                ["python", TOOLS / "control.py", "--first", f"{machine.ipv4}:40000", "--patience", "0.2"]
            )

    def test_a_worker_in_another_place_is_not_taken_for_the_right_one(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.write("/root/config.yml", CONFIG.replace("127.0.0.2/tcp/40002", "127.0.0.1/tcp/40000"))
        self.worker(machine, "--core", "1").wait_for("ready")
        said = self.dialled(machine)
        assert said.count('"answered": true') == 1
        assert '"answered": false, "by": "core 1 on machine-a"' in said
        assert "Connect call failed" in said

    @pytest.mark.parametrize(
        ("config", "complaint"),
        [(CONFIG, "has 3 entries"), ("engine:\n", "no list"), (CONFIG.replace("tcp", "udp"), "multiaddr")],
    )
    def test_a_worker_without_an_entry_does_not_start(self, lab, config, complaint):
        machine = lab.machine("machine-a", "192.168.0.200")
        machine.write("/root/config.yml", config)
        worker = self.worker(machine, "--core", "4")
        assert worker.wait(5) == 1
        assert complaint in worker.error_output()

    def test_a_worker_waits_for_its_entry_and_its_address(self, lab):
        machine = lab.machine("machine-a", "192.168.0.200")
        worker = self.worker(machine, "--core", "1", "--wait", "10")
        dialler = machine.start(["python", TOOLS / "control.py", "--first", "10.77.0.1:40000"])
        machine.write("/root/config.yml", CONFIG.replace("127.0.0.1", CONTROL))
        machine.run(["ip", "addr", "add", CONTROL, "dev", "lo"])
        worker.wait_for("ready")
        assert dialler.wait(5) == 0
        assert "core 1 on machine-a" in dialler.output()
        assert worker.stop() == 0


def tunnel(machine: Machine, address: str, peer: str) -> None:
    """Hand-made userspace WireGuard on a machine: interface wg0 with one peer."""
    machine.run(["wireguard-go", "wg0"])
    machine.write("/root/wg.conf", "[Interface]\n" + peer, 0o600)
    machine.run(["wg", "setconf", "wg0", "/root/wg.conf"])
    machine.run(["ip", "addr", "add", f"{address}/20", "dev", "wg0"])
    machine.run(["ip", "link", "set", "wg0", "up"])
