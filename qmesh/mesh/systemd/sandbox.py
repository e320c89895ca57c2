"""What each unit's processes may do, as settings of a unit: what they need, and no more.

Source: systemd.exec(5), systemd.resource-control(5), capabilities(7). `systemd-analyze security` judges it.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

ROOT: Final = "root"

_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,30}|[0-9]{1,10}")

_ALL: Final = """\
NoNewPrivileges=yes
LimitCORE=0
LockPersonality=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
"""

# The kernel loads its modules itself when it is asked for what is in them. The one sysctl that is written
# is let through what ProtectKernelTunables= closes.
_QMESH: Final = f"""\
{_ALL}MemoryDenyWriteExecute=yes
ReadWritePaths=-/proc/sys/net/ipv4/ip_local_reserved_ports
UMask=0077
"""

_LOG: Final = """\
LogRateLimitIntervalSec=30s
LogRateLimitBurst=500
"""


_SHUT_FROM_AGENT: Final = (
    *("/boot", "/efi", "/etc", "/usr"),  # ProtectSystem=full
    *("/tmp", "/var/tmp"),  # noqa: S108 - PrivateTmp=yes: it would be another directory of that name
    *("/dev", "/proc", "/sys"),
)


def is_shut_from_agent(path: str) -> bool:
    """Whether what the agent writes at an absolute path does not arrive there, by its unit's settings."""
    place = posixpath.normpath(path)
    return any(posixpath.commonpath((place, shut)) == shut for shut in _SHUT_FROM_AGENT)


def is_valid_user(name: str) -> bool:
    """Whether every systemd takes that for a user's name or number. Source: systemd.exec(5), User=."""
    return _USER.fullmatch(name) is not None


def render_agent_settings() -> str:
    """The agent, and what undoes in its place: wireguard-go, units, and config.yml with its owner's rights.

    CAP_SETUID, CAP_SETGID and setfsuid(2): to read and write config.yml as its owner. CAP_NET_RAW: to
    measure paths. CAP_SYS_PTRACE: to see whose sockets those of the node are, which is any user's, or root's
    with more rights than this; CAP_KILL: to end a program of the node that was asked for its version.
    CAP_NET_RAW and AF_PACKET: to tell who has a key of an earlier membership, and to be told.
    OOMPolicy: where the kernel ends a child for want of memory, agent and tunnel go on.
    """
    return f"""\
{_QMESH}{_LOG}CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_SETGID CAP_SETUID
CapabilityBoundingSet=CAP_KILL CAP_SYS_PTRACE
PrivateMounts=yes
PrivateTmp=yes
SystemCallFilter=setfsuid setfsuid32 setfsgid setfsgid32
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
ProtectSystem=full
ReadWritePaths=/etc/systemd/system
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6 AF_PACKET
MemoryHigh=1G
OOMPolicy=continue
"""


def render_holder_settings(state: str) -> str:
    """Who holds the guard: as who loads it, and the state directory. state: that, as a setting takes it."""
    return f"{render_guard_settings()}ReadWritePaths={state}\n"


def render_guard_settings() -> str:
    """Who loads the guard: nftables, and no file to write."""
    return f"""\
{_QMESH}{_LOG}CapabilityBoundingSet=CAP_NET_ADMIN
PrivateDevices=yes
ProtectHome=read-only
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_UNIX AF_NETLINK
MemoryHigh=256M
"""


def render_node_settings(user: str) -> str:
    """The node: its own files, wherever they are, and the network.

    user: who owns its config directory; what is written there is done with that user's rights alone. Where
    that is root, others' files and low ports stay open to it, as before.
    """
    is_root = user == ROOT
    capabilities = "CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE" if is_root else ""
    return f"""\
User={user}
{_ALL}CapabilityBoundingSet={capabilities}
PrivateDevices=yes
ProtectSystem=full
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
"""
