"""Other programs' firewalls as the kernel has them, and what their sets have of single values."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused
from qmesh.host.firewall import ipset_messages, rule_messages, tables_and_chains
from qmesh.host.firewall.legacy_iptables import list_legacy_tables
from qmesh.host.firewall.packet_programs import read_packet_queues
from qmesh.host.firewall.rule_messages import SetReader, decode_name
from qmesh.host.firewall.tables_and_chains import ChainHeader
from qmesh.host.lean import nftables_messages
from qmesh.host.network.netlink import open_socket, translate_errors
from qmesh.host.network.netlink_messages import send_request
from qmesh.mesh.foreign import packet_queues
from qmesh.mesh.foreign.lookups import Answers, Element, Question
from qmesh.mesh.foreign.rulesets import FAMILIES, ListedChain, Listing
from qmesh.mesh.guard.tables import OWN_TABLES

_LASTING: Final = Path("/etc/nftables.conf")
_RECENT: Final = Path("/proc/net/xt_recent")
_OWN: Final = frozenset(("inet", name) for name in OWN_TABLES)
_ATTEMPTS: Final = 3
_MOST_TEXT: Final = 1 << 20
"""Bytes of a file that are looked at."""
_NETFILTER_PROTOCOL: Final = 12  # NETLINK_NETFILTER
DEADLINE_S: Final = 10.0
"""Seconds for all questions of one look."""


def read_rulesets() -> Listing:
    """Every rule, without a set's elements, and without making a table or loading a module by looking.

    Raises MachineRefused where something could not be looked at.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        before = nftables_messages.read_generation()
        found = _read_once()
        if nftables_messages.read_generation() == before or attempt == _ATTEMPTS:
            return found
    raise AssertionError  # the last attempt returns


def _read_once() -> Listing:
    tables = [
        (each.family, each.name)
        for each in tables_and_chains.list_tables()
        if each.family in FAMILIES and not each.is_dormant
    ]
    names = tuple((family, decode_name(name)) for family, name in tables)
    with translate_errors("list the interfaces"):
        interfaces = {name: index for index, name in socket.if_nameindex()}
    return Listing(
        tables=names,
        own=_OWN.intersection(names),
        chains=tuple(map(_list_chain, tables_and_chains.list_chains())),
        rules=tuple(rule_messages.list_rules(tables)),
        sets=rule_messages.list_sets(tables),
        legacy=tuple(list_legacy_tables()),
        lasting=_read_lasting(),
        interfaces=interfaces,
    )


def _list_chain(chain: ChainHeader) -> ListedChain:
    return ListedChain(
        family=chain.family,
        table=decode_name(chain.table),
        name=decode_name(chain.name),
        hook=chain.hook,
        kind=chain.type,
        priority=chain.priority,
        drops=not chain.accepts,
        devices=chain.devices,
    )


def _read_lasting() -> str | None:
    try:
        with _LASTING.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_TEXT)
    except OSError:
        return None


def answer_questions(questions: Iterable[Question]) -> tuple[Answers, tuple[str, ...]]:
    """What the sets have of these values; and what could not be asked, and why.

    It takes DEADLINE_S at most: what was not asked then has no answer.
    Raises MachineRefused where nothing can be asked.
    """
    answers: Answers = {}
    unread: dict[str, str] = {}
    until = time.monotonic() + DEADLINE_S
    with translate_errors("ask for elements of sets"), contextlib.ExitStack() as stack:
        reader = stack.enter_context(SetReader())
        sets = _IpSets(stack)
        for question in sorted(
            questions, key=lambda each: (each.family, each.table, each.collection, each.key)
        ):
            place = f"{question.family} {question.table} {question.collection}"
            if time.monotonic() > until:
                unread[place] = "there was no time to ask for it"
                break
            try:
                answers[question] = _find_element(reader, sets, question)
            except (KernelRefused, OSError, LookupError, ValueError, struct.error) as error:
                unread[place] = error.message if isinstance(error, KernelRefused) else str(error)
    return answers, tuple(f"set {place}: {why}" for place, why in unread.items())


def _find_element(reader: SetReader, sets: _IpSets, question: Question) -> Element | None:
    match question.family:
        case "recent":
            return _find_recent(question)
        case "ipset":
            return Element() if sets.has(question) else None
        case packet_queues.FAMILY:
            return Element() if int(question.collection) in read_packet_queues() else None
    return reader.find_element(question)


def _find_recent(question: Question) -> Element | None:
    """Whether iptables' match `recent` remembers an address."""
    if "/" in question.collection:
        raise ValueError("a list cannot have that name")
    address = ipaddress.ip_address(question.key)
    try:
        with (_RECENT / question.collection).open(encoding="ascii", errors="replace") as file:
            seen = {line.split()[0].removeprefix("src=") for line in file if line.startswith("src=")}
    except FileNotFoundError:
        return None
    return Element() if any(ipaddress.ip_address(each) == address for each in seen) else None


class _IpSets:
    """The sets of `ipset`, asked by their numbers as iptables' rules have them."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._netlink: socket.socket | None = None
        self._known: dict[int, tuple[bytes, str]] = {}

    def has(self, question: Question) -> bool:
        """Whether the packet's ends are in it. Raises OSError or ValueError."""
        if self._netlink is None:
            self._netlink = self._stack.enter_context(open_socket(_NETFILTER_PROTOCOL))
        name, kind = self._find_set(self._netlink, int(question.collection))
        dimension, flags, source_port, target_port, protocol = struct.unpack_from("!BBHHB", question.key)
        addresses = question.key[7:]
        ends = [addresses[: len(addresses) // 2], addresses[len(addresses) // 2 :]]
        words = kind.removeprefix("hash:").removeprefix("bitmap:").split(",")
        entry: list[bytes] = []
        for number, word in enumerate(words[:dimension]):
            is_source = bool(flags & 2 << number)
            if word in {"ip", "net"}:
                place = sum(each in {"ip", "net"} for each in words[:number])
                entry.append(ipset_messages.build_address(place, ends[not is_source]))
            elif word == "port":
                entry.append(ipset_messages.build_port(source_port if is_source else target_port, protocol))
            elif word == "iface":
                entry.append(ipset_messages.build_interface(question.table))
            else:
                raise ValueError(f"a set of the type {kind} is not understood")
        if len(entry) != len(words):
            raise ValueError(f"a set of the type {kind} is asked for {dimension} values")
        try:
            send_request(self._netlink, ipset_messages.build_element_question(name, entry))
        except OSError as error:
            if error.errno == ipset_messages.NOT_IN_IT:
                return False
            raise
        return True

    def _find_set(self, netlink: socket.socket, index: int) -> tuple[bytes, str]:
        """Its name and type."""
        if index not in self._known:
            (answer,), _ = send_request(netlink, ipset_messages.build_index_question(index))
            name = ipset_messages.parse_name(answer)
            (answer,), _ = send_request(netlink, ipset_messages.build_type_question(name))
            self._known[index] = name, ipset_messages.parse_type(answer)
        return self._known[index]
