"""Which files a unit may start, and what is said of the others."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

import pytest

from qmesh.errors import BadInput
from qmesh.host.node_program.unit_program import SECOND_PROGRAM, find_closed_path, inspect_program

MACHINES = {"x86_64": 62, "aarch64": 183}


def elf(machine: int, *, order: str = "<") -> bytes:
    head = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    return head + struct.pack(f"{order}HH", 2, machine) + bytes(44)


def make(path: Path, octets: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(octets)
    path.chmod(mode)
    return path


def refusal(path: Path) -> BadInput:
    with pytest.raises(BadInput) as refused:
        inspect_program(path)
    assert refused.value.hint
    return refused.value


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def test_a_program_of_this_machine_and_a_script_are_taken(tmp_path):
    program = make(tmp_path / "node", elf(62))
    assert inspect_program(program).path == program
    link = tmp_path / "link"
    link.symlink_to(program)
    assert inspect_program(link).path == program
    assert inspect_program(make(tmp_path / "script", b"#!/bin/sh\n")).second is None


@pytest.mark.parametrize(
    ("octets", "mode", "why"),
    [
        (elf(62), 0o644, "is not executable"),
        (elf(183), 0o755, "is a program for aarch64, and this machine is x86_64"),
        (elf(62, order=">")[:18] + b"\x00\xb7", 0o755, "is a program for aarch64"),
        (elf(8), 0o755, "is a program for other machines"),
        (elf(62)[:12], 0o755, "is no program for Linux"),
        (b"", 0o755, "is no program for Linux"),
        (b"SHA3-256(node)= 00", 0o755, "is no program for Linux"),
        (b"\xcf\xfa\xed\xfe" + bytes(60), 0o755, "is no program for Linux"),
    ],
)
def test_what_cannot_be_started_is_refused(tmp_path, octets, mode, why):
    assert why in refusal(make(tmp_path / "node", octets, mode)).message


def test_what_is_not_there_or_no_file_is_refused(tmp_path):
    assert "there is no program" in refusal(tmp_path / "node").message
    assert "is a directory" in refusal(tmp_path).message
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert "there is no program" in refusal(tmp_path / "dangling").message
    assert "Not a directory" in refusal(make(tmp_path / "file", b"") / "node").message
    os.mkfifo(tmp_path / "pipe", 0o755)
    assert "is not a regular file" in refusal(tmp_path / "pipe").message


def test_on_a_machine_that_is_not_known_any_program_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    assert inspect_program(make(tmp_path / "node", elf(62)))


def test_the_second_program_is_that_beside_the_first_not_beside_a_link(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "node").mkdir()
    program = make(tmp_path / "node/node", elf(62))
    link = tmp_path / "bin/quilibrium-node"
    link.symlink_to(program)
    make(tmp_path / "bin" / SECOND_PROGRAM, elf(62))
    assert inspect_program(link).second is None
    second = make(tmp_path / "node" / SECOND_PROGRAM, elf(62))
    assert inspect_program(link).second == second


def test_what_keeps_a_user_from_a_program_is_named(own_machine):
    home = Path("/run/home")
    home.mkdir()
    Path("/run").chmod(0o755)
    program = make(home / "node", elf(62))
    assert find_closed_path(inspect_program(program), 1000) is None
    home.chmod(0o700)
    assert find_closed_path(inspect_program(program), 1000) == home
    assert find_closed_path(inspect_program(program), 0) is None
    os.chown(home, 1000, 1000)
    assert find_closed_path(inspect_program(program), 1000) is None
    program.chmod(0o744)
    assert find_closed_path(inspect_program(program), 1000) == program
    os.chown(program, 0, 1000)
    program.chmod(0o754)
    assert find_closed_path(inspect_program(program), 4_000_000_000) == program
