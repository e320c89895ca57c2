"""The process that proves this machine's claims: it reads all rules, becomes nobody, and says what it finds.

Its word is the file with the guard, as it is written for the next boot. It prints lines of JSON, each as soon
as it is known: one that is ended has said what it knew.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.agent.assurance.proof import read_own_interfaces
from qmesh.errors import BadInput, QmeshError
from qmesh.host.firewall.guard_keeper import read_script
from qmesh.host.prover.ruleset_file import read_live_rules, read_routes
from qmesh.host.unprivileged import become_nobody
from qmesh.mesh.guard.parse import parse_load_script
from qmesh.mesh.printable import escape_line
from qmesh.mesh.prover.claims.claim_list import ALONE, CLAIMS, build_cases
from qmesh.mesh.prover.decide import Verdict, decide_each
from qmesh.mesh.prover.packet_text import describe_packet
from qmesh.mesh.prover.rulesets import build_ruleset
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine
from qmesh.mesh.state import Guard

CLOSING: Final = frozenset({*ALONE, "granted"})
"""Claims that something does not get through; the others are that something does."""
NO_MEMORY: Final = "the rules need more memory than a proof has"
_ALONE_S: Final = 330


def main(path: str) -> None:
    """Prove, and print."""
    signal.alarm(_ALONE_S)  # whoever began it may be gone
    printed, problem = 0, ""
    try:
        for line in _prove(path):
            _print(line)
            printed += len(line.results)
    except QmeshError as error:
        problem = escape_line(error.message)
    except MemoryError:
        problem = NO_MEMORY
    except RuntimeError as error:
        if str(error) != os.strerror(errno.EAGAIN):
            raise
        problem = NO_MEMORY  # for the thread of a question
    _print(ProofLine(problem=problem, printed=printed))


def _print(line: ProofLine) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


def _prove(path: str) -> Iterator[ProofLine]:
    script = read_script(path)
    guard = None if script is None else parse_load_script(script)
    if not isinstance(guard, Guard):
        raise BadInput("this machine closes no port", hint="")
    own, found = read_own_interfaces(), read_live_rules()
    routes = read_routes(found.listing.rules)
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    become_nobody()  # what is solved are others' rules, by a library in C++
    rules = build_ruleset(found.listing, found.sets, routes)
    yield ProofLine(rules=len(found.listing.rules))
    cases = build_cases(rules, guard)
    for verdicts in decide_each(cases, guard, found.listing.interfaces, rules.own_tables, own):
        yield ProofLine(results=tuple(map(describe_verdict, verdicts)))


def describe_verdict(verdict: Verdict) -> ClaimResult:
    """A verdict in words; what others wrote is escaped."""
    is_refuted = verdict.answer == "refuted"
    rules = verdict.path if is_refuted else tuple(map(str, verdict.unclear))
    return ClaimResult(
        claim=verdict.claim,
        closes=verdict.claim in CLOSING,
        words=CLAIMS[verdict.claim],
        state=verdict.answer,
        family=verdict.family,
        without=verdict.without,
        packet="" if verdict.packet is None else describe_packet(verdict.packet),
        rules=tuple(map(escape_line, rules)),
        unusual=verdict.unusual,
    )


if __name__ == "__main__":
    main(sys.argv[1])
