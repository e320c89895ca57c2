"""Memory of each of qmesh's processes in a small mesh, on the control node and on a member (PSS).

A page that several processes have counts for each by its part; in brackets what none but that process has.
"""

from __future__ import annotations

import json
import os
import time

from benchmarks.measuring import Figure

from tests.support.lab.cluster import make_control, make_member
from tests.support.lab.machines import Lab

KINDS = {"agent": "agent", "hold.py": "holder of the guard", "wireguard-go": "tunnel, userspace"}
"""A word of each process's command line, and what it is."""
MEASURE = """
import json, os, sys
from pathlib import Path

here, found = os.readlink("/proc/self/ns/net"), {}
for number in filter(str.isdecimal, os.listdir("/proc")):
    process = Path("/proc", number)
    try:
        words = (process / "cmdline").read_text().split(chr(0))
        sizes = dict(line.split(":") for line in (process / "smaps_rollup").read_text().splitlines()[1:])
        if os.readlink(process / "ns/net") == here and int(number) != os.getpid():
            (kind,) = set(sys.argv[1:]) & {Path(word).name for word in words}
            found[kind] = [int(sizes[name].split()[0]) * 1024 / 1e6 for name in ("Pss", "Pss_Anon")]
    except (OSError, ValueError):
        continue
print(json.dumps(found))
"""


def figures(members: int, rest_s: float) -> list[Figure]:
    """rest_s: seconds after the last join: free memory is given back once a minute."""
    os.environ["QMESH_TEST_STARTS"] = "1"  # what is forked from a test has all that the test has loaded
    with Lab() as lab:
        control = make_control(lab)
        joined = [make_member(lab, control, 201 + number, workers=3) for number in range(members)]
        time.sleep(rest_s)
        found: dict[str, dict[str, tuple[float, float]]] = {
            name: json.loads(machine.run(["python", "-c", MEASURE, *KINDS], timeout=60).stdout)
            for name, machine in (("control node", control), ("member", joined[0]))
        }
    size = f"{members + 1} machines"
    return [
        Figure(f"{name}: {KINDS[kind]} ({own:.1f} MB)", size, whole, None, "MB", "", None)
        for name, each in found.items()
        for kind, (whole, own) in sorted(each.items())
    ] + [
        Figure(f"{name}: together", size, sum(whole for whole, _ in each.values()), None, "MB", "", None)
        for name, each in found.items()
    ]
