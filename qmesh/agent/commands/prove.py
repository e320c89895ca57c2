"""`prove`: whether any packet gets where none should, by all rules of this machine or of a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec

from qmesh import __version__
from qmesh.agent.assurance.proof import SECONDS, Proof, prove_rules
from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.local import Local, linux_for, with_tunnel_and_guard
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.errors import JOIN_ANEW, RESTORE, BadInput, KernelRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.given_rules import GivenRules, read_given_rules
from qmesh.host.output_file import open_output_directory, refuse_replacement
from qmesh.host.state.directory import State
from qmesh.mesh.proof_report.report_facts import ReportFacts, ReportOrigin, build_facts
from qmesh.mesh.proof_report.report_keys import (
    BEGIN,
    SUFFIX,
    ReportKeys,
    derive_report_keys,
    render_public_key,
    sign_octets,
)
from qmesh.mesh.proof_report.report_page import BEGIN as BEGIN_OF_REPORT
from qmesh.mesh.proof_report.report_page import parse_page, render_page
from qmesh.mesh.proof_report.verification import (
    Verification,
    refuse_other_machine,
    verify_alone,
    verify_rules,
)
from qmesh.mesh.prover.claim_answers import ClaimAnswer, summarize_claims
from qmesh.mesh.prover.decide import Verdict
from qmesh.mesh.state import Guard


class ProofReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `prove` answers. proved: None where a claim is neither proved nor refuted, and none is refuted.

    rules, sets: how many there are. ports: that are closed.
    """

    proved: bool | None
    claims: tuple[ClaimAnswer, ...]
    machine: str
    source: str
    rules: int
    sets: int
    ports: tuple[int, ...]
    verdicts: tuple[Verdict, ...]


class WrittenProof(ProofReport, frozen=True, kw_only=True):
    """The same, where it was written as a report.

    report, signature: files; None for no signature. key: the fingerprint of the machine's key for reports;
    public_key: as a line of `allowed_signers` has it, behind the name.
    """

    report: str
    signature: str | None
    key: str
    public_key: str


class _Question(msgspec.Struct, frozen=True):
    """What is to be proved, and by which rules: None for those that are loaded."""

    here: Local
    guard: Guard
    given: GivenRules | None


def prove(state: State, *, ruleset: Path | None = None, seconds: float = SECONDS) -> ProofReport:
    """Reason about every packet that may come to this machine. ruleset: a file, in place of what is loaded.

    seconds: for all of it; claims that are not decided by then are not proved. Raises BadInput where this
    machine has no guard to be proved, or the file is none.
    """
    question = _ask(state, ruleset)
    proof = prove_rules(question.guard, question.given, seconds=seconds)
    return ProofReport(**_describe(question, ruleset, proof))


def prove_to_report(
    state: State, path: Path, *, signs: bool, ruleset: Path | None = None, seconds: float = SECONDS
) -> WrittenProof:
    """The same, and write it as a report. signs: whether beside it, as `FILE.sig`, its signature.

    Raises as `prove`, BadInput where it would replace something else, and MachineRefused where it can't be
    written; then the old one is as it was.
    """
    question, keys = _ask(state, ruleset), _load_keys(state)
    proof, facts = _prove_facts(question, keys, seconds)
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(facts.origin.made_at))
    page = render_page(facts, keys, made=made)
    signature = build_signature_path(path)
    _write_report(path, page, sign_octets(page, keys).encode() if signs else None)
    return WrittenProof(
        **_describe(question, ruleset, proof),
        report=str(path),
        signature=str(signature) if signs else None,
        key=keys.fingerprint,
        public_key=render_public_key(keys.public_key),
    )


def verify_report(
    state: State,
    octets: bytes,
    signature: bytes | None,
    *,
    ruleset: Path | None = None,
    seconds: float = SECONDS,
) -> Verification:
    """Compare a report, which anybody may have written, with this machine, and prove all claims again.

    signature: None where there is none. Raises as `prove`, and BadInput for what is no report.
    """
    report = parse_page(octets)
    check_user("prove")
    settings = load_checked(state, "prove").settings
    keys = _load_keys(state)
    said = verify_alone(report, signature, keys, now_s=int(time.time()))
    if ruleset is not None:
        said = msgspec.structs.replace(said, ruleset=str(ruleset))
    other = refuse_other_machine(report.facts, mesh=settings.mesh, machine=settings.name)
    if other is not None:
        return msgspec.structs.replace(said, differences=(*said.differences, other))
    proof, now = _prove_facts(_ask(state, ruleset), keys, seconds)
    assert proof.summary is not None
    return verify_rules(said, report.facts, now, proof.summary.words)


def build_signature_path(report: Path) -> Path:
    """Where the signature of a report is."""
    return report.with_name(f"{report.name}{SUFFIX}")


def _write_report(path: Path, page: bytes, signature: bytes | None) -> None:
    """Both, or one. Since it was looked at whether they can be written, others may have moved directories."""
    with open_output_directory(path) as directory:
        report = directory / path.name
        beside = build_signature_path(report)
        refuse_replacement(report, path, begins=BEGIN_OF_REPORT, what="report")
        changes: dict[Path, bytes | Path | None] = {report: page}
        if signature is not None:
            named = build_signature_path(path)
            refuse_replacement(beside, named, begins=BEGIN.encode(), what="signature")
            changes[beside] = signature
        elif _is_signature_file(beside):  # of a report that was there before
            changes = {beside: None, **changes}
        files.replace_together(changes, named=path.absolute().parent)


def _is_signature_file(path: Path) -> bool:
    """Whether it is a file that begins as a signature does, and no link."""
    try:
        return files.read_head(path, len(BEGIN)) == BEGIN.encode()
    except StateUnreadable:
        return False


def _ask(state: State, ruleset: Path | None) -> _Question:
    check_user("prove")
    here = with_tunnel_and_guard(load_checked(state, "prove"))
    guard = desired_and_observed_guard(here, linux_for(state, here.settings))[0].guard
    if not isinstance(guard, Guard):
        raise BadInput(
            f"{here.settings.name} closes no port, so there is nothing to prove",
            hint="run `qmesh apply`, then the same command again",
        )
    return _Question(here, guard, None if ruleset is None else read_given_rules(ruleset))


def _prove_facts(question: _Question, keys: ReportKeys, seconds: float) -> tuple[Proof, ReportFacts]:
    """The proof, and what a report says of it. Raises KernelRefused where no rule was read in time."""
    proof = prove_rules(question.guard, question.given, seconds=seconds, marking=keys.marking)
    if proof.summary is None:
        raise KernelRefused(
            "the rules could not be read in time, so there is nothing to report",
            hint="use a longer `--timeout`",
        )
    origin = ReportOrigin(
        qmesh=__version__,
        mesh=question.here.settings.mesh,
        machine=question.here.settings.name,
        made_at=int(time.time()),
        is_live=question.given is None,
    )
    facts = build_facts(
        origin,
        proof.summary.asked,
        question.guard,
        key=keys.fingerprint,
        verdicts=proof.verdicts,
        doubts=proof.doubts,
    )
    return proof, facts


def _describe(question: _Question, ruleset: Path | None, proof: Proof) -> dict[str, Any]:
    """The fields of a `ProofReport`."""
    claims = summarize_claims(proof.verdicts)
    answers = {each.proved for each in claims}
    return {
        "proved": False if False in answers else None if None in answers else True,
        "claims": claims,
        "machine": question.here.settings.name,
        "source": "what is loaded" if ruleset is None else str(ruleset),
        "rules": proof.counts.rules,
        "sets": proof.counts.sets,
        "ports": question.guard.closed_ports,
        "verdicts": proof.verdicts,
    }


def _load_keys(state: State) -> ReportKeys:
    key = state.keys.read_private_key()
    if key is None:
        raise StateUnreadable(
            f"{state.keys.private_file} is missing",
            hint=f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}",
        )
    return derive_report_keys(key)
