"""What is hostile or damaged is refused with its place, and without a word of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import (
    composer,
    detect_profile,
    find_ignored_lists,
    read_secret,
    read_workers,
    redact_config,
)
from qmesh.mesh.nodeconfig.composer import MAX_DEPTH, MAX_NODES
from qmesh.mesh.nodeconfig.document import Alias, Mapping, Mark, Scalar, Sequence, find_pair, mark_at
from qmesh.mesh.nodeconfig.parse import MAX_CHARACTERS, MAX_DIRECTIVES, parse_document
from tests.support.config_files import edit_worker_list
from tests.support.waiting import within

HEX = "0badc0de5ec12e7f"

REFUSED = {
    "NUL": (f"a: {HEX}\r\nb: \0", "line 2, column 4: the character U+0000 is not allowed"),
    "escape character": (f"a: {HEX}\n\x1b[31m", "line 2, column 1: the character U+001B"),
    "half of a surrogate pair": (f"a: {HEX}\ud800", "line 1, column 20: the character U+D800"),
    "byte order mark inside": (f"a: {HEX}\n\ufeffb: 1", "line 2, column 1: the character U+FEFF"),
    "two byte order marks": ("\ufeff\ufeffa: 1", "line 1, column 1: the character U+FEFF"),
    "tab": (f"a:\n  b: {HEX}\n\tc: 1", "line 3, column 1: there is a tab where"),
    "open quote": (f"a: '{HEX}", "this is not YAML: found unexpected end of stream"),
    "open bracket": (f"a: [{HEX}", "this is not YAML: "),
    "two values": (f'a: "{HEX}" {HEX}', "line 1, column 23: this is not YAML: "),
    "unknown tag handle": (
        f"a: !{HEX}!x 1",
        "line 1, column 4: this is not YAML: found undefined tag handle",
    ),
    "value in a value": (
        f"a: {HEX}: 1",
        "line 1, column 20: this is not YAML: mapping values are not allowed",
    ),
    "second document": (f"a: 1\n---\n{HEX}: 1", "line 2, column 1: a second document"),
    "second document without marks": ("--- a\n--- b\n", "line 2, column 1: a second document"),
    "key twice": (f"a: 1\n{HEX}: 1\nb: 1\n{HEX}: 2", "line 4, column 1: this key is already in line 2"),
    "key twice, quoted": ("x:\n- {a: 1, 'a': 2}", "line 2, column 10: this key is already in line 2"),
    "section twice": ("engine: {}\nengine: {}", "line 2, column 1: a second `engine:`, the first"),
    "merge key twice": ("a: &a {}\nb:\n  <<: *a\n  <<: *a", "line 4, column 3: this key is already"),
    "alias of nothing": (f"a: *{HEX}", "line 1, column 4: this alias (*) has no anchor"),
    "alias inside what it names": ("a: &a [*a]", "line 1, column 8: this alias (*) has no anchor"),
    "alias as a key": (f"a: &a {HEX}\n*a : 1", "line 2, column 1: this key is not a plain word"),
    "list as a key": (f"[{HEX}]: 1", "line 1, column 1: this key is not a plain word"),
    "tagged key": ("!!binary ZW5naW5l: 1", "line 1, column 1: this key is not a plain word"),
    "nested too deep in brackets": ("[" * (MAX_DEPTH + 1), f"column {MAX_DEPTH + 1}: nested deeper than"),
    "nested very deep in brackets": ("[" * 1_000_000, "nested deeper than"),
    "nested very deep in braces": ("{a: " * 250_000, "nested deeper than"),
    "nested very deep in dashes": ("- " * 500_000, "nested deeper than"),
    "nested very deep in question marks": ("? " * 500_000, "nested deeper than"),
    "too many values": (f"[{'a,' * (MAX_NODES + 1)}]", f"more than {MAX_NODES} values"),
    "too many aliases": (f"a: &a 1\nb: [{'*a,' * MAX_NODES}]", f"more than {MAX_NODES} values"),
    "too many directives": (
        "".join(f"%TAG !{number}! tag:x\n" for number in range(40_000)) + "---\na: 1",
        f"line {MAX_DIRECTIVES + 1}, column 1: more than {MAX_DIRECTIVES} lines begin with %",
    ),
    "too many directives behind the document": (
        "a: 1\n...\n" + "".join(f"%TAG !{number}! tag:x\n" for number in range(40_000)) + "---\n",
        f"more than {MAX_DIRECTIVES} lines begin with %",
    ),
    "too long": ("#" * (MAX_CHARACTERS + 1), f"longer than {MAX_CHARACTERS} characters"),
}

NULLS = [("", True), ("~", True), ("null", True), ("Null", True), ("NULL", True)]

READERS: dict[str, Callable[[str], Any]] = {
    "load": parse_document,
    "workers_in": lambda text: read_workers(text, "2.0"),
    "with_workers": lambda text: edit_worker_list(text, ("/ip4/10.77.0.1/tcp/40000",), "2.0"),
    "misplaced": lambda text: find_ignored_lists(text, "2.0"),
    "secret": lambda text: read_secret(text, "p2p.peerPrivKey"),
    "redacted": redact_config,
    "detect": detect_profile,
}


def refusal(reader, text) -> BadInput:
    with pytest.raises(BadInput) as caught:
        reader(text)
    return caught.value


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_its_place(text, message):
    error = refusal(parse_document, text)
    assert message in error.message
    assert HEX not in f"{error!r} {error.message} {error.hint}"
    assert "\n" not in error.message
    assert error.__suppress_context__ or error.__context__ is None


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("text", ["a: \0", "- [", "a: {}\n---\nb: 1", "[" * 100_000])
def test_every_reader_refuses(reader, text):
    refusal(reader, text)


@pytest.mark.parametrize("text", [text for text, _ in REFUSED.values() if len(text) < 100_000])
def test_the_slow_parser_refuses_the_same_and_says_no_more(text, monkeypatch):
    monkeypatch.setattr(composer, "_LOADER", yaml.SafeLoader)
    error = refusal(parse_document, text)
    assert HEX not in f"{error!r} {error.message} {error.hint}"


def test_a_single_character_may_be_named():
    assert "expected ',' or ']'" in refusal(parse_document, f"a: [{HEX}").message


def test_a_parser_error_without_a_place(monkeypatch):
    def broken(*_, **__):
        raise yaml.YAMLError(HEX)

    monkeypatch.setattr(yaml, "parse", broken)
    message = "config.yml, line 1, column 1: this is not YAML: the text cannot be read"
    assert refusal(parse_document, "a: 1").message == message


def test_an_alias_bomb_is_not_expanded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 100)]
    text = "\n".join([*lines, "peerPrivKey: *a99", ""])
    with within(5):
        assert redact_config(text).startswith("a0: &a1 [<not shown>, <not shown>")
        assert edit_worker_list(text, (), "2.0").startswith(text)
        assert detect_profile(text) is None


@pytest.mark.parametrize(
    "fill", ["#", " ", "x ", "x: ", "\n", "\r", "'", '"', "secret ", "# token", "# key :  "]
)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_huge_file_is_answered_in_bounded_time(reader, fill):
    text = "a: " + fill * (1_000_000 // len(fill))
    with within(5):
        try:
            reader(text)
        except BadInput as error:
            assert "line" in error.message  # noqa: PT017  # either answer will do, if it is quick


class TestTree:
    def test_nodes_know_their_place(self):
        root = parse_document("\ufeffa:\r\n  - 'x' # c\r\n  - &b ~\r\nc: *b\r\n")
        assert isinstance(root, Mapping)
        (_, listed), (key, alias) = root.pairs
        assert isinstance(listed, Sequence)
        assert isinstance(alias, Alias)
        assert (key.start, key.end) == (Mark(27, 3, 0), Mark(28, 3, 1))
        first, second = listed.items
        assert isinstance(first, Scalar)
        assert (first.style, first.start, first.end) == ("'", Mark(8, 1, 4), Mark(11, 1, 7))
        assert alias.target is second
        assert isinstance(second, Scalar)
        assert second.is_null

    @pytest.mark.parametrize("text", ["", "\ufeff", "\n", "# only a comment\n"])
    def test_nothing_is_no_root(self, text):
        assert parse_document(text) is None

    def test_an_anchor_may_be_used_again(self):
        root = parse_document("[&a 1, *a, *a, &a 2, *a]")
        assert isinstance(root, Sequence)
        first, second = root.items[0], root.items[3]
        targets = [item.target for item in root.items if isinstance(item, Alias)]
        assert [id(target) for target in targets] == [id(first), id(first), id(second)]

    @pytest.mark.parametrize(
        ("text", "is_null"), [*NULLS, ("'~'", False), ("!!null ~", False), ("nil", False)]
    )
    def test_null(self, text, is_null):
        root = parse_document(f"a: {text}")
        assert isinstance(root, Mapping)
        value = root.pairs[0][1]
        assert isinstance(value, Scalar)
        assert value.is_null == is_null

    def test_bounds_are_met_from_below(self):
        assert parse_document("[" * MAX_DEPTH + "]" * MAX_DEPTH)
        assert parse_document(f"[{'a,' * (MAX_NODES - 1)}]")
        assert parse_document("a#".ljust(MAX_CHARACTERS, "#"))
        assert parse_document("%YAML 1.1\n" + "#\n%TAG !a! tag:x\n---\na: 1")

    def test_a_file_is_read_to_a_mebibyte_and_twenty_thousand_values(self):
        assert (MAX_CHARACTERS, MAX_NODES) == (1024 * 1024, 20_000)

    def test_an_alias_of_aliases_is_counted_once_and_stands_for_nothing_twice(self):
        """Ten times ten times ... each: written out, ten to the power of twenty values."""
        lines = ["a0: &a0 [x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 21)]
        text = "\n".join([*lines, "peerPrivKey: *a20", "engine:", "  dataWorkerMultiaddrs: []", ""])
        for reader in READERS.values():
            if reader is not READERS["secret"]:
                reader(text)
        assert edit_worker_list(text, ("/ip4/10.77.0.1/tcp/40000",), "2.0").count("*a19") == 10

    def test_value_of(self):
        root = parse_document("a: 1\nb: 2")
        assert isinstance(root, Mapping)
        pair = find_pair(root, "b")
        assert pair is not None
        assert pair == root.pairs[1]
        assert find_pair(root, "c") is None

    def test_libyaml_is_used_where_it_is(self):
        assert composer._LOADER is getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@given(st.text(st.sampled_from("a\r\n\x85\u2028😀")), st.data())
def test_law_marks_count_as_the_parser_counts(text, data):
    index = data.draw(st.integers(0, len(text)))
    if text[index - 1 : index + 1] == "\r\n":
        index += 1
    line = 0
    column = 0
    before = text[:index].replace("\r\n", "\n")
    for character in before:
        line, column = (line + 1, 0) if character in "\r\n\x85\u2028" else (line, column + 1)
    assert mark_at(text, index) == Mark(index, line, column)


@given(st.text(max_size=60))
def test_law_any_text_loads_or_is_bad_input(text):
    try:
        parse_document(text)
    except BadInput as error:
        assert error.message.startswith("config.yml, line ")  # noqa: PT017  # both answers are right
