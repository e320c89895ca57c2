"""What to type, or to do, to start and stop the node's processes: with systemd its commands, else words."""

from __future__ import annotations

import re
from itertools import product

import pytest

from qmesh.mesh.systemd.instructions import (
    NodeHost,
    describe_agent_log,
    describe_agent_restart,
    describe_control_action,
    describe_drop_in,
    describe_prover_pause,
    describe_workers_action,
)
from qmesh.mesh.values import PROFILES

PROGRAMS = re.compile(r"\b(?:systemctl|journalctl)\b")
VERBS = ("start", "stop", "restart")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("is_other", [False, True])
@pytest.mark.parametrize("has_units", [False, True])
def test_without_systemd_the_words_have_cores_and_directory_and_no_command_of_its(verb, is_other, has_units):
    host = NodeHost(has_units=has_units, is_other=is_other, directory=None if is_other else "/n o/.config")
    for cores, are_all in product(((4,), (4, 5, 9)), (False, True)):
        said = describe_workers_action(verb, cores, host, are_all=are_all)
        assert bool(PROGRAMS.search(said)) == has_units
        if has_units:
            units = (
                ["qmesh-workers.target"] if are_all else [f"qmesh-worker@{core}.service" for core in cores]
            )
            assert said.startswith(f"systemctl {verb} {' '.join(units)}")
        if is_other or not has_units:
            assert f"{verb} the worker" in said
            assert ("core 4" if len(cores) == 1 else "cores 4-5, 9") in said
        assert (" --core " in said) == (verb != "stop" and not is_other and not has_units)
    said = describe_control_action(verb, host)
    assert bool(PROGRAMS.search(said)) == has_units
    assert ("the control process" in said) == (is_other or not has_units)
    assert ("--config '/n o/.config'" in said) == (verb != "stop" and not is_other and not has_units)


def test_a_list_of_any_length_is_a_line_that_can_be_read():
    here, cores = NodeHost(has_units=True), range(1, 20_000)
    assert len(describe_workers_action("stop", cores, here)) < 1000
    assert describe_workers_action("stop", cores, here).endswith("qmesh-worker@20.service (and 19979 more)")
    apart = NodeHost(has_units=False)
    assert describe_workers_action("stop", cores, apart) == "stop the workers of cores 1-19999"
    assert describe_workers_action("stop", range(1, 100, 2), apart).endswith(" 37, 39 and 30 more")


@pytest.mark.parametrize("has_systemd", [False, True])
def test_log_and_drop_in_are_named_as_they_are_there(has_systemd):
    for said in (
        describe_agent_log(has_systemd=has_systemd),
        describe_drop_in("qmesh-worker@.service", has_systemd=has_systemd),
    ):
        assert bool(PROGRAMS.search(said)) == has_systemd
    assert describe_agent_restart() == "systemctl restart qmesh.service"  # asked for where systemd runs


@pytest.mark.parametrize("node", PROFILES)
def test_node_2_1_wants_to_be_told_before_its_workers_go_away_for_long(node):
    said = describe_prover_pause(node)
    assert bool(said) == node.startswith("2.1")
    assert ("`qclient node prover pause [FILTER]`" in said) == ("360 frames" in said) == bool(said)
