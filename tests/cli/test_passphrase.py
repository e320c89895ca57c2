"""A passphrase is one line of a file, or typed at a terminal without being shown."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys

import pytest

from qmesh.cli.passphrase import prompt_for_passphrase, read_passphrase_file
from qmesh.errors import BadInput


@pytest.mark.parametrize(
    ("octets", "line"),
    [(b"correct horse\n", b"correct horse"), (b" two \r\n", b" two "), ("pferdestärke".encode(), None)],
)
def test_a_file_has_one_line(tmp_path, octets, line):
    (tmp_path / "words").write_bytes(octets)
    assert read_passphrase_file(tmp_path / "words") == (octets if line is None else line)


@pytest.mark.parametrize("octets", [b"", b"\n", b"\r\n", b"one\ntwo\n", bytes(5000)])
def test_another_file_is_refused(tmp_path, octets):
    (tmp_path / "words").write_bytes(octets)
    with pytest.raises(BadInput, match="not one line"):
        read_passphrase_file(tmp_path / "words")
    with pytest.raises(BadInput, match="cannot be read"):
        read_passphrase_file(tmp_path / "none")


def at_a_terminal(*typed: bytes, twice: bool) -> tuple[bytes, str]:
    """What is shown to somebody who types these, each when it is asked for, and what comes of it."""
    process, terminal = pty.fork()
    if process == 0:
        try:
            sys.stdin = os.fdopen(0)  # not pytest's
            os.write(1, b"got " + prompt_for_passphrase(twice=twice) + b"\n")
        except BadInput as error:
            os.write(1, f"refused: {error}\n".encode())
        finally:
            os._exit(0)
    shown, waiting = b"", list(typed)
    try:
        while not re.search(rb"(got|refused:) (.+)\r\n", shown):
            shown += os.read(terminal, 1000)
            if waiting and shown.count(b": ") > len(typed) - len(waiting):
                os.write(terminal, waiting.pop(0))
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)
    asked, _, outcome = shown.partition(b"got ") if b"got " in shown else shown.partition(b"refused: ")
    return asked, outcome.decode().strip()


def test_what_is_typed_is_not_shown():
    asked, outcome = at_a_terminal(b"correct horse\n", b"correct horse\n", twice=True)
    assert outcome == "correct horse"
    assert b"horse" not in asked
    assert at_a_terminal(b"correct horse\n", twice=False)[1] == "correct horse"


def test_a_slip_and_nothing_are_refused():
    assert "not the same" in at_a_terminal(b"correct horse\n", b"correct house\n", twice=True)[1]
    assert "no passphrase" in at_a_terminal(b"\n", b"\n", twice=True)[1]
    assert "no passphrase" in at_a_terminal(b"\x04", twice=False)[1]


def test_where_there_is_no_terminal_it_says_so(monkeypatch):
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as nothing, monkeypatch.context() as patched:
        patched.setattr("sys.stdin", nothing)
        with pytest.raises(BadInput, match="no terminal"):
            prompt_for_passphrase(twice=True)
