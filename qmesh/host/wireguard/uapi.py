"""The UAPI of userspace WireGuard: requests to a process over its socket, and its answers read.

Source: https://www.wireguard.com/xplatform/, "Configuration Protocol"; wireguard-go 20220316.
"""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.errors import BadInput, KernelRefused, NeedsRoot
from qmesh.host.netlink import refusal
from qmesh.host.wireguard.device import Counters, Device, allowed_ip, endpoint_of, observed
from qmesh.mesh.model import Endpoint, Peer, Secret, wireguard_key

SOCKETS: Final = Path("/var/run/wireguard")
ANSWER_TIMEOUT_S = 30.0
"""Seconds for one read of an answer, or for the whole of a request of thousands of peers to go out."""
MAX_ANSWER_OCTETS: Final = 64 * 1024 * 1024
"""An answer has some 500 octets a peer: enough for a hundred thousand."""

_UNSET_HEX = "00" * 32

Section = dict[str, list[str]]
"""The lines of the device, or of one peer: values by key, in order."""


def socket_path(interface: str) -> Path:
    """Where the process behind an interface listens."""
    return SOCKETS / f"{interface}.sock"


def answers(interface: str) -> bool:
    """Whether a process listens for an interface. Raises NeedsRoot when it may not be asked."""
    with _connection_errors(interface):
        try:
            _connect(interface).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def read(interface: str) -> Device:
    """The interface as its process says it is. Raises KernelRefused unless the answer is whole."""
    pairs = _ask(interface, Secret("get=1\n\n"))
    try:
        return _device(pairs)
    except (ValueError, BadInput):
        raise _not_understood(interface) from None


def configure(interface: str, lines: Iterable[str], hints: Mapping[int, str] = MappingProxyType({})) -> None:
    """Make one request of these lines. Raises KernelRefused; then some of it may be done."""
    # Keys are among the lines: they are kept from the variables that a traceback may show.
    request = Secret("".join(f"{line}\n" for line in lines))
    if request.reveal():
        _ask(interface, Secret(f"set=1\n{request.reveal()}\n"), hints)


def key_lines(private_key: Secret) -> Iterator[str]:
    """The line that configures a private key."""
    yield f"private_key={_hex(private_key.reveal())}"


def peer_lines(peer: Peer) -> Iterator[str]:
    """The lines that configure a peer whole."""
    yield f"public_key={_hex(peer.public_key)}"
    yield "replace_allowed_ips=true"
    yield f"preshared_key={_hex(peer.preshared_key.reveal()) if peer.preshared_key else _UNSET_HEX}"
    yield f"persistent_keepalive_interval={peer.keepalive_s}"
    if peer.endpoint is not None:
        assert peer.endpoint.is_address, "a peer's endpoint is resolved before it is configured"
        yield f"endpoint={peer.endpoint}"
    yield from (f"allowed_ip={network}" for network in peer.allowed_ips)


def removal_lines(public_key: str) -> Iterator[str]:
    """The lines that remove a peer."""
    yield f"public_key={_hex(public_key)}"
    yield "remove=true"


def _connect(interface: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_TIMEOUT_S)
        connection.connect(str(socket_path(interface)))
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _connection_errors(interface: str) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise NeedsRoot(
            f"{socket_path(interface)} may not be used by this user", hint="run the command as root"
        ) from None
    except TimeoutError:
        raise KernelRefused(
            f"the WireGuard process of {interface} does not answer",
            hint=f"see whether it hangs; `fuser {socket_path(interface)}` finds it",
        ) from None
    except OSError as error:
        raise KernelRefused(
            f"the WireGuard process of {interface} cannot be reached: {error.strerror}",
            hint="it has ended, or the interface was deleted; `qmesh apply` makes it anew",
        ) from None


def _ask(
    interface: str, request: Secret, hints: Mapping[int, str] = MappingProxyType({})
) -> list[tuple[str, str]]:
    """Make one request and return the key and value of each line of the answer, errno left out."""
    with _connection_errors(interface), _connect(interface) as connection:
        # It closes on a request it refuses halfway; why, is there to be read then.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.reveal().encode())
        answer = _receive(interface, connection)
    pairs = [(key, value) for key, _, value in (line.partition("=") for line in answer)]
    last, code = pairs.pop()
    if last != "errno" or not code.removeprefix("-").isdecimal():
        raise _not_understood(interface)
    if int(code) != 0:
        raise refusal(abs(int(code)), f"configure {interface}", hints)
    return pairs


def _receive(interface: str, connection: socket.socket) -> list[str]:
    answer = bytearray()
    while not answer.endswith(b"\n\n"):
        part = connection.recv(65536)
        answer += part
        if not part or len(answer) > MAX_ANSWER_OCTETS:
            raise _not_understood(interface)
    return answer.decode("ascii", errors="replace").removesuffix("\n\n").split("\n")


def _not_understood(interface: str) -> KernelRefused:
    # The answer holds the private key: none of it is shown.
    return KernelRefused(
        f"the WireGuard process of {interface} gave an answer that breaks off or is not understood",
        hint=f"try again; see which program is behind {socket_path(interface)} with `fuser`",
    )


def _hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _base64(hexadecimal: str) -> str:
    return wireguard_key(base64.b64encode(bytes.fromhex(hexadecimal)).decode())


def _device(pairs: Iterable[tuple[str, str]]) -> Device:
    device, *peers = _sections(pairs)
    return observed(
        public_key=_public_key(_value(device, "private_key", _UNSET_HEX)),
        listen_port=int(_value(device, "listen_port", "0")),
        peers=(_peer(section) for section in peers),
    )


def _sections(pairs: Iterable[tuple[str, str]]) -> list[Section]:
    sections: list[Section] = [{}]
    for key, value in pairs:
        if key == "public_key":
            sections.append({})
        sections[-1].setdefault(key, []).append(value)
    return sections


def _value(section: Section, key: str, default: str) -> str:
    return section.get(key, [default])[-1]


def _public_key(private_key: str) -> str | None:
    if private_key == _UNSET_HEX:
        return None
    public_key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private_key)).public_key()
    return base64.b64encode(public_key.public_bytes_raw()).decode()


def _peer(section: Section) -> tuple[Peer, Counters]:
    preshared_key = _value(section, "preshared_key", _UNSET_HEX)
    peer = Peer(
        public_key=_base64(section["public_key"][0]),
        allowed_ips=tuple(sorted(map(allowed_ip, section.get("allowed_ip", ())))),
        endpoint=_endpoint(_value(section, "endpoint", "")),
        preshared_key=None if preshared_key == _UNSET_HEX else Secret(_base64(preshared_key)),
        keepalive_s=int(_value(section, "persistent_keepalive_interval", "0")),
    )
    counters = Counters(
        last_handshake_s=int(_value(section, "last_handshake_time_sec", "0")) or None,
        rx_bytes=int(_value(section, "rx_bytes", "0")),
        tx_bytes=int(_value(section, "tx_bytes", "0")),
        endpoint=peer.endpoint,
    )
    return peer, counters


def _endpoint(text: str) -> Endpoint | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return endpoint_of(host.strip("[]"), int(port))
