"""Entries for systemd's journal: every field as it was, one line a message, and never waited for."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.host.log import rate_limit
from qmesh.host.log.journal import JournalSocket, encode_fields, is_stderr_journal
from qmesh.host.log.log_lines import EventFormatter, LineFormatter
from qmesh.host.log.machine_name import SETTINGS, read_machine_name
from tests.support.journal import decode

NAMES = st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_fields_arrive_as_they_were(fields):
    assert decode(encode_fields(fields)) == fields


def test_whatever_is_logged_is_one_line_that_moves_no_cursor():
    hostile = "a\nFAKE error\x1b[2J\u2028"
    error = ValueError(hostile)
    trace = (ValueError, error, None)
    record = logging.LogRecord("qmesh", logging.ERROR, "x.py", 1, "%s", (hostile,), trace)
    for formatter in (LineFormatter(), EventFormatter()):
        line = formatter.format(record)
        assert line.isprintable()
        assert "a\\nFAKE" in line
        assert "ValueError" in line


def test_standard_error_is_the_journal_where_the_variable_names_that_very_file(monkeypatch):
    found = os.fstat(2)
    for said, expected in (
        (f"{found.st_dev}:{found.st_ino}", True),
        (f"{found.st_dev}:1", False),
        ("", False),
    ):
        monkeypatch.setenv("JOURNAL_STREAM", said)
        assert is_stderr_journal() == expected


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ('{"name": "fra-1", "mesh": 7}', "fra-1"),
        ('{"name": "../x"}', ""),
        ('{"name": "a\\nb"}', ""),
        ('{"name": 1}', ""),
        ("{", ""),
        (None, ""),
    ],
)
def test_a_machine_is_named_in_its_log_where_its_settings_say_a_name(tmp_path, settings, name):
    if settings is not None:
        (tmp_path / SETTINGS).write_text(settings)
    assert read_machine_name(tmp_path) == name


@pytest.fixture
def journal(tmp_path):
    """A socket as journald's, with room for some hundred entries."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "journal"))
        listening.settimeout(0)
        yield listening


def read_entries(listening: socket.socket) -> list[dict[str, str]]:
    entries = []
    while True:
        try:
            entries.append(decode(listening.recv(1 << 20)))
        except BlockingIOError:
            return entries


SPEAK = """
import logging, os, sys, threading
from pathlib import Path
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
from qmesh.host.log import journal, log_handlers
from qmesh.host.log.events import report_event
journal.SOCKET = sys.argv[1]
log_handlers.configure_logging(Path("/nowhere/agent.log"), "fra-1")
exec(sys.argv[2])
"""


def speak(path: Path, program: str) -> str:
    """Run a program whose standard error is the journal; what came there as lines."""
    words = [sys.executable, "-c", SPEAK, str(path), program]
    return subprocess.run(words, stderr=subprocess.PIPE, check=True).stderr.decode()


EVENTS = r"""
def wait_for_x():
    report_event("guard-restored", "by %s", "a\nPRIORITY=0\nb")
wait_for_x()
report_event("node-keys", "%s has other keys", "hel-2", machine="hel-2")
try:
    1 / 0
except ZeroDivisionError as error:
    report_event("request-failed", "GET /x", error=error)
report_event("agent-hung", "it hung", trace='File "a.py"\n  in b\n')
logging.getLogger("asyncio").error("of a library")
logging.getLogger("asyncio").warning("nobody wants to know")
thread = threading.Thread(target=lambda: {}["5ec2e7"])
thread.start()
thread.join()
"""


def test_an_event_is_one_entry_with_its_code_its_level_and_its_place(journal, tmp_path):
    assert speak(tmp_path / "journal", EVENTS) == ""
    restored, keys, failed, hung, library, thread = read_entries(journal)
    assert restored["MESSAGE"] == r"by a\nPRIORITY=0\nb"
    assert (restored["PRIORITY"], restored["QMESH_CODE"], restored["QMESH_MACHINE"]) == (
        "4",
        "guard-restored",
        "fra-1",
    )
    assert (restored["CODE_FUNC"], restored["CODE_LINE"]) == ("wait_for_x", "3")
    assert restored["SYSLOG_IDENTIFIER"] == "qmesh"
    assert "QMESH_TRACEBACK" not in restored
    assert (keys["QMESH_MACHINE"], keys["PRIORITY"]) == ("hel-2", "4")
    assert (failed["MESSAGE"], failed["PRIORITY"]) == ("GET /x", "3")
    assert failed["QMESH_TRACEBACK"].endswith("ZeroDivisionError: division by zero")
    assert hung["QMESH_TRACEBACK"] == 'File "a.py"\n  in b'
    assert (library["QMESH_CODE"], library["PRIORITY"]) == ("library-failed", "3")
    assert (thread["QMESH_CODE"], "KeyError" in thread["QMESH_TRACEBACK"]) == ("thread-failed", True)


FLOOD = """
for number in range(700):
    report_event("members-served", "%s", "x" * 100)
    report_event("agent-failing", f"{number} {'y' * 100}")
    report_event("request-failed", "z" * 100_000, error=ValueError("v" * 100_000))
"""


def test_a_flood_is_bounded_and_is_not_waited_for_where_nothing_takes_it(journal, tmp_path):
    """The socket has room for a few hundred entries, and is read when all is over."""
    told = speak(tmp_path / "journal", FLOOD)
    entries = read_entries(journal)
    size = len(told) + sum(len(encode_fields(entry)) for entry in entries)
    assert entries
    assert len(max(entries, key=lambda entry: len(entry["MESSAGE"]))["MESSAGE"]) <= rate_limit.MOST_LINE + 100
    assert size < 3 * rate_limit.BURST
    assert all(line.startswith(("<3>", "<4>", "<6>")) for line in told.splitlines())


AWAY = """
report_event("guard-open", "first")
Path(sys.argv[1]).rename(sys.argv[1] + ".old")
report_event("guard-open", "still the same socket")
import socket
again = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log_handlers.logging.getLogger().handlers[0]._journal.close()
report_event("guard-open", "nothing listens")
again.bind(sys.argv[1])
report_event("guard-open", "another one listens")
again.settimeout(10)
assert b"another one listens" in again.recv(10000)
"""


def test_what_the_journal_does_not_take_is_a_line_with_its_level(journal, tmp_path):
    told = speak(tmp_path / "journal", AWAY)
    assert told.count("\n") == 1
    assert told.startswith("<3>")
    assert told.endswith(" err guard-open: nothing listens\n")
    assert [entry["MESSAGE"] for entry in read_entries(journal)] == ["first", "still the same socket"]


def test_a_socket_that_is_not_there_takes_nothing(tmp_path):
    sending = JournalSocket(str(tmp_path / "absent"))
    assert not sending.send({"MESSAGE": "x"})
    sending.close()


TALK = """
from qmesh.cli.errors import log_to_stderr, report_error
from qmesh.errors import MachineRefused
logging.getLogger().handlers.clear()
log_to_stderr()
logging.getLogger("qmesh").warning("a word")
report_error(MachineRefused("no kernel", hint="buy one"), as_json=False)
"""


def test_a_command_in_a_unit_has_levels_too(journal, tmp_path):
    assert speak(tmp_path / "journal", TALK) == ""
    talk, failed = read_entries(journal)
    assert (talk["QMESH_CODE"], talk["PRIORITY"], talk["MESSAGE"]) == ("talk", "4", "a word")
    assert (failed["QMESH_CODE"], failed["PRIORITY"]) == ("command-failed", "3")
    assert failed["MESSAGE"] == "error: no kernel (hint: buy one)"
