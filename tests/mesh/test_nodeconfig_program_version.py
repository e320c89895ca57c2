"""Which profile a node's program is of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.nodeconfig.program_version import (
    ProgramVersion,
    narrow_profiles,
    parse_file_name,
    parse_version_answer,
)
from qmesh.mesh.values import PROFILES

GO_OPTIONS = """\
flag provided but not defined: -version
Usage of /root/node/node:
{balance}  -compact-db
    \tcompacts the database and exits
  -config string
    \tthe configuration directory (default ".config")
  -core int
    \tspecifies the core of the process (defaults to zero, the initial launcher)
"""
BALANCE = "  -balance\n    \tprint the node's confirmed token balance to stdout and exit\n"
GO = ("1.4", "2.0", "2.1")

ANSWERS = {
    "Rust": ("quil-node 2.1.0.25\n", ("2.1-rust",), "2.1.0.25"),
    "Rust, number of the package": ("quil-node 0.1.0\n", ("2.1-rust",), "0.1.0"),
    "Rust, of years to come": ("quil-node 3.0.1\n", ("2.1-rust",), "3.0.1"),
    "Rust, after a warning": ("a warning\nquil-node 2.1.0.24\n", ("2.1-rust",), "2.1.0.24"),
    "Go": (GO_OPTIONS.format(balance=BALANCE), GO, None),
    "Go 2.1": (GO_OPTIONS.format(balance=""), ("2.1",), None),
    "Go, with a banner": ("  Quilibrium Node - v2.1.0.22 \u2013 Bloom\n", ("2.1",), "2.1.0.22"),
    "Go, with a banner of 2.0": ("  Quilibrium Node - v2.0.6-p3 \u2013 Bloom\n", ("2.0",), "2.0.6-p3"),
    "Go, with a banner of 1.4": ("  Quilibrium Node - v1.4.21-p1 \u2013 Dusk\n", ("1.4",), "1.4.21-p1"),
    "Go, with a short number": ("  Quilibrium Node - v2.1.0 \u2013 Bloom\n", ("2.1",), "2.1.0"),
}


@pytest.mark.parametrize(("text", "profiles", "number"), ANSWERS.values(), ids=ANSWERS)
def test_what_the_programs_answer(text, profiles, number):
    assert parse_version_answer(text) == ProgramVersion(profiles, number)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Python 3.11.2\n",
        "v20.11.1\n",
        "flag provided but not defined: -version\nUsage of x:\n  -config string\n",
        "  -core int\n",
        "quil-node two\n",
        "my quil-node 2.1.0.25\n",
        "quil-node 2.1.0.25 or so\n",
        "  Quilibrium Node - v1.2.13 \u2013 Dawn\n",
        "  Quilibrium Node - v2.1.0.25 \u2013 Bloom\n",
    ],
)
def test_what_is_no_answer_of_a_node(text):
    assert parse_version_answer(text) is None


NAMES = {
    "node-1.4.21-linux-amd64": ("1.4",),
    "node-1.4.21.1-linux-amd64": ("1.4",),
    "node-2.0.6.3-linux-amd64": ("2.0",),
    "node-2.0.6-p3-linux-arm64": ("2.0",),
    "node-2.1.0-linux-amd64": ("2.1", "2.1-rust"),
    "node-2.1": ("2.1", "2.1-rust"),
    "node-2.1.0.1-linux-amd64": ("2.1",),
    "node-2.1.0.22-linux-amd64": ("2.1",),
    "node-2.1.0.23-linux-amd64": ("2.1-rust",),
    "node-2.1.0.25-linux-amd64": ("2.1-rust",),
    "quil-node-2.1.0.25": ("2.1-rust",),
    "node-2.1.1-linux-amd64": ("2.1-rust",),
    "node-3.0-linux-amd64": ("2.1-rust",),
}


@pytest.mark.parametrize(("name", "profiles"), NAMES.items(), ids=NAMES)
def test_what_a_file_name_tells(name, profiles):
    found = parse_file_name(name)
    assert found is not None
    assert (found.profiles, found.number) == (profiles, name.split("node-")[1].split("-linux")[0])


@pytest.mark.parametrize(
    "name",
    [
        *("", "node", "node-2", "quilibrium-node", "node-linux-amd64", "qclient-2.1.0.25-linux-amd64"),
        *("node-1.3.0-linux-amd64", "node-2.1.0.25.dgst", "node-2.1.0.25-linux-amd64.dgst.sig.1"),
        "node-2.1.0.25-darwin-arm64",
    ],
)
def test_a_file_name_that_tells_nothing(name):
    assert parse_file_name(name) is None


@pytest.mark.parametrize(
    ("possible", "program", "left"),
    [
        (("2.1", "2.1-rust"), None, ("2.1", "2.1-rust")),
        (("2.1", "2.1-rust"), ("2.1-rust",), ("2.1-rust",)),
        (("2.1", "2.1-rust"), GO, ("2.1",)),
        (("1.4", "2.0"), GO, ("1.4", "2.0")),
        (("2.0",), ("2.1-rust",), ("2.1-rust",)),
        (("2.1-rust",), GO, GO),
    ],
)
def test_a_program_narrows_what_the_file_leaves_open(possible, program, left):
    version = None if program is None else ProgramVersion(program, None)
    assert narrow_profiles(possible, version) == left


def test_what_is_said_of_a_version():
    assert str(ProgramVersion(("2.1-rust",), "2.1.0.25")) == "node 2.1-rust (2.1.0.25)"
    assert str(ProgramVersion(("2.1",), None)) == "node 2.1"
    assert str(ProgramVersion(("2.1", "2.1-rust"), "2.1.0")) == "node 2.1 or 2.1-rust"


@given(st.text())
def test_any_text_is_read(text):
    for found in (parse_version_answer(text), parse_file_name(text)):
        assert found is None or set(found.profiles) <= set(PROFILES)
