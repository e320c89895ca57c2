"""How `qmesh set --notify-test` asks this machine's agent: it connects, and is answered without a request.

The agent sends the test, and not the command: with its rights, as it will send what happens.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Annotated, Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host.lean import socket_path
from qmesh.host.notifications.delivery_result import DeliveryResult
from qmesh.host.system import unix_socket
from qmesh.mesh.decode import Malformed, decode_json

SOCKET: Final = "notify.sock"
_MOST_OCTETS: Final = 1 << 16
_TAKEN_S: Final = 1.0
_AGAIN_S: Final = 0.2


class ReceiverResult(msgspec.Struct, frozen=True):
    """What came of a test to one receiver, as it is shown. receiver: its URL's host, or the program."""

    receiver: str
    result: DeliveryResult


class ReceiverResults(msgspec.Struct, frozen=True):
    """Of all receivers."""

    results: Annotated[tuple[ReceiverResult, ...], msgspec.Meta(max_length=64)]


def listen(directory: Path) -> socket.socket:
    """The agent's end."""
    return unix_socket.listen(directory, SOCKET)


def send_results(caller: socket.socket, answer: ReceiverResults) -> None:
    """Answer one who connected. One who goes away, or does not take it, is none to wait for."""
    with caller, contextlib.suppress(OSError):
        caller.settimeout(_TAKEN_S)
        caller.sendall(msgspec.json.encode(answer))


def parse_results(octets: bytes) -> ReceiverResults:
    """What an agent answered. Raises Malformed."""
    return decode_json(octets, ReceiverResults)


def request_test(directory: Path, *, wait_s: float) -> ReceiverResults:
    """Have the agent of a state directory send a test to all receivers. wait_s: seconds for all of it.

    Raises MachineRefused where it does not answer.
    """
    until = time.monotonic() + wait_s
    try:
        while not (octets := _ask(directory, until)):
            # A test is under way, such as one that somebody has broken off, or the agent has just begun.
            time.sleep(_AGAIN_S)
        return parse_results(octets)
    except (OSError, Malformed):
        raise MachineRefused(
            "this machine's agent does not send notifications",
            hint="try again in some seconds where it has just started; else `qmesh check` says what is wrong",
        ) from None


def _ask(directory: Path, until: float) -> bytes:
    """What the agent answers; nothing where it sends no test now. Raises OSError, TimeoutError among them."""
    octets = b""
    with socket_path.open_socket_path(directory, SOCKET) as path, socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(max(_AGAIN_S, until - time.monotonic()))
        _connect(asking, path, until)
        while part := asking.recv(_MOST_OCTETS):
            octets += part
            if len(octets) > _MOST_OCTETS:
                raise TimeoutError
    if time.monotonic() > until:
        raise TimeoutError
    return octets


def _connect(asking: socket.socket, path: str, until: float) -> None:
    """Connect to it. An agent listens some seconds after the first URL was set."""
    while True:
        try:
            asking.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
