"""Root of one member is root of that machine and no more: what it can do to the others by asking.

A user of the control machine is that user and no more.

`scripts/bench floods` measures how soon others hear of changes; here they hear at all, and the agent goes on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab.cluster import AGENT, find_only
from tests.support.lab.floods import KINDS, METRICS_KINDS, MOST_LOGGED, MOST_MB, Floods
from tests.support.lab.fork_server import residents_start
from tests.support.lab.machines import Lab
from tests.support.waiting import patience, wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def floods() -> Iterator[Floods]:
    with residents_start(), Lab() as lab:  # as much memory as an agent has that was started
        yield Floods(lab)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_by_root_of_one_member_keeps_no_other_from_hearing(floods: Floods, kind: str) -> None:
    agent = find_only(floods.control, AGENT)
    flooded = floods.flood(kind, 2)
    assert flooded.begun > 20
    assert flooded.heard_s < patience(10)
    assert flooded.megabytes < MOST_MB
    assert flooded.logged < MOST_LOGGED
    assert find_only(floods.control, AGENT) == agent


@pytest.mark.long  # the server by itself is in tests/host/test_metrics.py
@pytest.mark.parametrize("kind", METRICS_KINDS)
def test_a_flood_of_questions_for_metrics_by_a_user_keeps_nobody_from_anything(
    floods: Floods, kind: str
) -> None:
    agent = find_only(floods.control, AGENT)
    flooded = floods.flood(kind, 10)
    assert flooded.begun > 100
    wait_until(floods.scrape, 30)
    if kind == "metrics":  # who waits for answers; one who does not wait fills the kernel's queue
        assert flooded.scraped == 1
    assert flooded.heard_s < patience(10)
    assert flooded.megabytes < MOST_MB
    assert flooded.logged < MOST_LOGGED
    assert find_only(floods.control, AGENT) == agent
