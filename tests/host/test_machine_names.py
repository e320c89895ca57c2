"""The names that a shell offers at Tab: read quickly, and without a word where they cannot be."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys

import pytest

from qmesh.host.machine_names import list_machine_names
from qmesh.host.registry import Registry
from tests.support.factories import machine, mesh
from tests.support.registries import sql
from tests.support.waiting import within


@pytest.fixture
def registry(tmp_path):
    machines = [machine(name, number) for number, name in enumerate(("zrh-3", "fra-1"), 1)]
    Registry.create(tmp_path / "mesh.db", mesh(*machines, control="fra-1"), now=0)
    return tmp_path / "mesh.db"


def test_the_names_are_those_of_the_registry_in_their_order(registry):
    assert list_machine_names(registry.parent) == ["fra-1", "zrh-3"]


def test_they_are_read_while_another_process_writes(registry):
    with Registry(registry) as other, other._open_transaction():
        assert list_machine_names(registry.parent) == ["fra-1", "zrh-3"]


def test_who_presses_tab_waits_for_nobody(registry):
    with contextlib.closing(sqlite3.connect(registry)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with within(0.3):
            assert list_machine_names(registry.parent) == []


@pytest.mark.parametrize("name", ["$(touch x)", "zrh-3 x", "zrh-3\nx", "zrh-3;x", ""])
def test_what_a_shell_would_read_otherwise_is_no_name(registry, name):
    sql(registry, f"UPDATE machines SET name = '{name}' WHERE name = 'zrh-3'")  # noqa: S608 - of a test
    assert list_machine_names(registry.parent) == ["fra-1"]


@pytest.mark.parametrize("octets", [b"", b"no registry", None])
def test_without_a_registry_there_are_none_and_none_comes_to_be(tmp_path, octets):
    if octets is not None:
        (tmp_path / "mesh.db").write_bytes(octets)
    before = sorted(tmp_path.iterdir())
    assert list_machine_names(tmp_path) == []
    assert list_machine_names(tmp_path / "nowhere") == []
    assert sorted(tmp_path.iterdir()) == before


def test_the_program_prints_them_without_loading_what_commands_need(registry):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "qmesh"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "_QMESH_COMPLETE": "machines", "QMESH_STATE": str(registry.parent)},
    )
    assert done.stdout == "fra-1\nzrh-3\n"
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line
    }
    assert not loaded & {"typer", "rich", "msgspec", "cryptography", "pyroute2"}
