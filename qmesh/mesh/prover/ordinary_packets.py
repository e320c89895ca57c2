"""Which packets are ordinary enough to be shown, and which are best."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Final

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.examples import OwnInterfaces
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires
from qmesh.mesh.prover.packet_facts import list_plain_facts
from qmesh.mesh.prover.traveller import (
    ACK,
    ASSURED,
    CONFIRMED,
    FIN,
    RST,
    SEEN_REPLY,
    SYN,
    PacketInterface,
    Traveller,
)
from qmesh.mesh.state import Guard

_ETHER, _LOOPBACK, _NONE = 1, 772, 0xFFFE
_SOURCES: Final = {
    "ip": ("198.51.100.0/24", "10.0.0.0/8", "127.0.0.0/8"),
    "ip6": ("2001:db8:1::/48", "fd00::/8", "::1/128"),
}
_TARGETS: Final = {
    "ip": ("192.0.2.0/24", "10.0.0.0/8", "127.0.0.0/8"),
    "ip6": ("2001:db8:2::/48", "fd00::/8", "::1/128"),
}
_TO_ALL: Final = {"ip": ("255.255.255.255", b"\1"), "ip6": ("ff02::1", b"\2")}
"""An address, and the type of packets to it: PACKET_BROADCAST, _MULTICAST."""
_LOOPBACK_NETWORKS: Final = ("127.0.0.0/8", "::1/128")
_LOOPBACK_INTERFACE: Final = ("lo", ("127.0.0.1/8", "::1/128"))
_USERS: Final = (0, 1000)
_NO_USERS_BIT: Final = 0 if ORDER == "big" else 8 * 3
"""That of numbers from 2**31 on: no tool gives a user one."""
_LEAST_PORT: Final = 1024
_ALSO_ANSWERS: Final = frozenset({"control", "wireguard", "answers", "older", "others"})
"""Claims that answers break too."""


def list_interface_laws(case: Case, interfaces: Mapping[str, int]) -> Iterator[int]:
    """The interfaces that there are have these numbers, and no other has."""
    gates = case.walk.gates
    for interface in _list_ends(case):
        for name, index in interfaces.items():
            is_name = gates.equal(interface.name, _encode_name(name))
            yield gates.same(is_name, gates.equal(interface.index, index.to_bytes(4, ORDER)))


def list_ordinary(
    case: Case, guard: Guard, interfaces: Mapping[str, int], own: OwnInterfaces
) -> Iterator[tuple[str, int]]:
    """What holds of a packet that anybody might send: in words, of what of it.

    Where not all of it can hold, it is the later that does not. Another target it gets only where it is known
    which.
    """
    at, gates = case.walk.start, case.walk.gates
    said: tuple[tuple[str, Iterable[int]], ...] = (
        ("its mark", (gates.equal(mark, bytes(4)) for mark in (at.mark, at.connection_mark))),
        ("the state of its connection", _list_states(case)),
        ("its flags", _list_flags(case)),
        ("its options and further headers", (-at.is_piece, *_list_whole(at))),
        ("what it is asked for beside", list_plain_facts(at, partial(_is_own_address, case, own))),
        ("its addresses", _list_addresses(case, guard, own)),
        ("its ports", _list_ports(at)),
        ("its user", [-at.user[_NO_USERS_BIT]]),
        ("its interfaces", _list_interfaces(case, guard, interfaces, own)),
        ("that a rule drops it on its way out", [case.leaves]),
        ("to what a rule translates it", case.walk.usual),
    )
    return ((words, wire) for words, wires in said for wire in wires)


def _list_states(case: Case) -> Iterator[int]:
    """It begins a connection, or is of one that conntrack has seen both ways."""
    connection, gates = case.walk.start.connection, case.walk.gates
    yield from (connection.is_tracked, -connection.is_related)
    is_old, asks_back = connection.is_established, _asks_back(case)
    if case.claim not in _ALSO_ANSWERS:
        yield gates.either(-connection.is_reply, asks_back)
    for weight, wire in enumerate(connection.status):
        is_set = {SEEN_REPLY: is_old, CONFIRMED: is_old, ASSURED: gates.both(is_old, -asks_back)}
        yield gates.same(wire, is_set.get(weight, FALSE))


def _list_flags(case: Case) -> Iterator[int]:
    """Of TCP: SYN of what begins, else ACK."""
    at, gates = case.walk.start, case.walk.gates
    is_later = gates.either(at.connection.is_established, TRUE if case.claim == "taken-up" else FALSE)
    is_later = gates.both(is_later, -_asks_back(case))
    yield gates.either(-at.is_tcp, gates.same(at.flag(SYN), -is_later))
    yield gates.either(-at.is_tcp, gates.same(at.flag(ACK), is_later))
    yield from (gates.either(-at.is_tcp, -at.transport[8 * 13 + bit]) for bit in (0, 1, 2, 4, RST, FIN))


def _asks_back(case: Case) -> int:
    """Who was asked by this machine asks in turn, before he answers."""
    at = case.walk.start
    if at.iif is None or case.claim in _ALSO_ANSWERS:
        return FALSE
    return case.walk.gates.all_of((at.is_tcp, at.connection.is_established, at.connection.is_reply))


def _list_ports(at: Traveller) -> Iterator[int]:
    yield from (at.gates.any_of(port) for port in (at.source_port, at.target_port))
    if at.iif is not None:
        yield -at.gates.less(at.source_port, _LEAST_PORT.to_bytes(2, "big"))


def _list_interfaces(
    case: Case, guard: Guard, interfaces: Mapping[str, int], own: OwnInterfaces
) -> Iterator[int]:
    """Those of the machine, as they are; and packets come and go by them as they do to one or to all."""
    start, at, gates = case.walk.start, case.walk.at, case.walk.gates
    for end in _list_ends(case):
        yield _is_usual_interface(gates, end, guard, interfaces, own)
        yield from (  # the kernel takes and sends none of a family of which it has no address there
            -gates.equal(end.name, _encode_name(name))
            for name, each in own.items()
            if not any((":" in text) == (case.family == "ip6") for text in each.addresses)
        )
    if start.iif is not None:
        yield from _list_ways(case)
    for oif, is_own in ((start.oif, start.is_for_this_machine), (at.oif, at.is_for_this_machine)):
        if oif is not None:  # by loopback goes what is for this machine itself
            yield gates.same(_has_type(gates, oif, _LOOPBACK), is_own)


def _list_ends(case: Case) -> list[PacketInterface]:
    """The interfaces by which it comes and goes; of what is sent also that of its first route."""
    start, at = case.walk.start, case.walk.at
    ends = (start.iif, start.oif, at.oif if at.oif is not start.oif else None)
    return [each for each in ends if each is not None]


def _list_addresses(case: Case, guard: Guard, own: OwnInterfaces) -> Iterator[int]:
    """From somebody to somebody; what comes to this machine comes to an address that it has."""
    at, gates = case.walk.start, case.walk.gates
    here = _list_own_addresses(own)
    is_here = _is_in_networks(gates, at.target, (*here, *_LOOPBACK_NETWORKS))
    others = (*_TARGETS[at.family], guard.control_address, *_list_networks(own))
    is_other, diverted = _is_in_networks(gates, at.target, others), case.walk.diversion.when
    if at.iif is None:
        yield _is_in_networks(gates, at.source, here or _SOURCES[at.family])
    else:
        strangers = (*_SOURCES[at.family], guard.control_address, *_list_networks(own))
        yield _is_in_networks(gates, at.source, strangers)
        yield gates.either(at.is_looped, -_is_in_networks(gates, at.source, here))  # the kernel takes none
        yield gates.either(at.is_looped, -gates.all_of(map(gates.same, at.source, at.target)))
    if at.iif is not None and case.walk.at.oif is None:
        to_one = is_here if here else is_other
        yield gates.choose(at.is_for_this_machine, to_one, gates.either(_is_to_all(case), diverted))
    elif here:
        yield gates.both(gates.either(is_here, is_other), gates.same(at.is_for_this_machine, is_here))
    else:
        yield is_other
    for address in (at.source, at.target):
        is_loopback = _is_in_networks(gates, address, _LOOPBACK_NETWORKS)
        yield gates.either(-at.is_looped, is_loopback)
        if at.iif is not None:  # from elsewhere the kernel takes none
            yield gates.either(at.is_looped, -is_loopback)
    yield from _list_diverted(case, own, here)


def _list_diverted(case: Case, own: OwnInterfaces, here: Iterable[str]) -> Iterator[int]:
    """Who has another target comes to this machine by it, or leaves by an interface where that target is."""
    gates, diversion, oif = case.walk.gates, case.walk.diversion, case.walk.at.oif
    if case.walk.start.iif is not None:
        yield gates.either(-diversion.when, gates.same(diversion.is_own, TRUE if oif is None else FALSE))
    if here:
        is_own = _is_in_networks(gates, diversion.target, (*here, *_LOOPBACK_NETWORKS))
        yield gates.either(-diversion.when, gates.same(diversion.is_own, is_own))
    if own and oif is not None:
        beside = gates.any_of(
            gates.both(
                gates.equal(oif.name, _encode_name(name)),
                _is_in_networks(gates, diversion.target, _list_networks({name: each})),
            )
            for name, each in own.items()
        )
        yield gates.any_of((-diversion.when, diversion.is_own, beside))


def _list_ways(case: Case) -> Iterator[int]:
    """To this machine alone, or to all; passed on to others."""
    at, gates = case.walk.start, case.walk.gates
    to_one = gates.equal(at.packet_type, b"\0")
    diverted = case.walk.diversion.when
    if case.walk.at.oif is None:
        to_this = gates.both(to_one, gates.either(at.is_for_this_machine, diverted))
        yield gates.either(to_this, _is_to_all(case))
    else:
        yield from (to_one, gates.either(-at.is_for_this_machine, diverted))


def _is_to_all(case: Case) -> int:
    """A datagram to all machines beside it: nothing of a connection."""
    at, gates = case.walk.start, case.walk.gates
    address, kind = _TO_ALL[at.family]
    return gates.all_of(
        (at.is_udp, -at.is_for_this_machine, -at.is_looped, -at.connection.is_established,
         gates.equal(at.packet_type, kind), _is_in_networks(gates, at.target, [address]))
    )  # fmt: skip


def _is_own_address(case: Case, own: OwnInterfaces, address: Wires, where: Wires | None) -> int | None:
    """Whether it is this machine's; where: at the interface of that number."""
    at, gates = case.walk.start, case.walk.gates
    if where is None:
        here = (*_list_own_addresses(own), *_LOOPBACK_NETWORKS)
        return _is_in_networks(gates, address, here) if own else at.is_looped
    assert at.iif is not None
    if not own:
        return None
    return gates.any_of(
        gates.both(
            gates.equal(at.iif.name, _encode_name(name)),
            _is_in_networks(gates, address, [str(ipaddress.ip_interface(text).ip) for text in addresses]),
        )
        for name, addresses in (*((name, each.addresses) for name, each in own.items()), _LOOPBACK_INTERFACE)
    )


def _list_own_addresses(own: OwnInterfaces) -> list[str]:
    return [str(ipaddress.ip_interface(text).ip) for each in own.values() for text in each.addresses]


def _list_networks(own: OwnInterfaces) -> list[str]:
    """Of the addresses at interfaces, those that have neighbours."""
    return [
        str(ipaddress.ip_interface(text).network)
        for each in own.values()
        for text in each.addresses
        if not ipaddress.ip_interface(text).is_link_local
    ]


def _is_neighbour(gates: Gates, address: Wires, networks: Iterable[str], own: OwnInterfaces) -> int:
    """An address that another machine has there: neither the network's nor for all of them, nor its own."""
    found = FALSE
    for text in networks:
        network = ipaddress.ip_network(text)
        if network.max_prefixlen == len(address) and network.num_addresses > 2:
            ends = (int(network.network_address) + 1, int(network.broadcast_address) - 1)
            found = gates.either(found, gates.is_within(address, [ends]))
    return gates.both(found, -_is_in_networks(gates, address, _list_own_addresses(own)))


def list_preferred(case: Case, guard: Guard, own: OwnInterfaces) -> Iterator[int]:
    """What is best for an example, where it can be: a stranger's first packet, by an ordinary interface."""
    at, gates = case.walk.start, case.walk.gates
    yield -case.walk.diversion.when
    yield gates.any_of(gates.equal(at.user, each.to_bytes(4, ORDER)) for each in _USERS)
    yield -at.is_looped
    yield at.is_for_this_machine
    if at.iif is None:
        yield at.has_socket
    elif case.walk.at.oif is not None:
        yield -gates.all_of(map(gates.same, at.iif.index, case.walk.at.oif.index))
        yield -gates.equal(at.iif.name, _encode_name(guard.interface))
    for end in _list_ends(case):
        is_named = gates.equal(end.name, _encode_name(guard.interface))
        yield from (-_has_type(gates, end, _LOOPBACK), -gates.both(is_named, _has_type(gates, end, _ETHER)))
        yield -end.has_kind
    yield -at.connection.is_established
    yield gates.same(at.is_tcp, -at.connection.is_established)  # of UDP nobody has to know a number of before
    target = at.target if case.walk.at.oif is None else case.walk.diversion.target
    for interface, address in ((at.iif, at.source), (case.walk.at.oif, target)):
        if interface is not None and own:
            yield gates.any_of(
                gates.both(
                    gates.equal(interface.name, _encode_name(name)),
                    _is_neighbour(gates, address, _list_networks({name: each}), own),
                )
                for name, each in own.items()
            )
    for address, networks in ((at.source, _SOURCES), (at.target, _TARGETS)):
        for network in networks[at.family]:
            yield _is_in_networks(gates, address, [network])


def _list_whole(at: Traveller) -> Iterator[int]:
    gates = at.gates
    if at.family == "ip":
        yield gates.equal(at.network[:8], b"\x45")
        yield from (-bit for bit in at.network[8 * 6 + 2 : 8 * 8])
    else:
        yield from (gates.same(*pair) for pair in zip(at.network[48:56], at.protocol, strict=True))


def _is_in_networks(gates: Gates, address: Wires, networks: Iterable[str]) -> int:
    found = FALSE
    for text in networks:
        network = ipaddress.ip_network(text)
        if network.max_prefixlen == len(address):
            ends = (int(network.network_address), int(network.broadcast_address))
            found = gates.either(found, gates.is_within(address, [ends]))
    return found


def _is_usual_interface(
    gates: Gates, interface: PacketInterface, guard: Guard, interfaces: Mapping[str, int], own: OwnInterfaces
) -> int:
    """One of this machine's, as it is; or one of another kind that has the tunnel's name."""
    found = FALSE
    for name, index in _number_interfaces(guard, interfaces, own).items():
        number = gates.equal(interface.index, index.to_bytes(4, ORDER))
        here = gates.both(number, gates.equal(interface.name, _encode_name(name)))
        if name == "lo":
            usual = _is_of_kind(gates, interface, None, _LOOPBACK)
        elif name == guard.interface:
            is_tunnel = _is_of_kind(gates, interface, guard.kind, _NONE)
            usual = gates.either(is_tunnel, _is_of_kind(gates, interface, "dummy", _ETHER))
        elif name in own:
            usual = _is_of_kind(gates, interface, own[name].kind, _ETHER if own[name].is_ethernet else _NONE)
        else:
            kinds = (None, "bridge")
            usual = gates.any_of(_is_of_kind(gates, interface, kind, _ETHER) for kind in kinds)
        found = gates.either(found, gates.both(here, usual))
    return found


def _number_interfaces(guard: Guard, interfaces: Mapping[str, int], own: OwnInterfaces) -> Mapping[str, int]:
    """The interfaces by which packets come and go. Numbers that the rules know are the rules' own."""
    if not own:
        return {"lo": 1, "eth0": 2, guard.interface: 3, **interfaces}
    free = count(max(interfaces.values(), default=0) + 1)
    return {name: interfaces.get(name) or next(free) for name in ("lo", guard.interface, *own)}


def _is_of_kind(gates: Gates, interface: PacketInterface, kind: str | None, number: int) -> int:
    if kind is None:
        return gates.both(-interface.has_kind, _has_type(gates, interface, number))
    is_named = gates.equal(interface.kind, _encode_name(kind))
    return gates.all_of((interface.has_kind, is_named, _has_type(gates, interface, number)))


def _encode_name(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")[:16].ljust(16, b"\0")


def _has_type(gates: Gates, interface: PacketInterface, number: int) -> int:
    return gates.equal(interface.type, number.to_bytes(2, ORDER))
