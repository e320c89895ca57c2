"""What readers see of what commands print as JSON: the fields that are named here, and no others.

Each is read from a command's JSON, of which all else is dropped, and written again.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from qmesh.mesh.decode import decode_json
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.view.cluster_view import EventView, FindingView

T = TypeVar("T")


class _Cores(msgspec.Struct, frozen=True):
    first: int | None
    count: int | None


class _SilentCore(msgspec.Struct, frozen=True):
    core: int
    address: str
    port: int
    unit: str
    restart: str
    why: str
    elsewhere: tuple[str, ...]


class _TroubledCore(msgspec.Struct, frozen=True):
    core: int
    state: str
    process: int
    program: str
    restart: str


class _Workers(msgspec.Struct, frozen=True):
    alive: int
    silent: tuple[_SilentCore, ...]
    latency: float | None
    restart: str
    troubled: tuple[_TroubledCore, ...]
    connected: int | None
    restarts: dict[str, str]


class _Machine(msgspec.Struct, frozen=True):
    """Without its public key and its endpoint."""

    name: str
    role: str
    address: str
    cores: _Cores
    ports: tuple[int, ...]
    state: str
    last_handshake: float | None
    rx_bytes: int | None
    tx_bytes: int | None
    workers: _Workers | None
    node_files: bool
    facts: MachineFacts | None
    facts_age: float | None


class _ControlProcess(msgspec.Struct, frozen=True):
    state: str
    missing: tuple[str, ...]
    process: int
    program: str
    uncalled: tuple[int, ...]
    restart: str


class _ForeignWorker(msgspec.Struct, frozen=True):
    address: str
    port: int
    core: int | None
    owner: str | None
    process: int
    program: str
    stop: str


class _OtherKeys(msgspec.Struct, frozen=True):
    """The names of keys, and none of the keys."""

    machine: str
    keys: tuple[str, ...]
    since: str
    fetch: str


class _SilentAgent(msgspec.Struct, frozen=True):
    machine: str
    silent_s: float | None
    cure: str


class StatusAnswer(msgspec.Struct, frozen=True):
    """What `status` says to readers."""

    mesh: str
    revision: int
    node: str
    control: str
    machines: tuple[_Machine, ...]
    advice: tuple[str, ...]
    control_process: _ControlProcess | None
    foreign: tuple[_ForeignWorker, ...]
    other_keys: tuple[_OtherKeys, ...]
    errors: tuple[FindingView, ...]
    silent_agents: tuple[_SilentAgent, ...]
    machine: str


class ReportAnswer(msgspec.Struct, frozen=True):
    """What `check` says to readers."""

    machine: str
    revision: int
    findings: tuple[FindingView, ...]


class LogAnswer(msgspec.Struct, frozen=True):
    """What `log` says to readers."""

    events: tuple[EventView, ...]


class RefusalAnswer(msgspec.Struct, frozen=True):
    """What a command says in an answer's place."""

    error: str
    hint: str
    exit_code: int


def keep_shown_fields(octets: bytes, kind: type[T]) -> bytes:
    """A command's JSON with the fields of that type alone. Raises Malformed."""
    return msgspec.json.encode(decode_json(octets, kind))
