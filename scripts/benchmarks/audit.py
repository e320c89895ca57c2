"""What `qmesh check` takes: of a large mesh, and beside another firewall's set of many intervals.

Beside that set also what agent and holder take of one core, and how soon a guard that is deleted is back.
"""

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
from benchmarks.agent import processor_s
from benchmarks.measuring import Figure

from qmesh.host.lean.nftables_messages import read_table_attributes
from qmesh.host.system import background
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.own_command import build_command_line
from tests.support.processes import read_of_each

MOST_S = 2.0
MOST_MB = 150.0
MOST_PERCENT = 1
MOST_MS = 100
START_S = 120.0
_TABLE_HANDLE = 4  # NFTA_TABLE_HANDLE


class Taken(NamedTuple):
    """Seconds by the clock, and of a processor; megabytes that the process had at most; what was found."""

    seconds: float
    processor_s: float
    megabytes: float
    codes: tuple[str, ...]


def figures(members: int, intervals: int, runs: int, rest_s: float) -> list[Figure]:
    """Have the agent set everything up, check; then load the set and check again, and watch the agent there.

    rest_s: seconds of that.
    """
    state = sample.control_node(members)
    assert background.start_background_process(state, "agent", wait_s=START_S) is not None
    alone = [take_check(state.directory) for _ in range(runs)]
    load_set(intervals)
    beside = [take_check(state.directory) for _ in range(runs)]
    # The set is no concern of the mesh's, and said to be none.
    assert {each.codes for each in beside} == {alone[-1].codes}, (alone[-1].codes, beside[-1].codes)
    size = f"{members:,} members, {intervals:,} intervals"
    share = watch_share(size, rest_s)
    back = [delete_guard() for _ in range(runs)]
    return [
        *describe("`qmesh check`", f"{members:,} members", alone),
        *describe("the same beside a set", size, beside),
        share,
        describe_return(size, back),
    ]


def watch_share(size: str, rest_s: float) -> Figure:
    """What agent and holder take together of one core while nothing happens."""
    time.sleep(rest_s / 10)
    before = sum_processor_s()
    time.sleep(rest_s)
    percent = 100 * (sum_processor_s() - before) / rest_s
    work = "agent and holder at rest beside it, of one core"
    return Figure(work, size, percent, None, "%", f"< {MOST_PERCENT} %", percent < MOST_PERCENT)


def sum_processor_s() -> float:
    """Of all processes of qmesh's but this one: no others are in this namespace. Seconds.

    Without WireGuard in userspace, which calls members that are not there: it is none of the set's.
    """
    numbers = [number for number, name in read_of_each("comm") if name.strip() != "wireguard-go"]
    return sum(processor_s(number) for number in numbers if number != os.getpid())


def delete_guard() -> float:
    """Delete the guard's first table; milliseconds until it is back."""
    number = read_handle()
    subprocess.run(["nft", "delete", "table", "inet", TABLE], check=True)
    began = time.perf_counter()
    while (found := read_handle()) is None or found == number:
        assert time.perf_counter() - began < START_S
        time.sleep(0.0005)
    return (time.perf_counter() - began) * 1e3


def read_handle() -> bytes | None:
    """The number of the guard's first table, which no two tables share; None where there is none."""
    found = read_table_attributes("inet", TABLE)
    return None if found is None else found[_TABLE_HANDLE]


def describe_return(size: str, taken: list[float]) -> Figure:
    """The median."""
    median = statistics.median(taken)
    return Figure(
        "a deleted guard is back beside it", size, median, None, "ms", f"< {MOST_MS} ms", median < MOST_MS
    )


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
