"""How many data workers the control machine has when nobody says it."""

from __future__ import annotations

import os

import pytest

from qmesh.agent.founding import default_workers
from qmesh.errors import BadInput

CORES = 8


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)))


@pytest.mark.parametrize(("reserve", "workers"), [(None, 7), (0, 8), (1, 7), (7, 1)])
def test_the_control_process_keeps_its_cores(reserve, workers):
    assert default_workers(reserve) == workers


def test_a_machine_of_one_core_has_a_worker_too(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert default_workers(None) == 1


@pytest.mark.parametrize("reserve", [-1, CORES, 4096])
def test_what_leaves_no_worker_is_refused(reserve):
    with pytest.raises(BadInput, match=f"{reserve} of 8 cores"):
        default_workers(reserve)
