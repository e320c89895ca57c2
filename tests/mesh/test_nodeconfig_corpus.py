"""An edit of the worker list changes nothing else: over the corpus, and over random files.

`scripts/bench edits` does the same with thousands of random files, and prints the figures.
"""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.machine import Machine
from qmesh.mesh.nodeconfig import (
    ExpectedMesh,
    build_desired_settings,
    edit_settings,
    lint_config,
    profile_facts,
    redact_config,
)
from qmesh.mesh.values import PROFILES, Profile
from tests.support.config_files import corpus, edit_worker_list, lists_for, random_edit
from tests.support.outside import entries_of, octets_changed

FILES = corpus()
KEPT = {name: text for name, text in FILES.items() if "thousands" not in name}


def test_the_corpus_has_what_the_issue_is_about():
    assert len(FILES) >= 40
    texts = FILES.values()
    assert sum("\r\n" in text for text in texts) >= 4
    assert sum(text.startswith("\ufeff") for text in texts) >= 3
    assert sum(not text.endswith(("\n", "\r")) for text in texts) >= 5
    assert sum("&" in text and "*" in text for text in texts) >= 2
    assert sum(len(entries_of(text)) >= 5000 for text in texts) == 2
    for version in ("1.4-full", "2.0-full", "2.1-full", "2.1-rust-full"):
        assert sum(name.startswith(version) for name in FILES) >= 2


# A file of thousands of lines is edited in test_nodeconfig_edit.py too.
BY_SIZE = [
    pytest.param(text, id=name, marks=[pytest.mark.long] if "thousands" in name else [])
    for name, text in FILES.items()
]


@pytest.mark.parametrize("text", BY_SIZE)
def test_an_edit_changes_nothing_outside_the_list(text):
    for what, wanted in lists_for(entries_of(text)).items():
        result = edit_worker_list(text, wanted, "2.0")
        assert octets_changed(text, result, wanted) == 0, what
        assert edit_worker_list(result, wanted, "2.0") == result, what


@pytest.mark.parametrize("name", KEPT)
def test_nor_does_an_edit_of_the_stream_list_of_node_2_1(name):
    text, key = FILES[name], "dataWorkerStreamMultiaddrs"
    lists = lists_for(entries_of(text, key))
    for what in ("same", "longer", "shorter", "one changed", "empty"):
        result = edit_worker_list(text, lists[what], "2.1")
        assert octets_changed(text, result, lists[what], key) == 0, what
        assert edit_worker_list(result, lists[what], "2.1") == result, what


def test_both_nodes_2_1_have_that_list_in_one_place():
    assert profile_facts("2.1").list_key == profile_facts("2.1-rust").list_key


@pytest.mark.parametrize("node", PROFILES)
@pytest.mark.parametrize("name", [name for name in FILES if "-full-" in name])
def test_what_qmesh_writes_has_no_problem_that_was_not_there(name, node):
    """All settings of a machine, in every node's file: lint finds nothing in them."""
    mesh = inventory(node)
    for machine in mesh.machines:
        result = edit_settings(FILES[name], build_desired_settings(mesh, machine.name))
        held_against = ExpectedMesh(
            network=mesh.network,
            own=machine.address,
            members={each.name: each.address for each in mesh.machines},
            workers=tuple(worker.multiaddr for worker in list_workers(mesh)),
        )
        problems = lint_config(result, profile=node, mesh=held_against)
        assert {problem.kind for problem in problems} <= {"profile", "announce", "length"}
        assert not [problem for problem in problems if problem.cured]
        assert edit_settings(result, build_desired_settings(mesh, machine.name)) == result


def inventory(node: Profile) -> Inventory:
    """Two machines of three and four workers."""
    machines = tuple(
        Machine(
            name=f"machine-{number}",
            public_key=base64.b64encode(number.to_bytes(32, "big")).decode(),
            address=f"10.77.0.{number}",
            workers=2 + number,
        )
        for number in (1, 2)
    )
    return Inventory(
        mesh="0011223344556677",
        network="10.77.0.0/20",
        control="machine-1",
        node=node,
        base_port=profile_facts(node).base_port,
        p2p_base_port=profile_facts(node).p2p_base_port,
        service_port=51820,
        revision=1,
        machines=machines,
    )


@given(st.randoms(use_true_random=False))
def test_law_an_edit_of_any_file_changes_nothing_outside_the_list(random):
    text, wanted = random_edit(random)
    result = edit_worker_list(text, wanted, "2.0")
    assert octets_changed(text, result, wanted) == 0
    assert edit_worker_list(result, wanted, "2.0") == result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("filter: ffff # not mine to change", "filter: ffff # not mine to changE"),
        ("# end\n", "# end"),
        ("  # the list follows", " # the list follows"),
        ("# core 1", "# core 2"),
        ("tcp/40001   #", "tcp/40001  #"),
        ("    # machine A\n", ""),
        ("dataWorkerMultiaddrs: #", "dataWorkerMultiaddrs : #"),
        ("    # - /ip4/10.77.0.9/tcp/40009\n", "\n"),
        ("\n", "\r\n"),
        ("# my cluster", "\ufeff# my cluster"),
    ],
)
def test_the_judge_sees_an_octet_that_changed(before, after):
    text = FILES["block-comments-everywhere.yml"]
    damaged = text.replace(before, after, 1)
    assert damaged != text
    assert octets_changed(text, damaged, entries_of(text)) > 0


def test_the_judge_sees_what_loads_as_something_else():
    text = "engine:\n  filter: ffff\n  dataWorkerMultiaddrs: [a]\n"
    with pytest.raises(AssertionError, match="something else"):
        octets_changed(text, text.replace("ffff", "fffe"), ("a",))
    with pytest.raises(AssertionError, match="the wanted one"):
        octets_changed(text, text, ("b",))


def test_the_corpus_holds_no_secret_that_could_be_one():
    """Every secret is one word over and over, so that nobody has to look twice."""
    for name, text in KEPT.items():
        told = re.findall(r"(?i)(?:privkey|encryptionkey|alertkey|secret|token|pass\w*): *(\S+)", text)
        assert all(set(value.strip("'\"}").split("0badc0de5ec12e7f")) == {""} for value in told), name
        assert "0badc0de5ec12e7f" not in redact_config(text), name
