"""A large cluster's worker list put into a large config.yml of node 2.0, beside what people use instead.

What is called yq is Debian's, a wrapper of jq.
"""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import yaml
from benchmarks import sample
from benchmarks.measuring import Figure, paired, seconds

from qmesh.mesh.inventory import Inventory, list_workers
from tests.support.config_files import corpus, edit_worker_list
from tests.support.outside import octets_changed

MOST_MS: Final = 100
MOST_MB: Final = 60
YQ: Final = "/usr/bin/yq"
"""Debian's: another program has the same name and other options."""


class Case(NamedTuple):
    """A file with `lines` lines, and the mesh whose workers are to be in it, `each` on a machine."""

    machines: int
    each: int
    lines: int
    runs: int

    @property
    def inventory(self) -> Inventory:
        """The mesh."""
        return sample.inventory(self.machines - 1, workers=self.each)

    @property
    def wanted(self) -> list[str]:
        """Its worker list."""
        return [worker.multiaddr for worker in list_workers(self.inventory)]

    @property
    def before(self) -> str:
        """The file, with a list of as many entries that are all others."""
        return config([entry.replace("/10.64.", "/192.168.") for entry in self.wanted], self.lines)

    @property
    def size(self) -> str:
        """In words."""
        return f"{self.machines * self.each:,} workers, {self.lines:,} lines"


def figures(machines: int, each: int, lines: int, runs: int) -> list[Figure]:
    """Time and memory of every entry changed, and of the last machine's entries added."""
    case = Case(machines, each, lines, runs)
    before, wanted, inventory = case.before, case.wanted, case.inventory
    shorter = edit_worker_list(before, wanted[:-each], "2.0")
    rows = [
        beside(case, "PyYAML, loaded and dumped", by_pyyaml),
        beside(case, "PyYAML in C, loaded and dumped", by_pyyaml_in_c),
        beside(case, "yq", by_yq),
    ]
    more, _ = paired(runs, lambda _: seconds(lambda: ours(shorter, inventory)), lambda _: 0.0)
    return [
        *(row for pair in rows for row in pair),
        timed(case, "worker list rendered, one machine more", more, None),
        alone(case),
        whole_command(case),
    ]


def config(entries: list[str], lines: int) -> str:
    """A node's file with this list, and as many lines of comments and of bootstrap peers as it takes."""
    text = edit_worker_list(corpus()["2.0-full-three-machines.yml"], entries, "2.0")
    missing = lines - text.count("\n")
    peers = "".join(
        f"  # met on day {day}\n  - /dns4/peer-{day}.example.org/udp/8336/quic-v1/p2p/QmNobody{day}\n"
        for day in range(missing // 2)
    )
    grown = text.replace("  bootstrapPeers:\n", f"  bootstrapPeers:\n{peers}") + "#\n" * (missing % 2)
    assert grown.count("\n") == lines
    return grown


def ours(text: str, inventory: Inventory) -> str:
    """As `render-config` does it, without reading and writing."""
    return edit_worker_list(text, [worker.multiaddr for worker in list_workers(inventory)], inventory.node)


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
        command = [YQ, "-y", "--slurpfile", "w", str(entries), ".engine.dataWorkerMultiaddrs = $w[0]"]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return done.stdout


def beside(case: Case, name: str, theirs: Callable[[str, list[str]], str]) -> tuple[Figure, Figure]:
    """Time in turn, and what the other way does to the rest of the file."""
    before, wanted, inventory = case.before, case.wanted, case.inventory
    mine, other = paired(
        case.runs,
        lambda _: seconds(lambda: ours(before, inventory)),
        lambda _: seconds(lambda: theirs(before, wanted)),
    )
    lost = octets_lost(before, theirs(before, wanted))
    changed = octets_changed(before, ours(before, inventory), tuple(wanted))
    return (
        timed(case, f"worker list rendered, every entry another, beside {name}", mine, other),
        Figure(
            "octets outside the list that are then other ones",
            case.size,
            changed,
            lost,
            "",
            "0",
            changed == 0,
        ),
    )


def timed(case: Case, what: str, taken_s: float, theirs_s: float | None) -> Figure:
    """A time, which has to be short."""
    theirs = None if theirs_s is None else theirs_s * 1e3
    return Figure(what, case.size, taken_s * 1e3, theirs, "ms", f"< {MOST_MS} ms", taken_s * 1e3 < MOST_MS)


def octets_lost(before: str, after: str) -> int:
    """Octets of lines outside the list that are not in the new text as they were, in their order."""
    old = [line for line in before.splitlines() if "/192.168." not in line]
    new = [line for line in after.splitlines() if "/10.64." not in line]
    kept = difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    same = sum(len(old[at].encode()) + 1 for start, _, size in kept for at in range(start, start + size))
    return sum(len(line.encode()) + 1 for line in old) - same


ALONE: Final = """
from qmesh.mesh.nodeconfig import Setting, edit_settings, profile_facts
config, entries = map(pathlib.Path, sys.argv[1:])
setting = Setting(profile_facts("2.0").list_key, tuple(entries.read_text().split()))
config.write_text(edit_settings(config.read_text(), (setting,)))
"""
COMMAND: Final = "from qmesh.cli import main; main()"


def alone(case: Case) -> Figure:
    """The most memory of a process that does only the rendering."""
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        file, entries = Path(directory) / "config.yml", Path(directory) / "entries"
        file.write_text(case.before, encoding="utf-8")
        entries.write_text("\n".join(case.wanted), encoding="utf-8")
        peak = peak_mb(ALONE, str(file), str(entries))
        assert case.wanted[-1] in file.read_text(encoding="utf-8")
    return Figure(
        "worker list rendered, a process's peak memory",
        case.size,
        peak,
        None,
        "MB",
        f"< {MOST_MB} MB",
        peak < MOST_MB,
    )


def whole_command(case: Case) -> Figure:
    """The most memory that `qmesh render-config --write` has had, from start to end, libraries and all."""
    state = sample.control_node(case.machines - 1, workers=case.each)
    directory = state.directory / "node"
    directory.mkdir()
    file = directory / "config.yml"
    file.write_text(case.before, encoding="utf-8")
    words = ["render-config", "--write", "--config", str(directory), "--state", str(state.directory)]
    peak = peak_mb(COMMAND, *words)
    assert "/192.168." not in file.read_text(encoding="utf-8")
    return Figure("`qmesh render-config --write`, peak memory", case.size, peak, None, "MB", "", None)


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
