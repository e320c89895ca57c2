"""What the units' sandboxes let through, and what not, under systemd: sudo ./scripts/test-kernel

The node is a user's, in his home, with every trap there that he could set. It is a stand-in that says
what it could do.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmesh.mesh.guard.tables import HELD_IN_KERNEL, TABLE
from qmesh.mesh.systemd.sandbox import render_agent_settings
from tests.support import trap
from tests.support.checkout import CHECKOUT
from tests.support.lab.cluster import NODE_CONFIG
from tests.support.lab.machines import TOOLS
from tests.support.systemd import QMESH, agent, is_loaded, run, said, shown, skip_unless_throwaway, until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.long]

OWNER = 12345
NODE = Path("/home/user/node")
CONFIG = NODE / ".config"
UNITS = Path("/etc/systemd/system")
PROGRAM = Path("/usr/local/bin/stand-in")
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
TUNNEL = Path("/sys/class/net/qmesh0")
NO_MODULE = Path("/etc/modprobe.d/no-wireguard.conf")
WORKER, TARGET, CONTROL = "qmesh-worker@1.service", "qmesh-workers.target", "qmesh-control.service"

STAND_IN = f"""\
#!/bin/sh
touch {CONFIG}/made
touch /etc/made /usr/made 2>/dev/null
case "$*" in *--core*) ;; *) exec sleep infinity ;; esac
PYTHONPATH={CHECKOUT} exec {sys.executable} {TOOLS / "worker.py"} "$@"
"""


@pytest.fixture(scope="module", autouse=True)
def node() -> Iterator[None]:
    skip_unless_throwaway()
    shutil.rmtree("/var/lib/qmesh", ignore_errors=True)
    for name, line in (("passwd", f"user:x:{OWNER}:{OWNER}::{NODE}:/bin/sh"), ("group", f"user:x:{OWNER}:")):
        with Path("/etc", name).open("a") as file:
            file.write(f"{line}\n")
    CONFIG.mkdir(parents=True)
    Path(CONFIG, "config.yml").write_text(NODE_CONFIG)
    Path(CONFIG, "config.yml").chmod(0o600)
    for path in (NODE.parent, NODE, CONFIG, CONFIG / "config.yml"):
        os.chown(path, OWNER, OWNER)
    PROGRAM.write_text(STAND_IN)
    PROGRAM.chmod(0o755)
    mesh = ("--endpoint", "192.0.2.1", "--workers", "3", "--node", "1.4", "--config", str(CONFIG))
    run(QMESH, "init", *mesh)
    try:
        run(QMESH, "render-config", "--write", "--config", str(CONFIG))
        run(QMESH, "units", "--write", str(UNITS), "--program", str(PROGRAM))
        run("systemctl", "daemon-reload")
        trap.set_up(NODE)
        start(TARGET, CONTROL)
        yield
    finally:
        subprocess.run([QMESH, "uninstall", "--delete-state"], check=False, capture_output=True)
        shutil.rmtree(NODE.parent)


def start(*units: str) -> None:
    """Start them; where one does not, with what its log says of that."""
    done = subprocess.run(["systemctl", "start", *units], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + "".join(
        said(f"systemctl status -n 40 {unit}") for unit in units
    )


def status(process: int, *names: str) -> tuple[str, ...]:
    """What the kernel says of a process. Source: proc(5), status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return tuple(values[name] for name in names)


def process_of(unit: str) -> int:
    return int(shown(unit, "MainPID")[0])


def capabilities(process: int) -> set[int]:
    """What it may, and could ever. Source: capabilities(7); the numbers are linux/capability.h's."""
    bounding, effective = status(process, "CapBnd", "CapEff")
    assert bounding == effective
    return {each for each in range(64) if int(bounding, 16) >> each & 1}


def modules() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def unload(*beginnings: str) -> None:
    """Unload the modules whose names begin so, and those that only they use."""

    def gone() -> bool:
        there = [name for name in modules() if name.startswith(beginnings)]
        subprocess.run(["rmmod", *there], check=False, capture_output=True)
        return not there

    until(gone)


def without_tunnel() -> None:
    run("systemctl", "stop", "qmesh.service")
    run("ip", "link", "delete", "qmesh0")
    unload("wireguard")


def test_r1_nothing_in_the_users_directory_is_run_as_root_when_his_node_starts_and_stops():
    for unit in (WORKER, CONTROL):
        run("systemctl", "restart", unit)
    run("systemctl", "restart", "qmesh.service", "qmesh-hold.service")

    assert trap.caught(NODE) == []


ASKING = f"""\
[Service]
Type=oneshot
Environment=PYTHONPATH={CHECKOUT}
ExecStart={sys.executable} /run/ask.py
StandardOutput=file:/run/told
{render_agent_settings()}"""
ASK = f"""\
import subprocess
from pathlib import Path
from qmesh.host.node_program.program_file import open_program
from qmesh.host.node_program.version_query import ask_version
from tests.support.waiting import comes_true
with open_program(Path("/run/asked")) as program:
    print(ask_version(program, {OWNER}), end="")
print("nothing" if comes_true(lambda: subprocess.call(["pgrep", "-u", "{OWNER}", "sleep"]) == 1, 10) else "")
"""
ASKED = "(setsid sleep 54321 & setsid -f sleep 54321; exec sleep 54321) >&- 2>&- & echo quil-node 2.1.0.25"


def test_the_agents_sandbox_lets_a_program_be_asked_and_nothing_of_it_stays():
    Path("/run/ask.py").write_text(ASK)
    Path("/run/asked").write_text(f"#!/bin/sh\n{ASKED}\n")
    Path("/run/asked").chmod(0o755)
    Path("/run/systemd/system/asking.service").write_text(ASKING)
    run("systemctl", "stop", WORKER, CONTROL, TARGET)
    try:
        run("systemctl", "daemon-reload")
        start("asking.service")
    finally:
        start(TARGET, CONTROL)
    assert Path("/run/told").read_text().split() == ["quil-node", "2.1.0.25", "nothing"]


def test_the_trap_catches_the_units_of_an_earlier_version():
    earlier = UNITS / f"{CONTROL}.d" / "earlier.conf"
    earlier.parent.mkdir()
    earlier.write_text(f"[Service]\nExecStartPre=\nExecStartPre=-+{sys.executable} -m qmesh ready 0\n")
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "restart", CONTROL)
        assert trap.caught(NODE) != []
    finally:
        shutil.rmtree(earlier.parent)
        run("systemctl", "daemon-reload")
        for found in NODE.rglob(trap.RAN):
            found.unlink()


def test_the_nodes_processes_are_their_owners_and_can_do_nothing_more():
    for unit in (WORKER, CONTROL):
        process = process_of(unit)
        assert Path(f"/proc/{process}").stat().st_uid == OWNER
        assert status(process, "NoNewPrivs", "Seccomp") == ("1", "2")
        assert capabilities(process) == set()
    assert (CONFIG / "made").stat().st_uid == OWNER
    assert not any(Path(each, "made").exists() for each in ("/etc", "/usr"))


NET_ADMIN, NET_BIND_SERVICE, NET_RAW = 12, 10, 13
CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SYS_PTRACE = 0, 1, 3, 5, 6, 7, 19


def test_agent_and_holder_have_what_they_need_and_no_more():
    holder = process_of("qmesh-hold.service")
    assert status(holder, "NoNewPrivs", "Seccomp") == status(agent(), "NoNewPrivs", "Seccomp") == ("1", "2")
    assert capabilities(holder) == {NET_ADMIN}
    own = {CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SYS_PTRACE}
    assert capabilities(agent()) == {NET_ADMIN, NET_BIND_SERVICE, NET_RAW, *own}


@pytest.mark.parametrize(("unit", "high"), [("qmesh.service", 1 << 30), ("qmesh-hold.service", 256 << 20)])
def test_no_core_is_dumped_and_log_and_memory_have_their_bounds(unit, high):
    names = ("LimitCORE", "MemoryHigh", "LogRateLimitBurst", "LogRateLimitIntervalUSec")
    assert shown(unit, *names) == ("0", str(high), "500", "30s")


def test_the_agent_makes_the_tunnel_where_the_module_of_wireguard_is_not_loaded():
    without_tunnel()
    run("systemctl", "start", "qmesh.service")
    until(TUNNEL.exists)

    assert "wireguard" in modules()
    until(lambda: shown("qmesh.service", "StatusText") == ("all is as desired",))


def test_the_guard_is_loaded_where_no_module_of_nftables_is():
    run("systemctl", "stop", "qmesh.service", "qmesh-hold.service", "qmesh-guard.service")
    run("nft", "flush", "ruleset")
    unload("nft_", "nf_tables", "nf_conntrack_netlink")
    run("systemctl", "start", "qmesh-guard.service")
    assert is_loaded()
    run("systemctl", "start", "qmesh-hold.service", "qmesh.service")

    assert run("nft", "list", "tables", "inet") == f"table inet {TABLE}\ntable inet {HELD_IN_KERNEL}\n"


@pytest.mark.parametrize("unit", ["qmesh-hold.service", "qmesh.service"])
def test_holder_and_agent_reserve_the_worker_ports(unit):
    run("systemctl", "stop", "qmesh.service")
    RESERVED.write_text("\n")
    run("systemctl", "restart", unit)
    until(lambda: RESERVED.read_text() == "40000-40002\n")
    run("systemctl", "start", "qmesh.service")


def test_no_other_setting_of_the_kernel_can_be_written_by_them():
    for unit in ("qmesh-hold.service", "qmesh.service"):
        words = ("nsenter", f"--target={process_of(unit)}", "--mount", "sh", "-c")
        other = "echo 0 >/proc/sys/net/ipv4/tcp_syncookies"
        assert "Read-only file system" in run(*words, other, code=2)
        assert "Read-only file system" in run(*words, "touch /etc/made", code=1)


def test_the_agent_has_the_wireguard_of_a_process_where_the_kernel_has_none_and_that_outlives_it():
    NO_MODULE.write_text("install wireguard /bin/false\n")
    try:
        without_tunnel()
        run("systemctl", "start", "qmesh.service")
        until(TUNNEL.exists)
        until(lambda: shown("qmesh.service", "StatusText") == ("all is as desired",))
        (process,) = map(int, said("pgrep -x wireguard-go").split())
        assert "wireguard" not in modules()
        assert status(process, "NoNewPrivs", "Seccomp") == ("1", "2")
        run("systemctl", "restart", "qmesh.service")
        until(lambda: shown("qmesh.service", "StatusText") == ("all is as desired",))
        assert said("pgrep -x wireguard-go").split() == [str(process)]
    finally:
        NO_MODULE.unlink()
        run("systemctl", "stop", "qmesh.service")
        run("ip", "link", "delete", "qmesh0")
        run("systemctl", "start", "qmesh.service")
        until(TUNNEL.exists)


def test_the_agent_writes_the_users_config_and_it_stays_his_and_it_restarts_his_workers():
    config = CONFIG / "config.yml"
    run(QMESH, "set", "--restart")
    try:
        run(QMESH, "set", "control", "--workers", "4")
        until(lambda: "40003" in config.read_text())
        until(lambda: shown("qmesh-worker@4.service", "ActiveState") == ("active",))
        assert (config.stat().st_uid, config.stat().st_gid, config.stat().st_mode & 0o777) == (
            OWNER,
            OWNER,
            0o600,
        )
        assert "qmesh-worker@4.service" in (UNITS / TARGET).read_text()
        assert Path(f"/proc/{process_of('qmesh-worker@4.service')}").stat().st_uid == OWNER
    finally:
        run(QMESH, "set", "control", "--workers", "3")
        run(QMESH, "set", "--no-restart")


FAULTS = f"""
ip link add faulty0 type veth peer name faulty1
ip link set faulty0 up; ip link set faulty1 up
ip address add 198.51.100.2/24 dev faulty0
nft add table ip strangers
nft add set ip strangers nets '{{ type ipv4_addr; flags interval; elements = {{ 0.0.0.0/1, 128.0.0.0/1 }}; }}'
nft add chain ip strangers in '{{ type filter hook input priority -5; }}'
nft add rule ip strangers in udp dport 51820 ip saddr @nets drop
iptables-legacy -A INPUT -p udp --dport 51820 -m state --state NEW -j DROP
iptables-nft -A OUTPUT -p udp --sport 51820 -j DROP
nft list ruleset > /etc/nftables.conf
ip route add blackhole 10.77.0.9/32
sysctl -qw net.ipv4.conf.lo.route_localnet=1 net.ipv4.conf.all.route_localnet=1
chmod 644 /var/lib/qmesh/signing.key /var/lib/qmesh/mesh.db {CONFIG}/config.yml
"""
ENDED = f"""
ip link del faulty0
nft delete table ip strangers; nft delete table ip filter
iptables-legacy -F INPUT
rm /etc/nftables.conf; ip route del blackhole 10.77.0.9/32
sysctl -qw net.ipv4.conf.lo.route_localnet=0 net.ipv4.conf.all.route_localnet=0
chmod 600 /var/lib/qmesh/signing.key /var/lib/qmesh/mesh.db {CONFIG}/config.yml
"""
CHILD = f"""
import sys; sys.path.insert(0, {str(CHECKOUT)!r})
import msgspec
from pathlib import Path
from qmesh.agent import limited_command
from qmesh.agent.audit import reporter
from qmesh.host.state.directory import State
limited_command.COMMAND_S = limited_command.PROCESSOR_S = 600  # an emulated machine is fifty times as slow
sys.stdout.buffer.write(msgspec.json.encode(reporter.run_check(State(Path("/var/lib/qmesh"))).findings))
"""


def in_sandbox(program: str) -> str:
    """What a Python program prints in the agent's sandbox: that of a unit with the agent's settings."""
    unit, script, answer = UNITS / "look.service", Path("/run/look.py"), Path("/run/look.answer")
    script.write_text(program)
    command = f"Type=oneshot\nStandardOutput=truncate:{answer}\nExecStart={sys.executable} -I {script}\n"
    unit.write_text(f"[Service]\n{render_agent_settings()}{command}")
    try:
        run("systemctl", "daemon-reload")
        start(unit.name)
        return answer.read_text()
    finally:
        unit.unlink()
        run("systemctl", "daemon-reload")


def test_the_agents_own_check_finds_in_its_sandbox_what_root_finds_outside():
    """`check --all` of the control node has each member's agent run it."""
    run("sh", "-ec", FAULTS)
    try:
        start_program = ("systemd-run", "--quiet", "--unit=wide", sys.executable, "-c")
        run(*start_program, "import socket, time; s = socket.create_server(('', 7001)); time.sleep(3600)")
        run("systemctl", "kill", "--signal=KILL", WORKER)
        run("systemctl", "stop", WORKER)
        until(lambda: "7001" in said("ss -ltn"))
        checked = subprocess.run([QMESH, "check", "--json"], check=False, capture_output=True, text=True)
        assert checked.returncode == 1, checked
        outside = json.loads(checked.stdout)["findings"]
        inside = json.loads(in_sandbox(CHILD))
    finally:
        run("sh", "-c", ENDED, code=0)
        run("systemctl", "stop", "wide.service")
        start(WORKER)
    assert stable(inside) == stable(outside)
    codes = {each["code"] for each in inside}
    assert "check-failed" not in codes
    assert codes >= {"foreign-drop", "foreign-saved", "sysctl", "key-mode", "config-mode"}
    assert codes >= {"worker-silent", "port-wide"}
    rules = [str(each) for each in inside if each["code"] == "foreign-drop"]
    assert all(any(name in rule for rule in rules) for name in ("strangers", "INPUT", "OUTPUT"))


def stable(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    """Those without what a second changes, and without the line of the journal, which is given up.

    A proof that the agent has not ended yet is said otherwise a moment later.
    """
    of_a_moment = r"\d+(?= (s|min)\b)|, last line: .*"
    return [
        {name: re.sub(of_a_moment, "", value) for name, value in each.items()}
        for each in findings
        if each["code"] not in {"agent-restarted", "claims-unproved"}
    ]


def answer_every_name(port: socket.socket) -> None:
    """A name server of 203.0.113.9 for whatever it is asked. Source: RFC 1035, 4.1."""
    while True:
        asked, who = port.recvfrom(512)
        if asked == b"end":
            return
        end = asked.index(b"\0", 12) + 5
        is_ipv4 = asked[end - 4 : end - 2] == b"\0\1"
        record = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH4s", 60, 4, socket.inet_aton("203.0.113.9"))
        head = struct.pack("!HHHHHH", *struct.unpack("!H", asked[:2]), 0x8180, 1, int(is_ipv4), 0, 0)
        port.sendto(head + asked[12:end] + (record if is_ipv4 else b""), who)


def test_names_are_looked_up_in_the_agents_sandbox():
    resolv = Path("/etc/resolv.conf")
    before = resolv.read_bytes() if resolv.exists() else b""
    look = "import socket; print(socket.getaddrinfo('control.example.org', 51820)[0][4])"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("127.0.0.1", 53))
        server = threading.Thread(target=answer_every_name, args=[port], daemon=True)
        server.start()
        resolv.unlink(missing_ok=True)
        resolv.write_text("nameserver 127.0.0.1\n")
        try:
            found = in_sandbox(look)
        finally:
            resolv.write_bytes(before)
            port.sendto(b"end", port.getsockname())
            server.join()
    assert found == "('203.0.113.9', 51820)\n"
