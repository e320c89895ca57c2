"""What passes to the next control node: keys that cross no wire, and who is ready."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.changes import set_endpoints, set_successor
from qmesh.mesh.protocol.handover import (
    HandoverData,
    HandoverProgress,
    decode_handover_data,
    derive_successor_preshared_key,
    encode_handover_data,
    list_unready_members,
    read_progress,
)
from qmesh.mesh.values import Endpoint, Secret
from tests.support.factories import cluster, key

SHARED = Secret(key(77))
BEFORE = set_endpoints(cluster(3, 4, 10, 2), "b", [Endpoint("203.0.113.2", 51820)])
BETWEEN = set_successor(BEFORE, "b")
B, C, D = "10.77.0.2", "10.77.0.3", "10.77.0.4"
NOW = BETWEEN.revision


def test_a_member_and_the_control_node_derive_one_key_with_the_successor_and_others_another() -> None:
    derived = derive_successor_preshared_key(key(2), SHARED)
    assert derived == derive_successor_preshared_key(key(2), Secret(SHARED.reveal()))
    assert (
        len(
            {
                derived,
                SHARED,
                derive_successor_preshared_key(key(3), SHARED),
                derive_successor_preshared_key(key(2), derived),
            }
        )
        == 4
    )
    assert len(derived.reveal()) == 44


def test_the_derived_key_stays_what_it_is_in_every_version() -> None:
    assert (
        derive_successor_preshared_key(key(2), SHARED).reveal()
        == "iBO7OnKyaFEG+IMpK88GdRa00PN7/q8uhQ8a1H+S/G4="
    )


@pytest.mark.parametrize(
    ("acknowledged", "silent", "names"),
    [
        ({}, (), ("c", "d")),
        ({C: NOW, D: NOW}, (), ()),
        ({C: NOW, D: NOW - 1}, (), ("d",)),
        ({C: NOW, D: NOW + 1}, (C,), ("c",)),
        ({C: NOW - 1, D: NOW}, (C, D), ("c", "d")),
        ({C: NOW, D: NOW}, (B, "10.77.0.1"), ()),
    ],
)
def test_ready_is_who_knows_of_the_successor_and_shook_hands_with_it(
    acknowledged: dict[str, int], silent: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert list_unready_members(BETWEEN, acknowledged, silent) == names


def test_an_estate_and_progress_travel_whole_or_are_refused() -> None:
    estate = HandoverData(event=5, registry=b"rows", signing_key=bytes(32))
    assert decode_handover_data(encode_handover_data(estate)) == estate
    assert "rows" not in repr(estate)
    progress = HandoverProgress(holds=3, silent=("10.77.0.3",))
    assert read_progress(msgspec.json.encode(progress)) == progress
    for damaged in (b"", encode_handover_data(estate)[:-1], msgspec.msgpack.encode({"event": 5})):
        with pytest.raises(EnrolmentRefused, match="not understood"):
            decode_handover_data(damaged)
    for body in (
        b'{"holds":-1,"silent":[]}',
        b'{"holds":1' + b"0" * 30 + b',"silent":[]}',
        b"",
        b"{}",
        b'{"holds": -',
        b'{"holds":1,"silent":[1]}',
        b'{"holds":1,"silent":[],"x":1}',
    ):
        with pytest.raises(EnrolmentRefused, match="not understood"):
            read_progress(body)
