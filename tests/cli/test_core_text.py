"""Core numbers in words."""

import pytest

from qmesh.agent.commands.status import CoreRange
from qmesh.cli.core_text import describe_cores
from qmesh.cli.status_text.columns import format_cores


@pytest.mark.parametrize(
    ("first", "count", "words"), [(5, 1, "core 5"), (5, 2, "cores 5-6"), (1, 128, "cores 1-128")]
)
def test_one_core_is_not_a_range(first, count, words):
    assert describe_cores(first, count) == words


@pytest.mark.parametrize(
    ("first", "count", "state", "shown"),
    [
        (5, 1, "active", "5"),
        (4, 4, "active", "4-7"),
        (None, 2, "invited", "2 after join"),
        (None, 2, "paused", "2 after resume"),
        (None, None, "invited", "-"),
    ],
)
def test_cores_that_a_machine_does_not_have_yet_are_said_in_words(first, count, state, shown):
    assert format_cores(CoreRange(first, count), state=state) == shown
