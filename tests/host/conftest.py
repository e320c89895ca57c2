"""A state directory for each test that asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmesh.host.state.directory import State
from tests.support.own_machine import own_machine, pytest_pyfunc_call

__all__ = ["own_machine", "pytest_pyfunc_call"]


@pytest.fixture
def state(tmp_path: Path) -> State:
    found = State(tmp_path / "state")
    found.create_directory()
    return found
