"""Rulesets as values, and one packet on its way through them: what is known of it, which rules change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from qmesh.mesh.foreign.lookups import Lookups, SetHeader
from qmesh.mesh.foreign.packet_fields import build_headers
from qmesh.mesh.foreign.packets import CONNECTION_FIELDS, Packet
from qmesh.mesh.foreign.values import Truth, Value

Ending: TypeAlias = Literal["accept", "drop", "return", "jump", "goto", "unclear", "continue"]
Program: TypeAlias = Literal["nft", "iptables", "iptables-legacy"]
Fields: TypeAlias = dict[str, Value | None]
_CONNTRACK_PRIORITY: Final = -200
"""Before it a packet has no connection. Source: NF_IP_PRI_CONNTRACK."""


class Outcome(msgspec.Struct, frozen=True):
    """What a rule does with a packet.

    truth: whether it is meant. verdict, target: what becomes of it then, and the chain of a jump or goto.
    is_limit: whether all that is not known is whether a limit is exceeded.
    """

    truth: Truth
    verdict: Ending = "continue"
    target: str = ""
    is_limit: bool = False


class Rule(Protocol):
    """A rule that can be asked. text: to show it by. handle: nft's number of it."""

    @property
    def text(self) -> str: ...
    @property
    def handle(self) -> int | None: ...
    def judge(self, at: Evaluation, /) -> Outcome:
        """What becomes of a packet. May raise anything: others wrote it."""


class UnclearRule(msgspec.Struct, frozen=True):
    """A rule that may do anything, or nothing."""

    text: str
    handle: int | None = None

    def judge(self, _: Evaluation) -> Outcome:
        """That nothing is known."""
        return Outcome(None, "unclear")


UNREAD: Final = UnclearRule("rules that could not be read")


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain; a base chain where it has a hook.

    kind: nft's type of it: only the first packet of a connection comes to one of `nat`.
    devices: of a hook that is a device's; `*` ends the beginning of a name.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    hook: str = ""
    kind: str = "filter"
    priority: int = 0
    drops: bool = False
    devices: tuple[str, ...] = ()


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its chains and sets, by name; family: by nft's name.

    is_own: whether it is the guard's. marks_connections: whether a rule sets connections' marks.
    """

    program: Program
    family: str
    name: str
    chains: Mapping[str, Chain]
    sets: Mapping[str, SetHeader] = {}
    is_own: bool = False
    marks_connections: bool = False


Place: TypeAlias = tuple[Table, str, Rule]
"""A rule in its chain and table."""


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that sends a connection on, as one of a container's published port does.

    packet: the connection's first. address, port: its new target.
    """

    table: Table
    chain: str
    rule: Rule
    packet: Packet
    address: str
    port: int


class Evaluation:
    """One packet on its way: what is known of it, which rules change.

    interfaces: their numbers, by name. table: where it is. is_certain: whether it surely comes to this rule.
    asked_limit: whether the rule at hand asks for a limit that may be exceeded.
    untracked: the rule because of which it belongs to no connection.
    translation: where its connection is sent on to.
    """

    def __init__(self, packet: Packet, lookups: Lookups, interfaces: Mapping[str, int]) -> None:
        self.packet = packet
        self.lookups = lookups
        self.interfaces = interfaces
        self.fields: Fields = packet.fields()
        self.headers = build_headers(packet)
        self.table: Table
        self.chain = ""
        self.rule: Rule = UNREAD
        self.is_certain = True
        self.asked_limit = False
        self.untracked: Place | None = None
        self.translation: Translation | None = None
        self._is_early = False
        self._patch: dict[str, tuple[Value | None, object]] = {}

    def change(self, field: str, value: Value | None) -> None:
        """A rule sets a field; None: to something unclear."""
        if self.is_certain and value is not None:
            self.fields[field] = value
        else:
            self.fields.pop(field, None)

    def untrack(self, *, is_certain: bool) -> None:
        """A rule says that the packet belongs to no connection; or may say so."""
        if not self._is_early or not self.packet.has_connection:
            return  # the kernel leaves a packet in the connection that it has
        if is_certain and self.is_certain:
            self.fields |= _describe_no_connection("untracked")
            self.untracked = self.table, self.chain, self.rule
            return
        for field in ("ct state", *CONNECTION_FIELDS):
            self.fields.pop(field, None)

    def translate_target(self, address: str, port: int) -> bool:
        """A rule sends the connection on to another target; whether that is certain."""
        if self.is_certain:
            self.translation = Translation(
                table=self.table,
                chain=self.chain,
                rule=self.rule,
                packet=self.packet,
                address=address,
                port=port,
            )
        return self.is_certain

    def enter_chain(self, table: Table, chain: Chain) -> None:
        """Begin with a base chain, in which some of the packet is not there yet."""
        self.table = table
        patch: Fields = {"meta nfproto": "netdev"} if table.family == "netdev" else {}
        self._is_early = self.untracked is None and self._is_before_conntrack(chain)
        if self._is_early:
            patch |= _describe_no_connection("invalid")
        self._patch = {field: (value, self.fields.get(field, ...)) for field, value in patch.items()}
        self.fields |= patch

    def leave_chain(self) -> None:
        """End with it: what was not there is, but for what a rule has changed."""
        for field, (value, before) in self._patch.items():
            is_changed = self.fields.get(field, ...) != value
            if is_changed or (self.untracked is not None and field.startswith("ct ")):
                continue
            if before is ...:
                del self.fields[field]
            else:
                self.fields[field] = before  # type: ignore[assignment]  # the sentinel was excluded

    def _is_before_conntrack(self, chain: Chain) -> bool:
        if self.packet.traffic == "loopback" and self.packet.iif:
            return False  # it has had its connection since it was sent
        early = chain.hook in {"prerouting", "output"} and chain.priority < _CONNTRACK_PRIORITY
        return early or chain.hook == "ingress"

    def load_tuple(self, field: str, *, is_reply: bool) -> bytes | None:
        """An end of the packet's connection, in one of its two directions; None for what is none."""
        packet = self.packet
        ends = {
            "ct saddr": packet.packed_source, "ct daddr": packet.packed_target,
            "ct sport": packet.source_port.to_bytes(2, "big"),
            "ct dport": packet.target_port.to_bytes(2, "big"),
        }  # fmt: skip
        turned = {
            "ct saddr": "ct daddr",
            "ct daddr": "ct saddr",
            "ct sport": "ct dport",
            "ct dport": "ct sport",
        }
        is_same = is_reply is packet.is_reply
        return ends.get(field if is_same else turned.get(field, ""))


def _describe_no_connection(state: str) -> Fields:
    return {"ct state": state, **dict.fromkeys(CONNECTION_FIELDS)}
