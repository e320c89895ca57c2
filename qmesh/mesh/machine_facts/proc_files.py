"""What files of /proc say of the hardware, and of a process's memory. Source: proc(5)."""

from __future__ import annotations

import re
from typing import Final

from qmesh.mesh.machine_facts.facts import clean_text

_NAMES: Final = ("model name", "Model", "Hardware", "cpu model", "uarch", "machine")
"""What architectures call the line with the model: x86, ARM boards, MIPS, RISC-V, s390."""
_ARM: Final = ("CPU implementer", "CPU part")
"""What ARM servers have instead: two numbers."""
_LARGEST: Final = 2**53


def parse_cpu_model(cpuinfo: str) -> str:
    """The model of the first processor in /proc/cpuinfo; empty where it is not said."""
    lines: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            lines.setdefault(name.strip(), value.strip())
    named = next((lines[name] for name in _NAMES if lines.get(name)), "")
    parts = [lines[name] for name in _ARM if lines.get(name)]
    return clean_text(named or (f"ARM {'/'.join(parts)}" if parts else ""))


def parse_memory(meminfo: str) -> tuple[int | None, int | None]:
    """Bytes of memory, all and available, of /proc/meminfo; None for what it does not say."""
    return _find_memory(meminfo, "MemTotal"), _find_memory(meminfo, "MemAvailable")


def _find_memory(meminfo: str, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+([0-9]{{1,12}}) kB$", meminfo, re.MULTILINE | re.ASCII)
    return None if found is None else int(found[1]) * 1024


def parse_own_memory(statm: str, page_size: int) -> int | None:
    """Bytes that a process alone has in memory, of its /proc/PID/statm; None where that is not understood.

    Resident pages without those of files and of shared memory: what the machine has again when it ends.
    """
    found = re.match(r"[0-9]{1,15} ([0-9]{1,15}) ([0-9]{1,15}) ", statm, re.ASCII)
    if found is None:
        return None
    return min(max(0, int(found[1]) - int(found[2])) * page_size, _LARGEST)


def parse_program_version(answer: str) -> str:
    """The number in what a program says of its version, such as `nftables v1.0.6 (Lester Gooch #5)`."""
    found = re.search(r"\bv?([0-9]{1,5}(?:\.[0-9]{1,5}){1,3})\b", answer, re.ASCII)
    return "" if found is None else found[1]
