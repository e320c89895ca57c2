"""This machine's kernel, processors, memory and load. None where the kernel does not say. Source: proc(5)."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import Final

from qmesh.host.system import heartbeat, programs
from qmesh.mesh.machine_facts.facts import clean_text
from qmesh.mesh.machine_facts.proc_files import (
    parse_cpu_model,
    parse_memory,
    parse_own_memory,
    parse_program_version,
)

_MOST_READ: Final = 8192
"""Bytes of a file of /proc: of hundreds of processors the first says enough."""
_NFT_S: Final = 5.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def read_kernel_release() -> str:
    """As `uname -r` prints it."""
    return clean_text(os.uname().release)


def count_cores() -> int | None:
    """Logical processors that are on."""
    return os.cpu_count()


def read_architecture() -> str:
    """As `uname -m` prints it."""
    return clean_text(os.uname().machine)


@functools.cache
def read_cpu_model() -> str:
    """The model of the first processor; empty where it is not said."""
    return parse_cpu_model(_read_begin(Path("/proc/cpuinfo")))


def read_memory() -> tuple[int | None, int | None]:
    """Bytes of memory: all, and what programs can have without swapping."""
    return parse_memory(_read_begin(Path("/proc/meminfo")))


def read_own_memory(process: int) -> int | None:
    """Bytes that a process alone has in memory; None where there is no such process any more."""
    return parse_own_memory(_read_begin(Path(f"/proc/{process}/statm")), _PAGE)


def read_load() -> float | None:
    """Processes that run or wait to, on average of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def read_nft_version() -> str:
    """The version of nftables, by its program; empty where there is none, or it does not say."""
    nft = programs.find_program("nft")
    if nft is None:
        return ""
    try:
        with heartbeat.allow_wait(_NFT_S):
            done = subprocess.run(
                [nft, "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_NFT_S,
                check=False,
                cwd=programs.DIRECTORY,
                env={"LC_ALL": "C.UTF-8"},
            )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return parse_program_version(done.stdout.decode("utf-8", "replace"))


def _read_begin(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_READ).decode("utf-8", "replace")
    except OSError:
        return ""
