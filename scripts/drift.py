"""Every kind of drift on machines of a lab, and generated machines without one, as Markdown."""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
from random import Random

from tests.support.lab.correct_machines import draw_plan, list_false_alarms, make_mesh
from tests.support.lab.drifts import Drift, DriftCluster, is_found, list_drifts
from tests.support.lab.machines import Lab


def try_drifts(drifts: tuple[Drift, ...]) -> list[str]:
    """Make each in turn, and print what became of it; those that went wrong, in words."""
    wrong: list[str] = []
    print("| drift | found | cured |\n|---|---|---|", flush=True)
    with Lab() as lab:
        cluster = DriftCluster(lab)
        for drift in drifts:
            report = cluster.find(drift)
            found = is_found(drift, report)
            left = cluster.cure(drift, report)["findings"]
            words = ("yes" if found else "NO", "NO" if left else "yes")
            print(f"| {drift.kind.replace('|', '/')} | {' | '.join(words)} |", flush=True)
            if not found or left:
                wrong.append(f"{drift}\n    found: {report['findings']}\n    left: {left}")
    return wrong


def try_machines(random: Random, count: int) -> list[str]:
    """Make so many correct machines, and print what is found there; the false alarms, in words."""
    wrong: list[str] = []
    print("\n| mesh | machines | false alarms |\n|---|---:|---:|", flush=True)
    left = count
    while left > 0:
        plan = draw_plan(random)
        with Lab() as lab:
            machines = make_mesh(lab, plan)[:left]
            alarms = [
                f"{plan}\n    {machine.name}: {each}"
                for machine in machines
                for each in list_false_alarms(machine)
            ]
        left -= len(machines)
        wrong += alarms
        if alarms:
            print("\n".join(alarms), file=sys.stderr, flush=True)
        print(f"| {plan} | {len(machines)} | {len(alarms)} |", flush=True)
    return wrong


def main() -> int:
    """Try all of it and print it."""
    parser = argparse.ArgumentParser(prog="scripts/drift", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="to have the same again")
    parser.add_argument(
        "--drifts", type=int, default=None, help="so many kinds, drawn by the seed; all by default"
    )
    parser.add_argument("--machines", type=int, default=100, help="correct machines; 100 by default")
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where whoever started it has the first ignored
        signal.signal(number, signal.default_int_handler)
    random = Random(asked.seed)  # noqa: S311 - no secret depends on it
    drifts = list_drifts(random)
    if asked.drifts is not None:
        drifts = tuple(random.sample(drifts, min(asked.drifts, len(drifts))))
    print(f"seed {asked.seed}\n", flush=True)
    missed = try_drifts(drifts) if drifts else []
    alarms = try_machines(random, asked.machines)
    print("\n" + "\n".join([*missed, *alarms]))
    print(
        f"{len(drifts) - len(missed)} of {len(drifts)} drifts found and cured, {len(alarms)} false alarms on"
        f" {asked.machines} correct machines"
    )
    return 1 if missed or alarms else 0


if __name__ == "__main__":
    sys.exit(main())
