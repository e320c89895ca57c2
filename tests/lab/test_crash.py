"""E4: killed at any point where it writes or sends, a command is run again and ends as if it never was.

Of each command's points every so many are tried here, and the first of each kind; `scripts/faults`
tries them all. Those that take long are left to it and to whoever names this file.
"""

import pytest

from tests.support.lab.crash import MATRICES

pytestmark = pytest.mark.lab


SHORT = ("join",)
ROWS = [pytest.param(name, marks=[] if name in SHORT else pytest.mark.long) for name in MATRICES]


@pytest.mark.parametrize("command", ROWS)
def test_e4_killed_at_any_point_it_is_run_again(lab, command):
    result = MATRICES[command](lab, every=120)
    assert result.points > 1
    assert result.wrong == []
