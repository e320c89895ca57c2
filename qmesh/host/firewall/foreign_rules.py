"""Every table but qmesh's own, rule by rule, as libnftables reads it: in a process that may die of it."""

from __future__ import annotations

import contextlib
import json
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host.firewall import nft_library, tables_and_chains
from qmesh.host.firewall.nftables import build_nft_error, decode_output
from qmesh.host.firewall.tables_and_chains import ChainHeader, TableHeader
from qmesh.host.system import heartbeat, programs
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.guard import OWN_TABLES
from qmesh.mesh.own_command import build_command_line

DEADLINE_S: Final = 20.0
"""Seconds for all of it. A ruleset that takes longer was not read."""
_FAMILIES: Final = frozenset({"inet", "ip", "ip6", "netdev"})
"""Those that an IP packet of the mesh passes."""
_HOOKS: Final = frozenset({"ingress", "prerouting", "input", "output", "postrouting"})
_OURS: Final = frozenset(("inet", name.encode()) for name in OWN_TABLES)
_ATTEMPTS: Final = 3
_MOST_DEATHS: Final = 10
_MOST_OCTETS: Final = 256 << 20
_MOST_UNREAD: Final = 5
"""That are named."""
_UNREADABLE: Final = (MachineRefused, Malformed, ValueError, LookupError, TypeError, AttributeError)
"""What a name or an answer raises that is not as it should be."""

Key = tuple[str, bytes]
Objects = list[dict[str, Any]]


class ForeignRules(msgspec.Struct, frozen=True):
    """What was read.

    objects: tables, their chains, the rules that a packet may come to, sets and maps, each as
        libnftables-json(5) has it; a table may have `dormant`, a chain `devices`, and `unread` where its
        rules could not be read.
    text: the same as nft prints it, with handles; empty where it could not be had.
    unread: what could not be read, and why.
    """

    objects: Objects
    text: str
    unread: tuple[str, ...]


class _JsonOutput(msgspec.Struct):
    """What the library prints in JSON."""

    nftables: list[dict[str, Any]]


def parse_json_output(octets: bytes) -> Objects:
    """What the library printed in JSON, but for the head. Raises Malformed."""
    return decode_json(octets, _JsonOutput).nftables[1:]


class LibraryDied(MachineRefused):
    """libnftables ended its process, or was ended, as it took too long."""


def read_rules(told: Collection[Key] = (), *, deadline_s: float = DEADLINE_S) -> ForeignRules:
    """All that another program's tables do to IP packets, but for what is `told` already, by family and name.

    Raises MachineRefused where nothing could be read.
    """
    until = time.monotonic() + deadline_s
    with LibraryProcess(until) as library:
        for attempt in range(1, _ATTEMPTS + 1):
            before = tables_and_chains.read_generation()
            found = _RulesetReader(library, told).read()
            if (
                tables_and_chains.read_generation() == before
                or attempt == _ATTEMPTS
                or time.monotonic() > until
            ):
                return found
    raise AssertionError  # the last attempt returns


class _RulesetReader:
    """Reads once what there is at the moment."""

    def __init__(self, library: LibraryProcess, told: Collection[Key]) -> None:
        self._library = library
        self._tables = [each for each in tables_and_chains.list_tables() if _is_relevant(each, told)]
        self._chains: dict[Key, list[ChainHeader]] = {
            (each.family, each.name): [] for each in self._tables if not each.is_dormant
        }
        for chain in tables_and_chains.list_chains():
            if (chain.family, chain.table) in self._chains:
                self._chains[chain.family, chain.table].append(chain)
        self._unread: list[str] = []

    def read(self) -> ForeignRules:
        objects: Objects = [{"table": _build_table_json(each)} for each in self._tables]
        for key, chains in self._chains.items():
            if any(chain.hook in _HOOKS for chain in chains):
                objects += self._read_table(key, chains) or self._read_table_by_chain(key, chains)
        text = self._run_text("list ruleset") if any("rule" in each for each in objects) else ""
        left_out = len(self._unread) - _MOST_UNREAD
        unread = (*self._unread[:_MOST_UNREAD], *([f"and {left_out} more"] if left_out > 0 else []))
        return ForeignRules(objects, text, unread)

    def _read_table(self, key: Key, chains: list[ChainHeader]) -> Objects:
        """A table with all that is in it, where the library can tell it; else nothing.

        Of the table itself libnftables 1.0.6 reads the flags from freed memory: that is not taken.
        """
        family, table = key
        try:
            found = self._run_json({"list": {"table": {"family": family, "name": table.decode()}}})
        except _UNREADABLE:
            return []
        rules: dict[str, Objects] = {}
        for each in found:
            if "rule" in each:
                rules.setdefault(each["rule"].get("chain", ""), []).append(each)
        listed: Objects = []
        for chain in chains:
            # The rules of one whose name is not UTF-8 have no chain in what is printed.
            listed.append(
                {"chain": _build_chain_json(chain) | ({} if _is_utf8(chain.name) else {"unread": True})}
            )
            listed += rules.get(decode_output(chain.name), [])
        return listed + [each for each in found if each.keys() & {"set", "map"}]

    def _read_table_by_chain(self, key: Key, chains: list[ChainHeader]) -> Objects:
        """The same chain by chain, so that one that can't be read leaves the others."""
        collections = [each for kind in ("set", "map") for each in self._read_sets_or_maps(key, kind)]
        rules = self._read_reachable_rules(chains, collections)
        listed: Objects = []
        for chain in chains:
            found = rules.get(chain.name, [])
            listed.append({"chain": _build_chain_json(chain) | ({"unread": True} if found is None else {})})
            listed += ({"rule": each} for each in found or ())
        return listed + collections

    def _read_reachable_rules(
        self, chains: list[ChainHeader], collections: Objects
    ) -> dict[bytes, Objects | None]:
        """The rules of base chains, and of whichever a rule or map leads to: others do nothing.

        None where they can't be read.
        """
        by_name = {chain.name: chain for chain in chains}
        found: dict[bytes, Objects | None] = {}
        waiting = deque(chain.name for chain in chains if chain.hook in _HOOKS)
        waiting += (name for each in collections for name in _list_strings(each) if name in by_name)
        while waiting:
            name = waiting.popleft()
            if name not in found:
                found[name] = self._read_chain_rules(by_name[name])
                waiting += (each for each in _list_strings(found[name]) if each in by_name)
        return found

    def _read_chain_rules(self, chain: ChainHeader) -> Objects | None:
        about = {
            "family": chain.family,
            "table": decode_output(chain.table),
            "name": decode_output(chain.name),
        }
        try:
            names = {"table": chain.table.decode(), "name": chain.name.decode()}
            listed = self._run_json({"list": {"chain": {"family": chain.family, **names}}})
        except _UNREADABLE as error:
            self._note_unread(f"chain {about['family']} {about['table']} {about['name']}", error)
            return None
        place = {"family": chain.family, "table": about["table"], "chain": about["name"]}
        return [{**each["rule"], **place} for each in listed if "rule" in each]

    def _read_sets_or_maps(self, key: Key, kind: str) -> Objects:
        """The sets or maps of a table: libnftables 1.0.6 lists those of all."""
        try:
            listed = self._run_json({"list": {f"{kind}s": {}}})
            return [each for each in listed if kind in each and _is_in_table(each[kind], key)]
        except _UNREADABLE as error:
            self._note_unread(f"{kind}s of table {key[0]} {decode_output(key[1])}", error)
            return []

    def _run_json(self, command: dict[str, Any]) -> Objects:
        """What it prints in JSON, but for the head. Names go in JSON: they may be words of nft's language."""
        printed = self._library.run_command(json.dumps({"nftables": [command]}), in_json=True)
        return parse_json_output(printed)

    def _run_text(self, command: str) -> str:
        with contextlib.suppress(MachineRefused):
            return decode_output(self._library.run_command(command, in_json=False))
        return ""

    def _note_unread(self, what: str, error: Exception) -> None:
        why = error.message if isinstance(error, MachineRefused) else "its listing is not understood"
        self._unread.append(f"{what}: {why}")


class LibraryProcess:
    """libnftables in a process of its own; another one where it died of what it was asked."""

    def __init__(self, until: float) -> None:
        """until: after which there is no answer, in seconds of the monotonic clock."""
        self._until = until
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._stop_process(self._child)

    def run_command(self, command: str, *, in_json: bool) -> bytes:
        """What the library prints. Raises NeedsRoot, MissingProgram, KernelRefused or LibraryDied."""
        if self._deaths >= _MOST_DEATHS:
            raise LibraryDied("libnftables crashed too often", hint=_HINT)
        child = self._child = self._child or self._start_process()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps([command, in_json]).encode() + b"\n")
            child.stdin.flush()
            code, printed, errors = self._read_answer(child)
        except (OSError, EOFError):
            raise self._handle_death(child) from None
        if code != 0:
            raise build_nft_error(decode_output(errors))
        return printed

    def _start_process(self) -> subprocess.Popen[bytes]:
        most_s = max(1, round(self._until - time.monotonic()) + 1)
        words = build_command_line(sys.executable, str(most_s), module=nft_library.__name__)
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=programs.DIRECTORY,
                bufsize=0,
            )
        except OSError as error:
            raise KernelRefused(
                f"no process for libnftables could be started: {error.strerror}",
                hint="run the same command again",
            ) from None

    def _read_answer(self, child: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
        code, printed, errors = nft_library.ANSWER.unpack(self._read_bytes(child, nft_library.ANSWER.size))
        if printed + errors > _MOST_OCTETS:
            raise EOFError
        return code, self._read_bytes(child, printed), self._read_bytes(child, errors)

    def _read_bytes(self, child: subprocess.Popen[bytes], length: int) -> bytes:
        return b"".join(self._read_chunks(child, length))

    def _read_chunks(self, child: subprocess.Popen[bytes], length: int) -> Iterator[bytes]:
        assert child.stdout is not None
        while length > 0:
            left_s = self._until - time.monotonic()
            with heartbeat.allow_wait(max(0.0, left_s)):
                is_there = left_s > 0 and select.select([child.stdout], [], [], left_s)[0]
            part = child.stdout.read(min(length, 1 << 20)) if is_there else b""
            if not part:
                raise EOFError
            length -= len(part)
            yield part

    def _handle_death(self, child: subprocess.Popen[bytes]) -> LibraryDied:
        is_late = time.monotonic() >= self._until
        self._deaths = _MOST_DEATHS if is_late else self._deaths + 1
        self._stop_process(child)
        self._child = None
        if is_late:
            return LibraryDied("there was no time to read it", hint=_HINT)
        code = child.returncode
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        return LibraryDied(f"libnftables crashed ({ended})", hint=_HINT)

    def _stop_process(self, child: subprocess.Popen[bytes]) -> None:
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.kill()
        child.wait()


_HINT: Final = "look at that table or chain in `nft list ruleset`; delete it if nothing needs it"


def _is_relevant(table: TableHeader, told: Collection[Key]) -> bool:
    key = (table.family, table.name)
    return table.family in _FAMILIES and key not in _OURS and key not in told


def _is_utf8(name: bytes) -> bool:
    return name.decode("utf-8", "replace").encode() == name


def _is_in_table(found: dict[str, Any], key: Key) -> bool:
    return (found["family"], found["table"].encode()) == key


def _list_strings(found: Any) -> Iterator[bytes]:
    """Every word of what was read: those that are chains' names are followed, also out of odd expressions."""
    waiting: list[Any] = [found]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each.encode("utf-8", "replace")
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _build_table_json(table: TableHeader) -> dict[str, Any]:
    found: dict[str, Any] = {"family": table.family, "name": decode_output(table.name)}
    return found | ({"dormant": True} if table.is_dormant else {})


def _build_chain_json(chain: ChainHeader) -> dict[str, Any]:
    found: dict[str, Any] = {
        "family": chain.family,
        "table": decode_output(chain.table),
        "name": decode_output(chain.name),
        "handle": chain.handle,
    }
    if chain.hook:
        policy = "accept" if chain.accepts else "drop"
        found |= {"type": chain.type, "hook": chain.hook, "prio": chain.priority, "policy": policy}
    return found | ({"devices": list(chain.devices)} if chain.devices else {})
