"""Streams that are full, closed, read by nobody, or of another encoding: every command ends as it should."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from qmesh.cli import app, main
from qmesh.cli.app import COMMANDS, load_command

CLOSED = "closed"
FULL = "/dev/full"


class Ended(NamedTuple):
    """What a command left. out, err: empty where the stream was no file."""

    code: int
    out: str
    err: str


def run_forked(
    tmp_path: Path,
    *words: str,
    stdin: str = os.devnull,
    stdout: str = "",
    stderr: str = "",
    encoding: str = "",
) -> Ended:
    """The program, in a copy of this process that has loaded it. encoding: Python's of its streams."""
    out, err = tmp_path / "out", tmp_path / "err"
    for each in (out, err):
        each.write_bytes(b"")
    child = os.fork()
    if child == 0:
        try:
            for number, where in enumerate((stdin, stdout or str(out), stderr or str(err))):
                _give_stream(number, where, encoding)
            sys.argv = ["qmesh", *words]
            main()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 99)
        except BaseException:  # noqa: BLE001 - the traceback that no command may have
            os._exit(98)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), out.read_text("latin-1"), err.read_text("latin-1"))


def _give_stream(number: int, where: str, encoding: str) -> None:
    """As an interpreter finds it at its start."""
    name = ("stdin", "stdout", "stderr")[number]
    if where == CLOSED:
        os.close(number)
        setattr(sys, name, None)
        return
    opened = os.open(where, os.O_RDONLY if number == 0 else os.O_WRONLY)
    os.dup2(opened, number)
    os.close(opened)
    raw = io.FileIO(number, "rb" if number == 0 else "wb", closefd=False)
    buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding or "utf-8"))


ARGUMENTS = {
    "invite": ("hel-2",),
    "join": ("-",),
    "admit": ("-",),
    "pause": ("hel-2",),
    "resume": ("hel-2",),
    "remove": ("hel-2",),
    "set": ("--restart",),
    "export": ("nft",),
    "backup": ("-",),
    "restore": ("-",),
    "handover": ("--cancel",),
    "ready": ("1", "--timeout", "0"),
    "import": ("-",),
    "undo": ("--now",),
    "init": ("--workers", "0"),
}
"""With which each command gets as far as it does on a machine that is in no mesh."""
NEED_A_MACHINE = {"agent", "hold", "uninstall"}
"""They become a process of their own, or look at a machine's firewall."""
LOST = "error: standard output cannot be written: No space left on device\nhint: "


@pytest.fixture(scope="module", autouse=True)
def loaded(tmp_path_factory):
    """All that the copies use, once."""
    for name in COMMANDS:
        load_command(name)
    assert app.run(["status", "--json", "--state", str(tmp_path_factory.mktemp("none"))]) in {2, 3}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in NEED_A_MACHINE])
def test_every_command_ends_alike_whatever_its_streams_are(tmp_path, name):
    words = (name, *ARGUMENTS.get(name, ()), "--state", str(tmp_path / "é\u2500"))
    well = run_forked(tmp_path, *words)
    lost = run_forked(tmp_path, *words, "--json", stdin=CLOSED, stdout=FULL, encoding="ascii")
    deaf = run_forked(tmp_path, *words, stdout=CLOSED, stderr=FULL, encoding="latin-1")

    assert well.code in {0, 1, 2, 3}
    assert "qmesh itself failed" not in well.err + lost.err
    assert well.code == 0 or well.err.count("error: ") == well.err.count("hint: ") == 1
    # What was answered is lost with standard output, and said; an error is on the other stream.
    expected = 3 if well.code in {0, 1} and well.out else well.code
    assert deaf.code == expected
    assert lost.code == expected or name in {"join", "admit", "restore", "import", "backup"}
    if lost.code:
        assert json.loads(lost.err)["exit_code"] == lost.code


@pytest.mark.parametrize("words", [["--version"], ["status", "--help"]])
def test_help_and_version_say_that_they_could_not_be_printed(tmp_path, words):
    full = run_forked(tmp_path, *words, stdout=FULL)
    assert (full.code, full.err.startswith(LOST)) == (3, True)
    closed = run_forked(tmp_path, *words, stdout=CLOSED, encoding="latin-1")
    assert closed.code == 3
    assert closed.err.startswith("error: standard output cannot be written: it is closed\n")
    said = run_forked(tmp_path, *words, encoding="ascii")
    assert (said.code, said.err) == (0, "")
    assert "qmesh" in said.out


def test_a_reader_that_has_ended_is_no_error(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    ended = run_forked(tmp_path, "--version", stdout=f"/proc/self/fd/{writing}")
    os.close(writing)
    assert (ended.code, ended.err) == (141, "")


def test_no_file_is_opened_as_a_standard_stream(tmp_path):
    """Else an error message would be written into it."""
    run_forked(tmp_path, "--version", stdin=CLOSED, stdout=CLOSED, stderr=CLOSED)
    probe = (
        "import os, sys; [os.close(n) for n in range(3)]; sys.stdin = sys.stdout = sys.stderr = None;"
        " from qmesh.cli.streams import prepare_streams; prepare_streams();"
        f" number = os.open({str(tmp_path / 'state')!r}, os.O_CREAT | os.O_RDWR);"
        " print('answer'); print('talk', file=sys.stderr);"
        f" os._exit(number if os.stat({str(tmp_path / 'state')!r}).st_size == 0 else 99)"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 3


def test_e1_no_process_of_qmesh_has_its_memory_written_to_a_file():
    """Nor has what it starts, such as wireguard-go."""
    allow = "import resource, subprocess, qmesh.cli as c; resource.setrlimit(resource.RLIMIT_CORE, most)"
    look = 'c._run = lambda words: subprocess.call(["sh", "-c", "ulimit -c"])'
    words = [sys.executable, "-c", f"most = 1 << 20, 1 << 20; {allow}; {look}; c.main()"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "0\n"


def test_a_path_is_the_same_text_in_every_locale(tmp_path):
    """It is remembered, and read by processes of other locales; see the error, which names it."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    where = f"{tmp_path}/jürg"
    words = [sys.executable, "-m", "qmesh", "status", "--json", "--state", where]
    done = subprocess.run(words, capture_output=True, check=False, env={"PATH": "/usr/bin", **locale})
    assert done.returncode in {2, 3}
    if os.geteuid() == 0:
        assert where in json.loads(done.stderr)["error"]


def test_a_terminal_that_is_not_utf_8_gets_no_control_characters(tmp_path):
    """A byte of UTF-8 may be one there: `ś` has 0x9b, which begins a command to the terminal."""
    ended = run_forked(tmp_path, "ś", encoding="latin-1")
    assert ended.code == 2
    assert "'\\u015b'" in ended.err
    assert all(each.isprintable() or each == "\n" for each in ended.err)
