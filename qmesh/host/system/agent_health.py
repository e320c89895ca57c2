"""How this machine's agent is, as it reports itself through a socket in the state directory.

A client that connects is answered at once, without a request. No answer means something too: an agent
that has stopped as a whole gives none.
"""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path
from typing import Final

import msgspec

from qmesh.host.lean import socket_path
from qmesh.host.system import unix_socket
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.standing_proof.record import StandingProof

SOCKET: Final = "health.sock"
_MOST_OCTETS: Final = 1 << 24
"""Of an answer: of 10,000 machines each may be silent, and has told its facts."""
_PIECE: Final = 1 << 16


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a part of the agent.

    since: seconds since the epoch. hint: what to do; empty where nothing is known.
    """

    part: str
    reason: str
    hint: str
    since: float


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the agent that was restarted. times: how often lately; last: seconds since the epoch."""

    part: str
    reason: str
    times: int
    last: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. process: its number; looked_s: seconds since its last whole look, None before the first.

    unasked: on the control node, the tunnel addresses of members whose agents ask for no membership, and for
        how many seconds they have not.
    notes: likewise, what members note of themselves.
    facts: of this machine and, likewise, what members have told of theirs.
    proof: what it has proved last; None where nothing.
    version: of the qmesh that it runs; one that does not say is older than that question.
    """

    process: int
    looked_s: float | None
    troubles: tuple[Trouble, ...]
    restarts: tuple[Restart, ...]
    links: LinkReport = LinkReport()
    unasked: tuple[tuple[str, float], ...] = ()
    notes: tuple[tuple[str, MemberNote], ...] = ()
    facts: tuple[ToldFacts, ...] = ()
    version: str = ""
    proof: StandingProof | None = None


class NoAnswer(Exception):
    """The agent does not say how it is; the text says why that is known."""


def listen(directory: Path) -> socket.socket:
    """The agent's end."""
    return unix_socket.listen(directory, SOCKET)


def send_health(caller: socket.socket, health: Health) -> None:
    """Answer one who connected. One who goes away, or does not take it, is none to wait for."""
    with caller, contextlib.suppress(OSError):
        caller.settimeout(1.0)
        caller.sendall(msgspec.json.encode(health))


def request_health(directory: Path, *, wait_s: float) -> Health:
    """What the agent of a state directory says. Raises NoAnswer.

    wait_s: seconds for all of it. One that is just beginning has no socket yet.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            return parse_health(_receive_health(directory, until))
        except (FileNotFoundError, ConnectionError) as error:
            if time.monotonic() > until:
                raise NoAnswer("nothing listens at its socket") from error
            time.sleep(0.05)
        except OSError as error:
            raise NoAnswer(f"no answer within {wait_s:.0f} s") from error
        except Malformed as error:
            raise NoAnswer("its answer is not understood") from error


def parse_health(octets: bytes) -> Health:
    """What an agent answered. Raises Malformed."""
    return decode_json(octets, Health)


def _receive_health(directory: Path, until: float) -> bytes:
    octets = b""
    with socket_path.open_socket_path(directory, SOCKET) as path, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(max(0.01, until - time.monotonic()))
        connection.connect(path)
        while part := connection.recv(_PIECE):
            octets += part
            if len(octets) > _MOST_OCTETS or time.monotonic() > until:
                raise TimeoutError
    return octets
