"""What `status` shows where: what is wrong first, and a line for each machine as wide as the terminal."""

from __future__ import annotations

import re

import msgspec
import pytest

from qmesh.agent.commands.status import CoreRange, MachineStatus, SilentAgent, Status
from qmesh.agent.node.worker_status import SilentCore, TroubledCore, WorkerHealth
from qmesh.cli.screen.cells import measure_width
from qmesh.cli.screen.spans import Lines, render_lines
from qmesh.cli.screen.terminal_traits import TerminalTraits
from qmesh.cli.screen.watch import LookState
from qmesh.cli.status_text.layout import MOST_HEALTHY, build_status_lines, build_watched_lines
from qmesh.mesh.audit.members import apart_findings
from qmesh.mesh.machine_facts.facts import MachineFacts

LOOK = LookState(at=1_764_000_000.0, age_s=1.0, every_s=2.0)
ESSENTIAL = ("machine", "state", "cores", "alive", "handshake")


def machine(number: int, **named: object) -> MachineStatus:
    first = 1 + 4 * number
    whole = MachineStatus(
        name=f"hel-{number}",
        role="worker",
        address=f"10.77.{number // 250}.{2 + number % 250}",
        public_key="k",
        endpoint=f"203.0.113.{number % 250}:51820",
        cores=CoreRange(first, 4),
        ports=tuple(range(32499 + first, 32503 + first)),
        state="active",
        last_handshake=5.0,
        rx_bytes=1700,
        tx_bytes=892,
        workers=WorkerHealth(4, (), 0.0012),
        node_files=False,
    )
    return msgspec.structs.replace(whole, **named)


def silent(number: int) -> MachineStatus:
    core = 1 + 4 * number
    gone = SilentCore(core, "10.77.0.9", 32499 + core, "u", "restart it", "refused")
    return machine(number, workers=WorkerHealth(3, (gone,), None, restarts={"refused": "restart it"}))


def mesh(*machines: MachineStatus, **named: object) -> Status:
    return msgspec.structs.replace(Status("m", 7, "2.1-rust", "fra-1", machines, ("a note",)), **named)


def texts(lines: Lines) -> list[str]:
    return render_lines(lines, is_coloured=False).splitlines()


def widest(lines: list[str]) -> int:
    return max(map(measure_width, lines))


def table_of(lines: list[str]) -> list[str]:
    start = next(place for place, line in enumerate(lines) if line.startswith("  machine"))
    return lines[start:]


def test_what_is_wrong_comes_first_and_then_machines_with_a_problem():
    facts = mesh(machine(0), machine(1), silent(2), machine(3, last_handshake=400.0))
    shown = texts(build_status_lines(facts, TerminalTraits()))
    assert shown[0] == "mesh m, revision 7, node 2.1-rust, control node fra-1"
    assert shown[1] == "4 machines, 2 with a problem; 15 of 16 workers alive"
    assert shown[2] == "silent: core 9 of hel-2 (refused); on hel-2: restart it"
    assert [line[:7] for line in shown[4:8]] == ["! hel-2", "! hel-3", "  hel-0", "  hel-1"]
    assert shown[8:] == ["note: a note"]


@pytest.mark.parametrize(
    ("changed", "mark"),
    [
        ({}, " "),
        ({"state": "paused", "ports": (), "workers": None}, " "),
        ({"state": "invited", "last_handshake": None, "workers": None}, " "),
        ({"rx_bytes": None, "tx_bytes": None, "last_handshake": None}, " "),
        ({"last_handshake": None}, "!"),
        ({"last_handshake": 180.0}, "!"),
        ({"state": "removed"}, "!"),
        ({"workers": WorkerHealth(4, (), None, connected=4)}, " "),
        ({"workers": WorkerHealth(3, (), None, connected=3)}, "!"),
        ({"workers": WorkerHealth(3, (), None, troubled=(TroubledCore(1, "connecting", 1, "n", ""),))}, "~"),
        (
            {
                "workers": WorkerHealth(
                    *(3, (), None),
                    troubled=(TroubledCore(1, "outdated", 1, "n", ""),),
                    restarts={"outdated": "r"},
                )
            },
            "!",
        ),
    ],
)
def test_a_machine_that_needs_a_look_has_a_mark_without_any_colour(changed, mark):
    (line,) = table_of(texts(build_status_lines(mesh(machine(1, **changed), advice=()), TerminalTraits())))[
        1:
    ]
    assert line[0] == mark


def test_a_machine_whose_agent_is_silent_has_a_mark():
    facts = mesh(
        machine(1), machine(2), silent_agents=(SilentAgent("hel-2", 300.0, "on hel-2: qmesh check"),)
    )
    shown = texts(build_status_lines(facts, TerminalTraits()))
    assert shown[2].startswith("no agent: hel-2's")
    assert table_of(shown)[1].startswith("! hel-2")


def test_a_machine_whose_qmesh_is_not_understood_has_a_mark_and_says_what_to_update():
    facts = {"hel-2": MachineFacts(protocol=9, oldest_protocol=8, qmesh="9.0")}
    errors = tuple(apart_findings(facts, own_name="fra-1", control="fra-1", spoken=None))
    shown = texts(build_status_lines(mesh(machine(1), machine(2), errors=errors), TerminalTraits()))
    assert shown[2].startswith("versions-apart: hel-2: qmesh 9.0, which speaks protocol 8 to 9; here qmesh")
    assert shown[2].endswith("if that is newer than here, update qmesh on fra-1, to 9.0 or newer")
    assert table_of(shown)[1].startswith("! hel-2")


HARD = (
    machine(0, name="x" * 63),
    machine(1, endpoint="[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:51820"),
    machine(2, endpoint=f"{'node.' * 50}example:51820"),
    machine(3, cores=CoreRange(None, 128), state="paused", ports=()),
    machine(4, cores=CoreRange(1921, 128), ports=tuple(range(34420, 34548))),
    machine(5, rx_bytes=10**15, tx_bytes=10**15, last_handshake=8e6),
    machine(6, endpoint="\u96ea\u5c71.example:51820"),
)


@pytest.mark.parametrize("width", [80, 100, 132, 200, 400])
def test_a_row_is_as_wide_as_the_terminal_and_no_wider(width):
    rows = table_of(texts(build_status_lines(mesh(*HARD, advice=()), TerminalTraits(width, 24))))
    assert widest(rows) <= width
    titles = rows[0].split()
    assert set(ESSENTIAL) <= set(titles)
    if width == 400:
        assert {"tunnel", "endpoint", "ports", "answer", "in", "out"} <= set(titles)


@pytest.mark.parametrize("width", [1, 10, 20, 40, 60])
def test_a_narrow_terminal_has_what_there_is_room_for(width):
    rows = table_of(texts(build_status_lines(mesh(*HARD, advice=()), TerminalTraits(max(width, 10), 24))))
    assert widest(rows) <= max(width, 10)
    drawn = texts(build_watched_lines(mesh(*HARD), LOOK, TerminalTraits(width, 12)))
    assert widest(drawn) <= width
    assert len(drawn) <= 12


def test_a_usual_cluster_fits_80_cells_with_what_is_looked_at_most():
    rows = table_of(
        texts(build_status_lines(mesh(*map(machine, range(9)), advice=()), TerminalTraits(80, 24)))
    )
    assert {*ESSENTIAL, "answer", "tunnel"} <= set(rows[0].split())
    assert rows[1].split()[0] == "hel-0"


def test_a_name_that_is_cut_can_be_told_from_others():
    names = [f"{'datacenter-helsinki-' * 3}{number:03}" for number in (1, 2)]
    facts = mesh(*(machine(number, name=name) for number, name in enumerate(names)), advice=())
    rows = table_of(texts(build_status_lines(facts, TerminalTraits(80, 24, gap="\u2026"))))[1:]
    assert [row.split()[0][-3:] for row in rows] == ["001", "002"]
    assert all("\u2026" in row for row in rows)


def test_all_columns_are_shown_on_request_and_in_a_pipe():
    facts = mesh(*HARD, advice=())
    piped = texts(build_status_lines(facts, TerminalTraits()))
    assert texts(build_status_lines(facts, TerminalTraits(80, 24), is_wide=True)) == piped
    assert "x" * 63 in "\n".join(piped)


FACTS = MachineFacts(
    *("0.1.0", "2.1.0.25", "", "6.12.118+deb13-amd64", "x86_64", "1.1.3", "AMD EPYC 7B13", 16),
    *(64 * 2**30, 3 * 2**30, 10**12, None, 1.25, 5000),
)


def test_what_machines_tell_of_themselves_is_shown_where_there_is_room_or_on_request():
    facts = mesh(machine(1, facts=FACTS, facts_age=240.0), machine(2), advice=())

    def titles(traits: TerminalTraits, **more: bool) -> str:
        return table_of(texts(build_status_lines(facts, traits, **more)))[0]

    assert "load" not in titles(TerminalTraits()) + titles(TerminalTraits(80, 24))
    assert "load" in titles(TerminalTraits(150, 24))
    assert "kernel" not in titles(TerminalTraits(150, 24))
    assert titles(TerminalTraits(400, 24)) == titles(TerminalTraits(), is_wide=True)
    told, silent = table_of(texts(build_status_lines(facts, TerminalTraits(), is_wide=True)))[1:]
    assert re.split(r"  +", told.strip())[11:] == [
        *(
            "1.2",
            "3.0 GiB of 64.0 GiB",
            "-",
            "2.1.0.25",
            "0.1.0",
            "16 x AMD EPYC 7B13",
            "6.12.118+deb13-amd64",
        ),
        "4 min ago",
    ]
    assert re.split(r"  +", silent.strip())[11:] == ["-"] * 8


def test_two_thousand_machines_are_those_with_a_problem_and_a_number():
    machines = [machine(number) for number in range(2000)]
    machines[1700], machines[3] = silent(1700), silent(3)
    facts = mesh(*machines)
    shown = texts(build_status_lines(facts, TerminalTraits(80, 24)))
    assert shown[1] == "2,000 machines, 2 with a problem; 7,998 of 8,000 workers alive"
    assert [line.split()[1] for line in shown if line.startswith("! ")] == ["hel-3", "hel-1700"]
    assert shown[-2] == "1,998 machines need no look; `qmesh status --all` lists them"
    assert len(shown) == 9
    assert len(texts(build_status_lines(facts, TerminalTraits(80, 24), with_all=True))) == 2006
    assert len(texts(build_status_lines(facts, TerminalTraits()))) == 2006
    drawn = texts(build_watched_lines(facts, LOOK, TerminalTraits(80, 24)))
    assert len(drawn) <= 24
    assert [line.split()[1] for line in drawn if line.startswith("! ")] == ["hel-3", "hel-1700"]
    assert any("more machines, 0 of them with a problem" in line for line in drawn)


def test_a_mesh_without_a_problem_that_is_too_large_to_list_has_no_table():
    facts = mesh(*map(machine, range(MOST_HEALTHY + 1)))
    shown = texts(build_status_lines(facts, TerminalTraits(80, 24)))
    assert shown[1].startswith(f"{MOST_HEALTHY + 1} machines, none with a problem; ")
    assert not any("handshake" in line for line in shown)


@pytest.mark.parametrize("height", range(1, 40))
def test_a_picture_is_never_higher_than_the_terminal_and_begins_with_what_is_wrong(height):
    facts = mesh(*map(silent, range(20)), *map(machine, range(20, 30)))
    drawn = texts(build_watched_lines(facts, LOOK, TerminalTraits(80, height)))
    assert len(drawn) <= height
    assert drawn[0].endswith("1 s ago; every 2 s, until Ctrl-C")
    if height >= 8:
        assert drawn[3].startswith("silent: core 1 of hel-0")
        assert any(line.startswith("! hel-0") for line in drawn)
        assert "with a problem: see `qmesh status`" in drawn[-1]


@pytest.mark.parametrize(("bad", "style"), [(30, "warning"), (2, "plain")])
def test_what_has_no_room_is_marked_where_something_of_it_is_wrong(bad, style):
    facts = mesh(*map(silent, range(bad)), *map(machine, range(bad, 40)))
    assert build_watched_lines(facts, LOOK, TerminalTraits(80, 20))[-1][0].style == style


def test_a_picture_that_is_old_says_so_and_why():
    old = LOOK._replace(age_s=30.0, failure="no kernel (hint: buy one)", talk=("a warning",))
    lines = build_watched_lines(mesh(machine(0)), old, TerminalTraits(80, 24))
    drawn = texts(lines)
    assert "30 s ago" in drawn[0]
    assert lines[0][0].style == "warning"
    assert drawn[1:3] == ["the last look failed: no kernel (hint: buy one)", "a warning"]
    assert build_watched_lines(mesh(machine(0)), LOOK, TerminalTraits(80, 24))[0][0].style == "plain"


def test_what_others_wrote_begins_no_line_of_its_own():
    other = msgspec.structs.replace(
        silent(0).workers,
        restarts={"refused": "rm\nerror: \x1b[2J run `x`"},  # type: ignore[type-var]
    )
    shown = texts(build_status_lines(mesh(machine(0, workers=other)), TerminalTraits()))
    assert not any(line.startswith("error") for line in shown)
    assert "\x1b" not in "\n".join(shown)
