"""`status --watch` at a terminal: drawn in place, as large as it is, and whole again whatever ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminals import ENTER, LEAVE, Terminal, run_at_terminal
from tests.support.waiting import patience, wait_until

PROGRAM = """
import logging, os, sys, time
from pathlib import Path
from qmesh.agent.commands import status as command
from qmesh.agent.commands.status import CoreRange, MachineStatus, Status
from qmesh.cli import app, streams
from qmesh.errors import MachineRefused

streams.prepare_streams()
told, looks = Path(sys.argv[1]), 0

def look(state):
    global looks
    looks += 1
    what = told.read_text()
    if what == "refuse":
        logging.getLogger("qmesh").warning("this is logged")
        raise MachineRefused("the kernel is away", hint="wait for it")
    while what == "hang" and told.read_text() == "hang":
        time.sleep(0.01)
    if what == "fail":
        raise ZeroDivisionError
    machine = lambda number, heard_s: MachineStatus(
        name=f"hel-{number}", role="worker", address=f"10.77.0.{number}", cores=CoreRange(1, 1), ports=(),
        state="active", last_handshake=heard_s, rx_bytes=1, tx_bytes=1, workers=None, node_files=False,
    )
    machines = [machine(number, 5.0 if number != 7 else 900.0) for number in range(30)]
    return Status("m", looks, "1.4", "fra-1", tuple(machines), ())

command.status = look
code = app.run(["status", *sys.argv[2:]])
sys.exit(streams.report_lost_output(code, as_json=False))
"""


@pytest.fixture
def told(tmp_path: Path) -> Path:
    path = tmp_path / "told"
    path.write_text("")
    return path


@pytest.fixture
def words(told: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, str(told), "--watch", "1"]


def is_whole(terminal: Terminal) -> bool:
    """Whether what was changed of a terminal is as it was: screen, cursor, wrapping, colour."""
    text = terminal.read()
    modes = (("\x1b[?1049l", "\x1b[?1049h"), ("\x1b[?25h", "\x1b[?25l"), ("\x1b[?7h", "\x1b[?7l"))
    last = re.findall(r"\x1b\[([0-9;]*)m", text)[-1]
    return last == "0" and all(text.rfind(whole) > text.rfind(changed) for whole, changed in modes)


def test_it_is_drawn_in_place_until_ctrl_c_and_the_terminal_is_whole_then(words, told):
    with run_at_terminal(words) as terminal:
        terminal.wait_for("revision 3")
        drawn = terminal.picture()
        assert len(drawn) <= 24
        assert any("\x1b[1;31m! \x1b[0m\x1b[1;31mhel-7\x1b[0m" in line for line in drawn)

        told.write_text("refuse")
        terminal.wait_for("the kernel is away (hint: wait for it)")
        terminal.wait_for("this is logged")
        assert any("hel-7" in line for line in terminal.picture())  # what was seen before is still there
        told.write_text("hang")
        wait_until(lambda: "the kernel is away" in terminal.read())

        terminal.resize(40, 9)  # while a look takes for ever
        wait_until(lambda: 0 < len(terminal.picture()) <= 9)
        assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 40 for line in terminal.picture())

        terminal.type("\x03")
        assert terminal.end() == 130
        assert is_whole(terminal)
        assert terminal.text.count(ENTER) == terminal.text.count(LEAVE) == 1
        after = terminal.text.rpartition(LEAVE)[2]
        assert "hel-29" in after  # what was seen last stays to be read and copied
        assert "error: interrupted" in after


SHELL = """set -m; "$@"; echo "the shell's"; read go; fg >/dev/null; echo "ended with $?" """


def test_it_can_be_stopped_and_goes_on_where_the_shell_was_meanwhile(words):
    with run_at_terminal(["sh", "-c", SHELL, "sh", *words]) as terminal:
        terminal.wait_for("revision 1")
        terminal.type("\x1a")
        wait_until(lambda: "the shell's" in terminal.read())
        assert is_whole(terminal)
        terminal.type("\n")
        wait_until(lambda: terminal.read().count(ENTER) == 2)
        shell = terminal.process.pid
        (child,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        terminal.end()
        assert f"ended with {128 + signal.SIGTERM}" in terminal.text
        assert is_whole(terminal)


def test_a_bug_leaves_the_terminal_whole_and_is_said_like_any(words, told):
    with run_at_terminal(words) as terminal:
        terminal.wait_for("revision 1")
        told.write_text("fail")
        assert terminal.end() == 3
        assert is_whole(terminal)
        assert "qmesh itself failed: ZeroDivisionError" in terminal.text.rpartition(LEAVE)[2]


def test_it_ends_when_the_connection_breaks(words):
    with run_at_terminal(["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *words]) as terminal:
        terminal.wait_for("revision 1")
        terminal.hang_up()
        assert terminal.end() != 0  # though it does not take SIGHUP: it can write no more


def test_what_cannot_be_drawn_in_place_is_one_answer_after_the_other_without_a_control_sequence(words):
    with run_at_terminal(words, TERM="dumb") as terminal:
        wait_until(lambda: "revision 2" in terminal.read())
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "\x1b" not in terminal.text
    variables = {**os.environ, "TERM": "xterm", "FORCE_COLOR": "", "CLICOLOR_FORCE": ""}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=variables) as piped:
        assert piped.stdout is not None
        shown = "".join(piped.stdout.readline().decode() for _ in range(40))
        piped.send_signal(signal.SIGINT)
        assert piped.wait(patience(30)) == 130
    assert "revision 2" in shown
    assert "\x1b" not in shown


ONCE = ("--all", "--wide")


def test_nothing_of_it_is_in_a_pipe_or_in_json_and_colour_is_there_where_it_is_asked_for(words):
    def show(*more: str, **variables: str) -> str:
        clean = {name: value for name, value in os.environ.items() if "COLOR" not in name}
        clean |= {"TERM": "xterm", **variables}
        return subprocess.run(
            [*words[:-2], *more], env=clean, stdout=subprocess.PIPE, check=True
        ).stdout.decode()

    assert "\x1b" not in show(*ONCE)
    assert "\x1b[1;31m" in show(*ONCE, CLICOLOR_FORCE="1")
    assert "\x1b" not in show("--json", CLICOLOR_FORCE="1", FORCE_COLOR="1")


GROW = """
import sys, tracemalloc
from qmesh.cli import streams
from qmesh.cli.screen import watch
from qmesh.cli.screen.spans import Span

streams.prepare_streams()
watch.DRAWN_EVERY_S = 0.0005
looks, sizes = 0, []

def look():
    global looks
    looks += 1
    if looks in (100, 300):
        sizes.append(tracemalloc.get_traced_memory()[0])
    if looks == 301:
        raise ZeroDivisionError
    return [f"machine {number} {looks}" for number in range(1000)]

tracemalloc.start()
try:
    watch.watch_in_place(
        look, lambda seen, *_: tuple((Span(line),) for line in seen[:20]), every_s=0.0, on_end=lambda _: None
    )
except ZeroDivisionError:
    print("grown by", sizes[1] - sizes[0])
"""


def test_it_does_not_grow():
    """200 looks at a thousand lines: were each kept, there would be 10 MB more."""
    with run_at_terminal([sys.executable, "-c", GROW]) as terminal:
        assert terminal.end() == 0
        (grown,) = re.findall(r"grown by (-?\d+)", terminal.text)
        assert int(grown) < 500_000
