"""Which endpoints there are, which is nearest, when one is given up, and what fits a path."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.endpoints import (
    ASK_S,
    FRESH_S,
    INITIATION,
    MOST_ENDPOINTS,
    QUIET_S,
    ROUNDS,
    ControlNodeActivity,
    attempt_wait_s,
    choose_next_endpoint,
    choose_peer_endpoints,
    find_roamed_endpoints,
    find_stale_keys,
    find_translating_network,
    index_addresses,
    is_private,
    list_candidate_endpoints,
    list_lookups,
    list_peer_endpoints,
    move_endpoint_first,
    sort_by_latency,
    sort_by_locality,
)
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.mtu import compute_tunnel_mtu, parse_mtu
from qmesh.mesh.state import Counters, NodeState, Peer, Tunnel
from qmesh.mesh.values import Endpoint
from tests.support import factories
from tests.support.factories import key


def at(text: str) -> Endpoint:
    return Endpoint.parse(text)


PUBLIC, PUBLIC6, NAME = at("203.0.113.5"), at("2001:db8::5"), at("control.example.org")
LAN, ULA, OTHER_LAN = at("192.168.0.200"), at("fd00:1a::200"), at("10.9.0.1")


@pytest.mark.parametrize(
    ("endpoint", "private"),
    [
        (LAN, True),
        (OTHER_LAN, True),
        (ULA, True),
        (at("172.31.255.1"), True),
        (at("100.100.0.1"), True),
        (at("172.32.0.1"), False),
        (PUBLIC, False),
        (PUBLIC6, False),
        (NAME, False),
    ],
)
def test_knows_addresses_that_are_good_within_a_site_only(endpoint: Endpoint, private: bool) -> None:
    assert is_private(endpoint) is private


@pytest.mark.parametrize(
    ("said", "own", "wanted"),
    [
        ((), ("203.0.113.5", "192.168.0.200"), (PUBLIC, LAN)),
        ((NAME,), ("203.0.113.5", "192.168.0.200", "fd00:1a::200"), (NAME, LAN, ULA)),
        ((LAN, PUBLIC), ("192.168.0.200",), (LAN, PUBLIC)),
        ((NAME,), (), (NAME,)),
        ((), (), ()),
    ],
)
def test_an_invitation_has_what_was_said_and_the_private_ones(
    said: tuple[Endpoint, ...], own: tuple[str, ...], wanted: tuple[Endpoint, ...]
) -> None:
    assert list_candidate_endpoints(said, own, 51820) == wanted


def test_an_invitation_has_not_more_than_it_can_hold() -> None:
    own = [f"10.0.0.{number}" for number in range(1, 40)]
    found = list_candidate_endpoints((NAME,), own, 51821)
    assert len(found) == MOST_ENDPOINTS
    assert found[:2] == (NAME, Endpoint("10.0.0.1", 51821))


def test_looks_first_in_its_own_networks_and_last_in_other_sites() -> None:
    everywhere = (NAME, OTHER_LAN, PUBLIC, LAN, PUBLIC6, ULA)
    attached = ("192.168.0.0/24", "2001:db8::/64")
    assert sort_by_locality(everywhere, attached) == (LAN, PUBLIC6, NAME, PUBLIC, OTHER_LAN, ULA)
    assert sort_by_locality(everywhere, ()) == (NAME, PUBLIC, PUBLIC6, OTHER_LAN, LAN, ULA)


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ({PUBLIC: 0.030, LAN: 0.001}, (LAN, PUBLIC, ULA)),
        ({PUBLIC: 0.001, LAN: 0.004}, (LAN, PUBLIC, ULA)),
        ({PUBLIC: 0.001, LAN: 0.040}, (PUBLIC, LAN, ULA)),
        ({PUBLIC: 0.010}, (PUBLIC, LAN, ULA)),
        ({ULA: 0.020, PUBLIC: 0.010, LAN: 0.030}, (PUBLIC, ULA, LAN)),
        ({}, (LAN, ULA, PUBLIC)),
    ],
)
def test_the_nearest_is_first_and_among_equals_the_preferred(
    times: dict[Endpoint, float], wanted: tuple[Endpoint, ...]
) -> None:
    assert sort_by_latency((LAN, ULA, PUBLIC), times) == wanted


@given(
    st.permutations([LAN, ULA, PUBLIC, NAME]),
    st.dictionaries(st.sampled_from([LAN, ULA, PUBLIC, NAME]), st.floats(0, 10)),
)
def test_no_way_is_lost_by_its_time(ways: list[Endpoint], times: dict[Endpoint, float]) -> None:
    found = sort_by_latency(ways, times)
    assert sorted(found) == sorted(ways)
    assert set(found[: len(times)]) == set(times)


class TestContact:
    def test_asks_and_then_gives_up_when_nothing_is_heard(self) -> None:
        contact = ControlNodeActivity(500, 100.0)
        assert not contact.is_probe_due(100 + ASK_S - 1)
        assert contact.is_probe_due(100 + ASK_S)
        assert not contact.is_lost(100 + QUIET_S - 1)
        assert contact.is_lost(100 + QUIET_S)

    def test_a_packet_begins_it_anew(self) -> None:
        assert ControlNodeActivity(500, 100.0, tried_endpoints=3).record_received(
            532, 117.0
        ) == ControlNodeActivity(532, 117.0)

    def test_one_that_only_begins_handshakes_does_not_hear_us(self) -> None:
        contact = (
            ControlNodeActivity(500, 100.0)
            .record_received(500 + INITIATION, 105.0)
            .record_received(500 + 3 * INITIATION, 110.0)
        )
        assert contact == ControlNodeActivity(500 + 3 * INITIATION, 100.0)
        assert contact.record_received(500 + 4 * INITIATION + 96, 112.0).received_at_s == 112.0

    def test_a_peer_made_anew_counts_anew(self) -> None:
        moved = ControlNodeActivity(500, 100.0).record_endpoint_change()
        assert moved == ControlNodeActivity(0, 100.0, tried_endpoints=1)
        assert moved.record_received(0, 130.0) == moved
        assert moved.record_received(92, 130.0) == ControlNodeActivity(92, 130.0)
        assert ControlNodeActivity(500, 100.0).record_received(0, 130.0) == ControlNodeActivity(0, 100.0)
        assert ControlNodeActivity(500, 100.0).record_received(92, 130.0) == ControlNodeActivity(92, 130.0)


@pytest.mark.parametrize(
    ("ways", "now", "wanted"),
    [
        ((LAN, PUBLIC, NAME), LAN, PUBLIC),
        ((LAN, PUBLIC, NAME), NAME, LAN),
        ((LAN, PUBLIC), OTHER_LAN, LAN),
        ((LAN, PUBLIC), None, LAN),
        ((LAN,), LAN, None),
        ((), LAN, None),
    ],
)
def test_goes_round_the_ways(
    ways: tuple[Endpoint, ...], now: Endpoint | None, wanted: Endpoint | None
) -> None:
    assert choose_next_endpoint(ways, now) == wanted


def test_remembers_the_one_that_works_first() -> None:
    assert move_endpoint_first((LAN, PUBLIC, NAME), PUBLIC) == (PUBLIC, LAN, NAME)


@pytest.mark.parametrize(
    ("paths", "most", "wanted"),
    [
        ({}, None, 1420),
        ({PUBLIC: 1500}, None, 1420),
        ({PUBLIC6: 1500}, None, 1420),
        ({PUBLIC: 9000}, None, 1420),
        ({PUBLIC: 1492}, None, 1420),
        ({PUBLIC6: 1492}, None, 1412),
        ({PUBLIC: 1400}, None, 1340),
        ({PUBLIC6: 1400}, None, 1320),
        ({PUBLIC: 1500, PUBLIC6: 1400}, None, 1320),
        ({PUBLIC: 1300}, None, 1280),
        ({PUBLIC: 1500}, 1232, 1232),
        ({PUBLIC: 1400}, 1400, 1340),
        ({}, 1380, 1380),
    ],
)
def test_a_tunnel_fits_its_paths(paths: dict[Endpoint, int], most: int | None, wanted: int) -> None:
    assert compute_tunnel_mtu(paths, most=most) == wanted


def test_takes_a_users_word_for_the_mtu() -> None:
    assert parse_mtu("auto", "10.77.0.0/20") is None
    assert parse_mtu("576", "10.77.0.0/20") == 576
    assert parse_mtu("1420", "fd12::/64") == 1420


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("575", "10.77.0.0/20"),
        ("1279", "fd12::/64"),
        ("1421", "fd12::/64"),
        ("", "fd12::/64"),
        ("١٣٠٠", "10.0.0.0/8"),
    ],
)
def test_refuses_what_is_no_mtu(text: str, network: str) -> None:
    with pytest.raises(BadInput):
        parse_mtu(text, network)


# What peers are set to

OTHER_NAME = at("other.example.org")
ROAMED = at("198.51.100.7")
CONTROL = Machine(name="control", public_key=key(1), address="10.77.0.1", workers=1, endpoints=(PUBLIC,))
B = Machine(name="b", public_key=key(2), address="10.77.0.2", workers=1, endpoints=(NAME, LAN))
C = Machine(name="c", public_key=key(3), address="10.77.0.3", workers=1)


def mesh(**named: Any) -> Inventory:
    return factories.mesh(**{"machines": (CONTROL, B, C), "control": "control", **named})


def seen(**endpoints: Endpoint | None) -> NodeState:
    """A machine whose tunnel has these peers."""
    keys = {machine.name: machine.public_key for machine in (CONTROL, B, C)}
    peers = tuple(
        Peer(public_key=keys[name], allowed_ips=(), endpoint=where) for name, where in endpoints.items()
    )
    tunnel = Tunnel(
        interface="qmesh0",
        kind="tun",
        public_key=None,
        listen_port=1,
        addresses=(),
        mtu=1420,
        up=True,
        peers=peers,
    )
    return NodeState(guard=None, tunnel=tunnel)


NOTHING = NodeState(guard=None, tunnel=None)


@pytest.mark.parametrize(
    ("name", "successor", "expected"),
    [
        ("control", None, {"b": (NAME, LAN)}),
        ("b", None, {"control": (OTHER_NAME, PUBLIC)}),
        ("c", "b", {"control": (OTHER_NAME, PUBLIC), "b": (NAME, LAN)}),
        ("b", "b", {"control": (OTHER_NAME, PUBLIC)}),
    ],
)
def test_a_machine_reaches_who_has_endpoints_and_is_its_peer(name, successor, expected):
    remembered = (OTHER_NAME, PUBLIC)
    found = list_peer_endpoints(mesh(successor=successor), name, remembered)
    assert {machine.name: endpoints for machine, endpoints in found} == expected


@pytest.mark.parametrize(
    ("observed", "stale", "lookups", "resolved", "chosen"),
    [
        # Nowhere yet: the first that has an address.
        (NOTHING, False, [((NAME, LAN), False)], {NAME: (ROAMED, PUBLIC6)}, ROAMED),
        (NOTHING, False, [((NAME, LAN), False)], {NAME: ()}, LAN),
        (seen(b=None), False, [((NAME, LAN), False)], {}, LAN),
        # At one of its addresses it stays; somewhere else too, as long as it is heard there.
        (seen(b=LAN), True, [], {}, LAN),
        (seen(b=ROAMED), False, [], {}, None),
        # Not heard: where it may be now, or there, if a name says so still.
        (seen(b=ROAMED), True, [((NAME, LAN), True)], {NAME: (PUBLIC6, ROAMED)}, ROAMED),
        (seen(b=ROAMED), True, [((NAME, LAN), True)], {NAME: (PUBLIC6,)}, PUBLIC6),
    ],
)
def test_names_are_looked_up_only_of_who_is_nowhere_or_not_heard(observed, stale, lookups, resolved, chosen):
    peers = [(B, (NAME, LAN))]
    old = frozenset({B.public_key}) if stale else frozenset()
    assert list_lookups(peers, observed, old) == lookups
    expected = {} if chosen is None else {"b": chosen}
    assert choose_peer_endpoints(peers, observed, resolved, old) == expected


def test_who_has_addresses_alone_is_set_to_the_first_again():
    assert choose_peer_endpoints([(B, (LAN, PUBLIC))], seen(b=ROAMED), {}) == {"b": LAN}
    assert choose_peer_endpoints([(B, (NAME,))], NOTHING, {}) == {}


def test_a_peer_with_a_fresh_handshake_stays_where_wireguard_followed_it():
    now = 1_000_000.0

    def counted(ago_s: int, endpoint: Endpoint | None) -> dict[str, Counters]:
        return {B.public_key: Counters(int(now) - ago_s, 1, 1, endpoint), key(9): Counters(None, 0, 0, None)}

    for counters, expected in (
        (counted(1, ROAMED), {"b": ROAMED}),
        (counted(1, LAN), {}),
        (counted(1, None), {}),
        (counted(FRESH_S, ROAMED), {}),
        (counted(-FRESH_S, ROAMED), {}),
        ({}, {}),
    ):
        assert find_roamed_endpoints(mesh(), counters, {"b": LAN}, now) == expected
    assert find_roamed_endpoints(mesh(), counted(1, ROAMED), {}, now) == {}
    assert find_stale_keys(counted(1, None), now) == {key(9)}


def test_a_joining_machine_waits_longer_in_later_rounds_and_once_for_a_control_node_behind_nat():
    few = [[attempt_wait_s(turn, number, 2) for number in range(2)] for turn in range(ROUNDS)]
    assert few == [[1.0, 1.0], [2.0, 2.0], [6.0, 2.0]]
    assert [attempt_wait_s(turn, 1, 5) for turn in range(ROUNDS)] == [1.0, 1.0, 1.0]


def test_an_address_of_two_endpoints_is_the_first_ones():
    one, two = Endpoint("one.example", 1), Endpoint("two.example", 1)
    a, b = Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 1)
    assert list(index_addresses({one: (a,), two: (b, a)}).items()) == [(a, one), (b, two)]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("64:ff9b::192.0.0.170", "64:ff9b::/96"),
        ("2001:db8:1::192.0.0.171", "2001:db8:1::/96"),
        ("2001:db8:1::192.0.0.172", None),
        ("192.0.0.170", None),
    ],
)
def test_the_network_that_translates_ipv4_is_seen_by_a_translated_address(
    address: str, network: str | None
) -> None:
    assert find_translating_network(address) == network
