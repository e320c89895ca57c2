"""How machines find each other: the nearest way, another when it dies, NAT, and paths that carry less."""

import json

import pytest

from tests.support.lab.cluster import (
    STATE,
    checked,
    dial,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import TOOLS, Lab, Machine, _ip
from tests.support.lab.mesh import ip
from tests.support.waiting import idle, wait_until

pytestmark = pytest.mark.lab

CONTROL = "192.168.0.200"
QUIET_S = 60.0
"""Seconds within which an agent changes over: 30 of silence, and a look or two."""


def cable(one: Machine, other: Machine, name: str, *, mtu: int = 1500) -> None:
    """A link of their own between two machines, up, with the same name on both."""
    _ip(
        one.pid,
        f"link add {name} mtu {mtu} type veth peer name {name} mtu {mtu} netns {other.pid}\n"
        f"link set {name} up\n",
    )
    _ip(other.pid, f"link set {name} up\n")


def router(lab: Lab, name: str = "router", number: int = 1) -> Machine:
    machine = lab.machine(name, f"192.168.0.{number}")
    machine.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    return machine


def behind(
    lab: Lab, gate: Machine, name: str, network: str, *, mtu: int = 1500, inner_mtu: int = 1500
) -> Machine:
    """A machine of another LAN, whose only way out is that router; its link may carry less than it thinks."""
    machine = Machine(name, ipv4=f"{network}.2")
    lab._undo.callback(machine.close)
    link = f"to-{network.replace('.', '')}"[:15]
    cable(gate, machine, link, mtu=mtu)
    ip(gate, f"addr add {network}.1/24 dev {link}")
    ip(
        machine,
        "link set lo up",
        f"link set {link} mtu {inner_mtu} name eth0",
        f"addr add {network}.2/24 dev eth0",
        f"route add default via {network}.1",
    )
    return machine


def masquerade(gate: Machine, port: str, *, timeout_s: int) -> None:
    """What leaves by that port bears the router's address; its table forgets UDP quickly."""
    script = (
        "add table ip nat\n"
        "add chain ip nat out { type nat hook postrouting priority 100; }\n"
        f"add rule ip nat out oifname {port} masquerade\n"
    )
    gate.run(["nft", "-f", "-"], input=script)
    names = ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream")
    gate.run(["sysctl", "-qw", *(f"net.netfilter.{name}={timeout_s}" for name in names)])


def endpoint_seen(machine: Machine) -> str:
    """Where a machine's WireGuard sends to its one peer."""
    return machine.run(["wg", "show", "qmesh0", "endpoints"]).stdout.split()[1]


def test_takes_the_lan_and_changes_over_when_it_dies(lab):
    """The public way is what `init` was told, far and first; the LAN's is found, measured and taken."""
    far = lab.machine("far", "192.168.0.5")
    far.start(["python", TOOLS / "far.py", "51820", CONTROL, "51820", "20"]).wait_for("ready")
    control = make_control(lab, "--endpoint", "192.168.0.5:51820")
    control.run(["ip", "address", "add", "10.9.0.1/24", "dev", "eth0"])
    dead = "10.9.0.1"
    member = make_member(lab, control, 201, 2)
    settings = json.loads(member.read(f"{STATE}/machine.json"))
    hosts = [endpoint["host"] for endpoint in settings["control_endpoints"]]
    assert hosts[0] == CONTROL
    assert set(hosts) == {CONTROL, "192.168.0.5", dead, "fd00:1a::200"}
    assert endpoint_seen(member) == f"{CONTROL}:51820"
    qmesh(control, "render-config", "--write")
    workers = start_workers(member, "4..5")
    # The LAN is dead, between these two alone: WireGuard's datagrams to and from it vanish.
    member.run(["ip", "route", "add", "blackhole", "fd00:1a::200/128"])
    member.run(["nft", "-f", "-"], input=cut_off(CONTROL))
    wait_until(lambda: endpoint_seen(member) == "192.168.0.5:51820", QUIET_S)
    wait_until(lambda: dial(control)[3:] == ["core 4 on machine-b", "core 5 on machine-b"], seconds=30)
    assert checked(member)["findings"] == []
    wait_until(
        lambda: (
            json.loads(member.read(f"{STATE}/machine.json"))["control_endpoints"][0]["host"] == "192.168.0.5"
        )
    )
    workers.stop()


def cut_off(address: str) -> str:
    return (
        "add table inet lan\n"
        "add chain inet lan out { type filter hook output priority 0; }\n"
        f"add rule inet lan out ip daddr {address} udp dport 51820 drop\n"
    )


def test_a_name_is_no_reason_to_fail_and_is_followed(lab):
    """DNS that hangs when the agent starts; a name that is known later; then it has another address."""
    control = make_control(lab, "--endpoint", "control.example:51820")
    control.run(["nft", "-f", "-"], input=NO_DNS)
    member = lab.machine("machine-b", "192.168.0.201")
    hosts = member.read("/etc/hosts")
    member.write("/etc/hosts", f"{hosts}{CONTROL} control.example\n")
    invite(control, member, "--workers", "2")
    qmesh(member, "join", "invitation")
    stop_agent(member)
    settings = json.loads(member.read(f"{STATE}/machine.json"))
    settings["control_endpoints"] = [{"host": "control.example", "port": 51820}]
    member.write(f"{STATE}/machine.json", json.dumps(settings), 0o600)
    member.write("/etc/hosts", hosts)
    member.write("/etc/resolv.conf", f"nameserver {CONTROL}\noptions timeout:1\n")
    member.run(["nft", "flush", "ruleset"])
    member.run(["ip", "link", "delete", "qmesh0"])
    agent = member.start(["qmesh", "agent"])
    wait_until(lambda: "table inet qmesh\n" in member.run(["nft", "list", "tables"]).stdout)
    wait_until(lambda: "UP" in member.run(["ip", "-br", "link", "show", "qmesh0"], check=False).stdout)
    member.write("/etc/hosts", f"{hosts}{CONTROL} control.example\n")
    wait_until(lambda: endpoint_seen(member) == f"{CONTROL}:51820", QUIET_S)
    wait_until(lambda: answers(control, member))
    ip(control, f"addr del {CONTROL}/24 dev eth0", "addr add 192.168.0.230/24 dev eth0")
    member.write("/etc/hosts", f"{hosts}192.168.0.230 control.example\n")
    wait_until(lambda: endpoint_seen(member) == "192.168.0.230:51820", QUIET_S)
    wait_until(lambda: answers(control, member))
    agent.stop()


NO_DNS = """
add table ip no_dns
add chain ip no_dns in { type filter hook input priority 0; }
add rule ip no_dns in udp dport 53 drop
"""


def answers(control: Machine, member: Machine) -> bool:
    """Whether the control node reaches a machine through the tunnel."""
    address = next(
        each["address"] for each in facts(control, "status")["machines"] if each["name"] == member.name
    )
    script = "import sys; from qmesh.host.network.path_mtu import measure_echo_time;"
    script += "print(measure_echo_time(sys.argv[1], 99, wait_s=1))"
    return control.run(["python", "-c", script, address]).stdout != "None\n"


def test_works_from_behind_nat_and_goes_on_when_nobody_speaks(lab):
    """One mesh whose member is behind NAT, and one whose control node is, without a forwarded port."""
    gates = [router(lab, f"router-{number}", number) for number in (1, 2)]
    for gate in gates:
        masquerade(gate, "eth0", timeout_s=28)
    control = make_control(lab)
    member = behind(lab, gates[0], "machine-b", "10.1.1")
    hidden = behind(lab, gates[1], "hidden", "10.2.2")
    qmesh(hidden, "init", "--workers", "1", "--network", "10.99.0.0/24", "--node", "1.4")
    public = lab.machine("public", "192.168.0.210")
    public.run(["ip", "route", "add", "default", "via", "192.168.0.1"])
    for boss, machine, options in (
        (control, member, ()),
        (hidden, public, ("--endpoint", "192.168.0.210:51820")),
    ):
        invite(boss, machine, "--workers", "2", *options)
        qmesh(machine, "join", "invitation", timeout=60)
    pairs = ((control, member), (hidden, public))
    hidden.run(["nft", "-f", "-"], input=NO_ECHO)  # which does not mean that it is elsewhere
    for boss, machine in pairs:
        assert [facts(each, "plan")["steps"] for each in (machine, boss)] == [[], []]
        assert "peer-endpoint" not in machine.run(["qmesh", "check"], check=False).stdout
        stop_agent(machine)
        stop_agent(boss)
    assert endpoint_seen(control).startswith("192.168.0.1:")
    assert endpoint_seen(public).startswith("192.168.0.2:")
    idle(31)
    assert [answers(boss, machine) for boss, machine in pairs] == [True, True]


ONLY_ANSWERS = """
table inet nat {
    chain in {
        type filter hook input priority 0;
        iifname eth0 ct state new drop
    }
}
"""


def test_a_machine_that_was_away_when_the_control_node_moved_is_told_where_it_is(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 2)
    # As behind NAT: nobody calls this machine. The control node has another address all at once.
    member.run(["nft", "-f", "-"], input=ONLY_ANSWERS)
    ip(control, "address flush dev eth0", "address add 192.168.0.210/24 dev eth0")
    said = refusal(member, "apply", "--control-endpoint", "192.168.0.211:51820", code=4)
    assert "does not answer at 192.168.0.211:51820; this machine still uses the endpoint it had" in said
    assert json.loads(member.read(f"{STATE}/machine.json"))["control_endpoints"][0]["host"] == CONTROL

    qmesh(member, "apply", "--control-endpoint", "192.168.0.210:51820")
    assert endpoint_seen(member) == "192.168.0.210:51820"
    settings = json.loads(member.read(f"{STATE}/machine.json"))
    assert settings["control_endpoints"][0]["host"] == "192.168.0.210"
    revision = facts(control, "set", "machine-b", "--workers", "3")["revision"]
    wait_until(lambda: facts(member, "status")["revision"] == revision)
    qmesh(member, "down")
    qmesh(member, "apply")
    wait_until(lambda: endpoint_seen(member) == "192.168.0.210:51820")
    assert "qmesh set control --endpoint" in refusal(
        control, "apply", "--control-endpoint", "192.168.0.210:51820", code=2
    )
    qmesh(member, "apply", "--control-endpoint", "192.168.0.210")
    assert endpoint_seen(member) == "192.168.0.210:51820"


def find_black_hole(machine: Machine) -> dict[str, str]:
    """What `check` says of it. On a busy machine small packets may be late too, and then it says nothing."""
    found: list[dict[str, str]] = []

    def is_found() -> bool:
        report = facts(machine, "check", code=None)
        found[:] = [each for each in report["findings"] if each["code"] == "tunnel-mtu"]
        return bool(found)

    wait_until(is_found, 60)
    return found[0]


def test_the_tunnel_fits_its_path_and_a_black_hole_is_named(lab):
    gate = router(lab)
    gate.run(["ip", "link", "set", "eth0", "mtu", "1400"])
    masquerade(gate, "eth0", timeout_s=120)
    control = make_control(lab)
    member = behind(lab, gate, "machine-b", "10.1.1")
    invite(control, member, "--workers", "2")
    qmesh(member, "join", "invitation")
    assert mtu_of(member) == 1340
    # Lost echoes are no lost packets.
    control.run(["nft", "-f", "-"], input=NO_ECHO.replace("request", "request ip length > 200"))
    assert checked(member)["findings"] == []
    # The path gets narrower, and its router keeps that to itself.
    gate.run(["ip", "link", "set", "eth0", "mtu", "1300"])
    gate.run(["nft", "-f", "-"], input=SILENT_ROUTER)
    finding = find_black_hole(member)
    assert (finding["severity"], finding["subject"]) == ("error", "qmesh0")
    assert f"{CONTROL}:51820" in finding["wanted"]
    assert finding["cure"] == "qmesh apply --mtu 1232"
    qmesh(member, *finding["cure"].split()[1:])
    assert mtu_of(member) == 1232
    assert checked(member)["findings"] == []
    assert facts(member, "plan")["steps"] == []
    # The user's word ends with the user's word; what the router told before is still known.
    qmesh(member, "apply", "--mtu", "auto")
    assert mtu_of(member) == 1340
    # A link of 1280: what WireGuard makes of the least MTU of 1280 does not fit it.
    gate.run(["nft", "delete", "table", "ip", "silent"])
    gate.run(["ip", "link", "set", "eth0", "mtu", "1500"])
    for machine, link in ((gate, "to-1011"), (member, "eth0")):
        machine.run(["ip", "link", "set", link, "mtu", "1280"])
    qmesh(member, "apply")
    assert mtu_of(member) == 1280
    (finding,) = checked(member)["findings"]
    assert (finding["code"], finding["severity"]) == ("tunnel-mtu", "warning")
    assert finding["cure"] == "qmesh apply --mtu 1220"
    qmesh(member, *finding["cure"].split()[1:])
    assert checked(member)["findings"] == []
    assert "--mtu" not in refusal(member, "apply", "--mtu", "100", code=2)


NO_ECHO = """
add table ip limits
add chain ip limits in { type filter hook input priority 0; }
add rule ip limits in iifname qmesh0 icmp type echo-request drop
"""


SILENT_ROUTER = """
add table ip silent
add chain ip silent out { type filter hook output priority 0; }
add rule ip silent out icmp type destination-unreachable drop
"""


def mtu_of(machine: Machine) -> int:
    return int(machine.read("/sys/class/net/qmesh0/mtu"))
