"""Further arguments of the node: as they are typed, as a unit has them, and read from it again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.systemd.node_arguments import (
    MAX_LENGTH,
    MOST_WORDS,
    parse_node_arguments,
    parse_unit_arguments,
    render_node_arguments,
)
from qmesh.mesh.systemd.units import CONTROL_PROCESS, WORKER, parse_node_program, render_unit_files
from tests.support.units import paths

PROGRAM, CONFIG = "/root/node/node", "/root/node/.config"


def units(*arguments: str) -> dict[str, str]:
    return render_unit_files(
        paths(program=PROGRAM, config_directory=CONFIG, arguments=arguments),
        is_control=True,
        cores=range(1, 2),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ()),
        ("  ", ()),
        ("--debug", ("--debug",)),
        (
            "--log-filter 'a b=debug' -signature-check=false",
            ("--log-filter", "a b=debug", "-signature-check=false"),
        ),
        ("--name ''", ("--name", "")),
        ("--prometheus-server localhost:9100", ("--prometheus-server", "localhost:9100")),
        ("--configuration x --coreless", ("--configuration", "x", "--coreless")),
    ],
)
def test_what_is_typed(text, words):
    assert parse_node_arguments(text) == words


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("--debug 'x", "not quoted as for a shell"),
        ("--config /x", "--config', which the units set themselves"),
        ("--config=/x", "which the units set themselves"),
        ("-config=/x", "which the units set themselves"),
        ("-c /x", "which the units set themselves"),
        ("--debug --core 5", "which the units set themselves"),
        ("--debug -core=5", "which the units set themselves"),
        ("--parent-process 5", "which the units set themselves"),
        ("debug", "which is no option"),
        ("'' --debug", "which is no option"),
        ("--debug -- x", "after which the node reads no options"),
        ("--debug 'a\nExecStart=/bin/sh'", "control character"),
        ("--debug \x1b[1m", "control character"),
        ("--a " * (MOST_WORDS + 1), "more than 64 words"),
        ("--" + "a" * MAX_LENGTH, "or 4096 characters"),
    ],
)
def test_what_is_refused(text, why):
    with pytest.raises(BadInput) as refused:
        parse_node_arguments(text)
    assert why in refused.value.message
    assert refused.value.hint


def test_every_process_of_the_node_is_started_with_them():
    words = ("--debug", "--log-filter", "50% of $HOME \"a\" \\b; 'c'", "")
    made = units(*words)
    end = ' --debug --log-filter "50%% of $$HOME \\"a\\" \\\\b; \'c\'" ""\n'
    assert f"\nExecStart=/root/node/node --config /root/node/.config{end}" in made[CONTROL_PROCESS]
    assert f"\nExecStart=/root/node/node --config /root/node/.config --core %i{end}" in made[WORKER]
    assert parse_unit_arguments(made[WORKER]) == words


def test_without_them_the_units_are_as_they_were():
    assert "\nExecStart=/root/node/node --config /root/node/.config --core %i\n" in units()[WORKER]


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "))


@given(st.lists(WORDS))
def test_they_are_read_again_from_the_unit(words):
    unit = units(*words)[WORKER]
    assert parse_unit_arguments(unit) == tuple(words)
    assert parse_node_program(unit) == "/root/node/node"
    assert len([line for line in unit.splitlines() if line.startswith("ExecStart=")]) == 1


@pytest.mark.parametrize("unit", ["", "[Service]\n", "ExecStart=/root/node/node --config /x\n"])
def test_a_unit_without_them_has_none(unit):
    assert parse_unit_arguments(unit) == ()


def test_nothing_is_written_that_systemd_would_read_as_its_own():
    assert render_node_arguments(["%i", "${X}", "$X", "a;b", ";"]) == ' %%i $${X} $$X "a;b" ";"'
