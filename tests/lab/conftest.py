"""A lab for each test that asks for one, and one mesh for all of a module that ask for that."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.lab.machines import Lab
from tests.support.lab.mesh import Mesh
from tests.support.lab.probe import Listeners


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def whole_mesh() -> Iterator[Mesh]:
    with Lab() as lab, contextlib.ExitStack() as undo, Listeners() as listeners:
        yield Mesh(lab, listeners, undo)


@pytest.fixture
def mesh(whole_mesh: Mesh) -> Mesh:
    whole_mesh.settle()
    return whole_mesh


@pytest.fixture
def bare(whole_mesh: Mesh) -> Mesh:
    """The mesh without any rules."""
    whole_mesh.strip()
    return whole_mesh
