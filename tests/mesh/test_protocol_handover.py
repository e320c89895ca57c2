"""What passes to the next control node: keys that cross no wire, and who is ready."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.changes import to_be_succeeded, with_endpoints
from qmesh.mesh.model import Endpoint, Secret
from qmesh.mesh.protocol.handover import (
    Estate,
    Progress,
    missing,
    packed,
    preshared_key_with,
    read_progress,
    unpacked,
)
from tests.mesh.test_changes import cluster
from tests.mesh.test_inventory import key

SHARED = Secret(key(77))
BEFORE = with_endpoints(cluster(3, 4, 10, 2), "b", [Endpoint("203.0.113.2", 51820)])
BETWEEN = to_be_succeeded(BEFORE, "b")
B, C, D = "10.77.0.2", "10.77.0.3", "10.77.0.4"
NOW = BETWEEN.revision


def test_a_member_and_the_control_node_derive_one_key_with_the_successor_and_others_another() -> None:
    derived = preshared_key_with(key(2), SHARED)
    assert derived == preshared_key_with(key(2), Secret(SHARED.reveal()))
    assert (
        len({derived, SHARED, preshared_key_with(key(3), SHARED), preshared_key_with(key(2), derived)}) == 4
    )
    assert len(derived.reveal()) == 44


def test_the_derived_key_stays_what_it_is_in_every_version() -> None:
    assert preshared_key_with(key(2), SHARED).reveal() == "iBO7OnKyaFEG+IMpK88GdRa00PN7/q8uhQ8a1H+S/G4="


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
    assert missing(BETWEEN, acknowledged, silent) == names


def test_an_estate_and_progress_travel_whole_or_are_refused() -> None:
    estate = Estate(event=5, registry=b"rows", signing_key=bytes(32))
    assert unpacked(packed(estate)) == estate
    assert "rows" not in repr(estate)
    progress = Progress(holds=3, silent=("10.77.0.3",))
    assert read_progress(msgspec.json.encode(progress)) == progress
    for damaged in (b"", packed(estate)[:-1], msgspec.msgpack.encode({"event": 5})):
        with pytest.raises(EnrolmentRefused, match="not understood"):
            unpacked(damaged)
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
