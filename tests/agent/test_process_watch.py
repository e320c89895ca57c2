"""The agent's watch of the node's processes knows what stood in config.yml before the agent changed it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from qmesh.agent.commands.render_config import render_node_config, write_node_config
from qmesh.agent.local import load_local
from qmesh.agent.node.node_processes import note_readings
from qmesh.agent.node.process_watch import ProcessWatch
from qmesh.host.state.directory import State
from qmesh.mesh.node_processes.readings import SLACK_S, is_outdated
from tests.support.control_node import make_control_node
from tests.support.waiting import idle

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

CONFIG = Path("/run/node/.config")
GOOD = "engine:\n  dataWorkerMultiaddrs: [/ip4/10.77.0.1/tcp/40000]\n"


def write(text: str) -> None:
    (CONFIG / "config.yml").write_text(text, encoding="utf-8")
    (CONFIG / "config.yml").chmod(0o600)


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_worker_that_was_started_with_what_stood_there_for_a_moment_is_outdated(is_noted):
    CONFIG.mkdir(parents=True)
    write(GOOD)
    state = State(Path("/run/state"), patience_s=1.0)
    make_control_node(state, config=CONFIG)
    here, watch = load_local(state), ProcessWatch(state)
    watch.look(here)
    write(GOOD.replace("40000", "40009"))
    idle(3 * SLACK_S)
    started_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    idle(3 * SLACK_S)
    if is_noted:
        watch.note_config(here)
    write(GOOD)
    watch._look_at = 0.0
    watch.look(here)

    record = state.process_record.read_valid()
    assert record is not None
    assert record.readings is not None
    assert is_outdated(started_s, record.readings.cores[1]) == is_noted


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_worker_that_a_command_wrote_the_file_for_is_not_outdated_by_what_is_no_concern_of_it(is_noted):
    CONFIG.mkdir(parents=True)
    state = State(Path("/run/state"), patience_s=1.0)
    write("engine:\n  dataWorkerMultiaddrs: []\n")
    make_control_node(state, config=CONFIG)
    here, watch = load_local(state), ProcessWatch(state)
    watch.look(here)
    write(GOOD)
    if is_noted:
        note_readings(state)
    idle(3 * SLACK_S)
    started_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    idle(3 * SLACK_S)
    write(GOOD.replace("40000]", "40000, /ip4/10.77.0.9/tcp/49999]"))  # of another machine
    watch._look_at = 0.0
    watch.look(here)

    record = state.process_record.read_valid()
    assert record is not None
    assert record.readings is not None
    assert is_outdated(started_s, record.readings.cores[1]) == (not is_noted)


def test_render_config_notes_what_it_wrote():
    CONFIG.mkdir(parents=True)
    state = State(Path("/run/state"), patience_s=1.0)
    write("engine:\n  dataWorkerMultiaddrs: []\n")
    make_control_node(state, config=CONFIG)
    assert state.process_record.read_valid() is None
    write_node_config(state, render_node_config(state, config=CONFIG, for_name=None))

    record = state.process_record.read_valid()
    assert record is not None
    assert record.readings is not None
    assert record.readings.facts.is_managed
