"""Kinds of drift: how a machine is spoilt, by a shell script, and what `check` says to it.

The machines are those of `make_drift_cluster`: node 1.4, a control node with workers 1 to 3 and a member with
workers 4 to 7, whose agents fix nothing. What may be chosen is chosen by a seed.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterator
from random import Random
from typing import Any, Literal, TypeAlias

from tests.support.lab.cluster import (
    CONFIG,
    HOLDER,
    STATE,
    checked,
    make_control,
    make_member,
    qmesh,
    stop_agent,
)
from tests.support.lab.machines import TOOLS, Lab

KEY = f"{STATE}/private.key"
PEER = "$(wg show qmesh0 peers)"
FILE = f"{CONFIG}/config.yml"

Where: TypeAlias = Literal["member", "control"]


@dataclasses.dataclass(frozen=True)
class Drift:
    """One of a kind. mend: what a person does, for those that no command cures."""

    code: str
    spoil: str
    severity: str = "error"
    subject: str = "qmesh0"
    mend: str = ""
    on: Where = "member"

    @property
    def kind(self) -> str:
        """What it is called, without what was chosen."""
        return f"{self.code} by {self.spoil[:60]}"


def list_drifts(random: Random) -> tuple[Drift, ...]:
    """Each kind once, with what may be chosen chosen; the first of a code is the plainest one."""
    return (
        *_list_sysctl_drifts(),
        *_list_key_drifts(random),
        *_list_tunnel_drifts(random),
        *_list_peer_drifts(random),
        *_list_guard_drifts(random),
        *_list_foreign_drifts(random),
        *_list_port_drifts(random),
        *_list_config_drifts(random),
        *_list_agent_drifts(),
    )


def _other_key(random: Random) -> str:
    return base64.b64encode(random.randbytes(32)).decode()


def _list_sysctl_drifts() -> Iterator[Drift]:
    for name in ("route_localnet", "accept_local"):
        yield Drift(
            "sysctl",
            f"sysctl -qw net.ipv4.conf.eth0.{name}=1",
            "warning",
            f"net.ipv4.conf.*.{name}",
            mend=f"sysctl -qw net.ipv4.conf.eth0.{name}=0",
        )


def _list_key_drifts(random: Random) -> Iterator[Drift]:
    mode = random.choice(("640", "604", "644", "660", "606"))
    signing, registry, held = (f"{STATE}/{name}" for name in ("signing.key", "mesh.db", "membership.json"))

    def spoil_file(code: str, path: str, spoil: str, *, on: Where = "member") -> Drift:
        script, mend = f"cp -p {path} /root/kept; {spoil}", f"cp -p /root/kept {path}"
        return Drift(code, script, subject=path, mend=mend, on=on)

    yield Drift("key-missing", f"mv {KEY} /root/key", subject=KEY, mend=f"mv /root/key {KEY}")
    yield Drift("key-mode", f"chmod {mode} {KEY}", subject=KEY)
    yield Drift("key-mode", f"chmod {mode} {STATE}/preshared.key", subject=f"{STATE}/preshared.key")
    yield Drift("key-mode", f"chmod {mode} {registry}", subject=registry, on="control")
    yield Drift("key-mode", f"chmod {mode} {signing}", subject=signing, on="control")
    yield spoil_file("key-mismatch", KEY, f"wg genkey >{KEY}")
    yield spoil_file("key-mismatch", KEY, f"echo no >{KEY}")
    yield spoil_file("key-mismatch", KEY, f": >{KEY}")
    yield Drift("key-mismatch", "wg genkey | wg set qmesh0 private-key /dev/stdin")
    yield spoil_file("key-missing", signing, f"rm {signing}", on="control")
    yield spoil_file("key-mismatch", signing, f"head -c 7 /dev/urandom >{signing}", on="control")
    yield spoil_file("membership-invalid", held, f"rm {held}")
    yield spoil_file("membership-invalid", held, f"truncate -s {random.randint(0, 500)} {held}")
    yield spoil_file("membership-invalid", held, f"sed -i s/eyJ/eyK/ {held}")
    later = random.randint(3600, 10**6)
    clock = "this machine's clock"
    yield Drift("clock", _move_events(later), "warning", clock, _move_events(-later), "control")


def _move_events(seconds: int) -> str:
    """Have all that happened to the mesh have happened later."""
    change = f"UPDATE events SET at = at + {seconds}"  # noqa: S608 - a number
    lines = f"d = sqlite3.connect('{STATE}/mesh.db'); d.execute('{change}'); d.commit()"
    return f'python -c "import sqlite3; {lines}"'


def _list_tunnel_drifts(random: Random) -> Iterator[Drift]:
    yield Drift("tunnel-missing", "ip link delete qmesh0")
    yield Drift("tunnel-missing", "qmesh down", severity="warning")
    yield Drift("tunnel-down", "ip link set qmesh0 down")
    yield Drift("tunnel-address", f"ip address add 10.77.{random.randint(0, 15)}.99/20 dev qmesh0")
    yield Drift("tunnel-address", "ip address flush dev qmesh0")
    yield Drift(
        "tunnel-address",
        "ip address delete 10.77.0.2/20 dev qmesh0; ip address add 10.77.0.2/24 dev qmesh0",
    )
    yield Drift("tunnel-address", "ip address add fd99::7/64 dev qmesh0")
    yield Drift("tunnel-port", f"wg set qmesh0 listen-port {random.randint(50000, 51000)}")
    yield Drift("tunnel-mtu", f"ip link set qmesh0 mtu {random.randint(1280, 1410)}")
    yield Drift("tunnel-mtu", f"ip link set qmesh0 mtu {random.randint(1430, 9000)}")
    yield Drift("tunnel-route", "ip route delete 10.77.0.0/20 dev qmesh0")
    table, length = random.randint(50, 250), random.randint(25, 31)
    yield Drift(
        "route-collision",
        f"ip route add 10.77.0.1 dev eth0 table {table}; ip rule add lookup {table} priority 5270",
    )
    yield Drift("route-collision", "ip route add 10.77.0.1 via 192.168.0.200")
    yield Drift(
        "route-collision", f"ip route add blackhole 10.77.0.{'1/32' if length > 30 else f'0/{length}'}"
    )
    yield Drift(
        "route-collision",
        "ip link add other type bridge; ip address add 10.77.0.9/28 dev other; ip link set other up",
        mend="ip link delete other",
    )


def _list_peer_drifts(random: Random) -> Iterator[Drift]:
    def spoil_peer(code: str, what: str, *, before: str = "") -> Drift:
        return Drift(code, f"{before}wg set qmesh0 peer {PEER} {what}", subject="control")

    other = _other_key(random)
    yield spoil_peer("peer-missing", "remove")
    yield Drift("peer-unexpected", f"wg set qmesh0 peer {other} allowed-ips 10.77.0.9/32", subject=other)
    bare = _other_key(random)
    yield Drift("peer-unexpected", f"wg set qmesh0 peer {bare}", subject=bare)
    yield spoil_peer("peer-allowed-ips", "allowed-ips 10.77.0.0/20")
    yield spoil_peer("peer-allowed-ips", f"allowed-ips 10.77.0.1/32,10.77.0.{random.randint(3, 250)}/32")
    yield spoil_peer("peer-allowed-ips", "allowed-ips ''")
    yield spoil_peer("peer-endpoint", f"endpoint 192.168.0.{random.randint(60, 99)}:51820")
    yield spoil_peer("peer-endpoint", f"endpoint 192.168.0.200:{random.randint(40000, 50000)}")
    discards = random.choice(("unreachable", "blackhole", "prohibit"))
    yield Drift("peer-silent", f"ip route add {discards} 192.168.0.200", subject="control")
    yield Drift("peer-silent", f"ip route add {discards} 192.168.0.201", subject="machine-b", on="control")
    yield spoil_peer("peer-psk", "preshared-key /dev/null")
    yield spoil_peer("peer-psk", "preshared-key /dev/stdin", before="wg genpsk | ")
    yield spoil_peer("peer-keepalive", "persistent-keepalive 0")
    yield spoil_peer("peer-keepalive", f"persistent-keepalive {random.choice((1, 24, 26, 600))}")


def _list_guard_drifts(random: Random) -> Iterator[Drift]:
    def spoil(code: str, script: str, subject: str = "table inet qmesh") -> Drift:
        return Drift(code, script, subject=subject)

    chain = random.choice(("asked_for", "arrived_at", "passed_on", "sent"))
    yield spoil("guard-missing", "nft delete table inet qmesh")
    yield spoil("guard-missing", "nft flush ruleset")
    yield spoil("guard-drift", f"nft insert rule inet qmesh {chain} accept")
    yield spoil("guard-drift", f"nft add rule inet qmesh {chain} counter")
    left = random.choice(("40004-40006", "40003-40005"))
    yield spoil(
        "guard-drift",
        f"nft -s list table inet qmesh | sed 's/40003-40006/{left}/' >/root/fewer;"
        " nft delete table inet qmesh; nft -f /root/fewer",
    )
    yield spoil(
        "guard-drift", f"nft add element inet qmesh closed_ports '{{ {random.randint(41000, 60000)} }}'"
    )
    yield spoil("guard-drift", "nft flush chain inet qmesh closed_port")
    yield spoil("guard-drift", "nft flush chain inet qmesh through_tunnel")
    yield spoil("guard-drift", f"nft flush chain inet qmesh {chain}")
    yield spoil("guard-drift", "nft add chain inet qmesh more '{ type filter hook input priority 7; }'")
    yield spoil("guard-drift", f"nft chain inet qmesh {chain} '{{ policy drop; }}'")
    yield spoil("guard-drift", "nft add table inet qmesh '{ flags dormant; }'")
    hook, at = random.choice(("input", "prerouting", "forward", "output")), random.randint(1, 300)
    yield spoil(
        "guard-not-first",
        f"nft -s list table inet qmesh | sed 's/hook {hook} priority mangle/hook {hook} priority {at}/'"
        " >/root/moved; nft delete table inet qmesh; nft -f /root/moved",
    )
    yield spoil("guard-boot", f"rm {STATE}/guard.nft", "guard.nft")
    yield spoil("guard-boot", f"echo >{STATE}/guard.nft", "guard.nft")
    yield spoil("guard-boot", f"sed -i s/40006/40044/ {STATE}/guard.nft", "guard.nft")
    yield spoil("guard-held", "pkill -KILL -f '[q]mesh hold|[q]mesh.host.lean.hold'", "table inet qmesh-held")


def _list_foreign_drifts(random: Random) -> Iterator[Drift]:
    name = f"others{random.randint(0, 999)}"

    def add_chain(
        hook: str,
        rule: str,
        *,
        policy: str = "accept",
        severity: str = "error",
        more: str = "",
        undo: str = "",
    ) -> Drift:
        where = f"type filter hook {hook} priority {random.randint(-400, 200)}; policy {policy};"
        script = f"nft add table inet {name}; {more}nft add chain inet {name} c '{{ {where} }}'"
        if rule:
            script += f"; nft add rule inet {name} c {rule}"
        mend = f"nft delete table inet {name}{undo}"
        return Drift("foreign-drop", script, "error", f"table inet {name}", mend=mend)

    yield add_chain("input", "udp dport 51820 drop")
    yield add_chain("input", "udp dport 50000-60000 drop")
    yield add_chain("prerouting", "iifname eth0 meta l4proto udp drop")
    yield add_chain("output", "udp sport 51820 drop")
    yield add_chain("output", "oifname qmesh0 drop")
    yield add_chain("input", "iifname qmesh0 tcp dport 40003-40006 drop")
    yield add_chain("input", "ip saddr 10.0.0.0/8 drop")
    yield add_chain("input", "", policy="drop")
    by_ipv6 = "qmesh apply --control-endpoint '[fd00:1a::200]:51820' >/dev/null; "
    by_ipv4 = "; qmesh apply --control-endpoint 192.168.0.200:51820 >/dev/null"  # where iptables' rules count
    yield add_chain("input", "icmpv6 type nd-neighbor-advert drop", more=by_ipv6, undo=by_ipv4)
    yield add_chain("output", "meta l4proto icmpv6 drop", more=by_ipv6, undo=by_ipv4)
    yield add_chain(
        "input",
        "udp dport @ports drop",
        more=f"nft add set inet {name} ports '{{ type inet_service; elements = {{ 80, 51820 }}; }}'; ",
    )
    yield add_chain(
        "input",
        "jump d",
        more=f"nft add chain inet {name} d; nft add rule inet {name} d udp dport 51820 drop; ",
    )
    yield Drift(
        "foreign-drop",
        "iptables -A INPUT -p udp --dport 51820 -j DROP",
        subject="",
        mend="iptables -D INPUT -p udp --dport 51820 -j DROP; iptables -F; nft delete table ip filter",
    )
    saved = "/etc/nftables.conf"
    yield Drift("foreign-saved", f"nft list ruleset >{saved}", "warning", saved)
    link = "mkdir -p /etc/nftables.d; ln -s /root/saved /etc/nftables.d"
    yield Drift("foreign-saved", f"{link}; nft list ruleset >/root/saved", "warning", "/root/saved")


def _list_port_drifts(random: Random) -> Iterator[Drift]:
    reserved = "net.ipv4.ip_local_reserved_ports"
    yield Drift("port-not-reserved", f"sysctl -qw {reserved}=", subject="40003-40006")
    yield Drift("port-not-reserved", f"sysctl -qw {reserved}=40004-40006", subject="40003")
    port = random.randint(10000, 20000)
    yield Drift(
        "port-wide",
        f"(setsid python -m http.server {port} --bind 0.0.0.0 >/dev/null 2>&1 &);"
        f" until ss -ltn | grep -q :{port}; do :; done",
        "warning",
        str(port),
        mend="pkill -f '[h]ttp.server'",
    )


def _list_config_drifts(random: Random) -> Iterator[Drift]:
    core = random.randint(40003, 40006)
    keep, mend = f"cp -p {FILE} /root/c", f"mv /root/c {FILE}"
    yield Drift("config-missing", f"rm {FILE}", subject=FILE)
    yield Drift(
        "config-stale", f"sed -i s,10.77.0.2/tcp/{core},192.168.0.201/tcp/{core}, {FILE}", subject=FILE
    )
    yield Drift(
        "config-stale",
        f"sed -i s,10.77.0.1/tcp/40001,192.168.0.200/tcp/40001, {FILE}",
        severity="warning",
        subject=FILE,
    )
    yield Drift("config-stale", f"sed -i '/tcp.4000/d' {FILE}", subject=FILE)
    yield Drift("config-stale", f"sed -i '/tcp.{core}/d' {FILE}", subject=FILE)
    yield Drift("config-mode", f"chmod {random.choice(('644', '640', '604', '666'))} {FILE}", subject=FILE)
    for spoil, severity in (
        ("printf 'dataWorkersMultiaddrs: []\\n'", "warning"),
        ("printf '\\tengine: ['", "error"),
        ("printf '# \\377'", "error"),
        ("printf 'p2p: [\\n'", "error"),
        ("printf 'x: \\000\\n'", "error"),
    ):
        yield Drift("config-lint", f"{keep}; {spoil} >>{FILE}", severity=severity, subject=FILE, mend=mend)
    below = "s/^engine:/engine:\\n  maxFrames: many/"
    yield Drift("config-lint", f"{keep}; sed -i '{below}' {FILE}", subject=FILE, mend=mend)


def _list_agent_drifts() -> Iterator[Drift]:
    stop, go_on = (f"pkill -{name} -f '[i]dle_agent'" for name in ("STOP", "CONT"))
    yield Drift("agent-silent", stop, subject="qmesh agent", mend=go_on)
    yield Drift(
        "change-unconfirmed",
        "ip link set qmesh0 mtu 1300; qmesh apply --confirm 3600",
        "warning",
        "qmesh apply",
    )
    yield Drift(
        "change-undone",
        "ip link set qmesh0 mtu 1300; qmesh apply --confirm 3600; qmesh undo --now",
        subject="qmesh apply",
    )


class DriftCluster:
    """A control node and a member whose agents fix nothing, so that a drift stays until it is looked at."""

    def __init__(self, lab: Lab) -> None:
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        qmesh(control, "render-config", "--write")
        self.machines = {"control": control, "member": member}
        for each in self.machines.values():
            assert checked(each)["findings"] == []
            stop_agent(each)
            assert [finding["code"] for finding in checked(each, code=1)["findings"]] == ["agent-missing"]
            each.start(["python", TOOLS / "idle_agent.py"]).wait_for("held")
            assert checked(each)["findings"] == []

    def find(self, drift: Drift) -> Any:
        """Spoil the machine; what `check` says then."""
        machine = self.machines[drift.on]
        is_of_guard = drift.code.startswith("guard-")
        if is_of_guard:
            machine.freeze(HOLDER)  # who would put the guard back before anybody saw it
        machine.run(["sh", "-c", drift.spoil])
        done = machine.run(["qmesh", "check", "--json"], check=False)
        if is_of_guard:
            machine.thaw(HOLDER)
        assert done.returncode in {0, 1}, f"{drift}\n{done.stderr}"
        return _without_silent_workers(json.loads(done.stdout))

    def cure(self, drift: Drift, report: Any) -> Any:
        """Do as the findings say, or what a person does; what `check` says then."""
        machine = self.machines[drift.on]
        for script in dict.fromkeys(
            [drift.mend] if drift.mend else [each["cure"] for each in report["findings"]]
        ):
            is_plain = re.fullmatch(r"qmesh [\w. /-]+", script)
            machine.run(script.split() if is_plain else ["sh", "-c", script], check=False)
        done = machine.run(["qmesh", "check", "--json"], check=False)
        return _without_silent_workers(json.loads(done.stdout))


def _without_silent_workers(report: Any) -> Any:
    """The same but for workers that nobody started."""
    return {**report, "findings": [each for each in report["findings"] if each["code"] != "worker-silent"]}


def is_found(drift: Drift, report: Any) -> bool:
    """Whether it is among the findings, and as bad as it is."""
    return any(
        (each["code"], each["severity"]) == (drift.code, drift.severity)
        and each["subject"].startswith(drift.subject)
        for each in report["findings"]
    )
