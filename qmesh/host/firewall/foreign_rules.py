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
from qmesh.host.firewall.nftables import refusal, text_of
from qmesh.host.firewall.tables_and_chains import Chain, Table
from qmesh.host.system import heartbeat, programs
from qmesh.mesh.decode import Malformed, from_json
from qmesh.mesh.guard import HELD, TABLE
from qmesh.mesh.own_command import own_words

DEADLINE_S: Final = 20.0
"""Seconds for all of it. A ruleset that takes longer was not read."""
_FAMILIES: Final = frozenset({"inet", "ip", "ip6", "netdev"})
"""Those that an IP packet of the mesh passes."""
_HOOKS: Final = frozenset({"ingress", "prerouting", "input", "output", "postrouting"})
_OURS: Final = {("inet", TABLE.encode()), ("inet", HELD.encode())}
_ATTEMPTS: Final = 3
_MOST_DEATHS: Final = 10
_MOST_OCTETS: Final = 256 << 20
_MOST_UNREAD: Final = 5
"""That are named."""
_UNREADABLE: Final = (MachineRefused, Malformed, ValueError, LookupError, TypeError, AttributeError)
"""What a name or an answer raises that is not as it should be."""

Key = tuple[str, bytes]
Objects = list[dict[str, Any]]


class Read(msgspec.Struct, frozen=True):
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


class _Said(msgspec.Struct):
    """What the library prints in JSON."""

    nftables: list[dict[str, Any]]


def printed_in(octets: bytes) -> Objects:
    """What the library printed in JSON, but for the head. Raises Malformed."""
    return from_json(octets, _Said).nftables[1:]


class LibraryDied(MachineRefused):
    """libnftables ended its process, or was ended, as it took too long."""


def read(told: Collection[Key] = (), *, deadline_s: float = DEADLINE_S) -> Read:
    """All that another program's tables do to IP packets, but for what is `told` already, by family and name.

    Raises MachineRefused where nothing could be read.
    """
    until = time.monotonic() + deadline_s
    with Library(until) as library:
        for attempt in range(1, _ATTEMPTS + 1):
            before = tables_and_chains.generation()
            found = _Reader(library, told).read()
            if tables_and_chains.generation() == before or attempt == _ATTEMPTS or time.monotonic() > until:
                return found
    raise AssertionError  # the last attempt returns


class _Reader:
    """Reads once what there is at the moment."""

    def __init__(self, library: Library, told: Collection[Key]) -> None:
        self._library = library
        self._tables = [each for each in tables_and_chains.tables() if _matters(each, told)]
        self._chains: dict[Key, list[Chain]] = {
            (each.family, each.name): [] for each in self._tables if not each.is_dormant
        }
        for chain in tables_and_chains.chains():
            if (chain.family, chain.table) in self._chains:
                self._chains[chain.family, chain.table].append(chain)
        self._unread: list[str] = []

    def read(self) -> Read:
        objects: Objects = [{"table": _table(each)} for each in self._tables]
        for key, chains in self._chains.items():
            if any(chain.hook in _HOOKS for chain in chains):
                objects += self._whole(key, chains) or self._in_parts(key, chains)
        text = self._printed("list ruleset") if any("rule" in each for each in objects) else ""
        left_out = len(self._unread) - _MOST_UNREAD
        unread = (*self._unread[:_MOST_UNREAD], *([f"and {left_out} more"] if left_out > 0 else []))
        return Read(objects, text, unread)

    def _whole(self, key: Key, chains: list[Chain]) -> Objects:
        """A table with all that is in it, where the library can tell it; else nothing.

        Of the table itself libnftables 1.0.6 reads the flags from freed memory: that is not taken.
        """
        family, table = key
        try:
            found = self._listed({"list": {"table": {"family": family, "name": table.decode()}}})
        except _UNREADABLE:
            return []
        rules: dict[str, Objects] = {}
        for each in found:
            if "rule" in each:
                rules.setdefault(each["rule"].get("chain", ""), []).append(each)
        listed: Objects = []
        for chain in chains:
            # The rules of one whose name is not UTF-8 have no chain in what is printed.
            listed.append({"chain": _chain(chain) | ({} if _is_text(chain.name) else {"unread": True})})
            listed += rules.get(text_of(chain.name), [])
        return listed + [each for each in found if each.keys() & {"set", "map"}]

    def _in_parts(self, key: Key, chains: list[Chain]) -> Objects:
        """The same chain by chain, so that one that can't be read leaves the others."""
        collections = [each for kind in ("set", "map") for each in self._collections(key, kind)]
        rules = self._followed(chains, collections)
        listed: Objects = []
        for chain in chains:
            found = rules.get(chain.name, [])
            listed.append({"chain": _chain(chain) | ({"unread": True} if found is None else {})})
            listed += ({"rule": each} for each in found or ())
        return listed + collections

    def _followed(self, chains: list[Chain], collections: Objects) -> dict[bytes, Objects | None]:
        """The rules of base chains, and of whichever a rule or map leads to: others do nothing.

        None where they can't be read.
        """
        by_name = {chain.name: chain for chain in chains}
        found: dict[bytes, Objects | None] = {}
        waiting = deque(chain.name for chain in chains if chain.hook in _HOOKS)
        waiting += (name for each in collections for name in _names_in(each) if name in by_name)
        while waiting:
            name = waiting.popleft()
            if name not in found:
                found[name] = self._rules_of(by_name[name])
                waiting += (each for each in _names_in(found[name]) if each in by_name)
        return found

    def _rules_of(self, chain: Chain) -> Objects | None:
        about = {"family": chain.family, "table": text_of(chain.table), "name": text_of(chain.name)}
        try:
            names = {"table": chain.table.decode(), "name": chain.name.decode()}
            listed = self._listed({"list": {"chain": {"family": chain.family, **names}}})
        except _UNREADABLE as error:
            self._note(f"chain {about['family']} {about['table']} {about['name']}", error)
            return None
        place = {"family": chain.family, "table": about["table"], "chain": about["name"]}
        return [{**each["rule"], **place} for each in listed if "rule" in each]

    def _collections(self, key: Key, kind: str) -> Objects:
        """The sets or maps of a table: libnftables 1.0.6 lists those of all."""
        try:
            listed = self._listed({"list": {f"{kind}s": {}}})
            return [each for each in listed if kind in each and _is_of(each[kind], key)]
        except _UNREADABLE as error:
            self._note(f"{kind}s of table {key[0]} {text_of(key[1])}", error)
            return []

    def _listed(self, command: dict[str, Any]) -> Objects:
        """What it prints in JSON, but for the head. Names go in JSON: they may be words of nft's language."""
        printed = self._library.ask(json.dumps({"nftables": [command]}), in_json=True)
        return printed_in(printed)

    def _printed(self, command: str) -> str:
        with contextlib.suppress(MachineRefused):
            return text_of(self._library.ask(command, in_json=False))
        return ""

    def _note(self, what: str, error: Exception) -> None:
        why = error.message if isinstance(error, MachineRefused) else "it is not UTF-8, or not as expected"
        self._unread.append(f"{what}: {why}")


class Library:
    """libnftables in a process of its own; another one where it died of what it was asked."""

    def __init__(self, until: float) -> None:
        """until: when there is to be no answer any more, in seconds of the monotonic clock."""
        self._until = until
        self._child: subprocess.Popen[bytes] | None = None
        self._deaths = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            self._end(self._child)

    def ask(self, command: str, *, in_json: bool) -> bytes:
        """What the library prints. Raises NeedsRoot, MissingProgram, KernelRefused or LibraryDied."""
        if self._deaths >= _MOST_DEATHS:
            raise LibraryDied("libnftables died too often of what it was to read", hint=_HINT)
        child = self._child = self._child or self._begun()
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps([command, in_json]).encode() + b"\n")
            child.stdin.flush()
            code, printed, errors = self._answer(child)
        except (OSError, EOFError):
            raise self._death(child) from None
        if code != 0:
            raise refusal(text_of(errors))
        return printed

    def _begun(self) -> subprocess.Popen[bytes]:
        most_s = max(1, round(self._until - time.monotonic()) + 1)
        words = own_words(sys.executable, str(most_s), module=nft_library.__name__)
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
            raise KernelRefused(f"no process for libnftables: {error.strerror}", hint="try again") from None

    def _answer(self, child: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
        code, printed, errors = nft_library.ANSWER.unpack(self._octets(child, nft_library.ANSWER.size))
        if printed + errors > _MOST_OCTETS:
            raise EOFError
        return code, self._octets(child, printed), self._octets(child, errors)

    def _octets(self, child: subprocess.Popen[bytes], length: int) -> bytes:
        return b"".join(self._parts(child, length))

    def _parts(self, child: subprocess.Popen[bytes], length: int) -> Iterator[bytes]:
        assert child.stdout is not None
        while length > 0:
            left_s = self._until - time.monotonic()
            with heartbeat.allowed(max(0.0, left_s)):
                is_there = left_s > 0 and select.select([child.stdout], [], [], left_s)[0]
            part = child.stdout.read(min(length, 1 << 20)) if is_there else b""
            if not part:
                raise EOFError
            length -= len(part)
            yield part

    def _death(self, child: subprocess.Popen[bytes]) -> LibraryDied:
        is_late = time.monotonic() >= self._until
        self._deaths = _MOST_DEATHS if is_late else self._deaths + 1
        self._end(child)
        self._child = None
        if is_late:
            return LibraryDied("it was not read in time", hint=_HINT)
        code = child.returncode
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        return LibraryDied(f"libnftables died of it ({ended})", hint=_HINT)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.2)
        child.kill()
        child.wait()


_HINT: Final = "see `nft list ruleset`; is the table, or the chain, one that is needed?"


def _matters(table: Table, told: Collection[Key]) -> bool:
    key = (table.family, table.name)
    return table.family in _FAMILIES and key not in _OURS and key not in told


def _is_text(name: bytes) -> bool:
    return name.decode("utf-8", "replace").encode() == name


def _is_of(found: dict[str, Any], key: Key) -> bool:
    return (found["family"], found["table"].encode()) == key


def _names_in(found: Any) -> Iterator[bytes]:
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


def _table(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = {"family": table.family, "name": text_of(table.name)}
    return found | ({"dormant": True} if table.is_dormant else {})


def _chain(chain: Chain) -> dict[str, Any]:
    found: dict[str, Any] = {
        "family": chain.family,
        "table": text_of(chain.table),
        "name": text_of(chain.name),
        "handle": chain.handle,
    }
    if chain.hook:
        policy = "accept" if chain.accepts else "drop"
        found |= {"type": chain.type, "hook": chain.hook, "prio": chain.priority, "policy": policy}
    return found | ({"devices": list(chain.devices)} if chain.devices else {})
