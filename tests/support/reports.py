"""What several pytest processes come to: `python -m tests.support.reports FOLDER SECONDS [FAILED...]`.

Prints where the time went, what failed and why, and how many tests passed, failed and were skipped.
"""

# ruff: noqa: T201  # it prints its answer

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree as ET

ORDER = ("skipped", "passed", "failed")
"""A test may run in two parts, with userspace WireGuard here and the kernel's there. It counts once: as
failed when one part failed it, and as skipped only when no part ran it."""
MOST_SHOWN = 15
MOST_FAILED = 25
LINES_OF_WHY = 3
WIDTH = 150


def read_reports(folder: Path) -> tuple[Counter[str], dict[str, float], dict[str, str]]:
    """How many tests there were of each outcome, the seconds that modules took, and why tests failed.

    folder: has a JUnit report of each process; that of the emulated machine is `kernel.xml`.
    """
    outcomes: dict[str, str] = {}
    seconds: dict[str, float] = defaultdict(float)
    why: dict[str, str] = {}
    for report in sorted(folder.glob("*.xml")):
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own
            module, test = _name(case)
            bad = [child for child in case if child.tag in {"failure", "error"}]
            skipped = any(child.tag == "skipped" for child in case)
            found = "failed" if bad else "skipped" if skipped else "passed"
            outcomes[test] = max(found, outcomes.get(test, "skipped"), key=ORDER.index)
            for child in bad:
                why.setdefault(test, child.get("message") or child.text or "")
            seconds[f"emulated {module}" if report.stem == "kernel" else module] += float(case.get("time", 0))
    return Counter(outcomes.values()), seconds, why


def _name(case: ET.Element) -> tuple[str, str]:
    """As `lab test_x` and `tests/lab/test_x.py::TestY::test_z`; of a file that can't be read, only that."""
    place, name = case.get("classname", ""), case.get("name", "")
    parts = (place or name).split(".")
    last = next((index for index, part in enumerate(parts) if part.startswith("test_")), len(parts) - 1)
    module = " ".join(dict.fromkeys([*parts[1:2], parts[last]]))
    file = "/".join(parts[: last + 1]) + ".py"
    return module, "::".join([file, *parts[last + 1 :], *([name] if place else [])])


def show_failed(why: dict[str, str], processes: list[str]) -> list[str]:
    """The lines that say which tests failed, and how each began to say why; few, short and printable."""
    lines = [f"the process {name} did not end as it should" for name in processes]
    for test in sorted(why)[:MOST_FAILED]:
        reasons = [line for line in why[test].splitlines() if line.strip()]
        lines += [test, *(f"    {line.strip()}" for line in reasons[:LINES_OF_WHY])]
    if len(why) > MOST_FAILED:
        lines.append(f"and {len(why) - MOST_FAILED} more")
    clean = ("".join(each if each.isprintable() else "?" for each in line) for line in lines)
    return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in clean]


def main() -> None:
    """Print what came of it."""
    folder, took_s, *processes = sys.argv[1:]
    count, seconds, why = read_reports(Path(folder))
    print("\nwhere the time went, in seconds of tests that ran side by side:")
    longest = sorted(seconds, key=lambda module: -seconds[module])
    for module in longest[:MOST_SHOWN]:
        print(f"{seconds[module]:6.0f}  {module}")
    print(f"all of it took {took_s} s")
    if failed := show_failed(why, processes):
        print("\nwhat failed:", *failed, sep="\n")
        print()
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")


if __name__ == "__main__":
    main()
