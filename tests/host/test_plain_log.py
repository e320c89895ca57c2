"""The log of who holds the guard: line by line and field by field as the module `logging` makes it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused
from qmesh.host.lean.json_field import find_field, parse_numbers, parse_text
from qmesh.host.log import log_outlets
from qmesh.host.log.machine_name import SETTINGS
from qmesh.host.log.plain_log import LEVELS, PlainLog
from qmesh.mesh.events.catalogue import EVENTS, PRIORITIES
from tests.support.journal import decode

SAID = "by \x1b[31m nft\nand more"
SPEAK = """
import os, sys
from pathlib import Path
if sys.argv[3] == "journal":
    found = os.fstat(2)
    os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
    from qmesh.host.log import journal
    journal.SOCKET = sys.argv[4]
directory, said = Path(sys.argv[1]), "by \\x1b[31m nft\\nand more"
if sys.argv[2] == "plain":
    from qmesh.host.log.plain_log import PlainLog
    PlainLog(str(directory)).report_event("guard-restored", said)
else:
    from qmesh.host.log.events import report_event
    from qmesh.host.log.log_handlers import configure_logging
    from qmesh.host.log.machine_name import read_machine_name
    configure_logging(directory / "agent.log", read_machine_name(directory))
    report_event("guard-restored", "%s", said)
"""


def test_levels_are_those_of_the_catalogue():
    assert {code: level for code, (level, _) in LEVELS.items()} == {code: EVENTS[code] for code in LEVELS}
    assert all((level, priority) in PRIORITIES.items() for level, priority in LEVELS.values())


@pytest.fixture
def directory(tmp_path):
    (tmp_path / SETTINGS).write_text('{\n  "mesh": "x",\n  "name": "fra-1"\n}')
    return tmp_path


def speak(directory: Path, how: str, *where: str) -> str:
    """Run a program that says one thing; what came to standard error."""
    words = [sys.executable, "-c", SPEAK, str(directory), how, *where]
    return subprocess.run(words, stderr=subprocess.PIPE, text=True, check=True).stderr


def test_a_line_is_as_others_have_it(directory):
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} warning guard-restored: by \\x1b\[31m nft\\nand more\n"
    for how in ("plain", "logging"):
        assert re.fullmatch(line, speak(directory, how, "stderr"))


def test_an_entry_of_the_journal_is_as_others_have_it(directory):
    entries = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(directory / "journal"))
        for how in ("plain", "logging"):
            assert speak(directory, how, "journal", str(directory / "journal")) == ""
            entries.append(decode(journal.recv(1 << 16)))
    for entry in entries:
        assert entry.pop("CODE_LINE").isdecimal()
    assert entries[0] == entries[1]
    assert entries[0]["QMESH_MACHINE"] == "fra-1"


def test_what_the_journal_does_not_take_goes_to_standard_error_with_its_level(directory):
    line = speak(directory, "plain", "journal", str(directory / "nowhere"))
    assert line.startswith("<4>")


def test_it_ends_with_two_lines_and_nothing_raises(directory, capfd, monkeypatch):
    log = PlainLog(str(directory))
    log.report_error(MachineRefused("no\x1b", hint="more"))
    assert capfd.readouterr().err == "error: no\\x1b\nhint: more\n"

    def full(_: object, __: bytes) -> None:
        raise OSError

    monkeypatch.setattr(log_outlets.StderrOutlet, "write", full)
    log.report_event("guard-restored", "x")


def test_the_same_again_and_again_is_said_a_few_times(directory, capfd):
    log = PlainLog(str(directory))
    for _ in range(1000):
        log.report_event("guard-restored", "the same")
    assert len(capfd.readouterr().err.splitlines()) < 20


@pytest.mark.parametrize(
    ("octets", "text", "numbers"),
    [
        (b'{"a": 1, "x": "y"}', "y", []),
        (b'{"x":[1, 22,333333,-4,true,"5",[6],7]}', "", [1, 22]),
        (b'{"x":[]}', "", []),
        (b'{"x":[1', "", [1]),
        (b'{"x"', "", []),
        (b'{"x":"y', "y", []),
        (b"\xff", "", []),
        ('{"x":[²,٣]}'.encode(), "", []),
    ],
)
def test_a_field_is_found_without_a_parser(octets, text, numbers):
    field = find_field(octets, "x")
    assert (parse_text(field), parse_numbers(field)) == (text, numbers)
