"""A lab for each test that asks for one."""

from collections.abc import Iterator

import pytest

from tests.lab.machines import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
