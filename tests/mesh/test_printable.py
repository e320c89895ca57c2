"""What others wrote, on its way to a terminal."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.cli import terminal
from qmesh.host.log.log_lines import LineFormatter
from qmesh.mesh.printable import escape_line, escape_text
from qmesh.mesh.printable_json import render_json

ANYTHING = st.text(st.characters())
HOSTILE = "\x1b]0;x\x07\x9b31m\x7f\r\u202e\u2066\u200f\u2028\u2029\ufeff\u00ad\U000e0041\x00\x85"


def moves_something(text: str) -> bool:
    return any(unicodedata.category(each) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for each in text)


@given(ANYTHING)
def test_law_nothing_shown_moves_a_cursor_or_turns_a_line(text):
    assert not moves_something(escape_text(text).replace("\n", "").replace("\t", ""))
    assert not moves_something(escape_line(text))
    assert not moves_something(render_json({text: [text]}))
    again = text.encode("utf-8", "replace").decode()
    assert json.loads(render_json({text: (text, None)})) == {again: [again, None]}


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"])))
def test_law_plain_text_is_shown_as_it_is(text):
    assert escape_text(text) == escape_line(text) == text
    assert render_json(text) == json.dumps(text)


def test_what_is_shown_in_its_place():
    assert escape_text("a b") == "a b"
    assert escape_text("a\tb\nc\x1b[2J\u202edcab\udcff") == "a\tb\nc\\x1b[2J\\u202edcab\\udcff"
    assert escape_line("a\nb") == "a\\nb"
    assert render_json("\x9b\u202e\U000e0041ü") == '"\\u009b\\u202e\\udb40\\udc41\\u00fc"'


@pytest.mark.parametrize("say", [terminal.print_stdout, terminal.print_stderr])
def test_what_is_printed_is_shown(say, capfd):
    say(f"a{HOSTILE}b\nc")
    out, err = capfd.readouterr()
    assert len((out + err).split("\n")) == 3
    assert not moves_something((out + err).replace("\n", ""))


def test_what_is_logged_is_one_line_whatever_stands_in_it():
    formatter = LineFormatter("%(message)s")
    record = logging.LogRecord("qmesh", logging.INFO, "x", 1, "said %s", (f"x\nerror: y{HOSTILE}",), None)
    text = formatter.format(record)
    assert text.startswith("said x\\nerror: y\\x1b]0;x\\x07")
    assert text.isprintable()
    try:
        raise ValueError(HOSTILE)  # noqa: TRY301 - to have its trace
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    record.exc_text = None
    text = formatter.format(record)
    assert text.isprintable()
    assert " | Traceback" in text


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"a": "plain", "b": [1, None, True]}, '{"a":"plain","b":[1,null,true]}'),
        (["\x9b2J", "\u202e", "\U000e0001"], '["\\u009b2J","\\u202e","\\udb40\\udc01"]'),
        (("\udcff", {"\udcfe": ("\udcfd", 7)}), '["?",{"?":["?",7]}]'),
    ],
)
def test_json_has_the_same_characters_escaped_and_is_read_as_before(facts, expected):
    said = render_json(facts)
    assert said.isprintable()
    assert said == expected
    json.loads(said)


def test_who_can_load_no_module_any_more_escapes_all_the_same():
    """As a process that has become nobody, where qmesh is in a directory of root's."""
    program = (
        "import sys; from qmesh.mesh.printable import escape_line; sys.meta_path.clear();"
        r" sys.stdout.write(escape_line('\x1b'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("\\x1b", "")
