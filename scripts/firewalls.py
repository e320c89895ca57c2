"""Each ruleset of tests/support/foreign_rule_sets: the kernel's word and qmesh's on packets, as Markdown."""

from __future__ import annotations

import argparse
import subprocess
import sys

from tests.support.kernel_verdicts import Wire
from tests.support.rule_sets import compare, list_rule_sets


def main() -> int:
    """Compare all of them, or those whose names have one of the words."""
    parser = argparse.ArgumentParser(prog="scripts/firewalls", description=__doc__)
    parser.add_argument("name", nargs="*", help="a word of the names of those to compare")
    names = parser.parse_args().name
    chosen = [rules for rules in list_rule_sets() if not names or any(name in str(rules) for name in names)]
    if not chosen:
        parser.error("no set of rules has that in its name")
    subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    unlike: list[str] = []
    print("| ruleset | packets | dropped | disagreements |\n|---|---:|---:|---:|", flush=True)
    with Wire() as wire:
        for rules in chosen:
            found = list(compare(wire, rules))
            asked = [each for each in found if each.kernel is not None]
            dropped = sum(each.kernel == "drops" for each in asked)
            wrong = [str(each) for each in found if not each.agrees]
            print(f"| {rules} | {len(asked)} | {dropped} | {len(wrong)} |", flush=True)
            unlike += wrong
    print("\n".join(unlike), file=sys.stderr)
    return bool(unlike)


if __name__ == "__main__":
    sys.exit(main())
