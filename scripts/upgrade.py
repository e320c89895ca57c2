"""A member and a control node upgraded by the package, with an attacker and connections, as Markdown."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.lab.machines import Lab
from tests.support.lab.packages import build_package
from tests.support.lab.upgrade import UpgradeCluster, UpgradeReport, flush_rules

COLUMNS = (
    *("upgraded", "rules of others"),
    *("package, s", "without an agent, s"),
    *("attempts", "at a worker", "at another port"),
    *("connections", "lost", "longest silence, ms"),
)


@contextlib.contextmanager
def check_out(commit: str) -> Iterator[Path]:
    """The files of a commit; those of this checkout where none is named."""
    if not commit:
        yield Path.cwd()
        return
    with tempfile.TemporaryDirectory() as folder:
        tree = subprocess.run(["git", "archive", commit, "qmesh"], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], check=True, input=tree)
        yield Path(folder)


def print_row(report: UpgradeReport, others: str) -> None:
    """One upgrade."""
    figures = (
        f"{report.seconds:.1f}",
        f"{report.away_s:.2f}",
        f"{report.asked:,}",
        f"{report.arrived:,}",
        f"{report.arrived_elsewhere:,}",
        report.held,
        report.lost,
        report.silence_ms,
    )
    print(f"| {report.machine} | {others} | {' | '.join(map(str, figures))} |", flush=True)


def main() -> int:
    """Upgrade both, first undisturbed and then while another program flushes all rules again and again."""
    parser = argparse.ArgumentParser(prog="scripts/upgrade", description=__doc__)
    parser.add_argument("--from", dest="commit", default="", help="upgrade from that commit's qmesh")
    commit = parser.parse_args().commit
    reports = []
    with tempfile.TemporaryDirectory() as folder, check_out(commit) as source:
        old = build_package(Path(folder), "0.0.1", source=source)
        new = build_package(Path(folder), "99")
        print(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * 8}", flush=True)
        for others in ("stay", "flush all"):
            with Lab() as lab:
                cluster = UpgradeCluster(lab, old)
                with contextlib.ExitStack() as stack:
                    for machine in (cluster.member, cluster.control):
                        if others != "stay":
                            stack.enter_context(flush_rules(machine))
                        reports.append(cluster.upgrade(machine, new))
                        print_row(reports[-1], others)
    return 0 if all(report.is_good for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
