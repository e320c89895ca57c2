"""Every figure of docs/performance.md, as tables: see scripts/bench.

Each row is a module of `benchmarks`, and each of its sizes is measured on fresh ground: by process 1 of
process, network, mount, IPC and host name namespaces of its own. When that process ends, however it does, the
kernel ends all that it started, and all that it made goes with it.
"""

from __future__ import annotations

import argparse
import datetime as dt
import gc
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.measuring import Figure, growth, table
from kernel.lifetime import Interrupted, interruptible, tied

from tests.support.lab import fork_server

SCRIPTS: Final = Path(__file__).resolve().parent
PAGE: Final = SCRIPTS.parent / "docs/performance.md"
LONGEST_S: Final = 1200
"""Seconds after which a row at one size has not ended, and is given up."""

Size = dict[str, float]


class Row(NamedTuple):
    """What a row's `figures` is called with: at each of its sizes, and to see no more than that it runs."""

    sizes: tuple[Size, ...]
    smallest: tuple[Size, ...]


ROWS: Final = {
    "startup": Row(({"runs": 10},), ({"runs": 1},)),
    "edits": Row(({"one_in": 1, "random_files": 10_000},), ({"one_in": 20, "random_files": 10},)),
    "render": Row(
        ({"machines": 128, "each": 16, "lines": 3000, "runs": 7},),
        ({"machines": 2, "each": 1, "lines": 300, "runs": 1},),
    ),
    "rendering": Row(
        (
            {"members": 500, "machines": 100, "meshed": 200, "runs": 5},
            {"members": 5000, "machines": 1000, "meshed": 200, "runs": 5},
        ),
        (
            {"members": 1, "machines": 1, "meshed": 1, "runs": 1},
            {"members": 2, "machines": 2, "meshed": 2, "runs": 1},
        ),
    ),
    "tunnel": Row(
        ({"members": 500, "runs": 11}, {"members": 5000, "runs": 11}),
        ({"members": 1, "runs": 1}, {"members": 2, "runs": 1}),
    ),
    "guard": Row(
        ({"members": 500, "runs": 11}, {"members": 5000, "runs": 11}),
        ({"members": 1, "runs": 1}, {"members": 2, "runs": 1}),
    ),
    "ports": Row(
        (*({"ports": ports, "runs": 11} for ports in (500, 5000)), {"ports": 50_000, "runs": 1}),
        ({"ports": 10, "runs": 1},),
    ),
    "audit": Row(
        (
            {"members": 500, "intervals": 200_000, "runs": 5, "rest_s": 130},
            {"members": 5000, "intervals": 200_000, "runs": 5, "rest_s": 170},
        ),
        ({"members": 1, "intervals": 10, "runs": 1, "rest_s": 0.1},),
    ),
    "size": Row(({"machines": 128, "each": 16, "runs": 11},), ({"machines": 2, "each": 1, "runs": 1},)),
    "findings": Row(({"members": 2000},), ({"members": 2},)),
    "packets": Row(({"ports": 16, "runs": 51}, {"ports": 5000, "runs": 51}), ({"ports": 1, "runs": 1},)),
    "sets": Row(tuple({"ports": ports, "runs": 51} for ports in (0, 16, 1000)), ({"ports": 1, "runs": 1},)),
    "storm": Row(({"flushes": 500, "deletions": 51},), ({"flushes": 3, "deletions": 1},)),
    "processes": Row(({"workers": 2048, "times": 5},), ({"workers": 2, "times": 1},)),
    "watching": Row(({"workers": 512, "times": 5},), ({"workers": 2, "times": 1},)),
    "node": Row(({"rows": 99},), ({"rows": 1},)),
    "join": Row(({"runs": 50, "phased_runs": 15},), ({"runs": 1, "phased_runs": 1},)),
    "floor": Row(({"runs": 21},), ({"runs": 1},)),
    "joins": Row(
        (
            {"old": 0, "members": 200, "rounds": 5, "tunnels": 30},
            {"old": 2000, "members": 200, "rounds": 3, "tunnels": 0},
        ),
        ({"old": 1, "members": 2, "rounds": 1, "tunnels": 1},),
    ),
    "news": Row(({"members": 2000, "changes": 40},), ({"members": 2, "changes": 1},)),
    "informed": Row(({"machines": 50, "times": 10},), ({"machines": 1, "times": 1},)),
    "floods": Row(({"seconds": 60, "kinds": 99},), ({"seconds": 0.5, "kinds": 2},)),
    "handover": Row(({"machines": 10, "turns": 6},), ({"machines": 2, "turns": 1},)),
    "recovery": Row(
        ({"runs": 1, "parts": 99, "ways": 2, "processes": 99},),
        ({"runs": 1, "parts": 1, "ways": 1, "processes": 0},),
    ),
    "metrics": Row(
        ({"members": 2047, "scrapes": 5, "rest_s": 90},), ({"members": 2, "scrapes": 1, "rest_s": 0.5},)
    ),
    "page": Row(
        (
            {"machines": 3, "workers": 4, "runs": 5},
            {"machines": 128, "workers": 16, "runs": 5},
            {"machines": 1000, "workers": 4, "runs": 5},
        ),
        ({"machines": 2, "workers": 1, "runs": 1},),
    ),
    "memory": Row(({"members": 2, "rest_s": 75},), ({"members": 1, "rest_s": 0.1},)),
    # Over two audits of the agent, which has one in 62 s or so, and in 82.
    "agent": Row(
        ({"members": 500, "rest_s": 130}, {"members": 5000, "rest_s": 170}),
        ({"members": 1, "rest_s": 0.5}, {"members": 2, "rest_s": 0.5}),
    ),
    "holder": Row(({"runs": 31},), ({"runs": 1},)),
}
OF_THE_KERNEL: Final = ("tunnel", "packets")
"""The rows in which it matters whose WireGuard it is."""


class Answer(NamedTuple):
    """What came of a row at one size: what is measured there, on what machine, and the figures."""

    about: str
    machine: str
    figures: list[Figure]


def measure(name: str, size: Size) -> None:
    """Measure, as process 1 of fresh namespaces, and write the answer to standard output as JSON."""
    if os.getpid() != 1:
        raise SystemExit("error: only scripts/bench measures, where nothing else is")
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)  # what programs say meanwhile is no answer
        furnish()
        if os.environ.get("QMESH_BENCH_FORKS") == "1":  # where only whether it runs is of interest
            fork_server.enable()
        row = importlib.import_module(f"benchmarks.{name}")
        gc.freeze()  # as the agent does
        figures = row.figures(**size)
        json.dump(Answer(row.__doc__, machine(), figures), answer)


def furnish() -> None:
    """Make the namespaces a machine: an empty /run with room for temporary files, loopback."""
    # With its notes, for which it makes a folder, mount(8) would leave one in the /run below.
    words = ["mount", "--no-mtab", "-t", "tmpfs", "-o", "mode=755", "none", "/run"]
    subprocess.run(words, check=True)
    temporary = Path("/run/tmp")
    temporary.mkdir()
    temporary.chmod(0o1777)
    os.environ["TMPDIR"] = str(temporary)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def machine() -> str:
    """What the figures hold for."""
    fields = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    parts = [
        f"{len(os.sched_getaffinity(0))} x {fields[0] if fields else platform.machine()}",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}",
        *(version(program) for program in ("wg", "nft", "wireguard-go")),
    ]
    return ", ".join(parts)


def version(program: str) -> str:
    """The first line of what a program says of itself, without its address."""
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    return (said.stdout or said.stderr).splitlines()[0].partition(" - ")[0]


def measured(name: str, size: Size, *, in_the_kernel: bool) -> Answer | None:
    """A row at one size, on fresh ground; None when that did not end well."""
    words = [
        *("unshare", "--mount", "--net", "--ipc", "--uts", "--mount-proc", "--"),
        *(sys.executable, __file__, "--measure", name, json.dumps(size)),
    ]
    if in_the_kernel:
        words = [str(SCRIPTS / "test-kernel"), "--uml", "--run", "unshare", "--pid", "--fork", *words]
    with tied(words, output=subprocess.PIPE) as process:
        try:
            said, _ = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            return None
    if process.returncode:
        return None
    about, where, figures = json.loads(said)
    return Answer(about, where, [Figure(*each) for each in figures])


class Section(NamedTuple):
    """A row as the page has it, and whether all its promises were kept."""

    text: str
    kept: bool


def section(name: str, answers: list[Answer], sizes: tuple[Size, ...], *, judged: bool) -> Section:
    """Make one of what was measured at each size. judged: else nothing is but what was counted."""
    figures = [
        each if judged or not each.unit else each._replace(kept=None)
        for answer in answers
        for each in answer.figures
    ]
    blocks = [f"### {name}", answers[0].about.strip(), table(figures)]
    kept = all(each.kept is not False for each in figures)
    if any(each.growing for each in figures):
        small, large = (size["members"] for size in sizes)
        grown, is_linear = growth(figures, large / small, judged=judged)
        blocks += [f"From {small:,} to {large:,}:", grown]
        kept &= is_linear
    return Section("\n\n".join(blocks), kept)


def put_into(page: str, command: str, printed: str) -> str:
    """The page with what a command printed, in place of what it did last."""
    first, last = f"<!-- printed by `{command}` -->\n", "<!-- so far -->\n"
    before, _, rest = page.partition(first)
    _, _, after = rest.partition(last)
    return f"{before}{first}\n{printed}\n{last}{after}"


def parsed() -> argparse.Namespace:
    """What is to be done."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure, and print tables.",
        epilog="Exit code: 0; 1 where a promise was not kept; 3 where a row could not be run.",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all unless given")
    parser.add_argument("--smallest", action="store_true", help="only see that they run; no time is judged")
    parser.add_argument(
        "--kernel",
        action="store_true",
        help=f"{', '.join(OF_THE_KERNEL)} by kernel WireGuard, in user-mode Linux",
    )
    parser.add_argument("--page", action="store_true", help=f"also put what is printed into {PAGE.name}")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    if options.page and (options.rows or options.smallest):
        parser.error("the page is of one whole run")
    options.rows = options.rows or (OF_THE_KERNEL if options.kernel else tuple(ROWS))
    return options


def run(options: argparse.Namespace) -> int:
    """Measure all, and print; the exit code."""
    printed, kept, failed = "", True, []
    for name in options.rows:
        sizes = ROWS[name].smallest if options.smallest else ROWS[name].sizes
        answers = []
        for size in sizes:
            print(f"measuring: {name} {json.dumps(size)}", file=sys.stderr, flush=True)
            began = time.monotonic()
            answer = measured(name, size, in_the_kernel=options.kernel)
            how = "not measured" if answer is None else "measured"
            print(f"{how}: {name}, in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            if answer is None:
                failed.append(name)
                break
            answers.append(answer)
        else:
            part = section(name, answers, sizes, judged=not options.smallest)
            kept &= part.kept
            if not printed:
                today = dt.datetime.now(tz=dt.UTC).date()
                printed = say(f"{today}: {answers[0].machine}\n")
            printed += say(f"\n{part.text}\n")
    if options.page:
        command = "sudo ./scripts/bench" + (" --kernel" if options.kernel else "")
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), command, printed), encoding="utf-8")
    if failed:
        print(f"error: could not be run: {', '.join(failed)}", file=sys.stderr)
        print("hint: what they said stands above", file=sys.stderr)
        return 3
    return 0 if kept else 1


def say(text: str) -> str:
    """Print it at once, and give it back."""
    print(text, end="", flush=True)
    return text


def main() -> int:
    """Do what the command line says."""
    options = parsed()
    if options.measure:
        measure(options.measure[0], json.loads(options.measure[1]))
        return 0
    os.environ["PYTHONPATH"] = f"{SCRIPTS}:{SCRIPTS.parent}"  # also for what a row starts
    interruptible()
    try:
        return run(options)
    except Interrupted as interrupted:
        interrupted.end()


if __name__ == "__main__":
    sys.exit(main())
