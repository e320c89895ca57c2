"""Who are readers, what they may ask, and what they see of an answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput, EnrolmentRefused, MachineRefused, NeedsRoot
from qmesh.mesh.decode import Malformed
from qmesh.mesh.view.answers import LogAnswer, RefusalAnswer, keep_shown_fields
from qmesh.mesh.view.cluster_view import EventView
from qmesh.mesh.view.questions import (
    MOST_HEAD,
    MOST_QUESTION,
    OVERFLOW_ID,
    QUESTIONS,
    AnswerHead,
    Caller,
    build_error_head,
    find_error,
    may_ask,
    parse_head,
    parse_question,
    render_head,
    validate_group_name,
)


@pytest.mark.parametrize(
    ("caller", "group", "may"),
    [
        (Caller(1001, frozenset((1001, 2000))), 2000, True),
        (Caller(1001, frozenset((1001, 2001))), 2000, False),
        (Caller(2000, frozenset((1001,))), 2000, False),  # a user of that number
        (Caller(0, frozenset((0,))), 2000, True),
        (Caller(1001, frozenset((OVERFLOW_ID,))), OVERFLOW_ID, False),
        (Caller(0, frozenset()), OVERFLOW_ID, True),
    ],
)
def test_root_and_the_groups_members_may_ask(caller, group, may):
    assert may_ask(caller, group) is may


def test_each_question_is_a_word():
    for question in QUESTIONS:
        assert parse_question(question.encode()) == question
        assert len(question) < MOST_QUESTION


@pytest.mark.parametrize(
    "line", [b"", b"apply", b"status ", b"STATUS", b"status\0", b"set --readers x", b"\xff"]
)
def test_what_is_no_question_is_refused(line):
    with pytest.raises(BadInput) as refused:
        parse_question(line)
    assert "status, check, log, metrics, view" in refused.value.hint


@pytest.mark.parametrize(
    "name", ["qmesh-readers", "_a", "Ops.Team", "DOMAIN\\ops", "x" * 64, "a1", "1a", "gruppe-ä"]
)
def test_a_groups_name_may_be_what_directories_allow(name):
    assert validate_group_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "1000", "-aG", "a b", "a:b", "a,b", "../x", "a\nb", "a\x1b", "x" * 65, "$(id)", "'a'"]
)
def test_what_is_no_groups_name_is_refused(name):
    with pytest.raises(BadInput, match="is not the name of a group"):
        validate_group_name(name)


@given(st.text(), st.text(), st.sampled_from((BadInput, MachineRefused, NeedsRoot, EnrolmentRefused)))
def test_an_error_arrives_as_the_same_kind_however_long_it_is(message, hint, kind):
    error = kind(message or "x", hint=hint)
    line = render_head(build_error_head(error))
    assert len(line) <= MOST_HEAD + 1
    assert line.endswith(b"\n")
    found = find_error(parse_head(line[:-1]))
    assert found is not None
    assert (found.exit_code, isinstance(error, type(found))) == (kind.exit_code, True)


def test_a_short_error_arrives_whole_and_a_long_one_cut():
    error = find_error(parse_head(render_head(build_error_head(BadInput("no\udcff", hint="do")))[:-1]))
    assert error is not None
    assert (error.message, error.hint) == ("no?", "do")
    line = render_head(build_error_head(MachineRefused("\x01" * MOST_HEAD, hint="\x02" * MOST_HEAD)))
    assert MOST_HEAD // 2 < len(line) <= MOST_HEAD + 1


def test_an_error_of_an_unknown_kind_is_the_machines():
    found = find_error(AnswerHead(error="no", exit_code=77))
    assert type(found) is MachineRefused
    assert find_error(AnswerHead(exit_code=2)) is not None


def test_a_head_of_an_answer_is_no_error():
    head = AnswerHead(octets=7, age_s=1.5)
    assert parse_head(render_head(head)[:-1]) == head
    assert find_error(head) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"octets": -1}', b'{"octets": 16777217}', b'{"more": 1}', b" " * MOST_HEAD + b"{}"],
)
def test_what_is_no_head_is_malformed(line):
    with pytest.raises(Malformed):
        parse_head(line)


def test_of_a_commands_answer_only_what_is_named_is_kept():
    event = EventView(at=1, command="join", what="joined", machine="b", revision=2, address="10.77.0.2")
    said = msgspec.to_builtins(LogAnswer((event,)))
    more = {**said["events"][0], "endpoint": "192.0.2.1:5", "public_key": "KEY", "secret": "KEY"}
    kept = keep_shown_fields(msgspec.json.encode({"events": [more], "more": "KEY"}), LogAnswer)
    assert b"KEY" not in kept
    assert b"192.0.2.1" not in kept
    assert msgspec.json.decode(kept, type=LogAnswer) == LogAnswer((event,))
    with pytest.raises(Malformed):
        keep_shown_fields(b'{"error": "no"}', LogAnswer)
    with pytest.raises(Malformed):
        keep_shown_fields(b"a warning\n{}", RefusalAnswer)
