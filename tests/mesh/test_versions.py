"""What machines say that they speak, and versions by their numbers."""

from __future__ import annotations

import itertools
import random

import pytest

from qmesh import __version__
from qmesh.mesh.audit.members import apart_findings
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.protocol.versions import (
    OWN,
    SAYS_NOTHING,
    ProtocolsApart,
    SpokenProtocol,
    decode_protocol,
    encode_protocol,
    is_understood,
    rank_version,
)

LATER = SpokenProtocol(newest=OWN.newest + 2, oldest=OWN.newest + 1, qmesh="9.0.0")


def test_what_is_said_is_what_is_heard():
    assert decode_protocol(encode_protocol().encode()) == OWN
    assert OWN.qmesh == __version__
    assert decode_protocol(encode_protocol(LATER).encode()) == LATER


@pytest.mark.parametrize(
    "header",
    [b"", b"2", b"2 1", b"0 1 0.2.0", b"2 1 0.2.0 more", b"99999 1 0.2.0", b"-1 1 x", b"\xff 1 0.2.0"],
)
def test_who_says_nothing_that_is_understood_speaks_the_first(header):
    assert decode_protocol(header) == SAYS_NOTHING


def test_a_version_from_elsewhere_is_text_that_harms_no_terminal():
    assert decode_protocol(b"2 1 \x1b[31m0.2.0").qmesh == "31m0.2.0"


def test_one_protocol_in_both_ranges_is_enough_and_the_version_before_has_one():
    assert is_understood(SAYS_NOTHING)
    assert is_understood(OWN)
    assert is_understood(SpokenProtocol(OWN.newest + 1, OWN.newest))
    assert not is_understood(LATER)
    assert not is_understood(OWN, LATER)
    assert not is_understood(SpokenProtocol(1, 1), SpokenProtocol(3, 2))


def test_both_machines_are_told_which_of_them_has_to_be_updated():
    here = ProtocolsApart("the control node", LATER, own_name="this machine")
    there = ProtocolsApart("the machine that asks", OWN, own_name="the control node", own=LATER)
    assert "the control node has qmesh 9.0.0, which speaks protocol 3 to 4" in here.message
    assert f"this machine has qmesh {__version__}, which speaks protocol 1 to 2" in here.message
    assert here.hint == "update qmesh on this machine, to 9.0.0 or newer"
    assert there.hint == "update qmesh on the machine that asks, to 9.0.0 or newer"
    first = ProtocolsApart("the control node", SAYS_NOTHING, own_name="this machine", own=LATER)
    assert "qmesh 0.1.0, which speaks protocol 1" in first.message
    assert first.hint == "update qmesh on the control node, to 9.0.0 or newer"


def test_a_machine_that_is_not_understood_is_an_error_on_both():
    facts = MachineFacts(qmesh="9.0.0", protocol=LATER.newest, oldest_protocol=LATER.oldest)
    known = {"a": facts, "b": facts, "c": MachineFacts()}
    (found,) = apart_findings(known, own_name="a", control="a", spoken=None)
    assert (found.code, found.severity, found.subject) == ("versions-apart", "error", "b")
    assert found.cure == (
        "see `qmesh --version` on b; if that is newer than here, update qmesh on a, to 9.0.0 or newer"
    )
    (found,) = apart_findings({"b": facts}, own_name="b", control="a", spoken=LATER)
    assert (found.subject, found.cure) == ("a", "update qmesh on b, to 9.0.0 or newer")
    assert "9.0.0" in found.seen


def test_a_member_writes_no_instruction_into_what_is_to_be_done():
    facts = MachineFacts(qmesh="9.0.0 of https://example.org/x.deb", protocol=9999, oldest_protocol=9999)
    (found,) = apart_findings({"b": facts}, own_name="a", control="a", spoken=None)
    assert found.cure == (
        "see `qmesh --version` on b; if that is newer than here, update qmesh on a, to what b has, or newer"
    )


def test_versions_are_compared_by_their_numbers():
    in_order = [
        "nonsense",
        "0.1.0",
        "0.2.0.dev0+g1234567",
        "0.2.0.dev3",
        "0.2.0.dev10",
        "0.2.0a1",
        "0.2.0b1",
        "0.2.0rc1.dev1",
        "0.2.0rc1",
        "0.2.0rc2",
        "0.2.0",
        "0.2.0.post1.dev1",
        "0.2.0.post1",
        "0.2.1",
        "0.10.0",
        "1.0",
    ]
    assert sorted(random.sample(in_order, len(in_order)), key=rank_version) == in_order
    for older, newer in itertools.pairwise(in_order):
        assert rank_version(older) < rank_version(newer)
    assert rank_version("0.2")[:-1] == rank_version("0.2.0")[:-1]
    assert rank_version("0.0.0")[:-1] > rank_version("")[:-1]
