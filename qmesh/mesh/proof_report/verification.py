"""What becomes of a report on the machine that it should be of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.proof_report.differences import Difference, list_differences
from qmesh.mesh.proof_report.report_facts import ReportFacts
from qmesh.mesh.proof_report.report_keys import ReportKeys, check_signature
from qmesh.mesh.proof_report.report_page import ParsedReport

SignatureState: TypeAlias = Literal["own", "other", "bad", "none"]
_CLOCK_S: Final = 60
"""Seconds by which a clock may have gone back before a report is of the future."""
_SIGNATURES: Final = {
    "bad": "the signature is not of this report: one of the two files was changed",
    "other": "it was signed with another key than this machine has now",
}


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a report.

    machine, made_at, qmesh: as it says. is_live: whether it is about what was loaded, and not about a file.
    age_s: seconds.
    signature: own for one by this machine's key. key: the fingerprint of the one that signed; None without.
    differences: what is not as it says. broken: claims that are not proved now.
    rules: how many there are now; None where nothing was proved, as it is of another machine.
    ruleset: the file that these are of; None for what is loaded.
    """

    machine: str
    made_at: int
    age_s: int
    qmesh: str
    is_live: bool
    signature: SignatureState
    key: str | None
    differences: tuple[Difference, ...]
    broken: tuple[str, ...] = ()
    rules: int | None = None
    ruleset: str | None = None

    @property
    def is_same(self) -> bool:
        """Whether all is as it says, and every claim is proved."""
        return self.rules is not None and not self.differences and not self.broken


def verify_alone(
    report: ParsedReport, signature: bytes | None, keys: ReportKeys, *, now_s: int
) -> Verification:
    """What the report itself tells. signature: None where there is none. Raises BadInput for what is none."""
    found = None if signature is None else check_signature(report.octets, signature)
    state: SignatureState = "none" if signature is None else "bad"
    if found is not None:
        state = "own" if found.public_key == keys.public_key else "other"
    origin = report.facts.origin
    return Verification(
        machine=origin.machine,
        made_at=origin.made_at,
        age_s=max(0, now_s - origin.made_at),
        qmesh=origin.qmesh,
        is_live=origin.is_live,
        signature=state,
        key=None if found is None else found.fingerprint,
        differences=tuple(_list_of_report(report, state, keys, now_s)),
    )


def _list_of_report(
    report: ParsedReport, signature: SignatureState, keys: ReportKeys, now_s: int
) -> Iterator[Difference]:
    if signature in _SIGNATURES:
        yield Difference("signature", _SIGNATURES[signature])
    if report.facts.key != keys.fingerprint:
        yield Difference(
            "report",
            "it was written with another key than this machine has now, so a change of it can't be seen",
        )
    elif not report.is_unchanged(keys):
        yield Difference("report", "it was changed after this machine wrote it")
    if report.facts.origin.made_at > now_s + _CLOCK_S:
        yield Difference("report", "its time is in the future, by this machine's clock")


def refuse_other_machine(report: ReportFacts, *, mesh: str, machine: str) -> Difference | None:
    """That it is of another machine, whose rules these are not."""
    if (report.origin.mesh, report.origin.machine) == (mesh, machine):
        return None
    return Difference("machine", f"it is of another machine than {machine}, so nothing was proved")


def verify_rules(
    said: Verification, then: ReportFacts, now: ReportFacts, words: Mapping[str, Sequence[str]]
) -> Verification:
    """The same with what differs of ports, rules and claims.

    now: what a report of now would say. words: its rules, by their chains.
    """
    found = list_differences(then, now, words, has_marks=then.key == now.key)
    broken = (f"{each.claim}: {each.answer}" for each in now.claims if each.answer != "proved")
    return msgspec.structs.replace(
        said,
        differences=(*said.differences, *found),
        broken=tuple(dict.fromkeys(broken)),
        rules=now.asked.rules,
    )
