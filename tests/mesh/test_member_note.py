"""What members note of themselves: any program there may send it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.protocol.member_note import MOST_CHARACTERS, MemberNote, decode_note, encode_note

ADDRESSES = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))
PLACES = st.lists(st.tuples(st.integers(1, 65535), ADDRESSES), max_size=10, unique_by=lambda place: place[0])


CORES = st.tuples(st.integers(1, 65535), st.integers(1, 65535))


@given(st.lists(CORES, max_size=4), PLACES)
def test_law_what_is_noted_is_read(cores, places):
    note = MemberNote(stopped=tuple(cores), elsewhere=tuple(places[:6]))
    line = encode_note(note)
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= MOST_CHARACTERS
    assert decode_note(line) == note


def test_who_stopped_and_who_is_elsewhere_is_read():
    found = decode_note("3-5@stopped,9@::1")
    assert found == MemberNote(stopped=((3, 5),), elsewhere=((9, "::1"),))


def test_of_many_workers_the_first_are_noted():
    note = MemberNote(elsewhere=tuple((core, "127.0.0.1") for core in range(1, 100)))
    assert decode_note(encode_note(note)).elsewhere == note.elsewhere[:10]
    assert decode_note(encode_note(MemberNote(is_down=True))) == MemberNote(is_down=True)
    assert encode_note(MemberNote()) == ""


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "x",
            "down ",
            "4@",
            "4@x",
            "@::1",
            "-4@::1",
            "٤@::1",
            "999999@::1",
            "4@::1%\x1b[2J",
            "," * 9999,
        ),
        *("4@stopped", "4-x@stopped", "-@stopped", "1-999999@stopped"),
    ],
)
def test_what_is_no_note_says_nothing(line):
    found = decode_note(line)
    assert found == MemberNote()


@given(st.text())
def test_law_whatever_is_sent_is_read(line):
    for _, address in decode_note(line).elsewhere:
        assert address.isprintable()
