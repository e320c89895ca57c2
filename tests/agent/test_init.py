"""How many data workers the control machine has when nobody says it."""

from __future__ import annotations

import os

import pytest

from qmesh.agent.commands.init import count_default_workers
from qmesh.errors import BadInput

CORES = len(os.sched_getaffinity(0))


def test_the_control_process_keeps_a_core_or_as_many_as_it_is_given():
    assert count_default_workers(None) == max(1, CORES - 1)
    assert [count_default_workers(reserve) for reserve in range(CORES)] == list(range(CORES, 0, -1))


def test_a_machine_of_one_core_has_a_worker_too():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert count_default_workers(None) == count_default_workers(0) == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("reserve", [-1, CORES, 4096])
def test_what_leaves_no_worker_is_refused(reserve):
    with pytest.raises(BadInput, match=f"{reserve} of {CORES} cores"):
        count_default_workers(reserve)
