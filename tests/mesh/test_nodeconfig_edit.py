"""The surgical edit: tables of before and after, and the laws that hold for every file."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import (
    Key,
    Setting,
    composer,
    edit_settings,
    read_settings,
    read_settings_as_node,
    read_workers,
)
from qmesh.mesh.nodeconfig.edit.layout import Edit, apply_edits, detect_newline
from tests.support.config_files import edit_worker_list

A, B, C = (f"/ip4/10.77.0.{n}/tcp/{39999 + n}" for n in (1, 2, 3))
SIX = "/ip6/fd00::2/tcp/40009"
HEX = "0badc0de5ec12e7f"

TABLE = {
    "append to a block list": (
        "engine:\n  dataWorkerMultiaddrs:\n    - {A}\n  filter: x\n",
        (A, B),
        "engine:\n  dataWorkerMultiaddrs:\n    - {A}\n    - {B}\n  filter: x\n",
    ),
    "change one entry, keep quotes, gaps and comments": (
        "engine:\n  dataWorkerMultiaddrs: # m\n    # h\n    -  '{A}' # first\n    - \"{B}\"\n    # end\n",
        (C, B),
        "engine:\n  dataWorkerMultiaddrs: # m\n    # h\n    -  '{C}' # first\n    - \"{B}\"\n    # end\n",
    ),
    "a comment behind a removed entry goes, a comment line stays": (
        "engine:\n  dataWorkerMultiaddrs:\n  - {A}\n  # two\n  - {B} # gone\n  # end\n  - {C}\np2p:\n",
        (A,),
        "engine:\n  dataWorkerMultiaddrs:\n  - {A}\n  # two\n  # end\np2p:\n",
    ),
    "appended entries look like the last one": (
        "engine:\n  dataWorkerMultiaddrs:\n    -   '{A}' # x\n    # end\n",
        (A, B, SIX),
        "engine:\n  dataWorkerMultiaddrs:\n    -   '{A}' # x\n    -   '{B}'\n    -   '{SIX}'\n    # end\n",
    ),
    "one space of indentation": (
        "engine:\n dataWorkerMultiaddrs:\n  - {A}\n filter: x",
        (B, C),
        "engine:\n dataWorkerMultiaddrs:\n  - {B}\n  - {C}\n filter: x",
    ),
    "not indented list": (
        "engine:\n dataWorkerMultiaddrs:\n - {A}\n - {B}\n filter: x\n",
        (C,),
        "engine:\n dataWorkerMultiaddrs:\n - {C}\n filter: x\n",
    ),
    "no line break at the end, longer": (
        "engine:\n  dataWorkerMultiaddrs:\n  - {A}",
        (A, B),
        "engine:\n  dataWorkerMultiaddrs:\n  - {A}\n  - {B}",
    ),
    "no line break at the end, shorter": (
        "engine:\n  dataWorkerMultiaddrs:\n  - {A}\n  - {B}",
        (B,),
        "engine:\n  dataWorkerMultiaddrs:\n  - {B}",
    ),
    "all entries go": (
        "engine:\n  dataWorkerMultiaddrs : # c\n  - {A}\n  # d\n  - {B}\n  x: 1\n",
        (),
        "engine:\n  dataWorkerMultiaddrs : [] # c\n  # d\n  x: 1\n",
    ),
    "all entries go, with CRLF": (
        "engine:\r\n  dataWorkerMultiaddrs:\r\n  - {A}\r\n  - {B}\r\n",
        (),
        "engine:\r\n  dataWorkerMultiaddrs: []\r\n",
    ),
    "CRLF": (
        "# top\r\nengine:\r\n  dataWorkerMultiaddrs:\r\n    - {A}\r\n    - {B}\r\n  x: 1\r\n",
        (C, B, A),
        "# top\r\nengine:\r\n  dataWorkerMultiaddrs:\r\n    - {C}\r\n    - {B}\r\n    - {A}\r\n  x: 1\r\n",
    ),
    "CRLF, last line without one": (
        "engine:\r\n  dataWorkerMultiaddrs:\r\n    - {A}",
        (A, B),
        "engine:\r\n  dataWorkerMultiaddrs:\r\n    - {A}\r\n    - {B}",
    ),
    "CR only": (
        "engine:\r  dataWorkerMultiaddrs:\r    - {A}\r    - {B}\r  x: 1\r",
        (C,),
        "engine:\r  dataWorkerMultiaddrs:\r    - {C}\r  x: 1\r",
    ),
    "line breaks that only YAML 1.1 knows": (
        "# a\u2028engine:\u2028  dataWorkerMultiaddrs:\x85    - {A}\u2028    - {B}\n  x: 1\n",
        (C,),
        "# a\u2028engine:\u2028  dataWorkerMultiaddrs:\x85    - {C}\n  x: 1\n",
    ),
    "byte order mark": (
        "\ufeffkey: 1\nengine:\n  dataWorkerMultiaddrs:\n    - {A}\n",
        (B,),
        "\ufeffkey: 1\nengine:\n  dataWorkerMultiaddrs:\n    - {B}\n",
    ),
    "characters of two, three and four octets before the list": (
        "# ä€😀\nx: '😀'\nengine:\n  dataWorkerMultiaddrs: # 😀\n    - {A} # 😀\n",
        (B, C),
        "# ä€😀\nx: '😀'\nengine:\n  dataWorkerMultiaddrs: # 😀\n    - {B} # 😀\n    - {C}\n",
    ),
    "entry without a value": (
        "engine:\n  dataWorkerMultiaddrs:\n    -\n    -   # later\n    -\n",
        (A, B, C, SIX),
        "engine:\n  dataWorkerMultiaddrs:\n    - {A}\n    - {B}   # later\n    - {C}\n    - {SIX}\n",
    ),
    "entry over two lines": (
        "engine:\n  dataWorkerMultiaddrs:\n    - a\n      b\n    - 'c\n\n      d'\n  x: 1\n",
        (A,),
        "engine:\n  dataWorkerMultiaddrs:\n    - {A}\n  x: 1\n",
    ),
    "entry on the line below its dash, no need to touch the dash": (
        "engine:\n  dataWorkerMultiaddrs:\n    -\n      {A}\n",
        (B,),
        "engine:\n  dataWorkerMultiaddrs:\n    -\n      {B}\n",
    ),
    "flow list": (
        "engine:\n  dataWorkerMultiaddrs: [ {A}, '{B}' ] # c\n",
        (C, B, SIX),
        "engine:\n  dataWorkerMultiaddrs: [ {C}, '{B}', '{SIX}' ] # c\n",
    ),
    "flow list, shorter, comma at the end": (
        "engine:\n  dataWorkerMultiaddrs: [{A}, {B}, {C},]\n",
        (B,),
        "engine:\n  dataWorkerMultiaddrs: [{B},]\n",
    ),
    "flow list, emptied": (
        "engine:\n  dataWorkerMultiaddrs: [{A}, {B},] # c\n",
        (),
        "engine:\n  dataWorkerMultiaddrs: [] # c\n",
    ),
    "flow list over lines, longer": (
        "engine:\n  dataWorkerMultiaddrs: [\n    {A}, # a\n    {B} # b\n  ]\n  x: 1\n",
        (A, B, C),
        "engine:\n  dataWorkerMultiaddrs: [\n    {A}, # a\n    {B},\n    {C} # b\n  ]\n  x: 1\n",
    ),
    "flow list over lines, one entry, longer, with CRLF": (
        "engine:\r\n  dataWorkerMultiaddrs: [\r\n    {A}\r\n  ]\r\n",
        (B, C),
        "engine:\r\n  dataWorkerMultiaddrs: [\r\n    {B},\r\n    {C}\r\n  ]\r\n",
    ),
    "flow list over lines, shorter": (
        "engine:\n  dataWorkerMultiaddrs:\n    [ {A}, # a\n      {B} # b\n    ]\n",
        (B,),
        "engine:\n  dataWorkerMultiaddrs:\n    [ {B} # b\n    ]\n",
    ),
    "flow list over lines with commas in front": (
        "engine:\n  dataWorkerMultiaddrs: [ {A}\n  , {B}\n  ]\n",
        (A, B, C),
        "engine:\n  dataWorkerMultiaddrs: [ {A}\n  , {B}, {C}\n  ]\n",
    ),
    "brackets become lines": (
        "engine:\n  dataWorkerMultiaddrs: [ ] # none yet\n  x: 1\n",
        (A, B),
        "engine:\n  dataWorkerMultiaddrs: # none yet\n    - {A}\n    - {B}\n  x: 1\n",
    ),
    "brackets become lines, four spaces, at the end": (
        "engine:\n    x: 1\n    dataWorkerMultiaddrs: []",
        (A,),
        "engine:\n    x: 1\n    dataWorkerMultiaddrs:\n        - {A}",
    ),
    "brackets become lines, all indented": (
        "  engine:\n     dataWorkerMultiaddrs: []\n",
        (A,),
        "  engine:\n     dataWorkerMultiaddrs:\n        - {A}\n",
    ),
    "brackets over lines stay": (
        "engine:\n  dataWorkerMultiaddrs: [\n    # none yet\n  ]\n",
        (A, B),
        "engine:\n  dataWorkerMultiaddrs: [{A}, {B}\n    # none yet\n  ]\n",
    ),
    "brackets below the key stay": (
        "engine:\n  dataWorkerMultiaddrs:\n    []\n",
        (A, B),
        "engine:\n  dataWorkerMultiaddrs:\n    [{A}, {B}]\n",
    ),
    "no value": (
        "engine:\n  dataWorkerMultiaddrs: # none yet\n  x: 1\n",
        (A,),
        "engine:\n  dataWorkerMultiaddrs: # none yet\n    - {A}\n  x: 1\n",
    ),
    "no value, empty list": (
        "engine:\n  'dataWorkerMultiaddrs':  # none yet\n  x: 1\n",
        (),
        "engine:\n  'dataWorkerMultiaddrs': []  # none yet\n  x: 1\n",
    ),
    "null": (
        "engine:\n  dataWorkerMultiaddrs:   null # none yet\n  x: 1\n",
        (A,),
        "engine:\n  dataWorkerMultiaddrs: # none yet\n    - {A}\n  x: 1\n",
    ),
    "tilde, empty list": (
        "engine:\n  dataWorkerMultiaddrs: ~\n",
        (),
        "engine:\n  dataWorkerMultiaddrs: []\n",
    ),
    "list missing": (
        "db:\n   path: x\nengine: # mine\n  # about x\n  x: 1\n# end\n",
        (A,),
        "db:\n   path: x\nengine: # mine\n  dataWorkerMultiaddrs:\n    - {A}\n  # about x\n  x: 1\n# end\n",
    ),
    "list missing, empty list": (
        "engine:\n    x: 1",
        (),
        "engine:\n    dataWorkerMultiaddrs: []\n    x: 1",
    ),
    "section without a value": (
        "db:\n    path: x\nengine: # mine\np2p:\n    d: 1\n",
        (A,),
        "db:\n    path: x\nengine: # mine\n    dataWorkerMultiaddrs:\n        - {A}\np2p:\n    d: 1\n",
    ),
    "section null at the very end": (
        "engine: null",
        (A,),
        "engine:\n  dataWorkerMultiaddrs:\n    - {A}",
    ),
    "section null below its key": (
        "engine:\n  ~\nx: 1\n",
        (),
        "engine:\n  dataWorkerMultiaddrs: []\n\nx: 1\n",
    ),
    "section in braces, empty": (
        "engine: {}\nx: 1\n",
        (A, B),
        "engine: {dataWorkerMultiaddrs: [{A}, {B}]}\nx: 1\n",
    ),
    "section in braces with other keys": (
        "engine: { x: 1 }\n",
        (SIX,),
        "engine: {dataWorkerMultiaddrs: [{SIX}],  x: 1 }\n",
    ),
    "section in braces, list empty": (
        "engine: {dataWorkerMultiaddrs: [], x: 1}\n",
        (A,),
        "engine: {dataWorkerMultiaddrs: [{A}], x: 1}\n",
    ),
    "section in braces, list without a value": (
        "engine: {dataWorkerMultiaddrs: , x: 1}\n",
        (A,),
        "engine: {dataWorkerMultiaddrs: [{A}] , x: 1}\n",
    ),
    "section in braces, list null": (
        "engine: {dataWorkerMultiaddrs: ~, x: 1}\n",
        (),
        "engine: {dataWorkerMultiaddrs: [], x: 1}\n",
    ),
    "all in braces, section missing": (
        "{x: 1}",
        (A,),
        "{engine: {dataWorkerMultiaddrs: [{A}]}, x: 1}",
    ),
    "all in braces, section null": (
        "{x: 1, engine: null}",
        (A,),
        "{x: 1, engine: {dataWorkerMultiaddrs: [{A}]}}",
    ),
    "section missing": (
        "db:\n    path: x\n# end\n",
        (A,),
        "db:\n    path: x\n# end\nengine:\n    dataWorkerMultiaddrs:\n        - {A}\n",
    ),
    "section missing, no line break at the end, CRLF": (
        "db:\r\n  path: x",
        (A,),
        "db:\r\n  path: x\r\nengine:\r\n  dataWorkerMultiaddrs:\r\n    - {A}",
    ),
    "section missing, spaces in the last line": (
        "x: 1\n   ",
        (A,),
        "x: 1\n   \nengine:\n  dataWorkerMultiaddrs:\n    - {A}",
    ),
    "section missing, all indented": (
        "  x: 1\n",
        (A,),
        "  x: 1\n  engine:\n    dataWorkerMultiaddrs:\n      - {A}\n",
    ),
    "section missing, text block at the end": (
        "x: |+\n  t\n\n",
        (A,),
        "x: |+\n  t\n\nengine:\n  dataWorkerMultiaddrs:\n    - {A}\n",
    ),
    "section missing, end of document marked": (
        "---\nx: 1\n...\n",
        (A,),
        "---\nx: 1\nengine:\n  dataWorkerMultiaddrs:\n    - {A}\n...\n",
    ),
    "empty text": ("", (A,), "engine:\n  dataWorkerMultiaddrs:\n    - {A}\n"),
    "empty text, empty list": ("", (), "engine:\n  dataWorkerMultiaddrs: []\n"),
    "empty text with byte order mark": (
        "\ufeff",
        (A,),
        "\ufeffengine:\n  dataWorkerMultiaddrs:\n    - {A}\n",
    ),
    "comments only": ("# a\r\n", (A,), "# a\r\nengine:\r\n  dataWorkerMultiaddrs:\r\n    - {A}\r\n"),
    "empty document, marked": (
        "--- # a\n...\n",
        (A,),
        "--- # a\nengine:\n  dataWorkerMultiaddrs:\n    - {A}\n...\n",
    ),
    "anchors, aliases, merge keys and tags elsewhere": (
        "x: &x {a: 1}\ny:\n  <<: *x\n  z: !!str 1\nengine:\n  dataWorkerMultiaddrs:\n  - {A}\n  w: *x\n",
        (B,),
        "x: &x {a: 1}\ny:\n  <<: *x\n  z: !!str 1\nengine:\n  dataWorkerMultiaddrs:\n  - {B}\n  w: *x\n",
    ),
    "keys of the same name elsewhere": (
        (
            "x:\n  engine:\n    dataWorkerMultiaddrs: [q]\n"
            "engine:\n  engine:\n    - 1\n  dataWorkerMultiaddrs:\n  - {A}\n"
        ),
        (B,),
        (
            "x:\n  engine:\n    dataWorkerMultiaddrs: [q]\n"
            "engine:\n  engine:\n    - 1\n  dataWorkerMultiaddrs:\n  - {B}\n"
        ),
    ),
    "quoted keys": (
        "'engine' :\n  \"dataWorkerMultiaddrs\" :\n  - {A}\n",
        (A, B),
        "'engine' :\n  \"dataWorkerMultiaddrs\" :\n  - {A}\n  - {B}\n",
    ),
}


def filled(text: str) -> str:
    for name, value in (("{A}", A), ("{B}", B), ("{C}", C), ("{SIX}", SIX)):
        text = text.replace(name, value)
    return text


@pytest.fixture(params=["libyaml", "PyYAML"])
def either_parser(request, monkeypatch):
    """Both of PyYAML's parsers: they differ in their marks, and a machine may have only the slow one."""
    if request.param == "PyYAML":
        monkeypatch.setattr(composer, "_LOADER", yaml.SafeLoader)


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(("before", "wanted", "after"), TABLE.values(), ids=TABLE)
def test_before_and_after(before, wanted, after):
    result = edit_worker_list(filled(before), wanted, "2.0")
    assert result == filled(after)
    assert read_workers(result, "2.0") == wanted
    assert edit_worker_list(result, list(wanted), "1.4") == result


@pytest.mark.parametrize(
    "text",
    [
        f"engine: {{ dataWorkerMultiaddrs : [ '{A}' ,\t{B} , ] }} # c",
        f"engine:\n  dataWorkerMultiaddrs:\n  -   {A}\n\n  - !!str {B}\n",
        f"\ufeffengine:\n  dataWorkerMultiaddrs:\n  - >-\n    {A}\n  - &x {B}\n",
    ],
)
def test_a_list_that_is_right_stays_as_it_is_written(text):
    assert edit_worker_list(text, (A, B), "1.4") == text


REFUSED = {
    "not YAML": ("a: [\n", "line 2, column 1: this is not YAML"),
    "tab": (f"engine:\n\tx: {HEX}\n", "line 2, column 1: there is a tab where YAML needs spaces"),
    "section is a word": (f"engine: {HEX}\n", "line 1, column 9: `engine` is not a mapping"),
    "section is a list": (f"x: 1\nengine:\n- {HEX}\n", "line 3, column 1: `engine` is not a mapping"),
    "section is an empty word": ('engine: ""\n', "line 1, column 9: `engine` is not a mapping"),
    "root is a list": (f"- {HEX}\n", "line 1, column 1: the file's top level is not a mapping"),
    "root is a word": (HEX, "line 1, column 1: the file's top level is not a mapping"),
    "root is null": ("~", "line 1, column 1: the file's top level is not a mapping"),
    "list is a text block": (
        f"engine:\n  dataWorkerMultiaddrs: |\n    {HEX}\n",
        "line 2, column 25: `dataWorkerMultiaddrs` is not a list",
    ),
    "list is a mapping": (
        f"engine:\n  dataWorkerMultiaddrs: {{{HEX}: 1}}\n",
        "line 2, column 25: `dataWorkerMultiaddrs` is not a list",
    ),
    "list is an alias": (
        f"x: &x [{HEX}]\nengine:\n  dataWorkerMultiaddrs: *x\n",
        "line 3, column 25: there is an anchor",
    ),
    "list has an anchor": (
        "engine:\n  dataWorkerMultiaddrs: &x [q]\ny: *x\n",
        "line 2, column 25: there is an anchor",
    ),
    "null list has an anchor": (
        "engine:\n  dataWorkerMultiaddrs: &x\ny: *x\n",
        "line 2, column 25: there is an anchor",
    ),
    "list has a tag": (
        "engine:\n  dataWorkerMultiaddrs: !!set [q]\n",
        "line 2, column 25: there is an anchor",
    ),
    "section is an alias": ("x: &x {y: 1}\nengine: *x\n", "line 2, column 9: there is an anchor"),
    "section has an anchor": ("engine: &x\n  y: 1\nz: *x\n", "line 1, column 9: there is an anchor"),
    "null section has an anchor": ("engine: &x\nz: *x\n", "line 1, column 9: there is an anchor"),
    "root has a tag": ("!!map\nengine: {}\n", "line 1, column 1: there is an anchor"),
    "merge key in the section": (
        "x: &x {y: 1}\nengine:\n  <<: *x\n",
        "line 3, column 3: there is a merge key",
    ),
    "merge key at the root": ("x: &x {y: 1}\n<<: *x\nengine:\n", "line 2, column 1: there is a merge key"),
    "entry is a mapping": (
        f"engine:\n  dataWorkerMultiaddrs:\n  - {HEX}: 1\n",
        "line 3, column 5: this entry of the worker list is not a single value",
    ),
    "entry is an alias": (
        f"x: &x {HEX}\nengine:\n  dataWorkerMultiaddrs:\n  - *x\n",
        "line 4, column 5: this entry of the worker list is an alias",
    ),
    "entry has an anchor": (
        "engine:\n  dataWorkerMultiaddrs:\n  - &x y\nz: *x\n",
        "line 3, column 5: this value is not plain text",
    ),
    "entry has a tag": (
        "engine:\n  dataWorkerMultiaddrs:\n  - !!str y\n",
        "line 3, column 5: this value is not plain text",
    ),
    "entry is a text block": (
        f"engine:\n  dataWorkerMultiaddrs:\n  - q\n  - |\n    {HEX}\n",
        "line 4, column 5: this value is not plain text",
    ),
    "entry is a folded text block": (
        f"engine:\n  dataWorkerMultiaddrs:\n  - >-\n    {HEX}\n",
        "line 3, column 5: this value is not plain text",
    ),
    "entry to remove is below its dash": (
        f"engine:\n  dataWorkerMultiaddrs:\n  - q\n  - q\n  -\n    {HEX}\n",
        "line 2, column 3: qmesh cannot change `dataWorkerMultiaddrs` here",
    ),
    "section written with question mark": (
        "? engine\n: x: 1\n",
        "line 1, column 3: qmesh cannot change `dataWorkerMultiaddrs` here",
    ),
    "section in braces without a colon": (
        "{engine}",
        "line 1, column 2: qmesh cannot change `dataWorkerMultiaddrs` here",
    ),
    "text block at the end without a line break": (
        "x: |\n  t",
        "line 1, column 1: qmesh cannot change `dataWorkerMultiaddrs` here",
    ),
    "list written with question mark": (
        "engine:\n  ? dataWorkerMultiaddrs\n  : - q\n",
        "line 2, column 5: qmesh cannot change `dataWorkerMultiaddrs` here",
    ),
}


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("wanted", [(), (A, B)], ids=["empty", "two"])
@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(text, wanted, message):
    if text.startswith("x: |\n  t") and not wanted:
        wanted = (C,)
    with pytest.raises(BadInput) as caught:
        edit_worker_list(text, wanted, "2.0")
    assert message in caught.value.message
    assert HEX not in caught.value.message + caught.value.hint


STREAM, PORT, TOP = Key("p2p", "streamListenMultiaddr"), Key("engine", "port", alias="Port"), Key("", "grpc")
AT = "/ip4/10.77.0.1/tcp/8340"

SINGLE = {
    "changed in its quotes": (
        STREAM,
        "p2p:\n  streamListenMultiaddr: 'x' # c\n",
        "p2p:\n  streamListenMultiaddr: '{v}' # c\n",
    ),
    "null": (
        STREAM,
        "p2p:\n  streamListenMultiaddr: # c\n  d: 1\n",
        "p2p:\n  streamListenMultiaddr: {v} # c\n  d: 1\n",
    ),
    "a word for null": (STREAM, "p2p:\n  streamListenMultiaddr: ~\n", "p2p:\n  streamListenMultiaddr: {v}\n"),
    "absent": (STREAM, "p2p: # c\n  d: 1\n", "p2p: # c\n  streamListenMultiaddr: {v}\n  d: 1\n"),
    "section absent": (STREAM, "engine: {}\n", "engine: {}\np2p:\n  streamListenMultiaddr: {v}\n"),
    "section null": (STREAM, "p2p: ~\nx: 1\n", "p2p:\n  streamListenMultiaddr: {v}\nx: 1\n"),
    "in braces": (STREAM, "p2p: {d: 1}\n", "p2p: {streamListenMultiaddr: {v}, d: 1}\n"),
    "in braces, null": (
        STREAM,
        "p2p: {streamListenMultiaddr: , d: 1}\n",
        "p2p: {streamListenMultiaddr: {v} , d: 1}\n",
    ),
    "all in braces": (STREAM, "{d: 1}\n", "{p2p: {streamListenMultiaddr: {v}}, d: 1}\n"),
    "by its other spelling": (PORT, "engine:\n  Port: 0\n", "engine:\n  Port: {v}\n"),
    "at the top, no text": (TOP, "", "grpc: {v}\n"),
    "at the top, absent": (TOP, "x: 1", "x: 1\ngrpc: {v}"),
    "at the top, there": (TOP, "a: 1\r\ngrpc: ''\r\nb: 1\r\n", "a: 1\r\ngrpc: '{v}'\r\nb: 1\r\n"),
    "at the top, null": (TOP, "grpc:\n", "grpc: {v}\n"),
    "at the top, in braces": (TOP, "{x: 1}", "{grpc: {v}, x: 1}"),
}


@pytest.mark.parametrize(("key", "before", "after"), SINGLE.values(), ids=SINGLE)
def test_a_single_value(key, before, after):
    wanted = (Setting(key, AT),)
    result = edit_settings(before, wanted)
    assert result == after.replace("{v}", AT)
    assert edit_settings(result, wanted) == result
    assert read_settings(result, [(key, False)]) == (AT,)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (
            "p2p:\n  streamListenMultiaddr: [x]\n",
            "line 2, column 26: `streamListenMultiaddr` is not a single value",
        ),
        ("p2p:\n  streamListenMultiaddr: &a x\n", "an anchor"),
        ("p2p:\n  streamListenMultiaddr: |\n    x\n", "this value is not plain text"),
    ],
)
def test_a_single_value_refused(before, message):
    with pytest.raises(BadInput) as caught:
        edit_settings(before, (Setting(STREAM, AT),))
    assert message in caught.value.message


def test_a_value_that_is_not_plain_is_never_written():
    for value in ("", "x\ny", "a b", "{}", "*a", "- x", "x:"):
        with pytest.raises(BadInput):
            Setting(STREAM, value)
        with pytest.raises(BadInput):
            Setting(PORT, ("1", value))


def test_two_spellings_of_one_key_are_refused():
    with pytest.raises(BadInput, match="line 3, column 3: `Port` and `port` are two spellings"):
        edit_settings("engine:\n  port: 1\n  Port: 1\n", (Setting(PORT, "2"),))


@pytest.mark.parametrize("profile", ["2.1", "2.1-rust"])
def test_the_list_of_2_1(profile):
    assert (
        edit_worker_list("engine:\n", (A,), profile) == f"engine:\n  dataWorkerStreamMultiaddrs:\n    - {A}\n"
    )


def test_five_thousand_entries_are_put_in_place_of_none_of_others_and_of_fewer():
    many = [f"/ip4/10.77.{n // 250}.{n % 250 + 1}/tcp/{40000 + n}" for n in range(5000)]
    empty = "key:\n  x: 1\nengine:\n  x: 1\np2p:\n  d: 1\n"
    full = edit_worker_list(empty, many, "2.0")
    other = edit_worker_list(full, many[::-1], "2.0")
    few = edit_worker_list(other, many[:3], "2.0")
    assert read_workers(full, "2.0") == tuple(many)
    assert few == edit_worker_list(empty, many[:3], "2.0")


class TestLayout:
    def test_edits_at_one_place_are_made_in_their_order(self):
        assert apply_edits("abc", [Edit(2, 3, "z"), Edit(1, 1, "x"), Edit(1, 1, "y")]) == "axybz"

    def test_line_break_is_the_next_one_or_any_or_a_line_feed(self):
        assert detect_newline("a\nb\r\n", 2) == "\r\n"
        assert detect_newline("a\r\nb", 3) == "\r\n"
        assert detect_newline("a") == "\n"


# The laws, over files that are drawn piece by piece: what stands before and after the list is known
# exactly, so "all else stays" is compared as text and not by the code under test.

words = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
values = st.sampled_from(
    ["1", "true", "", "x y", "'a: #b'", '"\\u00e4 # x"', "[p, {q: r}]", "{s: t}", "ü€😀", "2020-01-01"]
)
comments = st.sampled_from(["", " # c", "  # dataWorkerMultiaddrs: [x]", " # 😀"])
addresses = st.builds(
    lambda six, n, port: (
        f"/ip6/fd00::{n:x}/tcp/{port}" if six else f"/ip4/10.77.{n >> 8}.{n & 255}/tcp/{port}"
    ),
    st.booleans(),
    st.integers(1, 65535),
    st.integers(1, 65535),
)
lists = st.lists(addresses, max_size=6).map(tuple)


@st.composite
def keys_lines(draw, indent, reserved=()):
    """Lines of keys and comments at one indentation, no key twice."""
    names = draw(st.lists(words.filter(lambda word: word not in reserved), max_size=4, unique=True))
    lines = []
    for name in names:
        lines += draw(st.sampled_from([[], [""], [f"{indent}# about {name}"], ["# left"]]))
        lines.append(f"{indent}{name}: {draw(values)}".rstrip() + draw(comments))
    return lines


@st.composite
def list_lines(draw, indent, entries):
    """The list's own lines below its key: the comment lines in it are told apart by their `#`."""
    margin = draw(st.sampled_from(["", " ", "  ", "    "]))
    gap, quote = draw(st.sampled_from([" ", "   "])), draw(st.sampled_from(["", "'", '"']))
    lines = []
    for entry in entries:
        lines += draw(st.sampled_from([[], ["# left"], [f"{indent}{margin}# a note"], [""]]))
        lines.append(f"{indent}{margin}-{gap}{quote}{entry}{quote}{draw(comments)}")
    return lines


@st.composite
def block_files(draw):
    """(text, entries): a file with a list of its own lines, in all habits of writing."""
    indent = draw(st.sampled_from([" ", "  ", "    "]))
    entries = draw(st.lists(addresses, min_size=1, max_size=6).map(tuple))
    before = draw(keys_lines("", ("engine",)))
    section_before = draw(keys_lines(indent))
    after_words = {line.strip().split(":")[0] for line in section_before}
    section_after = draw(keys_lines(indent, after_words))
    after = draw(keys_lines("", ("engine", *(line.split(":")[0] for line in before))))
    head = [*before, f"engine:{draw(comments)}", *section_before]
    key = f"{indent}dataWorkerMultiaddrs:{draw(comments)}"
    body = draw(list_lines(indent, entries))
    line_break = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    end, bom = draw(st.sampled_from(["", line_break])), draw(st.sampled_from(["", "\ufeff"]))
    tail = [*section_after, *after]
    return bom, head, key, body, tail, line_break, end, entries


def assembled(file: tuple[str, list[str], str, list[str], list[str], str, str, tuple[str, ...]]) -> str:
    bom, head, key, body, tail, line_break, end, _ = file
    return bom + line_break.join([*head, key, *body, *tail]) + end


def is_entry(line: str) -> bool:
    return line.lstrip().startswith("-")


@given(block_files(), lists)
def test_law_only_the_entries_lines_change(file, wanted):
    bom, head, key, body, tail, line_break, end, entries = file
    text = assembled(file)
    result = edit_worker_list(text, wanted, "2.0")
    assert read_workers(text, "2.0") == entries
    assert read_workers(result, "2.0") == wanted
    assert edit_worker_list(result, wanted, "2.0") == result
    notes = [line for line in body if not is_entry(line)]
    new_key = key if wanted else key.replace("Multiaddrs:", "Multiaddrs: []", 1)
    start = bom + line_break.join([*head, new_key])
    finish = "".join(line_break + line for line in tail) + end
    assert result.startswith(start)
    assert result.endswith(finish)
    middle = result[len(start) : len(result) - len(finish)].split(line_break)[1:]
    assert [line for line in middle if not is_entry(line)] == notes
    kept = [line for line in body if is_entry(line)][: len(wanted)]
    now = [line for line in middle if is_entry(line)]
    assert [line.replace(new, "") for line, new in zip(now, wanted, strict=True)][: len(kept)] == [
        line.replace(old, "") for line, old in zip(kept, entries, strict=False)
    ]


@given(block_files(), lists)
def test_law_there_and_back(file, wanted):
    """Back at the old list, only the comments behind entries that went away are missing."""
    text = assembled(file)
    entries = file[-1]
    back = edit_worker_list(edit_worker_list(text, wanted, "1.4"), entries, "1.4")
    assert read_workers(back, "1.4") == entries
    if len(wanted) >= len(entries):
        assert back == text


SHAPES = [
    "{top}engine:\n  dataWorkerMultiaddrs: []\n{rest}",
    "{top}engine:\n  dataWorkerMultiaddrs:\n{rest}",
    "{top}engine:\n  # c\n  w: 1\n{rest}",
    "{top}engine:\n{rest}",
    "{top}engine: {{}}\n{rest}",
    "{top}engine: {{v: [1, {{u: 2}}]}} # c\n{rest}",
    "{top}engine: {{dataWorkerMultiaddrs: }}\n{rest}",
    "{top}engine:\n  dataWorkerMultiaddrs: [ '/ip4/1.1.1.1/tcp/1', {A},\n    {B} ]\n{rest}",
    "{top}{rest}",
]


@given(st.sampled_from(SHAPES), keys_lines("", ("engine",)), lists, st.sampled_from(["\n", "\r\n"]))
def test_law_every_shape_takes_every_list(shape, lines, wanted, line_break):
    cut = len(lines) // 2
    top, rest = ("".join(f"{line}\n" for line in part) for part in (lines[:cut], lines[cut:]))
    text = shape.format(top=top, rest=rest, A=A, B=B).replace("\n", line_break)
    result = edit_worker_list(text, wanted, "2.0")
    assert read_workers(result, "2.0") == wanted
    assert edit_worker_list(result, wanted, "2.0") == result
    assert result.startswith(top.replace("\n", line_break))
    assert rest.replace("\n", line_break) in result
    assert without_list(yaml.load(result, Loader=yaml.BaseLoader)) == without_list(  # noqa: S506  # builds only text
        yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506  # builds only text
    )


def without_list(loaded: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    others = {key: value for key, value in (loaded or {}).items() if key != "engine"}
    section = (loaded or {}).get("engine") or {}
    return others, {key: value for key, value in section.items() if key != "dataWorkerMultiaddrs"}


@given(
    st.text(st.sampled_from("engi:dataWorkerMultiaddrs[]{}-,\n #'\"|>&*!?<~x/ip4\t\r0"), max_size=80), lists
)
def test_law_whatever_comes_in_the_answer_is_right_or_bad_input(text, wanted):
    try:
        result = edit_worker_list(text, wanted, "2.0")
    except BadInput:
        return
    assert read_workers(result, "2.0") == wanted


@given(block_files(), lists, st.data())
def test_law_a_damaged_file_is_refused_or_edited_right(file, wanted, data):
    text = assembled(file)
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(
        st.sampled_from(["", "\t", "- ", ": ", "[", "}", "'", "&a ", "*a", "\n", "#", "|\n", "engine:"])
    )
    damaged = text[:at] + junk + text[at + data.draw(st.integers(0, 3)) :]
    try:
        result = edit_worker_list(damaged, wanted, "2.0")
    except BadInput:
        return
    assert read_workers(result, "2.0") == wanted
    kept = [line for line in damaged.splitlines() if line.lstrip().startswith("# about")]
    assert all(line in result for line in kept)


def test_settings_are_read_as_the_node_reads_them():
    text = "a: &a {d: 1}\nlistenGrpcMultiaddr: !x b\np2p: {<<: *a, e: 2}\np2p: {e: ~}\n"
    keys = [(Key("", "listenGrpcMultiaddr"), False), (Key("p2p", "d"), False), (Key("p2p", "e"), False)]
    assert read_settings_as_node(text, keys, "2.1") == ("b", "1", None)
    assert read_settings_as_node(text, keys, "2.1-rust") == ("b", None, None)
    emptied = "engine: {x: [a, [b]]}\nengine:\n"
    assert read_settings_as_node(emptied, [(Key("engine", "x"), True)], "2.1") == (None,)
    kept = "engine: {x: [a, [b]]}\nengine: {y: 1}\n"
    assert read_settings_as_node(kept, [(Key("engine", "x"), True)], "2.1") == (("a", ""),)
    assert read_settings_as_node(kept, [(Key("engine", "x"), False)], "2.1") == (None,)
