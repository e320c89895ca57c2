"""Other firewalls for a lab machine: ufw and firewalld as Debian ships them, and what people write.

Their packages are unpacked, never installed: on whoever runs the tests they would be switched on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from tests.support.checkout import CHECKOUT
from tests.support.lab.machines import Machine, Running
from tests.support.waiting import wait_until

UNPACKED: Final = CHECKOUT / ".cache" / "firewalls"
NFTABLES_CONF: Final = """\
flush ruleset
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        meta l4proto { icmp, ipv6-icmp } accept
        tcp dport 22 accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
    }
}
"""
UFW_DEFAULTS: Final = """\
IPV6=yes
DEFAULT_INPUT_POLICY="DROP"
DEFAULT_OUTPUT_POLICY="ACCEPT"
DEFAULT_FORWARD_POLICY="DROP"
DEFAULT_APPLICATION_POLICY="SKIP"
MANAGE_BUILTINS=no
IPT_SYSCTL=/etc/ufw/sysctl.conf
IPT_MODULES=""
"""


class Firewall(ABC):
    """One that refuses what comes in, SSH excepted. name: as it is known."""

    name = ""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    @abstractmethod
    def start(self) -> None:
        """Put it in force."""

    @abstractmethod
    def reload(self) -> None:
        """As after a change of its settings."""

    @abstractmethod
    def restart(self) -> None:
        """End it and begin anew."""


def unpack_on(machine: Machine) -> None:
    """Have the unpacked packages in the machine's /usr and /etc."""
    machine.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={UNPACKED}/usr:/usr", "/usr"])
    machine.run(["cp", "-an", f"{UNPACKED}/etc/.", "/etc/"])


class Ufw(Firewall):
    """The frontend of iptables that Ubuntu has."""

    name = "ufw"

    def start(self) -> None:
        """Deny what comes in."""
        unpack_on(self.machine)
        rules = " ".join(f"{kind}{six}.rules" for kind in ("before", "after", "user") for six in ("", "6"))
        self.machine.run(["sh", "-ec", f"cd /usr/share/ufw; cp {rules} ufw.conf /etc/ufw/"])
        self.machine.write("/etc/default/ufw", UFW_DEFAULTS)
        self.machine.run(["ufw", "allow", "22/tcp"])
        self.machine.run(["ufw", "--force", "enable"])

    def reload(self) -> None:
        """Read the rules anew."""
        self.machine.run(["ufw", "reload"])

    def restart(self) -> None:
        """Off and on."""
        self.machine.run(["ufw", "disable"])
        self.machine.run(["ufw", "--force", "enable"])


class Firewalld(Firewall):
    """The daemon that Fedora has, in its zone `public`, with a message bus of the machine's own."""

    name = "firewalld"

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self._daemon: Running | None = None

    def start(self) -> None:
        """Bus, then daemon."""
        unpack_on(self.machine)
        # Where the bus is not installed, its user is not there either.
        user = "id messagebus >/dev/null 2>&1 || useradd --system --user-group messagebus"
        self.machine.run(["sh", "-ec", f"{user}; mkdir -p /run/dbus /var/lib/dbus; dbus-uuidgen --ensure"])
        self.machine.run(["dbus-daemon", "--system", "--fork"])
        self._begin()

    def _begin(self) -> None:
        self._daemon = self.machine.start(["/usr/sbin/firewalld", "--nofork", "--nopid"])
        asking = ["firewall-cmd", "--state"]
        wait_until(lambda: self.machine.run(asking, check=False).returncode == 0, 60)

    def reload(self) -> None:
        """Read the zones anew."""
        self.machine.run(["firewall-cmd", "--reload"])

    def restart(self) -> None:
        """End the daemon, which takes its rules away, and begin anew."""
        assert self._daemon is not None
        self._daemon.stop(timeout=20)
        self._begin()


class NftablesConf(Firewall):
    """/etc/nftables.conf with `flush ruleset`, as nftables.service loads it."""

    name = "nftables.conf"

    def start(self) -> None:
        """Load it."""
        self.machine.write("/etc/nftables.conf", NFTABLES_CONF)
        self.reload()

    def reload(self) -> None:
        """Load it again, which flushes everything first."""
        self.machine.run(["nft", "-f", "/etc/nftables.conf"])

    def restart(self) -> None:
        """As `systemctl restart nftables`."""
        self.machine.run(["nft", "flush", "ruleset"])
        self.reload()


FIREWALLS: Final = (Ufw, Firewalld, NftablesConf)
