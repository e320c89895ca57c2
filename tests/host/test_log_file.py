"""What processes say that live as long as their machine: all of it, and no more than there is room for."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qmesh.host.log import log_outlets, rate_limit
from qmesh.host.log.rate_limit import BURST, PER_S, SAME, SAME_S, RateLimit
from tests.support.waiting import patience, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(limit: RateLimit, texts: list[str], octets: int = 50) -> list[str]:
    return [text for text in texts if limit.check_limit(text, octets) is not None]


def test_a_text_is_said_a_few_times_a_minute_and_others_meanwhile():
    clock = Clock()
    limit = RateLimit(clock)
    assert admitted(limit, ["the same"] * 1000) == ["the same"] * SAME
    assert limit.check_limit("another", 50) == 1000 - SAME
    assert limit.check_limit("a third", 50) == 0
    clock.now += SAME_S + 1
    assert admitted(limit, ["the same"] * 1000) == ["the same"] * SAME


def test_of_texts_that_are_never_the_same_so_many_octets_are_said():
    clock = Clock()
    limit = RateLimit(clock)
    assert len(admitted(limit, [str(number) for number in range(10_000)], 100)) == BURST // 100
    clock.now += 100
    assert len(admitted(limit, [f"later {number}" for number in range(10_000)], 100)) == 100 * PER_S // 100
    clock.now += 1e6
    assert len(admitted(limit, [f"at last {number}" for number in range(10_000)], 100)) == BURST // 100


def test_texts_are_not_remembered_for_ever():
    limit = RateLimit(Clock())
    admitted(limit, [str(number) for number in range(100_000)])
    assert len(limit._texts) == rate_limit._MOST_TEXTS


SPEAK = """
import logging, os, sys, threading, warnings
from pathlib import Path
from qmesh.host.log import log_handlers, log_outlets, rate_limit
log_outlets.MOST_OCTETS = int(sys.argv[2])
if len(sys.argv) > 4:
    rate_limit.SAME = rate_limit.BURST = 10**9
log_handlers.configure_logging(Path(sys.argv[1]), "fra-1")
exec(sys.argv[3])
"""


def speak(
    log: Path,
    program: str,
    *,
    octets: int = log_outlets.MOST_OCTETS,
    endless: bool = False,
    out: Path | None = None,
) -> None:
    """Run a program that says something, with a log as its output, as a process in the background has it."""
    with (out or log).open("ab") as output:
        words = [
            sys.executable,
            "-c",
            SPEAK,
            str(log),
            str(octets),
            program,
            *(["endless"] if endless else []),
        ]
        subprocess.run(words, stdout=output, stderr=output, check=True)


OTHERS = """
logging.getLogger("chatty").setLevel(logging.DEBUG)
logging.getLogger("chatty").info("nobody wants what a library sets its own level for")
for number in range(10_000):
    for name in ("uvicorn.error", "asyncio", "h11", "concurrent.futures"):
        logging.getLogger(name).warning("nobody wants to know this %d", number)
        try:
            raise ConnectionError("hung up")
        except ConnectionError:
            logging.getLogger(name).exception("somebody has hung up")
"""


def test_what_other_libraries_say_ten_thousand_times_leaves_a_few_lines(tmp_path):
    log = tmp_path / log_outlets.NAME
    speak(log, OTHERS)
    text = log.read_text()
    assert len(text) < 10_000
    assert "nobody wants" not in text
    assert text.count("somebody has hung up") == rate_limit.SAME
    assert text.count("ConnectionError: hung up") == 1


ONCE = """
log = logging.getLogger("qmesh")
log.info("hello %s", "there")
log.debug("5ec2e7")
log.info("bad %d", "format")
log.info("\\udcff no UTF-8")
log.info("x" * 1_000_000)
threading.Thread(target=lambda: 1 / 0).start()
threading.Thread(target=sys.exit).start()
warnings.warn("5ec2e7")
os.write(2, b"a library in C\\n")
"""


def test_all_that_a_process_says_is_in_its_log_in_lines_that_end(tmp_path):
    log = tmp_path / log_outlets.NAME
    speak(log, ONCE)
    text = log.read_text()
    for said in ("hello there", "no UTF-8", "ZeroDivisionError", "a library in C"):
        assert said in text
    assert "5ec2e7" not in text
    assert len(text) < rate_limit.MOST_LINE + 5_000


FILL = """
for number in range(2000):
    logging.getLogger("qmesh").info("line %06d %s", number, "x" * 50)
os.write(1, b"at the end\\n")
"""


def test_a_log_is_two_files_of_so_many_octets_for_root_alone(tmp_path):
    log = tmp_path / log_outlets.NAME
    speak(log, FILL, octets=20_000, endless=True)
    files = sorted(tmp_path.iterdir())
    assert files == [log, Path(log_outlets.build_rotated_path(str(log)))]
    assert all(10_000 < path.stat().st_size <= 20_000 + 20 for path in files[1:])
    assert all(path.stat().st_size <= 20_000 + 20 for path in files)
    assert log.stat().st_mode & 0o777 == 0o600
    whole = Path(log_outlets.build_rotated_path(str(log))).read_text() + log.read_text()
    numbers = [int(line.split()[5]) for line in whole.splitlines() if " line " in line]
    assert numbers == list(range(numbers[0], 2000))
    assert log.read_text().endswith("at the end\n")


def test_a_log_that_is_large_already_is_put_aside(tmp_path):
    log = tmp_path / log_outlets.NAME
    log.write_text("x" * 100_000)
    speak(log, "logging.getLogger('qmesh').info('hello')", octets=20_000)
    assert Path(log_outlets.build_rotated_path(str(log))).read_text() == "x" * 100_000
    assert log.read_text().endswith("hello\n")


def test_two_mebibytes_are_large(tmp_path):
    log = tmp_path / log_outlets.NAME
    rotated = Path(log_outlets.build_rotated_path(str(log)))
    for left, is_put_aside in ((10_000, False), (10, True)):
        log.write_bytes(bytes(2 * 1024 * 1024 - left))
        speak(log, "logging.getLogger('qmesh').info('hello')")
        assert rotated.exists() is is_put_aside


def test_what_is_no_log_of_ours_is_left_as_it_is(tmp_path):
    log, other = tmp_path / log_outlets.NAME, tmp_path / "other"
    speak(log, FILL, octets=20_000, endless=True, out=other)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert other.read_text().count(" line ") == 2000


def test_a_link_in_its_place_is_not_followed(tmp_path):
    log, target = tmp_path / log_outlets.NAME, tmp_path / "target"
    target.write_text("mine\n")
    program = f"""
logging.getLogger('qmesh').info('before')
os.unlink({str(log)!r})
os.symlink({str(target)!r}, {str(log)!r})
{FILL}
"""
    speak(log, program, octets=20_000, endless=True)
    assert target.read_text() == "mine\n"


WAIT = """
log = logging.getLogger("qmesh")
log.info("before")
while not os.path.exists(sys.argv[1] + ".1"):
    pass
log.info("after it was put aside by another")
"""


def test_who_has_the_same_log_goes_on_in_the_new_one(tmp_path):
    log = tmp_path / log_outlets.NAME
    with log.open("ab") as output:
        words = [sys.executable, "-c", SPEAK, str(log), "20000", WAIT]
        waiting = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            wait_until(lambda: "before" in log.read_text())
            speak(log, FILL.replace("2000", "250"), octets=20_000, endless=True)
            assert waiting.wait(patience(30)) == 0
        finally:
            waiting.kill()
    # In the old one where the new is not there yet, at just that moment.
    assert (
        "after it was put aside"
        in log.read_text() + Path(log_outlets.build_rotated_path(str(log))).read_text()
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        log.name,
        Path(log_outlets.build_rotated_path(str(log))).name,
    }


def test_a_log_that_somebody_removed_is_not_made_anew_until_it_is_full(tmp_path):
    """Else what ends last would leave one behind in a directory that was cleared."""
    log = tmp_path / log_outlets.NAME
    speak(log, f"os.unlink({str(log)!r}); logging.getLogger('qmesh').info('hello')")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_ends_nobody(tmp_path):
    program = "logging.getLogger('qmesh').info('hello'); os.mkdir(sys.argv[1] + '.well')"
    speak(tmp_path / log_outlets.NAME, program, out=Path("/dev/full"))
    assert [path.name for path in tmp_path.iterdir()] == [f"{log_outlets.NAME}.well"]


def test_who_reads_nothing_of_it_keeps_nobody_waiting(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(4096)):
            pass
    os.set_blocking(writing, True)
    words = [sys.executable, "-c", SPEAK, str(tmp_path / "none"), "1000", "logging.error(0)"]
    subprocess.run(words, stderr=writing, check=True, timeout=patience(20))
    os.close(reading)
    os.close(writing)
