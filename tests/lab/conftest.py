"""A lab for each test that asks for one, and one mesh for all of a module that ask for that."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.lab.machines import Lab
from tests.support.lab.mesh import Mesh
from tests.support.lab.probe import Listeners


@pytest.hookimpl(trylast=True)  # after they were shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of a machine that is thrown away are the last: what they made need not be taken away then."""
    items.sort(key=lambda item: item.path.name.startswith("test_systemd"))


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
