"""Closing a gap: no order renumbers fewer machines than the one that is taken."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh import renumber
from qmesh.mesh.renumber import close_gap, count_renumbered

SIZES = st.lists(st.integers(1, 6), max_size=6)


@pytest.mark.parametrize(
    ("sizes", "gap", "order", "count"),
    [
        ([], 3, (), 0),
        ([4, 4, 4], 4, (2, 0, 1), 1),
        ([10, 4], 4, (1, 0), 1),
        ([4, 10], 4, (0, 1), 2),
        ([8, 8, 2, 2], 4, (2, 3, 0, 1), 2),
        ([1, 2, 5, 4], 3, (3, 1, 2, 0), 2),
        ([1, 2, 2], 3, (0, 2, 1), 3),
    ],
)
def test_machines_from_behind_fill_the_gap_where_they_fit(sizes, gap, order, count):
    assert close_gap(sizes, gap) == order
    assert count_renumbered(sizes, gap, order) == count


@given(SIZES, st.integers(1, 9))
def test_law_no_order_renumbers_fewer(sizes, gap):
    order = close_gap(sizes, gap)
    assert sorted(order) == list(range(len(sizes)))
    best = min(count_renumbered(sizes, gap, other) for other in permutations(range(len(sizes))))
    assert count_renumbered(sizes, gap, order) == best


def test_without_time_to_search_it_is_an_order_still(monkeypatch):
    monkeypatch.setattr(renumber, "MOST_LOOKS", 0)
    assert sorted(close_gap([1, 2, 5, 4], 3)) == [0, 1, 2, 3]


@given(SIZES, st.integers(1, 9))
def test_law_without_time_to_search_it_is_an_order_still(sizes, gap):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renumber, "MOST_LOOKS", 0)
        order = close_gap(sizes, gap)
    assert sorted(order) == list(range(len(sizes)))
    assert count_renumbered(sizes, gap, order) <= len(sizes)


def test_of_two_thousand_machines_that_are_alike_one_moves():
    order = close_gap([16] * 2000, 16)
    assert order[0] == 1999
    assert count_renumbered([16] * 2000, 16, order) == 1
