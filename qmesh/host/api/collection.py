"""The control node's agent is asked, by `check --all`, for the findings of all members.

Through a socket in the state directory, which only root can enter. Who connects gets a line of JSON for each
machine as its report arrives, and the last one says that there are no more.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from qmesh.host.lean import socket_path
from qmesh.host.system import unix_socket
from qmesh.host.system.agent_notify import FINDINGS_SOCKET
from qmesh.mesh.audit.members import Silence
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.protocol.findings_report import FindingsReport

AWAY_S: Final = 12.0
"""Seconds in which each member whose agent had no trouble lately asks for news, at least once."""
WAIT_S: Final = 45.0
"""Seconds until all is over: a member's check has 30 of them."""
MOST_LINE: Final = 1 << 20
"""Octets of a line: a report has a hundredth."""


class CollectedReport(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's report, or why there is none. machine: empty in the last line."""

    machine: str = ""
    report: FindingsReport | None = None
    silence: Silence | None = None
    is_busy: bool = False


class NoCollection(Exception):
    """The agent does not collect; the text says why."""


def listen(directory: Path) -> socket.socket:
    """The agent's end."""
    return unix_socket.listen(directory, FINDINGS_SOCKET)


def encode_line(collected: CollectedReport) -> bytes:
    """A line as it is sent."""
    return msgspec.json.encode(collected) + b"\n"


def collect_reports(directory: Path, *, wait_s: float = WAIT_S + 10.0) -> Iterator[CollectedReport]:
    """What the agent of a state directory collects, as it comes. Raises NoCollection.

    wait_s: seconds for all of it.
    """
    until = time.monotonic() + wait_s
    try:
        with (
            socket_path.open_socket_path(directory, FINDINGS_SOCKET) as path,
            socket.socket(socket.AF_UNIX) as connection,
        ):
            connection.settimeout(5.0)
            connection.connect(path)
            yield from read_reports(connection, until)
    except Malformed:
        raise NoCollection("the agent's answer is not understood: it belongs to another version") from None
    except (FileNotFoundError, ConnectionError):
        raise NoCollection("this machine's agent does not serve members") from None
    except OSError:
        raise NoCollection(f"this machine's agent did not answer within {wait_s:.0f} s") from None


def read_reports(connection: socket.socket, until: float) -> Iterator[CollectedReport]:
    """What comes by a connection, to the line that says that there are no more.

    until: a time of the monotonic clock. Raises NoCollection, Malformed and OSError.
    """
    for line in _receive_lines(connection, until):
        collected = decode_json(line, CollectedReport)
        if collected.is_busy:
            raise NoCollection("another `qmesh check --all` is under way")
        if not collected.machine:
            return
        yield collected
    raise NoCollection("this machine's agent ended meanwhile")


def _receive_lines(connection: socket.socket, until: float) -> Iterator[bytes]:
    held = b""
    while True:
        connection.settimeout(max(0.01, until - time.monotonic()))
        part = connection.recv(1 << 16)
        if not part:
            return
        *lines, held = (held + part).split(b"\n")
        yield from lines
        if len(held) > MOST_LINE:
            raise Malformed
