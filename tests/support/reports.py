"""What the reports of several pytest processes come to: `python -m tests.support.reports FOLDER SECONDS`.

Prints where the time went, and how many tests passed, failed and were skipped.
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


def read_reports(folder: Path) -> tuple[Counter[str], dict[str, float]]:
    """How many tests there were of each outcome, and the seconds that modules took.

    folder: has a JUnit report of each process; that of the emulated machine is `kernel.xml`.
    """
    outcomes: dict[tuple[str, str], str] = {}
    seconds: dict[str, float] = defaultdict(float)
    for report in folder.glob("*.xml"):
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest's own
            tags = {child.tag for child in case}
            found = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
            place, name = case.attrib["classname"], case.attrib["name"]
            outcomes[place, name] = max(found, outcomes.get((place, name), "skipped"), key=ORDER.index)
            # tests.lab.test_x.TestY is of the module test_x.
            module = next(part for part in reversed(place.split(".")) if part.startswith("test_"))
            where = "emulated" if report.stem == "kernel" else place.split(".")[1]
            seconds[f"{where} {module}" if where != module else module] += float(case.attrib["time"])
    return Counter(outcomes.values()), seconds


def main() -> None:
    """Print what came of it."""
    folder, took_s = sys.argv[1:]
    count, seconds = read_reports(Path(folder))
    print("\nwhere the time went, in seconds of tests that ran side by side:")
    longest = sorted(seconds, key=lambda module: -seconds[module])
    for module in longest[:MOST_SHOWN]:
        print(f"{seconds[module]:6.0f}  {module}")
    print(f"all of it took {took_s} s")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")


if __name__ == "__main__":
    main()
