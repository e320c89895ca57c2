"""Each situation of the list on a small lab mesh, one after the other, and what became of it, as Markdown."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.support.lab.machines import Lab
from tests.support.lab.situation_cluster import SILENT_S, Outcome, Situation, SituationCluster
from tests.support.lab.situations import SITUATIONS

BY = {
    "named": "`check`",
    "fixed": "agent",
    "silent": "**nothing**",
    "harmless": "nothing, rightly",
    "false alarm": "**a false alarm**",
}
HEAD = (
    "| part | situation | what the mesh can't do | code, exit | noticed after, s | by | its fix ends it |\n"
    "|---:|---|---|---|---:|---|---|"
)


def format_row(outcome: Outcome) -> str:
    """One row of the table."""
    its, how = outcome.situation, outcome.how
    code = f"`{its.code}`, {outcome.exit_code}" if how == "named" else ""
    after = f"{outcome.noticed_s:.1f}" if how in {"named", "fixed"} else ""
    by = BY[how]
    ends = f"{outcome.ends}, {outcome.ended_s:.1f} s" if outcome.ends in {"yes", "by hand"} else outcome.ends
    return f"| {its.part} | {its.name} | {its.harm} | {code} | {after} | {by} | {ends} |"


def try_situations(situations: list[Situation], silent_s: int) -> list[Outcome]:
    """Make each in turn, in another lab where one could not be left, and print what became of it."""
    done: list[Outcome] = []
    left = list(situations)
    while left:
        with Lab() as lab:
            cluster = SituationCluster(lab, silent_s=silent_s)
            while left and cluster.is_sound:
                done.append(cluster.try_situation(left.pop(0)))
                print(format_row(done[-1]), flush=True)
                if not done[-1].is_right:
                    print(f"{done[-1].situation.name}: {done[-1].findings}", file=sys.stderr, flush=True)
    return done


def choose(names: list[str] | None) -> list[Situation]:
    """Those that are named, by a part of their names or `part N`.

    Those that take no silence come first, and those after which the machines are others last.
    """
    chosen = [
        each
        for each in SITUATIONS
        if not names or any(name in each.name or name == f"part {each.part}" for name in names)
    ]
    return sorted(chosen, key=lambda each: (each.is_last, each.takes_silence, each.part))


def main() -> int:
    """Try all of it and print it."""
    parser = argparse.ArgumentParser(prog="scripts/situations", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="those whose names contain one, or 'part N'"
    )
    parser.add_argument("--list", action="store_true", help="print the names, and try nothing")
    parser.add_argument(
        "--silent-after",
        type=int,
        default=SILENT_S,
        metavar="SECONDS",
        help=f"when a link is silent; the product's {SILENT_S} by default",
    )
    asked = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    situations = choose(asked.only)
    if asked.list:
        print("\n".join(f"{each.part}: {each.name}" for each in situations))
        return 0
    print(HEAD, flush=True)
    done = try_situations(situations, asked.silent_after)
    count = {how: sum(each.how == how for each in done) for how in BY}
    ended = sum(each.ends in {"yes", "by hand"} for each in done)
    print(
        f"\n{len(done)} situations: {count['named']} named by check, {count['fixed']} fixed by the agent,"
        f" {count['silent']} silent, {count['harmless']} harmless and not mentioned,"
        f" {count['false alarm']} false alarms; of the fixes that were printed"
        f" {ended} of {count['named']} end it"
    )
    return 0 if done and all(each.is_right for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
