"""A report about a proof, for tests of what reads one."""

from __future__ import annotations

from qmesh.mesh.proof_report.asked_rules import AskedRules
from qmesh.mesh.proof_report.nft_hash import NftHash
from qmesh.mesh.proof_report.report_facts import ReportedClaim, ReportFacts, ReportOrigin
from qmesh.mesh.proof_report.report_keys import ReportKeys
from qmesh.mesh.proof_report.rule_parts import PlaceMarks
from tests.support import factories

REPORT_WORDS = {"inet qmesh c": ("drop",)}
"""Its rules."""


def make_report_facts(keys: ReportKeys) -> ReportFacts:
    """What a machine with these keys said of itself, without a rule."""
    return ReportFacts(
        origin=ReportOrigin(qmesh="1.0", mesh="5fa0", machine="hel-2", made_at=1_700_000_000, is_live=True),
        key=keys.fingerprint,
        asked=AskedRules(
            rules=1,
            sets=0,
            unread_sets=("inet t s",),
            sha256="0" * 64,
            nft=NftHash("0" * 64, "1.0.6"),
            not_in_nft=0,
            marks=(PlaceMarks("rule", "inet qmesh c", ("00" * 8,)),),
        ),
        guard=factories.guard(),
        claims=(
            ReportedClaim(claim="outside", family="ip", answer="proved", rules=("inet qmesh c: drop",)),
            ReportedClaim(
                claim="tunnel",
                family="ip6",
                answer="refuted",
                without="qmesh",
                packet="tcp",
                path=("input: x",),
            ),
        ),
        not_modelled=("inet t c: queue",),
        unnamed=0,
    )
