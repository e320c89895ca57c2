"""What `qmesh check` takes: of a large mesh, and beside another firewall's set of many intervals."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks import sample
from benchmarks.measuring import Figure

from qmesh.host.system import background
from qmesh.mesh.own_command import build_command_line

MOST_S = 2.0
MOST_MB = 150.0
START_S = 120.0


class Taken(NamedTuple):
    """Seconds by the clock, and of a processor; megabytes that the process had at most; what was found."""

    seconds: float
    processor_s: float
    megabytes: float
    codes: tuple[str, ...]


def figures(members: int, intervals: int, runs: int) -> list[Figure]:
    """Have the agent set everything up, check; then load the set and check again."""
    state = sample.control_node(members)
    assert background.start_background_process(state, "agent", wait_s=START_S) is not None
    alone = [take_check(state.directory) for _ in range(runs)]
    load_set(intervals)
    beside = [take_check(state.directory) for _ in range(runs)]
    # The set is no concern of the mesh's, and said to be none.
    assert {each.codes for each in beside} == {alone[-1].codes}, (alone[-1].codes, beside[-1].codes)
    return [
        *describe("`qmesh check`", f"{members:,} members", alone),
        *describe("the same beside a set", f"{members:,} members, {intervals:,} intervals", beside),
    ]


def describe(work: str, size: str, taken: list[Taken]) -> list[Figure]:
    """Time and memory."""
    wall = statistics.median(each.seconds for each in taken)
    processor = statistics.median(each.processor_s for each in taken)
    most = max(each.megabytes for each in taken)
    return [
        Figure(work, size, wall, None, "s", f"< {MOST_S:.0f} s", wall < MOST_S),
        Figure(f"{work}, of a processor", size, processor, None, "s", "", None),
        Figure(f"{work}, memory", size, most, None, "MB", f"< {MOST_MB:.0f} MB", most < MOST_MB),
    ]


def take_check(directory: Path) -> Taken:
    """One run of the command, as a timer starts it."""
    words = build_command_line(sys.executable, "check", "--json", "--state", str(directory))
    began = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE) as check:
        assert check.stdout is not None
        said = check.stdout.read()
        _, status, used = os.wait4(check.pid, 0)
        check.returncode = os.waitstatus_to_exitcode(status)
    assert check.returncode in {0, 1}
    codes = sorted({each["code"] for each in json.loads(said)["findings"]})
    processor_s = used.ru_utime + used.ru_stime
    return Taken(time.monotonic() - began, processor_s, used.ru_maxrss * 1024 / 1e6, tuple(codes))


def load_set(intervals: int) -> None:
    """Another firewall's: it drops what comes from so many networks, as lists of bad addresses do."""
    elements = ", ".join(
        f"{20 + number // 65536 % 100}.{number // 256 % 256}.{number % 256}.16/29"
        for number in range(intervals)
    )
    rules = f"""
table ip blocklist {{
  set addresses {{ type ipv4_addr; flags interval; elements = {{ {elements} }} }}
  chain input {{
    type filter hook input priority -10; policy accept;
    ip saddr @addresses drop
  }}
}}"""
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
