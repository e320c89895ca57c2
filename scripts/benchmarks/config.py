"""A large cluster's worker list put into a large config.yml, beside what people use instead."""

from __future__ import annotations

import difflib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml
from benchmarks import sample
from benchmarks.measuring import Figure, paired, seconds

from qmesh.mesh.inventory import Inventory, workers_of
from qmesh.mesh.nodeconfig import with_workers
from tests.mesh.config_files import corpus
from tests.mesh.outside import octets_changed

MACHINES: Final = 128
WORKERS: Final = 2048
LINES: Final = 3000
SIZE: Final = f"{WORKERS:,} workers, {LINES:,} lines"
MOST_MS: Final = 100
MOST_MB: Final = 60
RUNS: Final = 7


def figures() -> list[Figure]:
    """Time and memory of every entry changed, and of the last machine's entries added."""
    inventory = sample.inventory(MACHINES - 1, workers=WORKERS // MACHINES)
    wanted = [worker.multiaddr for worker in workers_of(inventory)]
    assert len(wanted) == WORKERS
    strangers = [entry.replace("/10.64.", "/192.168.") for entry in wanted]
    before = config(strangers)
    shorter = with_workers(before, wanted[: -WORKERS // MACHINES], "2.0")
    rows = [
        beside("PyYAML, loaded and dumped", before, inventory, by_pyyaml),
        beside("PyYAML in C, loaded and dumped", before, inventory, by_pyyaml_in_c),
    ]
    if has_yq():
        rows.append(beside("yq, jq's wrapper", before, inventory, by_yq))
    assert octets_changed(before, with_workers(before, wanted, "2.0"), tuple(wanted)) == 0
    more, _ = paired(RUNS, lambda _: seconds(lambda: ours(shorter, inventory)), lambda _: 0.0)
    return [
        *(row for pair in rows for row in pair),
        timed("worker list rendered, one machine more", more, None),
        alone(before, wanted),
        whole_command(before),
    ]


def config(entries: list[str]) -> str:
    """A node's file with this list, and as many lines of comments and of bootstrap peers as it takes."""
    text = with_workers(corpus()["2.0-full-three-machines.yml"], entries, "2.0")
    missing = LINES - text.count("\n")
    peers = "".join(
        f"  # met on day {day}\n  - /dns4/peer-{day}.example.org/udp/8336/quic-v1/p2p/QmNobody{day}\n"
        for day in range(missing // 2)
    )
    grown = text.replace("  bootstrapPeers:\n", f"  bootstrapPeers:\n{peers}") + "#\n" * (missing % 2)
    assert grown.count("\n") == LINES
    return grown


def ours(text: str, inventory: Inventory) -> str:
    """As `render-config` does it, without reading and writing."""
    return with_workers(text, [worker.multiaddr for worker in workers_of(inventory)], inventory.node)


def by_pyyaml(text: str, wanted: list[str]) -> str:
    """As a script of five lines would."""
    loaded = yaml.safe_load(text)
    loaded["engine"]["dataWorkerMultiaddrs"] = wanted
    return yaml.safe_dump(loaded, sort_keys=False)


def by_pyyaml_in_c(text: str, wanted: list[str]) -> str:
    """The same by libyaml."""
    loaded = yaml.load(text, Loader=yaml.CSafeLoader)
    loaded["engine"]["dataWorkerMultiaddrs"] = wanted
    return yaml.dump(loaded, Dumper=yaml.CSafeDumper, sort_keys=False)


def by_yq(text: str, wanted: list[str]) -> str:
    """As guides tell to."""
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        entries = Path(directory) / "entries.json"
        entries.write_text(json.dumps(wanted), encoding="utf-8")
        command = ["yq", "-y", "--slurpfile", "w", str(entries), ".engine.dataWorkerMultiaddrs = $w[0]"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def has_yq() -> bool:
    """Whether Debian's yq is there: another program has the same name and other options."""
    command = ["yq", "--help"]
    return (
        shutil.which(command[0]) is not None
        and "jq wrapper" in subprocess.run(command, capture_output=True, text=True, check=False).stdout
    )


def beside(
    name: str, before: str, inventory: Inventory, theirs: Callable[[str, list[str]], str]
) -> tuple[Figure, Figure]:
    """Time in turn, and what the other way does to the rest of the file."""
    wanted = [worker.multiaddr for worker in workers_of(inventory)]
    mine, other = paired(
        RUNS,
        lambda _: seconds(lambda: ours(before, inventory)),
        lambda _: seconds(lambda: theirs(before, wanted)),
    )
    lost = octets_lost(before, theirs(before, wanted))
    return (
        timed(f"worker list rendered, every entry another, beside {name}", mine, other),
        Figure("octets outside the list that are then other ones", SIZE, 0, lost, "", "0", kept=True),
    )


def timed(work: str, taken_s: float, theirs_s: float | None) -> Figure:
    """A time, which has to be short."""
    theirs = None if theirs_s is None else theirs_s * 1e3
    return Figure(work, SIZE, taken_s * 1e3, theirs, "ms", f"< {MOST_MS} ms", taken_s * 1e3 < MOST_MS)


def octets_lost(before: str, after: str) -> int:
    """Octets of lines outside the list that are not in the new text as they were, in their order."""
    old = [line for line in before.splitlines() if "/192.168." not in line]
    new = [line for line in after.splitlines() if "/10.64." not in line]
    kept = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    same = sum(len(old[at].encode()) + 1 for start, _, size in kept for at in range(start, start + size))
    return sum(len(line.encode()) + 1 for line in old) - same


ALONE: Final = """
from qmesh.mesh.nodeconfig import with_workers
config, entries = map(pathlib.Path, sys.argv[1:])
config.write_text(with_workers(config.read_text(), entries.read_text().split(), "2.0"))
"""
COMMAND: Final = "from qmesh.cli import main; main()"


def alone(before: str, wanted: list[str]) -> Figure:
    """The most memory of a process that does only the rendering."""
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        file, entries = Path(directory) / "config.yml", Path(directory) / "entries"
        file.write_text(before, encoding="utf-8")
        entries.write_text("\n".join(wanted), encoding="utf-8")
        peak = peak_mb(ALONE, str(file), str(entries))
        assert wanted[-1] in file.read_text(encoding="utf-8")
    return Figure(
        "worker list rendered, a process's peak memory",
        SIZE,
        peak,
        None,
        "MB",
        f"< {MOST_MB} MB",
        peak < MOST_MB,
    )


def whole_command(before: str) -> Figure:
    """The most memory that `qmesh render-config --write` has had, from start to end, libraries and all."""
    with sample.control_node(MACHINES - 1, workers=WORKERS // MACHINES) as state:
        directory = state.directory / "node"
        directory.mkdir()
        file = directory / "config.yml"
        file.write_text(before, encoding="utf-8")
        words = ["render-config", "--write", "--config", str(directory), "--state", str(state.directory)]
        peak = peak_mb(COMMAND, *words)
        assert "/192.168." not in file.read_text(encoding="utf-8")
    return Figure("`qmesh render-config --write`, peak memory", SIZE, peak, None, "MB", "", None)


LAST_WORD: Final = """
import atexit, pathlib, sys
status = pathlib.Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().partition("VmHWM:")[2].split()[0], file=sys.stderr))
"""


def peak_mb(code: str, *words: str) -> float:
    """Megabytes that a Python which runs this had resident at most, by its own last word.

    What wait4(2) tells counts this process's memory too, as it was between fork and exec.
    """
    command = [sys.executable, "-c", LAST_WORD + code, *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stderr.split()[-1]) * 1024 / 1e6
