"""What is asked of a packet beside its headers' fixed parts: each is one fact, however often it is asked.

Options and further headers; whose an address is. Of a packet that is shown they are known, see
`list_plain_facts`. Source: net/netfilter/nft_fib.c, nft_exthdr.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from qmesh.mesh.prover.gates import FALSE, Gates, Wires, make_constant
from qmesh.mesh.prover.traveller import LOCAL, Traveller

HEADER, VALUE, OWN, KIND = "header", "value", "own", "kind"
"""Whether there is a header or an option, and what is in it; whether an address is this machine's, or that of
one of its interfaces; which kind of others' it is."""
UNICAST, BROADCAST, MULTICAST = 1, 3, 5
"""RTN_*."""
_TO_ALL: Final = {"ip": [(0xE0000000, 0xEFFFFFFF)], "ip6": [(0xFF << 120, (1 << 128) - 1)]}
_BROADCASTS: Final = [(0, 0x00FFFFFF), (0xFFFFFFFF, 0xFFFFFFFF)]
IsOwn: TypeAlias = Callable[[Wires, Wires | None], int | None]
"""Of an address, and of an interface's number or None: whether it is this machine's, or that interface's.
None where that is not known."""


def find_header(at: Traveller, operation: int, kind: int, octets: int = 0) -> int:
    """Whether it has a further header of IPv6, or an option, of that number; and with so many octets."""
    return at.find_fact((HEADER, operation, kind, octets), 1)[0]


def find_value(at: Traveller, operation: int, kind: int, octet: int, length: int) -> Wires:
    """Some octets of it."""
    return at.find_fact((VALUE, operation, kind, octet, length), 8 * length)


def is_multicast(at: Traveller, address: Wires) -> int:
    """By the address."""
    return at.gates.is_within(address, _TO_ALL[at.family])


def is_own_source(at: Traveller) -> int:
    """Whether its source is an address of this machine."""
    return at.find_fact((OWN, at.source, None), 1)[0]


def is_own_here(at: Traveller, address: Wires) -> int:
    """Whether an address is one of the interface by which it came."""
    assert at.iif is not None
    return at.find_fact((OWN, address, at.iif.index), 1)[0]


def find_address_kind(at: Traveller, address: Wires, is_own: int, where: Wires | None = None) -> Wires:
    """RTN_* of an address, one octet. is_own: whether it is local. where: at which interface alone."""
    gates = at.gates
    found = at.find_fact((KIND, address, where), 8)
    found = gates.choose_each(gates.equal(found, bytes([LOCAL])), make_constant(bytes([UNICAST])), found)
    if at.family == "ip":
        all_of_them = gates.is_within(address, _BROADCASTS)
        found = gates.choose_each(all_of_them, make_constant(bytes([BROADCAST])), found)
        found = gates.choose_each(is_multicast(at, address), make_constant(bytes([MULTICAST])), found)
    return gates.choose_each(is_own, make_constant(bytes([LOCAL])), found)


def list_plain_facts(at: Traveller, is_own: IsOwn) -> Iterator[int]:
    """What holds of a packet without options and further headers, from one machine to one, or to all."""
    gates: Gates = at.gates
    for key, wires in at.facts.items():
        match key[0]:
            case "header":
                yield -wires[0]
            case "own":
                known = is_own(key[1], key[2])
                if known is not None:
                    yield gates.same(wires[0], known)
            case "kind":
                to_all = is_multicast(at, key[1]) if at.family == "ip6" else FALSE
                kinds = (make_constant(bytes([kind])) for kind in (MULTICAST, UNICAST))
                wanted = gates.choose_each(to_all, *kinds)
                yield from map(gates.same, wires, wanted)
