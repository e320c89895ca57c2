"""The command line of scripts/test-kernel: which machine, and what is done in it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Final

import machine
from cache import ROOT
from errors import NoMachine
from lifetime import Interrupted, interruptible
from qemu import Emulated
from uml import UserMode

NO_MACHINE: Final = 125
"""The exit status when the machine did not come up, died or ran out of time."""

OPTIONS: Final = ["-m", "not userspace", "--durations=10"]

PASSED_ON: Final = re.compile(r"PATH|HOME|USER|LANG|LC_.*|CI|PY.*|COLUMNS|QMESH_(?!KERNEL_).*")
"""The environment that a job has from here."""


def main() -> int:
    """Do what the command line says; the exit status."""
    options, rest = _parsed()
    interruptible()
    try:
        kind = UserMode() if options.uml else Emulated()
        return 0 if options.get else machine.run(kind, _job(options, rest))
    except NoMachine as none:
        print(f"error: {none.message}\nhint: {none.hint}", file=sys.stderr)
        return NO_MACHINE
    except Interrupted as interrupted:
        interrupted.end()
    except BrokenPipeError:  # whoever read along has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_MACHINE


def _parsed() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="scripts/test-kernel",
        usage="%(prog)s [options] [PYTEST ARGUMENTS...] | %(prog)s [options] --run COMMAND...",
        description="Tests against kernel WireGuard, or any command, in a throw-away machine.",
        allow_abbrev=False,
    )
    parser.add_argument("--uml", action="store_true", help="a user-mode Linux instead of QEMU; built once")
    parser.add_argument(
        "--systemd",
        action=argparse.BooleanOptionalAction,
        help="with systemd as init, which takes an emulated one half a minute; tests have it unless told",
    )
    parser.add_argument(
        "--rw",
        metavar="FOLDER",
        type=_folder,
        action="append",
        default=[],
        help="a folder in which the machine's writes arrive; all others are lost",
    )
    parser.add_argument(
        "--over",
        metavar="FOLDER",
        type=_folder,
        help="a folder laid over /, as it is when the machine is started: files and modes",
    )
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=3600, help="3600 unless given")
    parser.add_argument(
        "--boot-timeout",
        metavar="SECONDS",
        type=float,
        default=300,
        help="when a machine that is not up is given up for another, once; 300 unless given",
    )
    parser.add_argument("--get", action="store_true", help="only have the kernel in the cache, start nothing")
    parser.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="run this, no tests")
    # argparse would take the command's own `--` for one of these options'.
    words = sys.argv[1:]
    at = words.index("--run") if "--run" in words else len(words)
    options, rest = parser.parse_known_args(words[: at + 1])
    if options.run is not None:
        options.run = words[at + 1 :][words[at + 1 : at + 2] == ["--"] :]
        if not options.run:
            parser.error("--run wants a command")
    return options, rest


def _folder(path: str) -> Path:
    folder = Path(path).absolute()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path}")
    return folder


def _job(options: argparse.Namespace, rest: list[str]) -> machine.Job:
    tests = options.run is None
    writable = [*options.rw, *(_reports(rest) if tests else [])]
    return machine.Job(
        command=_pytest(rest) if tests else options.run,
        directory=ROOT,
        environment={name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)},
        writable=list(dict.fromkeys(writable)),
        over=options.over,
        systemd=tests if options.systemd is None else options.systemd,
        timeout_s=options.timeout,
        boot_timeout_s=options.boot_timeout,
    )


def _pytest(arguments: list[str]) -> list[str]:
    """Without a test named, those of modules marked `kernel`: to read all takes long in the machine."""
    named = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    python = str(ROOT / ".venv/bin/python")
    modules = [] if named else _modules()
    return [python, "-m", "pytest", "-p", "no:cacheprovider", *OPTIONS, *modules, *arguments]


def _modules() -> list[str]:
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path.relative_to(ROOT))
        for path in paths
        if re.search(r"pytest\.mark\.kernel\b", path.read_text(encoding="utf-8"))
    ]


def _reports(arguments: list[str]) -> list[Path]:
    """Where pytest's reports go."""
    return [
        Path(argument.partition("=")[2]).absolute().parent
        for argument in arguments
        if argument.startswith(("--junitxml=", "--junit-xml="))
    ]


if __name__ == "__main__":
    sys.exit(main())
