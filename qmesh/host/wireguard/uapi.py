"""The UAPI of userspace WireGuard: requests to a process over its socket, and its answers read.

Source: https://www.wireguard.com/xplatform/, "Configuration Protocol"; wireguard-go 20220316.
"""

from __future__ import annotations

import base64
import re
import select
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.errors import BadInput, KernelRefused, NeedsRoot
from qmesh.host.network.netlink import build_kernel_error
from qmesh.host.system import heartbeat, processes
from qmesh.host.wireguard.device import (
    REMEMBERED,
    Device,
    build_device,
    encode_key,
    normalize_allowed_ips,
    parse_endpoint,
)
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Endpoint, Secret

SOCKETS: Final = Path("/var/run/wireguard")
ANSWER_TIMEOUT_S = 30.0
"""Seconds for one read of an answer, or for the whole of a request of thousands of peers to go out."""
HALT_S: Final = 1.0
"""Seconds without an answer after which it is asked whether the process stands still."""
MAX_ANSWER_OCTETS: Final = 64 * 1024 * 1024
"""An answer has some 500 octets a peer: enough for a hundred thousand."""

_PART_OCTETS = 1 << 20
_MOST: Final = (1 << 64) - 1
_UNSET_HEX = "00" * 32


def socket_path(interface: str) -> Path:
    """Where the process behind an interface listens."""
    return SOCKETS / f"{interface}.sock"


def is_responding(interface: str) -> bool:
    """Whether a process listens for an interface. Raises NeedsRoot when it may not be asked."""
    with _translate_errors(interface):
        try:
            _connect(interface).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def read_device(interface: str) -> Device:
    """The interface as its process says it is. Raises KernelRefused unless the answer is whole."""
    return parse_device(interface, _send_request(interface, Secret("get=1\n\n")))


def parse_device(interface: str, answer: str) -> Device:
    """The interface that an answer tells of, a newline before each line. Raises KernelRefused."""
    try:
        return _parse_device_lines(answer)
    except (ValueError, LookupError, BadInput):
        raise _build_answer_error(interface) from None


def configure(interface: str, lines: Iterable[str], hints: Mapping[int, str] = MappingProxyType({})) -> None:
    """Make one request of these lines. Raises KernelRefused; then some of it may be done."""
    # Keys are among the lines: they are kept from the variables that a traceback may show.
    request = Secret("".join(f"{line}\n" for line in lines))
    if request.reveal():
        _send_request(interface, Secret(f"set=1\n{request.reveal()}\n"), hints)


def key_lines(private_key: Secret) -> Iterator[str]:
    """The line that configures a private key."""
    yield f"private_key={_key_to_hex(private_key.reveal())}"


def peer_lines(peer: Peer) -> Iterator[str]:
    """The lines that configure a peer whole."""
    yield f"public_key={_key_to_hex(peer.public_key)}"
    yield "replace_allowed_ips=true"
    yield f"preshared_key={_key_to_hex(peer.preshared_key.reveal()) if peer.preshared_key else _UNSET_HEX}"
    yield f"persistent_keepalive_interval={peer.keepalive_s}"
    if peer.endpoint is not None:
        assert peer.endpoint.is_address, "a peer's endpoint is resolved before it is configured"
        yield f"endpoint={peer.endpoint}"
    yield from (f"allowed_ip={network}" for network in peer.allowed_ips)


def removal_lines(public_key: str) -> Iterator[str]:
    """The lines that remove a peer."""
    yield f"public_key={_key_to_hex(public_key)}"
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


def _advise_on_silence(interface: str) -> str:
    """What to do with a process that takes calls and answers none."""
    number = processes.find_unix_listener(socket_path(interface))
    if number is None:
        return f"find it with `fuser {socket_path(interface)}`; if it hangs, end it, and run `qmesh apply`"
    return _find_halt(interface) or f"if it hangs, end it: `kill -KILL {number}`, then `qmesh apply`"


def _find_halt(interface: str) -> str:
    """Why the process behind an interface stands still, and what lets it go on; empty where it does not."""
    number = processes.find_unix_listener(socket_path(interface))
    if number is None:
        return ""
    if group := processes.find_frozen_group(number):
        return f"it is frozen with its control group {group}: thaw that"
    found = processes.read_stat(number)
    is_stopped = found is not None and found.is_stopped
    return f"a signal has stopped it; let it go on: `kill -CONT {number}`" if is_stopped else ""


@contextmanager
def _translate_errors(interface: str) -> Iterator[None]:
    try:
        with heartbeat.allow_wait(ANSWER_TIMEOUT_S):
            yield
    except PermissionError:
        raise NeedsRoot(
            f"{socket_path(interface)} may not be used by this user", hint="run the command as root"
        ) from None
    except TimeoutError:
        raise KernelRefused(
            f"the WireGuard process of {interface} does not answer", hint=_advise_on_silence(interface)
        ) from None
    except OSError as error:
        raise KernelRefused(
            f"the WireGuard process of {interface} cannot be reached: {error.strerror}",
            hint="run `qmesh apply`, which starts it again",
        ) from None


def _send_request(interface: str, request: Secret, hints: Mapping[int, str] = MappingProxyType({})) -> str:
    """Make one request and return the lines of the answer, a newline before each, errno left out."""
    with _translate_errors(interface), _connect(interface) as connection:
        # It closes on a request it refuses halfway; why, is there to be read then.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request.reveal().encode())
        if not select.select([connection], [], [], HALT_S)[0] and _find_halt(interface):
            raise TimeoutError  # there is nothing to wait for
        answer = _receive_answer(interface, connection)
    return extract_lines(interface, answer, hints)


def extract_lines(interface: str, answer: str, hints: Mapping[int, str] = MappingProxyType({})) -> str:
    """The lines of an answer without its errno. Raises KernelRefused where that says so, or is none."""
    lines, found, code = answer.rpartition("\nerrno=")
    if not found or not re.fullmatch("-?[0-9]{1,5}", code):
        raise _build_answer_error(interface)
    if int(code) != 0:
        raise build_kernel_error(abs(int(code)), f"configure {interface}", hints)
    return lines


def _receive_answer(interface: str, connection: socket.socket) -> str:
    answer = bytearray(b"\n")
    part = bytearray(_PART_OCTETS)
    while not answer.endswith(b"\n\n"):
        count = connection.recv_into(part)
        answer += memoryview(part)[:count]
        if not count or len(answer) > MAX_ANSWER_OCTETS:
            raise _build_answer_error(interface)
    del answer[-2:]
    return answer.decode("ascii", errors="replace")


def _build_answer_error(interface: str) -> KernelRefused:
    # The answer holds the private key: none of it is shown.
    return KernelRefused(
        f"the WireGuard process of {interface} gave an answer that is incomplete or not understood",
        hint=f"run the same command again; `fuser {socket_path(interface)}` shows which program answers",
    )


def _key_to_hex(key: str) -> str:
    return base64.b64decode(key).hex()


def _hex_to_key(hexadecimal: str) -> str:
    return encode_key(bytes.fromhex(hexadecimal))


def _parse_device_lines(answer: str) -> Device:
    own, *peers = answer.split("\npublic_key=")
    values, _ = _parse_values(own.strip("\n"))
    return build_device(
        public_key=_derive_public_key(values.get("private_key", _UNSET_HEX)),
        listen_port=_parse_number(values, "listen_port", 0xFFFF),
        peers=map(_parse_peer, peers),
        mark=_parse_number(values, "fwmark", 0xFFFF_FFFF),
    )


def _parse_values(lines: str) -> tuple[dict[str, str], list[str]]:
    """The value of each key, and those of `allowed_ip`, the one key that comes more than once.

    The lines are split all at once, for one by one thousands of peers would be felt.
    """
    words = lines.replace("=", "\n").split("\n") if lines else []  # no value has a `=`
    keys = words[::2]
    values = dict(zip(keys, words[1::2], strict=True))
    if len(values) == len(keys):
        return values, [values["allowed_ip"]] if "allowed_ip" in values else []
    return values, [words[at + 1] for at in range(0, len(words), 2) if words[at] == "allowed_ip"]


def _derive_public_key(private_key: str) -> str | None:
    if private_key == _UNSET_HEX:
        return None
    public_key = X25519PrivateKey.from_private_bytes(bytes.fromhex(private_key)).public_key()
    return encode_key(public_key.public_bytes_raw())


def _parse_peer(section: str) -> tuple[Peer, Counters]:
    public_key, _, rest = section.partition("\n")
    values, networks = _parse_values(rest)
    endpoint = _parse_endpoint(values.get("endpoint", ""))
    preshared_key = values.get("preshared_key", _UNSET_HEX)
    peer = Peer(
        public_key=_hex_to_key(public_key),
        allowed_ips=normalize_allowed_ips(*networks),
        endpoint=endpoint,
        preshared_key=None if preshared_key == _UNSET_HEX else Secret(_hex_to_key(preshared_key)),
        keepalive_s=_parse_number(values, "persistent_keepalive_interval", 0xFFFF),
    )
    counters = Counters(
        last_handshake_s=_parse_number(values, "last_handshake_time_sec", _MOST) or None,
        rx_bytes=_parse_number(values, "rx_bytes", _MOST),
        tx_bytes=_parse_number(values, "tx_bytes", _MOST),
        endpoint=endpoint,
    )
    return peer, counters


def _parse_number(values: Mapping[str, str], key: str, most: int) -> int:
    """A number of an answer; 0 where it is not told. Raises ValueError for what cannot be."""
    number = int(values.get(key, "0"))
    if not 0 <= number <= most:
        raise ValueError(f"{key} is out of range")
    return number


@lru_cache(REMEMBERED)
def _parse_endpoint(text: str) -> Endpoint | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return parse_endpoint(host.strip("[]"), int(port))
