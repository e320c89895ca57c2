"""Random rulesets, random packets under each, and whether kernel and prover agree: see scripts/prover."""

from __future__ import annotations

import argparse
import sys
import time

from tests.support.prover_by_kernel import compare


def main() -> int:
    """Compare, and print how many there were and each disagreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rulesets", type=int, default=500, help="how many are drawn")
    parser.add_argument("--packets", type=int, default=200, help="how many under each")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first ruleset; the others count from there"
    )
    chosen = parser.parse_args()
    began = time.monotonic()
    found = compare(range(chosen.seed, chosen.seed + chosen.rulesets), chosen.packets)
    for each in found.unlike:
        print(each)
    print(
        f"{found.packets} packets under {found.rulesets} rulesets ({found.refused} more that nft refuses):"
        f" {found.passed} came through, {len(found.unlike)} disagreements, {time.monotonic() - began:.0f} s"
    )
    return 1 if found.unlike else 0


sys.exit(main())
