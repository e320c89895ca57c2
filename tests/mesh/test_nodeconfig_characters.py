"""Characters that look like a config's and are others: each with its place, and what to type instead."""

from __future__ import annotations

import re
import unicodedata

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import characters, decode_config, lint_config, render_config
from qmesh.mesh.nodeconfig.characters import describe_character, find_odd_characters
from qmesh.mesh.values import PROFILES
from tests.support.factories import cluster
from tests.support.node_files import own_file

NBSP, ZWSP, JOINER = "\u00a0", "\u200b", "\u200d"
LEFT, RIGHT, APOSTROPHE, DASH, COLON = "\u201c", "\u201d", "\u2019", "\u2013", "\uff1a"
IN_VALUE = "in a value: the node takes it for a part of the value"

PROBLEMS = {
    "a no-break space as indent": (
        f"engine: {{}}\np2p:\n  d: 8\n{NBSP}{NBSP}filter: aa\n",
        ["4:1 there is a no-break space (U+00A0) in a key, and 1 more like it: the node ignores that key"],
        "type a space",
    ),
    "a zero width space before a section": (
        f"p2p: {{}}\n{ZWSP}engine: {{}}\n",
        ["2:1 there is a zero width space (U+200B) in a key: the node ignores that key"],
        "delete this character",
    ),
    "a joiner in a path": (
        f"db: {{path: a{JOINER}b}}\n",
        [f"1:13 there is a zero width joiner (U+200D) {IN_VALUE}"],
        "delete this character",
    ),
    "curly quotes": (
        f"listenGrpcMultiaddr: {LEFT}/ip4/127.0.0.1/tcp/8337{RIGHT}\n",
        [
            f"1:22 there is a left double quotation mark (U+201C) {IN_VALUE}",
            f"1:46 there is a right double quotation mark (U+201D) {IN_VALUE}",
        ],
        'type " in its place',
    ),
    "a dash within an address": (
        f"listenGrpcMultiaddr: /ip4/127.0.0.1{DASH}/tcp/8337\n",
        [f"1:36 there is an en dash (U+2013) {IN_VALUE}"],
        "type - in its place",
    ),
    "a space behind a number, which the node refuses": (
        f"p2p:\n  d: 8{NBSP}\n",
        [
            "2:6 `d` has to be a whole number: the node does not load this file",
            f"2:7 there is a no-break space (U+00A0) {IN_VALUE}",
        ],
        None,
    ),
    "signs in a comment and in a path": (
        f"# {LEFT}as the guide says{RIGHT}{NBSP}\ndb: {{path: /srv/o{APOSTROPHE}brien/store}}\n",
        [],
        None,
    ),
}


@pytest.mark.parametrize(("text", "expected", "hint"), PROBLEMS.values(), ids=PROBLEMS)
def test_such_a_character_is_named_with_its_place_and_what_to_type(text, expected, hint):
    problems = [each for each in lint_config(text, profile="1.4") if each.kind != "empty"]
    assert [f"{each.line}:{each.column} {each.message}" for each in problems] == expected
    assert hint is None or problems[0].hint.startswith(hint)
    assert {each.severity for each in problems if each.kind == "character"} <= {"warning"}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_marked_file_has_its_characters_at_the_right_place_and_its_own_has_none(profile):
    assert not [each for each in lint_config(own_file(profile), profile=profile) if each.kind == "character"]
    marked = f"\ufeff{ZWSP}engine: {{}}\n"
    (problem,) = [each for each in lint_config(marked, profile=profile) if each.kind == "character"]
    assert (problem.line, problem.column) == (1, 1)


def test_in_the_list_that_qmesh_writes_they_go_with_the_writing():
    text = f"engine:\n  dataWorkerMultiaddrs:\n  - /ip4/10.77.0.1/tcp/40000{NBSP}\n"
    (problem,) = [each for each in lint_config(text, profile="2.0") if each.kind == "character"]
    assert problem.cured
    assert lint_config(render_config(cluster(1), "a", text).text, profile="2.0") == ()


UNREADABLE = {
    "curly quotes with a colon": (f"a: {LEFT}b: c{RIGHT}\n", "1, column 4: there is a left double", 'type "'),
    "an indent of another kind": (
        f"a:\n  b: c\n {NBSP}d: e\n",
        "3, column 2: there is a no-break",
        "type a sp",
    ),
    "a colon of another width": (
        f"a{COLON}\n  b: c\n",
        "1, column 2: there is a fullwidth colon",
        "type : in",
    ),
    "a dash for a hyphen": (f"a:\n  - b\n{DASH} c\n", "3, column 1: there is an en dash", "type - in"),
    "none but in a comment": (f"a: b: c  # {LEFT}\n", "1, column 5: this is not YAML", "correct this line"),
}


@pytest.mark.parametrize(("text", "message", "hint"), UNREADABLE.values(), ids=UNREADABLE)
def test_where_the_text_is_no_yaml_for_it_the_character_is_named(text, message, hint):
    (problem,) = lint_config(text, profile="2.0")
    assert f"line {problem.line}, column {problem.column}: {problem.message}".startswith(f"line {message}")
    assert problem.hint.startswith(hint)


@pytest.mark.parametrize(
    ("octets", "hint"),
    [
        (
            b"a: \x93x\x94\n",
            'type " in its place: in the encoding of Windows this is a left double quotation',
        ),
        (b"a: x\xa0\n", "type a space in its place: in the encoding of Windows this is a no-break space"),
        (b"a: \xe9\n", "correct this character, and save the file as UTF-8"),
        (b"a: \x81\n", "correct this character"),
    ],
)
def test_an_octet_of_windows_is_named(octets, hint):
    with pytest.raises(BadInput, match="this is not UTF-8") as refused:
        decode_config(octets)
    assert refused.value.hint.startswith(hint)


def test_every_such_character_has_a_name_and_a_replacement_of_ascii():
    every = [character for character in map(chr, range(0x11000)) if re.match(characters._ODD, character)]
    assert len(every) > 150
    for odd, character in zip(find_odd_characters("".join(every)), every, strict=True):
        assert odd.replacement.isascii()
        assert len(odd.replacement) == (0 if unicodedata.category(character) in {"Cf", "Cn"} else 1)
        assert odd.name.startswith(("a ", "an "))
        assert odd.name.endswith(f"(U+{ord(character):04X})")
        assert odd.hint
    known = {
        "\u2032": "'",
        "\u2033": '"',
        "\u2212": "-",
        "\u2039": "'",
        "\u00ab": '"',
        "\uff1a": ":",
        "\u3000": " ",
    }
    assert {each: describe_character(each).replacement for each in known} == known
