"""Each situation of the list on a small lab mesh, one after the other, and what became of it, as Markdown."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import signal
import sys
import traceback
from pathlib import Path
from typing import Final, Literal

from tests.support.lab.machines import Lab
from tests.support.lab.situation_cluster import SILENT_S, Outcome, Situation, SituationCluster
from tests.support.lab.situations import SITUATIONS
from tests.support.waiting import limit_time

PAGE = Path(__file__).resolve().parent.parent / "docs/faults.md"
FIRST, LAST = "<!-- printed by `sudo ./scripts/situations --page` -->\n", "<!-- so far -->\n"
MOST_S: Final = 300
"""Seconds of an idle machine after which a situation is given up: each of its waits is shorter by far."""
BY = {
    "named": "`check`",
    "fixed": "agent",
    "silent": "**nothing**",
    "harmless": "nothing, rightly",
    "false alarm": "**a false alarm**",
    "broken": "**not tried**",
    "unending": "**not over in time**",
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
                done.append(try_situation(cluster, left.pop(0)))
                print(format_row(done[-1]), flush=True)
                if not done[-1].is_right:
                    print(f"{done[-1].situation.name}: {done[-1].findings}", file=sys.stderr, flush=True)
    return done


def try_situation(cluster: SituationCluster, situation: Situation) -> Outcome:
    """One of them. Where it cannot be tried, or does not end, it says why; the next one has new machines."""
    how: Literal["broken", "unending"] = "broken"
    try:
        with limit_time(MOST_S):
            return cluster.try_situation(situation)
    except TimeoutError:
        how = "unending"
        traceback.print_exc()
    except Exception:  # noqa: BLE001 - what it does to machines may break whatever looks at them
        traceback.print_exc()
    cluster.is_sound = False
    return Outcome(situation, how, 0, 0.0, "", 0.0, ())


def describe_run(done: list[Outcome], silent_s: int) -> str:
    """What came of all of them, in a sentence."""
    count = {how: sum(each.how == how for each in done) for how in BY}
    ended = sum(each.ends in {"yes", "by hand"} for each in done)
    by_hand = sum(each.ends == "by hand" for each in done)
    broken = f", {count['broken']} not tried" if count["broken"] else ""
    broken += f", {count['unending']} not over in time" if count["unending"] else ""
    return (
        f"{len(done)} situations, links silent after {silent_s} s: {count['named']} named by `check`,"
        f" {count['fixed']} fixed by the agent, {count['silent']} silent, {count['harmless']} harmless and"
        f" not mentioned, {count['false alarm']} false alarms{broken}; {ended} of {count['named']}"
        f" fixes that are printed end it, {by_hand} of them by hand."
    )


def put_into(page: str, printed: str) -> str:
    """The page with what was printed in place of what it had."""
    before, _, rest = page.partition(FIRST)
    _, _, after = rest.partition(LAST)
    return f"{before}{FIRST}\n{printed}\n{LAST}{after}"


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
    parser.add_argument(
        "--page", action="store_true", help=f"also put the table into {PAGE.name}; of a whole run"
    )
    asked = parser.parse_args()
    if asked.page and asked.only:
        parser.error("the page is of one whole run")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    situations = choose(asked.only)
    if not situations:
        parser.error("no situation has that in its name; --list has the names")
    if asked.list:
        print("\n".join(f"{each.part}: {each.name}" for each in situations))
        return 0
    print(HEAD, flush=True)
    done = try_situations(situations, asked.silent_after)
    told = describe_run(done, asked.silent_after)
    print(f"\n{told}")
    if asked.page:
        where = f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release().partition('-')[0]}"
        rows = map(format_row, sorted(done, key=lambda each: each.situation.part))
        lines = [f"Printed on {dt.datetime.now(tz=dt.UTC).date()} ({where}). {told}", "", HEAD, *rows, ""]
        PAGE.write_text(put_into(PAGE.read_text(encoding="utf-8"), "\n".join(lines)), encoding="utf-8")
    return 0 if done and all(each.is_right for each in done) else 1


if __name__ == "__main__":
    sys.exit(main())
