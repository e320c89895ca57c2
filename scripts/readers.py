"""Every reader with many inputs, as Markdown: see scripts/readers."""

from __future__ import annotations

import argparse
import resource
import secrets
import signal
import sys
import time

from tests.support.readers.outcome import other_error, tried
from tests.support.readers.table import READERS

MOST_MEMORY = 4 << 30
"""Octets: what asks for more is an error of the reader, and not the end of this machine's other programs."""


def main() -> int:
    """Try them and print what became of it."""
    parser = argparse.ArgumentParser(prog="scripts/readers", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of: {', '.join(READERS)}")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="to have the same inputs")
    asked = parser.parse_args()
    if unknown := set(asked.readers) - READERS.keys():
        parser.error(f"no reader is named {min(unknown)}")
    for number in (signal.SIGINT, signal.SIGTERM):  # also where whoever started it has the first ignored
        signal.signal(number, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    print("| reader | inputs | seed | accepted | refused | other | slowest, ms | s |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    wrong: list[str] = []
    for name in asked.readers or READERS:
        reader, begun = READERS[name], time.monotonic()
        tally = tried(reader, asked.inputs, asked.seed)
        took = time.monotonic() - begun
        print(
            f"| {name} | {tally.inputs:,} | {asked.seed} | {tally.accepted:,} | {tally.refused:,}"
            f" | {tally.other:,} | {tally.slowest_s * 1000:.0f} | {took:.0f} |",
            flush=True,
        )
        wrong += [
            f"{name}, {tally.counts[place]} times: {other_error(reader, octets)[1]}\n    {octets[:500]!r}"
            for place, octets in tally.others.items()
        ]
        if tally.is_cut_off:
            break
    print("\n" + "\n".join(wrong or ["Every reader returned or refused."]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
