"""The lists as they stand in a config, entry by entry."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from qmesh.mesh.networks import SITE_NETWORKS
from qmesh.mesh.nodeconfig.document import Mark, Node, Scalar, Sequence, resolve_alias
from qmesh.mesh.nodeconfig.lint.list_names import FoundList, Role
from qmesh.mesh.values import IPAddress, parse_ip_address

WRITTEN: Final = frozenset({"dialled", "p2p"})
"""The lists that qmesh writes, where the workers listen."""
_MULTIADDR = re.compile(r"/ip[46]/(?P<address>[^/]+)/(?P<protocol>tcp|udp)/(?P<port>[0-9]+)(?:/.*)?")
_FILLED_IN = re.compile(r"/ip4/[0-9.]+/(?:tcp|udp)/[0-9]+(?:/quic-v1)?")
"""What nearly all entries are, of thousands."""
_PLACEHOLDER = re.compile(
    r"<[a-z][\w .-]*>|\$\{?\w|\{\{|\bx+\.x+\.x+\.x+\b|\b(?:your|worker|machine|node)[_-]\w*(?:ip|address)\b",
    re.IGNORECASE,
)


AddressKind: TypeAlias = Literal["wildcard", "loopback", "LAN", "public"]


class Entry(NamedTuple):
    """One entry of a list. address, protocol, port: as far as it is a multiaddr of that kind."""

    core: int
    mark: Mark
    text: str | None
    address: IPAddress | None
    protocol: str
    port: int

    @property
    def is_placeholder(self) -> bool:
        """Whether somebody was to fill it in."""
        if self.text is None or _FILLED_IN.fullmatch(self.text):
            return False
        return bool(_PLACEHOLDER.search(self.text))


class ListedEntries(msgspec.Struct, frozen=True):
    """A list that is one, with its entries."""

    role: Role
    key: Scalar
    entries: tuple[Entry, ...]

    @property
    def is_written(self) -> bool:
        """Whether qmesh writes it."""
        return self.role in WRITTEN


def parse_list_entries(found: FoundList) -> ListedEntries:
    """The entries below a list's key."""
    assert isinstance(found.value, Sequence)
    items = enumerate(found.value.items, 1)
    return ListedEntries(found.role, found.key, tuple(_parse_entry(core, item) for core, item in items))


def _parse_entry(core: int, item: Node) -> Entry:
    value = resolve_alias(item)
    if not isinstance(value, Scalar):
        return Entry(core, item.start, None, None, "", 0)
    parts = _MULTIADDR.fullmatch(value.value)
    if parts is None:
        return Entry(core, item.start, value.value, None, "", 0)
    address = parse_ip_address(parts["address"])
    return Entry(core, item.start, value.value, address, parts["protocol"], int(parts["port"][:9]))


@lru_cache(1 << 15)
def classify_address(address: IPAddress) -> AddressKind:
    """From where the address is reached."""
    if address.is_unspecified:
        return "wildcard"
    if address.is_loopback:
        return "loopback"
    return "LAN" if any(address in lan for lan in SITE_NETWORKS) else "public"
