"""Situations of rented servers: what providers, images and other programs of a distribution do to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.support.lab.machines import plug_in
from tests.support.lab.situation_cluster import AGENT, SILENT_S, SITUATION_AGENT, Machines, Situation, Where
from tests.support.waiting import idle, wait_until

_NO_MEMBER: Final = "nothing passes between the two machines"
_NO_WORKER: Final = "the control process reaches no worker of the machine"
_NONE: Final = "none"
_WIREGUARD: Final = "/usr/bin/wireguard-go"
_EVER: Final = 10 * 365 * 86400
"""Seconds: years by which a clock is wrong."""
_NETWORKD: Final = """
mkdir -p /run/systemd/network /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
chown -R systemd-network:systemd-network /run/systemd/netif
printf '[Match]\\nName=eth0\\n[Network]\\nAddress=192.168.0.201/24\\nAddress=fd00:1a::201/64\\n' \\
    >/run/systemd/network/05-eth0.network
printf '[Match]\\nName=*\\n[Network]\\nDHCP=yes\\n' >/run/systemd/network/10-all.network
mount -t sysfs -o ro sysfs /sys
(setsid /lib/systemd/systemd-networkd >/run/networkd.log 2>&1 &)
"""
_NO_NETWORKD: Final = "pkill systemd-network; umount /sys; rm -r /run/systemd/network"
_IPV6: Final = "ip address replace fd00:1a::201/64 dev eth0 nodad"


def _fixed(name: str, harm: str, spoil: str, undo: str = "true") -> Situation:
    """Of the tunnel, which another program changes, and the agent puts back."""
    return Situation(part=10, name=name, harm=harm, spoil=spoil, undo=undo)


def _harmless(
    name: str, spoil: str, undo: str = "true", *, on: Where = "member", part: int = 10
) -> Situation:
    """What changes a machine, and nothing of the mesh."""
    return Situation(part=part, name=name, harm=_NONE, spoil=spoil, undo=undo, on=on, is_harmless=True)


def _filter_at_provider(rule: str) -> Callable[[Machines], None]:
    """Have what is between the machines drop something, as a provider's firewall does."""

    def load(machines: Machines) -> None:
        table = (
            "table bridge provider { chain c { type filter hook forward priority 0; " + rule + " drop; }; }"
        )
        machines["control"].lan.run(["nft", "-f", "-"], input=table)

    return load


def _translate_ports(machines: Machines) -> None:
    """Have what is between the machines give the member's WireGuard one port after the other."""
    lan, own = machines["control"].lan, machines["member"].ipv4
    for port in range(61077, 61080):
        table = (
            "table bridge provider\ndelete table bridge provider\n"
            "table bridge provider { chain c { type filter hook forward priority 0;"
            f" ip saddr {own} udp sport 51820 udp sport set {port};"
            f" ip daddr {own} udp dport {port} udp dport set 51820; }}; }}"
        )
        lan.run(["nft", "-f", "-"], input=table)
        idle(3)


def _remove_filter(machines: Machines) -> None:
    machines["control"].lan.run(["nft", "delete", "table", "bridge", "provider"], check=False)


def _give_second_uplink(machines: Machines) -> None:
    """Two interfaces in one network: answers leave by another one than that by which is called."""
    control, member = machines["control"], machines["member"]
    # The agents may have gone over to IPv6 in the situation before, which nothing of this concerns.
    control.run(["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"])
    wait_until(lambda: member.ipv4 in control.run(["wg", "show", "qmesh0", "endpoints"]).stdout, 60)
    plug_in(control, "uplink")
    script = (
        "ip link set uplink up; ip address add 192.168.0.230/24 dev uplink;"
        " ip route add 192.168.0.201 dev uplink;"
        " sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=1"
    )
    control.run(["sh", "-c", script])


def _shift_control_clock(seconds: int) -> Callable[[Machines], None]:
    """Have the control node's agent live at another time, with which members compare theirs."""

    def shift(machines: Machines) -> None:
        control = machines["control"]
        (agent,) = control.processes(SITUATION_AGENT).values()
        assert control.kill(SITUATION_AGENT)
        silent_s = agent.split()[-1] if "silent_s" in agent else str(SILENT_S)
        control.start(["python", "-c", AGENT, str(seconds), silent_s])

    return shift


def _suspend_member(machines: Machines) -> None:
    """As its provider does for a snapshot, or to move it to other hardware."""
    member, everything = machines["member"], f"wireguard-go|worker.py|hold|{SITUATION_AGENT}"
    member.freeze(everything)
    idle(20)
    member.thaw(everything)


RENTED_SERVERS: Final = (
    _fixed("systemd-networkd has a file for every interface", _NO_MEMBER, _NETWORKD, _NO_NETWORKD),
    _fixed(
        "NetworkManager takes the tunnel: an address and a default route by it",
        _NO_MEMBER,
        "ip address flush dev qmesh0; ip address add 169.254.7.7/16 dev qmesh0;"
        " ip route add default dev qmesh0 metric 50",
    ),
    Situation(
        part=9,
        name="WireGuard gone until the next boot, as after an update of the kernel",
        harm=_NO_MEMBER,
        spoil=f"mount --bind /dev/null {_WIREGUARD}; pkill -KILL wireguard-go",
        code="agent-failing",
        within_s=60,
        undo=f"umount {_WIREGUARD}",
        by_hand=f"umount {_WIREGUARD}",
    ),
    Situation(
        part=9,
        name="memory ran out: agent, holder and tunnel killed at once",
        harm=_NO_MEMBER,
        spoil="pkill -KILL -f 'silent_s [=] float|[q]mesh agent|[q]mesh hold|[q]mesh.host.lean.hold';"
        " pkill -KILL wireguard-go",
        code="agent-missing",
    ),
    _fixed("/run cleaned of what is old", _NO_MEMBER, "rm -rf /run/qmesh* /run/wireguard/*"),
    Situation(
        part=4,
        name="rp_filter is strict, and answers leave by another uplink",
        harm=_NO_MEMBER,
        spoil=_give_second_uplink,
        code="foreign-drop",
        on="control",
        undo="ip link delete uplink; sysctl -qw net.ipv4.conf.eth0.rp_filter=0;"
        f" {_IPV6.replace('::201', '::200')}",
    ),
    Situation(
        part=4,
        name="the table of tracked connections full",
        harm="no connection begins",
        spoil="cat /proc/sys/net/netfilter/nf_conntrack_max >/root/max; cp /root/max /root/count;"
        " mount --bind /root/max /proc/sys/net/netfilter/nf_conntrack_max;"
        " mount --bind /root/count /proc/sys/net/netfilter/nf_conntrack_count",
        code="sysctl",
        undo="umount /proc/sys/net/netfilter/nf_conntrack_max /proc/sys/net/netfilter/nf_conntrack_count",
    ),
    Situation(
        part=1,
        name="the DNS server of a DHCP lease in the tunnel's network",
        harm="no name is found",
        spoil="cat /etc/resolv.conf >/root/resolv; echo nameserver 10.77.9.9 >/etc/resolv.conf",
        code="route-collision",
        by_hand="cat /root/resolv >/etc/resolv.conf",
    ),
    Situation(
        part=2,
        name="a provider's firewall drops UDP",
        harm=_NO_MEMBER,
        spoil=_filter_at_provider("ip protocol udp"),
        code="peer-silent",
        by_hand=_remove_filter,
        takes_silence=True,
    ),
    Situation(
        part=9,
        name="the control node's clock ten years ahead, seen by the member",
        harm="invitations expire, and who was ahead is refused once it is set right",
        spoil=_shift_control_clock(_EVER),
        code="clock",
        asked="member",
        by_hand=_shift_control_clock(0),
    ),
    Situation(
        part=9,
        name="the control node's clock ten years behind, seen by the member",
        harm="invitations do not expire",
        spoil=_shift_control_clock(-_EVER),
        code="clock",
        asked="member",
        by_hand=_shift_control_clock(0),
    ),
    _harmless(
        "cloud-init sets the network up again",
        "ip link set eth0 down; ip address flush dev eth0; sleep 1; ip link set eth0 up;"
        f" ip address add 192.168.0.201/24 dev eth0; {_IPV6}",
    ),
    _harmless(
        "netplan sets the rules again",
        "ip rule flush; ip rule add lookup main priority 32766; ip rule add lookup default priority 32767",
    ),
    _harmless(
        "Docker forwards nothing",
        "iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -j RETURN;"
        " iptables -P FORWARD DROP",
        "iptables -P FORWARD ACCEPT; iptables -F; iptables -X; nft delete table ip filter",
        part=4,
    ),
    _harmless(
        "IPv6 addresses for privacy",
        "sysctl -qw net.ipv6.conf.eth0.use_tempaddr=2;"
        " ip address add fd00:1a::77/64 dev eth0 mngtmpaddr nodad",
        "ip address delete fd00:1a::77/64 dev eth0; sysctl -qw net.ipv6.conf.eth0.use_tempaddr=0",
        part=2,
    ),
    _harmless(
        "IPv6 switched off",
        "sysctl -qw net.ipv6.conf.all.disable_ipv6=1",
        f"sysctl -qw net.ipv6.conf.all.disable_ipv6=0; {_IPV6}",
        part=2,
    ),
    _harmless("another host name", "hostname vps-4711", "hostname machine-b"),
    *(
        _harmless(
            f"an uplink of {octets} bytes ({by})",
            f"ip link set eth0 mtu {octets}",
            "ip link set eth0 mtu 1500; qmesh apply",
            part=7,
        )
        for octets, by in ((1492, "PPPoE"), (1476, "GRE"), (1450, "VXLAN"))
    ),
    _harmless(
        "a lease with another address",
        "ip address delete 192.168.0.201/24 dev eth0; ip address add 192.168.0.231/24 dev eth0",
        "ip address delete 192.168.0.231/24 dev eth0; ip address add 192.168.0.201/24 dev eth0",
        part=2,
    ),
    _harmless(
        "the interface gets another name",
        "ip link set eth0 down; ip link set eth0 name ens3; ip link set ens3 up;"
        f" {_IPV6.replace('eth0', 'ens3')}",
        f"ip link set ens3 down; ip link set ens3 name eth0; ip link set eth0 up; {_IPV6}",
        part=2,
    ),
    _harmless(
        "its address moves to a bridge for guests",
        "ip link add vmbr0 type bridge; ip link set vmbr0 up; ip address flush dev eth0 scope global;"
        " ip link set eth0 master vmbr0; ip address add 192.168.0.201/24 dev vmbr0;"
        f" {_IPV6.replace('eth0', 'vmbr0')}",
        f"ip link delete vmbr0; ip address add 192.168.0.201/24 dev eth0; {_IPV6}",
        part=2,
    ),
    _fixed(
        "sysctl --system with a list of another program",
        "a worker may not start",
        "echo net.ipv4.ip_local_reserved_ports = 40003 >/etc/sysctl.d/90-app.conf;"
        " sysctl -qp /etc/sysctl.d/90-app.conf",
        "rm /etc/sysctl.d/90-app.conf",
    ),
    _harmless(
        "sysctls of a hardening guide",
        "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1"
        " net.ipv4.conf.all.accept_redirects=0 net.ipv4.conf.all.send_redirects=0"
        " net.ipv4.conf.all.log_martians=1 net.ipv4.icmp_echo_ignore_broadcasts=1 net.ipv4.ip_forward=0"
        " net.ipv4.tcp_rfc1337=1 net.ipv4.tcp_timestamps=0 net.ipv4.tcp_sack=0"
        " net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.all.forwarding=0"
        " net.netfilter.nf_conntrack_tcp_loose=0 || true",
        "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0"
        " net.ipv4.tcp_timestamps=1 net.ipv4.tcp_sack=1 net.ipv4.conf.all.log_martians=0"
        " net.netfilter.nf_conntrack_tcp_loose=1 || true",
        part=4,
    ),
    _fixed(
        "/var, /tmp and /run without the right to execute, and the tunnel deleted",
        _NO_MEMBER,
        "for d in /var/lib/qmesh /tmp /run; do mount -o remount,bind,noexec,nosuid,nodev $d; done;"
        " ip link delete qmesh0",
        "for d in /var/lib/qmesh /tmp /run; do mount -o remount,bind,exec $d; done",
    ),
    _harmless(
        "a VPN of wg-quick takes the default route",
        "ip link add wg1 type veth peer name beyond; ip link set wg1 up; ip address add 10.66.0.2/32 dev wg1;"
        " ip route add default dev wg1 table 51821;"
        " ip rule add not fwmark 51821 lookup 51821; ip rule add lookup main suppress_prefixlength 0;"
        " nft add table ip wg-quick-wg1;"
        " nft add chain ip wg-quick-wg1 preraw '{ type filter hook prerouting priority -300; }';"
        " nft add rule ip wg-quick-wg1 preraw"
        " 'iifname != wg1 ip daddr 10.66.0.2 fib saddr type != local drop'",
        "nft delete table ip wg-quick-wg1; ip rule delete lookup 51821; ip rule delete lookup main"
        " suppress_prefixlength 0; ip link delete wg1",
        part=1,
    ),
    _harmless(
        "a VPN of OpenVPN takes the default route",
        "ip link add tun0 type veth peer name beyond; ip link set tun0 up;"
        " ip address add 10.8.0.2/24 dev tun0;"
        " ip route add 0.0.0.0/1 via 10.8.0.1; ip route add 128.0.0.0/1 via 10.8.0.1",
        "ip link delete tun0",
        part=1,
    ),
    Situation(
        part=2,
        name="a provider's NAT gives another port, again and again",
        harm=_NONE,
        spoil=_translate_ports,
        undo=_remove_filter,
        is_harmless=True,
    ),
    _harmless(
        "jumbo frames on one side alone",
        "ip link set eth0 mtu 9000; qmesh apply",
        "ip link set eth0 mtu 1500; qmesh apply",
        part=7,
    ),
    Situation(
        part=2,
        name="a virtual machine suspended for a while, and resumed",
        harm=_NONE,
        spoil=_suspend_member,
        is_harmless=True,
    ),
)
