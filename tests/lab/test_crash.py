"""E4: killed at any point where it writes or sends, a command is run again and ends as if it never was.

Of a join one point of each kind is tried with every change. Of each command every so many are, and the
first of each kind with its object, where this file is named with `-m long`; `scripts/faults` tries them all.
"""

import pytest

from tests.support.lab.crash import MATRICES

pytestmark = pytest.mark.lab


def test_e4_a_join_that_is_killed_at_any_kind_of_point_is_run_again(lab):
    result = MATRICES["join"](lab, every=None)
    assert result.tried > 5
    assert result.wrong == []


@pytest.mark.long
@pytest.mark.parametrize("command", MATRICES)
def test_e4_killed_at_any_point_it_is_run_again(lab, command):
    result = MATRICES[command](lab, every=120)
    assert result.points > 1
    assert result.wrong == []
