"""What a drill prints."""

from __future__ import annotations

import msgspec

from qmesh.mesh.drill.report_text import render_report
from qmesh.mesh.drill.verdict import Counterexample, DrillLine, DrillReport

LINE = DrillLine(
    side="eth0",
    what="strangers, to closed ports",
    wanted="blocked",
    fired=8,
    through={"without": 8, "all": 0, "first": 0, "held": 2},
    wrong=2,
)
FOUND = Counterexample(
    tables="held",
    side="eth0",
    what="strangers, to closed ports",
    wanted="blocked",
    interface="eth0",
    family="ip",
    source="192.0.2.9",
    destination="192.0.2.2",
    protocol="udp",
    source_port=1025,
    port=40000,
    flags="",
    shape="whole",
    user=0,
    seen="arrived at port 40000",
)
REPORT = DrillReport(
    machine="alpha",
    role="worker",
    passed=False,
    fired=32,
    lines=(LINE, msgspec.structs.replace(LINE, what="in fragments", wrong=0, through={"given": 0})),
    counterexamples=(FOUND,),
    unknown=("a queue decides",),
    stand_ins=("eth0 (hardware)",),
)


def test_a_report_has_each_side_once_what_is_wrong_and_what_is_not_known():
    assert render_report(REPORT) == (
        "32 packets were fired at a copy of alpha, a worker machine\n"
        "eth0:\n"
        "  WRONG strangers, to closed ports: 0 to 2 of 8 got through, 8 without qmesh's tables (blocked)\n"
        "  in fragments: 0 of 8 got through (blocked)\n"
        "error: eth0, strangers, to closed ports: by eth0, udp, 192.0.2.9 port 1025 to 192.0.2.2 port 40000,"
        " arrived at port 40000; wanted: blocked (with the held table alone)\n"
        "warning: not known: a queue decides\n"
        "interfaces that others stood in for: eth0 (hardware)\n"
        "the drill FAILED"
    )


def test_what_it_comes_to_is_said_last():
    fine = msgspec.structs.replace(REPORT, passed=True, role="control", stand_ins=(), unknown=())
    assert render_report(fine).endswith("\nall of it ended as it should")
    assert "the control machine" in render_report(fine)
    unclear = msgspec.structs.replace(fine, passed=None)
    assert render_report(unclear).endswith("\nnothing was wrong, but not all of it could be tried")
