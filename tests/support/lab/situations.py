"""Situations that public reports tell of, as data: `situation_cluster.py` says what each field is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.support.lab.cluster import CONFIG, STATE
from tests.support.lab.daily_work import DAILY_WORK
from tests.support.lab.machines import TOOLS
from tests.support.lab.rented_servers import RENTED_SERVERS
from tests.support.lab.situation_cluster import Machines, Situation, Where
from tests.support.lab.two_worlds import TWO_WORLDS

NO_WORKER: Final = "the control process reaches no worker of the machine"
NO_MEMBER: Final = "nothing passes between the two machines"
NO_CONTROL: Final = "the member's answers and questions reach no control node"
NO_NEWS: Final = "the member learns of no change"
OPEN: Final = "only the guard's other table keeps strangers out"
NO_WORK: Final = "these workers get no work"
FILE: Final = f"{CONFIG}/config.yml"
TABLE_52: Final = "ip rule add lookup 52 priority 5270"
VPN: Final = "ip route add default dev eth0 table 7; ip rule add not fwmark 51820 lookup 7 priority 90"
NO_IPV6: Final = "ip -6 address flush dev eth0 scope global"
"""Or the agent would find the way by IPv6, which is there as well."""
IPV6_AGAIN: Final = "ip address replace fd00:1a::201/64 dev eth0 nodad"
CONTROL_IPV6_AGAIN: Final = "ip address replace fd00:1a::200/64 dev eth0 nodad"
"""An interface that was down has lost it."""
NO_VPN: Final = "ip rule delete priority 90; ip rule delete priority 89; ip route flush table 7"


def _route(name: str, spoil: str, undo: str = "true", **more: str) -> Situation:
    """Of the tunnel's own routes, which the agent fixes."""
    return Situation(part=1, name=name, harm=NO_WORKER, spoil=spoil, undo=undo, **{"on": "control", **more})  # type: ignore[arg-type]


def _detour(name: str, spoil: str, undo: str, **more: str) -> Situation:
    """Of routes and rules of others, which are named."""
    facts = {"on": "control", "code": "route-collision", **more}
    return Situation(part=1, name=name, harm=NO_WORKER, spoil=spoil, undo=undo, **facts)  # type: ignore[arg-type]


OWN_ROUTES: Final = (
    _route("tunnel's route deleted, control node", "ip route delete 10.77.0.0/20 dev qmesh0"),
    _route("tunnel's route deleted, member", "ip route delete 10.77.0.0/20 dev qmesh0", on="member"),
    _route(
        "tunnel's route replaced by a black hole",
        "ip route replace blackhole 10.77.0.0/20",
        "ip route flush type blackhole",
    ),
    _route(
        "tunnel's route replaced by a LAN's",
        "ip route replace 10.77.0.0/20 dev eth0",
        "ip route delete 10.77.0.0/20 dev eth0",
    ),
    _route(
        "tunnel's route with another source", "ip route replace 10.77.0.0/20 dev qmesh0 src 192.168.0.200"
    ),
    _route(
        "all routes of the interface flushed",
        "ip route flush dev qmesh0; ip route flush table local dev qmesh0",
    ),
    _route("a default route by the interface", "ip route replace default dev qmesh0", on="member"),
)
DETOURS: Final = (
    _detour(
        "a VPN's table 52, a wider network",
        f"ip route add 10.64.0.0/10 dev eth0 table 52; {TABLE_52}",
        "ip rule delete priority 5270; ip rule delete priority 5269; ip route flush table 52",
    ),
    _detour("a full VPN before the main table", VPN, NO_VPN),
    _detour("a full VPN on a member", VPN, NO_VPN, on="member"),
    _detour(
        "a rule for the tunnel's address as source",
        "ip route add blackhole default table 7; ip rule add from 10.77.0.2 lookup 7 priority 90",
        NO_VPN,
        on="member",
    ),
    _detour(
        "a rule that prohibits",
        "ip rule add to 10.0.0.0/8 prohibit priority 90",
        "ip rule delete priority 90; ip rule delete priority 89",
    ),
    _detour(
        "the local table's rule behind the main table's",
        "ip rule add lookup local priority 32800; ip rule delete priority 0",
        "true",
        on="member",
    ),
    _detour("no rule for the main table", "ip rule delete priority 32766", "true"),
    _detour(
        "suppress_prefixlength 24 for the main table",
        "ip rule delete priority 32766; ip rule add lookup main suppress_prefixlength 24 priority 32766",
        "ip rule flush; ip rule add lookup main priority 32766; ip rule add lookup default priority 32767",
    ),
    _detour("a member's address as a host route", "ip route add 10.77.0.2 dev eth0", "true"),
    _detour("a nearer network by a router", "ip route add 10.77.0.0/29 via 192.168.0.201", "true"),
    _detour("a black hole for a member", "ip route add blackhole 10.77.0.2", "true"),
    _detour("an unreachable network", "ip route add unreachable 10.77.0.0/28", "true", on="member"),
    _detour("a member's address on another interface", "ip address add 10.77.0.2/32 dev eth0", "true"),
    _detour(
        "a black hole for a member by a nexthop",
        "ip nexthop add id 7 blackhole; ip route add 10.77.0.2 nhid 7",
        "ip nexthop delete id 7",
    ),
    _detour(
        "a rule for the workers' ports",
        "ip rule add ipproto tcp dport 40000-50000 prohibit priority 90",
        NO_VPN,
    ),
    _detour(
        "a rule for the user who runs the node",
        "ip rule add uidrange 0-0 to 10.77.0.0/16 prohibit priority 90",
        NO_VPN,
    ),
    _detour("a LAN of a part of the network", "ip address add 10.77.0.5/28 dev eth0", "true", on="member"),
)
PEER: Final = "$(wg show qmesh0 peers)"


def _tunnel(name: str, harm: str, spoil: str, undo: str = "true", **more: Any) -> Situation:
    """Of the tunnel and its peers, which the agent fixes."""
    return Situation(part=10, name=name, harm=harm, spoil=spoil, undo=undo, **more)


FIXED: Final = (
    _tunnel("tunnel interface deleted", NO_MEMBER, "ip link delete qmesh0"),
    _tunnel("tunnel interface down", NO_MEMBER, "ip link set qmesh0 down"),
    _tunnel("tunnel's process killed", NO_MEMBER, "pkill -KILL wireguard-go"),
    _tunnel("tunnel's address flushed", NO_MEMBER, "ip address flush dev qmesh0"),
    _tunnel("a second address on the tunnel", "nothing yet", "ip address add 10.77.3.3/20 dev qmesh0"),
    _tunnel("another MTU", "nothing yet", "ip link set qmesh0 mtu 1300"),
    _tunnel("peer removed by wg", NO_MEMBER, f"wg set qmesh0 peer {PEER} remove"),
    _tunnel(
        "allowed IPs widened by wg", "nothing yet", f"wg set qmesh0 peer {PEER} allowed-ips 10.77.0.0/20"
    ),
    _tunnel("allowed IPs emptied by wg", NO_MEMBER, f"wg set qmesh0 peer {PEER} allowed-ips ''"),
    _tunnel(
        "preshared key changed by wg",
        NO_MEMBER,
        f"wg genpsk | wg set qmesh0 peer {PEER} preshared-key /dev/stdin",
    ),
    _tunnel("private key changed by wg", NO_MEMBER, "wg genkey | wg set qmesh0 private-key /dev/stdin"),
    _tunnel("keepalive turned off by wg", "nothing yet", f"wg set qmesh0 peer {PEER} persistent-keepalive 0"),
    _tunnel(
        "another endpoint by wg",
        NO_MEMBER,
        f"wg set qmesh0 peer {PEER} endpoint 192.168.0.250:51820",
        takes_silence=True,
    ),
    _tunnel("listen port changed by wg", "nothing yet", "wg set qmesh0 listen-port 50505"),
    _tunnel(
        "an unknown peer added by wg",
        "a stranger is let in",
        "wg set qmesh0 peer $(wg genkey | wg pubkey) allowed-ips 10.77.0.9/32",
    ),
    _tunnel("guard deleted", OPEN, "nft delete table inet qmesh"),
    _tunnel("all rules flushed", OPEN, "nft flush ruleset"),
    _tunnel("a rule inserted into the guard", OPEN, "nft insert rule inet qmesh arrived_at accept"),
    _tunnel("guard's file of the next boot deleted", OPEN, f"rm {STATE}/guard.nft"),
    _tunnel("guard's holder killed", "nothing yet", "pkill -KILL -f '[q]mesh hold|[q]mesh.host.lean.hold'"),
    _tunnel(
        "reserved ports emptied", "a worker may not start", "sysctl -qw net.ipv4.ip_local_reserved_ports="
    ),
)


def _rule(
    name: str, rule: str, *, hook: str = "input", harm: str = NO_MEMBER, part: int = 4, **more: str
) -> Situation:
    """A foreign rule in a table of its own."""
    script = (
        f"nft add table inet others; nft add chain inet others c '{{ type filter hook {hook}; }}';"
        f" nft add rule inet others c {rule}"
    )
    facts = {"code": "foreign-drop", "undo": "nft delete table inet others", **more}
    return Situation(part=part, name=name, harm=harm, spoil=script, **facts)  # type: ignore[arg-type]


FOREIGN_RULES: Final = (
    _rule("a rule drops WireGuard's port", "udp dport 51820 drop", hook="input priority 0"),
    _rule("the same on the control node", "udp dport 51820 drop", hook="input priority 0", on="control"),
    _rule("a rule drops what leaves for 51820", "udp dport 51820 drop", hook="output priority 0"),
    _rule(
        "a rule drops the control node's calls",
        "iifname qmesh0 tcp dport 40000-50000 drop",
        hook="input priority 0",
        harm=NO_WORKER,
    ),
    _rule(
        "private networks are dropped", "ip saddr 10.0.0.0/8 drop", hook="input priority -300", harm=NO_WORKER
    ),
    _rule("connections are not tracked", "notrack", hook="prerouting priority -300", harm=NO_WORKER),
    _rule(
        "packets with SYN and no options of a scan",
        "tcp flags syn / fin,syn,rst,ack drop",
        hook="input priority 0",
        harm=NO_WORKER,
    ),
    Situation(
        part=4,
        name="fail2ban banned the control node",
        harm=NO_MEMBER,
        spoil="nft add table inet f2b; nft add set inet f2b banned '{ type ipv4_addr; }';"
        " nft add chain inet f2b c '{ type filter hook input priority -1; }';"
        " nft add rule inet f2b c ip saddr @banned reject;"
        " nft add element inet f2b banned '{ 192.168.0.200 }'",
        code="foreign-drop",
        undo="nft delete table inet f2b",
    ),
    Situation(
        part=4,
        name="iptables drops UDP",
        harm=NO_MEMBER,
        spoil="iptables -A INPUT -p udp -j DROP",
        code="foreign-drop",
        undo="iptables -F; nft delete table ip filter",
    ),
    Situation(
        part=4,
        name="what is marked is dropped, and WireGuard marks its packets",
        harm=NO_MEMBER,
        spoil="wg set qmesh0 fwmark 0x8000; iptables -A OUTPUT -m mark --mark 0x8000/0x8000 -j DROP",
        code="foreign-drop",
        undo="wg set qmesh0 fwmark 0; iptables -F; nft delete table ip filter",
    ),
    Situation(
        part=4,
        name="ARP is dropped",
        harm=NO_MEMBER,
        spoil=f"{NO_IPV6}; nft add table arp others;"
        " nft add chain arp others c '{ type filter hook input priority 0; }';"
        " nft add rule arp others c drop; ip neigh flush dev eth0",
        code="foreign-drop",
        undo=f"nft delete table arp others; {IPV6_AGAIN}",
        takes_silence=True,
    ),
    Situation(
        part=4,
        name="a bridge's rule drops WireGuard",
        harm=NO_MEMBER,
        spoil=f"{NO_IPV6}; ip link add br0 type bridge; ip link set br0 up;"
        " ip address flush dev eth0 scope global;"
        " ip link set eth0 master br0; ip address add 192.168.0.201/24 dev br0;"
        " nft add table bridge others; nft add chain bridge others c"
        " '{ type filter hook input priority 0; }';"
        " nft add rule bridge others c udp sport 51820 drop",
        code="foreign-drop",
        takes_silence=True,
        undo="nft delete table bridge others; ip link delete br0; ip address add 192.168.0.201/24 dev eth0;"
        f" {IPV6_AGAIN}",
    ),
    Situation(
        part=4,
        name="a proxy takes all calls of TCP (REDIRECT)",
        harm=NO_WORKER,
        spoil="iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 12345",
        code="foreign-drop",
        on="control",
        undo="iptables -t nat -F; nft delete table ip nat",
    ),
    Situation(
        part=4,
        name="a proxy takes what comes in (TPROXY)",
        harm=NO_WORKER,
        spoil="nft add table ip others;"
        " nft add chain ip others c '{ type filter hook prerouting priority -150; }';"
        " nft add rule ip others c ip protocol tcp tproxy to 127.0.0.1:12345 meta mark set 1 accept;"
        " ip rule add fwmark 1 lookup 7 priority 90; ip route add local default dev lo table 7",
        code="foreign-drop",
        undo=f"nft delete table ip others; {NO_VPN}",
    ),
    Situation(
        part=4,
        name="a queue on the tunnel drops all of it",
        harm=NO_WORKER,
        spoil="tc qdisc add dev qmesh0 root tbf rate 1mbit burst 40 limit 100",
        code="foreign-drop",
        undo="tc qdisc delete dev qmesh0 root",
        takes_silence=True,
    ),
    Situation(
        part=4,
        name="netdev ingress drops WireGuard",
        harm=NO_MEMBER,
        spoil="nft add table netdev n;"
        " nft add chain netdev n c '{ type filter hook ingress device eth0 priority 0; }';"
        " nft add rule netdev n c udp sport 51820 drop",
        code="foreign-drop",
        undo="nft delete table netdev n",
    ),
    Situation(
        part=5,
        name="rules saved with the guard's tables",
        harm="each load closes the ports of that day",
        spoil="nft list ruleset >/etc/nftables.conf",
        code="foreign-saved",
        undo="rm -f /etc/nftables.conf",
    ),
    Situation(
        part=5,
        name="rules saved as JSON",
        harm="none of them can be loaded while the guard is held",
        spoil="mkdir -p /etc/nftables.d; nft -j list ruleset >/etc/nftables.d/rules.json",
        code="foreign-saved",
        undo="rm -f /etc/nftables.d/rules.json",
    ),
    Situation(
        part=5,
        name="rules that an own script loads",
        harm="each load closes the ports of that day",
        spoil="nft list ruleset >/root/rules; printf '#!/bin/sh\\nnft -f /root/rules\\n' >/etc/rc.local",
        code="foreign-saved",
        undo="rm -f /root/rules /etc/rc.local",
    ),
    Situation(
        part=5,
        name="saved rules loaded after a flush",
        harm=OPEN,
        spoil="nft list ruleset >/root/saved; nft flush ruleset; nft -f /root/saved",
    ),
    Situation(
        part=6,
        name="a set of 20,000 networks, and the control node",
        harm=NO_MEMBER,
        spoil="(echo 'table inet geo { set s { type ipv4_addr; flags interval; elements = {';"
        ' for a in $(seq 20 99); do for b in $(seq 0 249); do echo "$a.$b.7.0/24,"; done; done;'
        " echo '192.168.0.200 } };';"
        " echo 'chain c { type filter hook prerouting priority -310; ip saddr @s drop; }'; echo '}')"
        " | nft -f -",
        code="foreign-drop",
        undo="nft delete table inet geo",
    ),
)


def _take_ipv4_away(machines: Machines) -> None:
    """Have the member's network translate IPv4: the control node itself has the translated address."""
    control, member = machines["control"], machines["member"]
    translator = "ip address add 64:ff9b::c0a8:c8/96 dev eth0 nodad; ip route add fd00:1a::/64 dev eth0"
    control.run(["sh", "-c", f"{NO_IPV6}; {translator}"])
    script = (
        f"echo 64:ff9b::c000:aa ipv4only.arpa >>/etc/hosts; ip -4 address flush dev eth0; {IPV6_AGAIN};"
        " ip -6 route add 64:ff9b::/96 dev eth0"
    )
    member.run(["sh", "-c", script])


def _tell_control_endpoint(machines: Machines, host: str) -> None:
    """As the finding says."""
    machines["member"].run(["qmesh", "apply", "--control-endpoint", f"{host}:51820"], timeout=60)


def _date_a_handshake_ahead(machines: Machines) -> None:
    """As of a member whose clock was years ahead for a moment; then its tunnel begins anew."""
    member = machines["member"]
    keys = member.run(["sh", "-c", f"cat {STATE}/private.key; wg show qmesh0 peers"]).stdout
    member.run(["python", "-m", "tests.support.initiation", "192.168.0.200", "2000000000"], input=keys)
    assert member.kill("wireguard-go")


SILENCES: Final = (
    Situation(
        part=2,
        name="a member's clock was years ahead, and was set right",
        harm="WireGuard refuses it until then",
        spoil=_date_a_handshake_ahead,
        takes_silence=True,
        within_s=60,
    ),
    Situation(
        part=2,
        name="network interface down, seen by the machine",
        harm=NO_MEMBER,
        spoil="ip link set eth0 down",
        code="peer-silent",
        undo=f"ip link set eth0 up; {IPV6_AGAIN}",
        by_hand="ip link set eth0 up",
        takes_silence=True,
    ),
    Situation(
        part=2,
        name="network interface down, seen by the control node",
        harm=NO_MEMBER,
        spoil="ip link set eth0 down",
        code="peer-silent",
        asked="control",
        undo=f"ip link set eth0 up; {IPV6_AGAIN}",
        by_hand="ip link set eth0 up",
        takes_silence=True,
    ),
    Situation(
        part=2,
        name="the control node's network interface down, seen by the member",
        harm=NO_MEMBER,
        spoil="ip link set eth0 down",
        code="peer-silent",
        on="control",
        asked="member",
        undo=f"ip link set eth0 up; {CONTROL_IPV6_AGAIN}",
        by_hand="ip link set eth0 up",
        takes_silence=True,
    ),
    Situation(
        part=2,
        name="a wrong link-layer address",
        harm=NO_MEMBER,
        spoil=f"{NO_IPV6}; ip neigh replace 192.168.0.200 lladdr 02:00:00:00:00:01 dev eth0 nud permanent",
        code="peer-silent",
        undo=f"ip neigh delete 192.168.0.200 dev eth0; {IPV6_AGAIN}",
        by_hand="ip neigh delete 192.168.0.200 dev eth0",
        takes_silence=True,
        within_s=200,  # what the control node sends arrives until WireGuard's session is over
    ),
    Situation(
        part=2,
        name="the control node has another address",
        harm=NO_MEMBER,
        spoil=f"{NO_IPV6}; ip address delete 192.168.0.200/24 dev eth0;"
        " ip address add 192.168.0.222/24 dev eth0",
        code="peer-silent",
        on="control",
        asked="member",
        undo="ip address delete 192.168.0.222/24 dev eth0; ip address add 192.168.0.200/24 dev eth0",
        by_hand=lambda machines: _tell_control_endpoint(machines, "192.168.0.222"),
        takes_silence=True,
        is_last=True,
    ),
    Situation(
        part=2,
        name="a machine without IPv4, behind NAT64",
        harm=NO_MEMBER,
        spoil=_take_ipv4_away,
        code="peer-silent",
        undo="sed -i /ipv4only/d /etc/hosts; ip address add 192.168.0.201/24 dev eth0",
        takes_silence=True,
        is_last=True,
    ),
    Situation(
        part=2,
        name="pings are ignored",
        harm="none",
        spoil="sysctl -qw net.ipv4.icmp_echo_ignore_all=1",
        undo="sysctl -qw net.ipv4.icmp_echo_ignore_all=0",
        is_harmless=True,
    ),
    Situation(
        part=2,
        name="address of the network interface gone",
        harm=NO_MEMBER,
        spoil="ip address flush dev eth0 scope global",
        code="peer-silent",
        undo=f"ip address add 192.168.0.201/24 dev eth0; {IPV6_AGAIN}",
        by_hand="ip address add 192.168.0.201/24 dev eth0",
        takes_silence=True,
    ),
)
PATHS: Final = (
    Situation(
        part=7,
        name="packets of more than 1,350 bytes are lost on the way",
        harm="connections begin, and carry nothing",
        spoil="tc qdisc add dev eth0 root tbf rate 1gbit burst 1350 limit 100k",
        code="tunnel-mtu",
        undo="tc qdisc delete dev eth0 root; qmesh apply --mtu auto",
    ),
    Situation(
        part=7,
        name="and what routers say of them is dropped",
        harm="connections begin, and carry nothing",
        spoil="tc qdisc add dev eth0 root tbf rate 1gbit burst 1350 limit 100k;"
        " iptables -A INPUT -p icmp -j DROP",
        code="foreign-drop",
        undo="tc qdisc delete dev eth0 root; iptables -F; nft delete table ip filter; qmesh apply --mtu auto",
    ),
    Situation(
        part=7,
        name="a path of 1280 bytes, as many as the tunnel's least",
        harm="each full packet is sent as two fragments",
        spoil="ip link set eth0 mtu 1280",
        code="tunnel-mtu",
        undo="ip link set eth0 mtu 1500; qmesh apply --mtu auto",
    ),
    *(
        Situation(
            part=7,
            name=name,
            harm="none",
            spoil="nft add table inet others;"
            " nft add chain inet others c '{ type filter hook input priority 0; }';"
            f" nft add rule inet others c {rule}",
            undo="nft delete table inet others",
            on="control",
            is_harmless=True,
        )
        for name, rule in (
            ("one echo a second is answered", "icmp type echo-request limit rate over 1/second drop"),
            ("no large ICMP is let in", "ip protocol icmp meta length gt 500 drop"),
            ("no ICMP is let in", "ip protocol icmp drop"),
        )
    ),
)
WORKERS: Final = (
    Situation(
        part=9,
        name="a machine's workers ended, seen by the control node",
        harm=NO_WORK,
        spoil="pkill -f '[w]orker.py'",
        code="worker-silent",
        asked="control",
        undo="true",
        by_hand=f"(setsid python {TOOLS}/worker.py --config {CONFIG} --core 4..7 >/dev/null 2>&1 &)",
    ),
    Situation(
        part=9,
        name="workers stopped by Ctrl-Z",
        harm=NO_WORK,
        spoil="pkill -STOP -f '[w]orker.py'",
        code="worker-silent",
        undo="pkill -CONT -f '[w]orker.py'",
    ),
    Situation(
        part=9,
        name="workers stopped by Ctrl-Z, seen by the control node",
        harm=NO_WORK,
        spoil="pkill -STOP -f '[w]orker.py'",
        code="worker-silent",
        # Their machine notes it with its next question, in 50 seconds at most. By then so many may have
        # called them that they have room for no more.
        says="a signal has stopped it",
        asked="control",
        within_s=80,
        undo="pkill -CONT -f '[w]orker.py'",
        by_hand="pkill -CONT -f '[w]orker.py'",
    ),
    Situation(
        part=9,
        name="`qmesh down` on the member, seen by the control node",
        harm=NO_WORKER,
        spoil="qmesh down",
        code="worker-silent",
        asked="control",
    ),
    Situation(
        part=9,
        name="the tunnel's process stopped by a signal",
        harm=NO_MEMBER,
        spoil="pkill -STOP wireguard-go",
        code="agent-failing",
        within_s=60,
        undo="pkill -CONT wireguard-go",
    ),
    Situation(
        part=9,
        name="agent killed",
        harm="nothing is fixed, no machine can join",
        spoil="pkill -KILL -f 'silent_s [=] float|[q]mesh agent'",
        code="agent-missing",
        on="control",
    ),
    Situation(
        part=9,
        name="agent stopped by a signal",
        harm="nothing is fixed",
        spoil="pkill -STOP -f 'silent_s [=] float|[q]mesh agent'",
        code="agent-silent",
        undo="pkill -CONT -f 'silent_s [=] float|[q]mesh agent'",
    ),
)
FILES: Final = (
    Situation(
        part=8,
        name="a worker's entry edited",
        harm=NO_WORK,
        spoil=f"sed -i s,10.77.0.2/tcp/40004,192.168.0.201/tcp/40004, {FILE}",
        code="config-stale",
        on="control",
    ),
    Situation(
        part=8,
        name="config.yml readable for all",
        harm="users read the node's keys",
        spoil=f"chmod 644 {FILE}",
        code="config-mode",
        on="control",
    ),
    Situation(
        part=8,
        name="config.yml is a mount point",
        harm="the list cannot be replaced",
        spoil=f"cp -p {FILE} /root/c; sed -i s,10.77.0.2/tcp/40004,10.77.0.9/tcp/40004, /root/c;"
        f" mount --bind /root/c {FILE}",
        code="config-stale",
        on="control",
        undo=f"umount {FILE}",
    ),
    Situation(
        part=8,
        name="a no-break space in a key",
        harm="the node ignores the key",
        spoil=f"printf 'log\\302\\240Level: 1\\n' >>{FILE}",
        code="config-lint",
        on="control",
        by_hand=f"sed -i /^log.*Level/d {FILE}",
    ),
)


def _ipsec(name: str, policy: str, *, on: Where = "member", **more: str) -> Situation:
    """A policy of IPsec, which is asked after all routes and firewalls."""
    facts = {"harm": NO_MEMBER, "code": "foreign-drop", "undo": "ip xfrm policy flush", **more}
    return Situation(part=4, name=name, spoil=f"ip xfrm policy add {policy}", on=on, **facts)  # type: ignore[arg-type]


IPSEC: Final = (
    _ipsec(
        "IPsec takes 10.0.0.0/8",
        "src 0.0.0.0/0 dst 10.0.0.0/8 dir out priority 100"
        " tmpl src 192.0.2.1 dst 192.0.2.9 proto esp mode tunnel",
    ),
    _ipsec(
        "IPsec takes the tunnel's network on the control node",
        "src 10.77.0.0/16 dst 10.77.0.0/16 dir out tmpl src 192.0.2.1 dst 192.0.2.9 proto esp mode tunnel",
        on="control",
    ),
    _ipsec(
        "IPsec lets in only what was encrypted",
        "src 10.0.0.0/8 dst 10.0.0.0/8 dir in priority 9 action block",
    ),
    _ipsec(
        "IPsec drops WireGuard's packets", "src 0.0.0.0/0 dst 192.168.0.200/32 proto udp dir out action block"
    ),
)


def _do_on_member(function: str) -> Callable[[Machines], None]:
    """Call one of tests/support/bpf.py there."""
    script = f"import socket; from tests.support.bpf import *; of = socket.if_nametoindex('eth0'); {function}"

    def call(machines: Machines) -> None:
        machines["member"].run(["python", "-c", script])

    return call


_DETACH: Final = _do_on_member("detach_program(of, TCX_EGRESS)")
LOST_TUNNELS: Final = (
    Situation(
        part=4,
        name="an eBPF program drops what leaves (tcx)",
        harm=NO_MEMBER,
        spoil=_do_on_member("attach_program(of, TCX_EGRESS, CLASSIFIER, SHOT, name='mine')"),
        code="foreign-drop",
        by_hand=_DETACH,
        takes_silence=True,
    ),
    Situation(
        part=9,
        name="state directory on a read-only disk",
        harm="no change of the mesh is kept",
        spoil=f"mount --bind {STATE} {STATE}; mount -o remount,bind,ro {STATE}",
        code="agent-failing",
        undo=f"umount {STATE}",
        by_hand=f"mount -o remount,bind,rw {STATE}",
    ),
    Situation(
        part=4,
        name="loopback interface down on the control node",
        harm="the control process does not reach its own workers",
        spoil="ip link set lo down",
        code="foreign-drop",
        on="control",
    ),
    Situation(
        part=1,
        name="WireGuard marked for a VPN's table",
        harm=NO_MEMBER,
        spoil="wg set qmesh0 fwmark 0x77; ip rule add fwmark 0x77 prohibit priority 60;"
        " ip -6 rule add fwmark 0x77 prohibit priority 60",
        code="foreign-drop",
        undo="ip rule delete priority 60; ip -6 rule delete priority 60; wg set qmesh0 fwmark 0",
        takes_silence=True,
    ),
    Situation(
        part=10,
        name="tunnel interface renamed",
        harm=NO_MEMBER,
        spoil="ip link set qmesh0 down; ip link set qmesh0 name wg9; ip link set wg9 up",
        code="agent-failing",
    ),
    Situation(
        part=10,
        name="tunnel interface moved to a container",
        harm=NO_MEMBER,
        spoil="ip netns add other; ip link set qmesh0 netns other",
        code="agent-failing",
        undo="ip netns delete other",
    ),
)
SITUATIONS: Final = (
    *OWN_ROUTES, *DETOURS, *SILENCES, *TWO_WORLDS, *FOREIGN_RULES, *IPSEC, *FILES, *PATHS, *WORKERS,
    *LOST_TUNNELS, *FIXED, *RENTED_SERVERS, *DAILY_WORK,
)  # fmt: skip
