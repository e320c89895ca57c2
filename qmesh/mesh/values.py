"""The nouns of qmesh: frozen values that cannot be built wrong.

Addresses, networks and keys are canonical text (`10.77.0.2`, `10.77.0.0/20`, 44 characters
of base64), so that values compare, sort and hash as they print.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Collection
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.ports.port_ranges import format_port_ranges

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Profile: TypeAlias = Literal["1.4", "2.0", "2.1", "2.1-rust"]
PROFILES: Final[tuple[Profile, ...]] = get_args(Profile)
DEFAULT_PROFILE: Final[Profile] = "2.1-rust"
"""What a new mesh is for where nothing tells: the network runs it."""

P2P_PORT: Final = 8336
"""UDP port at which other nodes reach the control process, where its owner chose no other."""
STREAM_PORT: Final = 8340
"""TCP port at which the other machines' workers dial the control process, from node 2.1 on."""
GRPC_PORT: Final = 8337
"""TCP port of the node's own interface, which asks for no authorization."""
REST_PORT: Final = 8338
EXPLORER_PORT: Final = 6600
SSH_PORT: Final = 22
_NODE_PORTS_2_1: Final = (EXPLORER_PORT, GRPC_PORT, REST_PORT)
NODE_PORTS: Final[dict[Profile, tuple[int, ...]]] = {
    "1.4": (),
    "2.0": (),
    "2.1": _NODE_PORTS_2_1,
    "2.1-rust": _NODE_PORTS_2_1,
}
"""Of each profile, the ports at which its control process serves its owner, and takes orders from anyone."""
PUBLIC_PORTS: Final[dict[Profile, tuple[int, ...]]] = {
    "1.4": (P2P_PORT,),
    "2.0": (P2P_PORT,),
    "2.1": (P2P_PORT, STREAM_PORT),
    "2.1-rust": (P2P_PORT, STREAM_PORT),
}
"""Of each profile, the ports at which the node's network reaches its control process."""
CONTROL_PORTS: Final[dict[Profile, tuple[int, ...]]] = {
    "1.4": (),
    "2.0": (),
    "2.1": (STREAM_PORT,),
    "2.1-rust": (STREAM_PORT, GRPC_PORT),
}
"""Of each profile, the ports that its control process has beside the workers'."""
CONTROL_FIRST: Final[frozenset[Profile]] = frozenset({"2.1", "2.1-rust"})
"""Profiles whose workers call the control process when they start, so that it starts before them."""

InterfaceKind: TypeAlias = Literal["wireguard", "tun"]
"""What the kernel calls a tunnel interface: its own WireGuard, or a process behind a TUN."""

MachineState: TypeAlias = Literal["active", "paused", "invited"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
CoreNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
MOST_REVISION: Final = 2**53
"""That a membership's revision can grow to: as far as every reader of JSON counts whole numbers."""
UnixTime = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
"""Seconds: no more than can be printed as a date."""

DEFAULT_INTERFACE: Final = "qmesh0"
STATE_DIRECTORY: Final = "/var/lib/qmesh"
"""Where a machine's state is, where no other directory is named."""
DEFAULT_PROGRAM: Final = "/usr/local/bin/quilibrium-node"
"""The node's program, where neither the user nor a unit names another."""
REVISION_JUMP: Final = 1_000_000
"""By how much the revision grows when a backup is restored: more than a mesh changes after it was made."""
DEFAULT_LISTEN_PORT: Final = 51820
SERVICE_PORTS: Final = range(325, 333)
"""TCP ports for the membership service of a new mesh: no user can take one while the agent restarts. None is
assigned to anything, and RPC takes its own above 600. Source: IANA's registry of 2026-11; bindresvport(3)."""
TUNNEL_MTU: Final = 1420
"""Octets. WireGuard's 80 octets of overhead over IPv6 fit an Ethernet frame. Source: wg-quick(8)."""
KEEPALIVE_S: Final = 25
"""Seconds between a worker machine's keepalives. Source: wg(8), "persistent-keepalive"."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_INTERFACE = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]{0,14}")
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
    r"(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*\.?"
)


def validate_machine_name(text: str) -> str:
    """Return `text` when it is a machine name: 1 to 63 of `a-z 0-9 -`, no hyphen at an end.

    Raises BadInput otherwise.
    """
    if _NAME.fullmatch(text):
        return text
    raise BadInput(
        f"{quote_text(text)} is not a machine name",
        hint="use 1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit",
    )


def validate_interface_name(text: str) -> str:
    """Return `text` when it can name a network interface: 1 to 15 of letters, digits, `_`, `-`.

    Raises BadInput otherwise. Source: Linux, IFNAMSIZ.
    """
    if _INTERFACE.fullmatch(text):
        return text
    raise BadInput(
        f"{quote_text(text)} is not an interface name",
        hint="use 1 to 15 letters, digits, _ and -, starting with a letter, such as qmesh0",
    )


def quote_text(text: str, limit: int = 60) -> str:
    """`text` as it can be shown in a one-line message: control characters escaped, cut short."""
    shown = ascii(text[: limit + 1])
    return shown if len(text) <= limit else f"{text[:limit]!a}..."


@lru_cache(1 << 15)
def parse_ip_address(text: str) -> IPAddress | None:
    """The address that `text` is, if it is one. Of thousands of machines each is asked for again."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@lru_cache(1 << 15)
def format_ip_address(address: IPAddress) -> str:
    """Its canonical text; likewise."""
    return str(address)


def normalize_ip_address(text: str) -> str:
    """The canonical text of an IPv4 or IPv6 address.

    Raises BadInput, also for scopes, and for IPv4 in IPv6's clothes (`::ffff:192.0.2.1`).
    """
    address = parse_ip_address(text)
    if address is None or "%" in text or getattr(address, "ipv4_mapped", None) is not None:
        raise BadInput(f"{quote_text(text)} is not an IP address", hint="write it as 10.77.0.2 or fd00::2")
    return str(address)


def normalize_ip_network(text: str) -> str:
    """The canonical text of a network such as `10.77.0.0/20`.

    Raises BadInput, also when host bits are set; scopes are refused.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        network = None
    if network is None or "%" in text:
        raise BadInput(
            f"{quote_text(text)} is not a network",
            hint="write it as 10.77.0.0/20 or fd12:3456:789a::/64, with no host bits set",
        )
    return str(network)


def validate_interface_address(text: str) -> str:
    """Return `text` when it is an address with its prefix length, `10.77.0.2/20`. Raises BadInput."""
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        raise BadInput(
            f"{quote_text(text)} is not an address with a prefix length", hint="write it as 10.77.0.2/20"
        ) from None
    return text


def validate_wireguard_key(text: str) -> str:
    """Return `text` when it is a WireGuard key: 32 octets in canonical base64.

    Raises BadInput, without repeating the text, which might be a private key.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode() != text:
        raise BadInput("this is not a WireGuard key", hint="a key is 44 characters of base64, ending in =")
    return text


def validate_port(number: int, what: str) -> int:
    """Return `number` when it is a port, 1 to 65535. Raises BadInput naming `what`."""
    if 1 <= number <= 65535:
        return number
    raise BadInput(f"{what} {number} is out of range", hint="use a number from 1 to 65535")


NOT_SHOWN: Final = "<not shown>"
"""What stands for a secret where something is shown that holds one."""


class Secret:
    """Text that no message, log, JSON or traceback shows: it has to be asked for by `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class SecretStruct(msgspec.Struct, frozen=True):
    """A struct that holds secrets among other things: no repr, traceback or log shows what."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """As `__repr__`: msgspec's own would show the fields."""
        return []


class Endpoint(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where WireGuard's UDP port of a machine is reached: a host (DNS name or IP) and a port."""

    host: str
    port: Port

    def __post_init__(self) -> None:
        validate_port(self.port, "endpoint port")
        if ":" in self.host:
            if normalize_ip_address(self.host) != self.host:
                raise BadInput(
                    f"endpoint {quote_text(self.host)} is not canonical",
                    hint=f"write it as {normalize_ip_address(self.host)}",
                )
        elif not _HOST.fullmatch(self.host) or _is_invalid_ipv4(self.host):
            raise BadInput(
                f"{quote_text(self.host)} is not a host",
                hint="use a DNS name or an IP address, such as 203.0.113.5 or node.example.org",
            )

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = DEFAULT_LISTEN_PORT) -> Self:
        """Read `HOST`, `HOST:PORT`, `[IPv6]:PORT` or a bare IPv6 address.

        Raises BadInput, also where no port is given and `default_port` is None.
        """
        host, port_text = _split_endpoint(text)
        if port_text is None and default_port is None:
            raise BadInput(f"endpoint {quote_text(text)} has no port", hint="write it as HOST:PORT")
        if port_text is not None and not re.fullmatch(r"[0-9]{1,5}", port_text):
            raise BadInput(
                f"endpoint {quote_text(text)} has no port that is a number",
                hint="write it as 203.0.113.5:51820 or [2001:db8::5]:51820",
            )
        port = int(port_text) if port_text is not None else default_port
        assert port is not None
        return cls(normalize_ip_address(host) if ":" in host else host, port)

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address, so that no DNS is needed."""
        return parse_ip_address(self.host) is not None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_invalid_ipv4(host: str) -> bool:
    """Whether a host's last label is a number (no DNS name then) without being an IPv4 address."""
    if not host.rstrip(".").rpartition(".")[2].isdigit():
        return False
    return str(parse_ip_address(host)) != host


def _split_endpoint(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise BadInput(
                f"endpoint {quote_text(text)} is not understood", hint="write IPv6 as [2001:db8::5]:51820"
            )
        return host, rest[1:] if rest else None
    if text.count(":") > 1:
        return text, None
    host, colon, port_text = text.partition(":")
    return host, port_text if colon else None


Lack: TypeAlias = Literal["table", "held table", "boot file"]


def name_cores(cores: Collection[int]) -> str:
    """Core numbers with their noun: `core 4`, `cores 4-7`."""
    return f"core{'s' * (len(cores) > 1)} {format_port_ranges(cores)}"
