"""Random rulesets, random packets under each, and whether kernel and prover agree: see scripts/prover."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from tests.support.modelled_share import list_modelled
from tests.support.proof_cost import list_costs
from tests.support.prover_by_kernel import compare, compare_wide


def print_share(names: list[str]) -> int:
    """Each set of rules with what is left open of it, and how many have nothing such."""
    print(
        "| rules of | rules | chains to which not all packets come | rules left open |\n|---|---:|---:|---|"
    )
    files: dict[str, bool] = {}
    for each in list_modelled(names):
        files[each.rules.path.name] = files.get(each.rules.path.name, False) or not each.open
        words = f"{len(each.open)}: {each.open[0]}" if each.open else ""
        print(f"| {each.rules} | {each.rule_count} | {len(each.uncertain)} | {words} |", flush=True)
    whole = sum(files.values())
    print(f"{whole} of {len(files)} rule sets are fully modelled, {100 * whole // len(files)} %")
    return 0


def print_costs() -> int:
    """What a proof takes; 1 where that is more than it may."""
    print("| beside the guard | processor | time | memory | verdicts proved | must be | |")
    print("|---|---:|---:|---:|---:|---|---|")
    kept = []
    for row in list_costs():
        print(row.text, flush=True)
        kept.append(row.is_kept)
    return 0 if all(kept) else 1


def main() -> int:
    """Compare, and print how many there were and each disagreement."""
    parser = argparse.ArgumentParser(prog="scripts/prover", description=__doc__)
    parser.add_argument("--rulesets", type=int, default=500, help="how many are drawn")
    parser.add_argument("--packets", type=int, default=200, help="how many under each")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first ruleset; the others count from there"
    )
    parser.add_argument(
        "--narrow",
        action="store_true",
        help="only rules of which all is modelled",
    )
    parser.add_argument(
        "--share", nargs="*", metavar="NAME", help="of the rules of other programs, which are fully modelled"
    )
    parser.add_argument("--cost", action="store_true", help="what a proof takes, beside rules of others")
    chosen = parser.parse_args()
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    if chosen.cost:
        return print_costs()
    if chosen.share is not None:
        return print_share(chosen.share)
    began = time.monotonic()
    seeds = range(chosen.seed, chosen.seed + chosen.rulesets)
    found = compare(seeds, chosen.packets) if chosen.narrow else compare_wide(seeds, chosen.packets)
    for each in found.unlike:
        print(each)
    print(
        f"{found.packets} packets under {found.rulesets} rulesets ({found.refused} refused by nft):"
        f" {found.passed} came through, {len(found.unlike)} disagreements;"
        f" of {found.open} more the prover does not say what becomes; {time.monotonic() - began:.0f} s"
    )
    return 1 if found.unlike else 0


sys.exit(main())
