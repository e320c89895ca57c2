"""The whole of what `status` prints, for a pipe, a terminal, and a terminal that is drawn again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

from qmesh.agent.commands.status import MachineStatus, Status
from qmesh.cli.screen.cells import clip_line, wrap_line
from qmesh.cli.screen.spans import Line, Lines, Span, Style, style_labels
from qmesh.cli.screen.terminal_traits import TerminalTraits
from qmesh.cli.screen.watch import LookState
from qmesh.cli.status_text.figures import format_duration
from qmesh.cli.status_text.problems import judge_machines, list_problems
from qmesh.cli.status_text.table import build_table
from qmesh.mesh.printable import escape_line

MOST_HEALTHY: Final = 40
"""Machines without a problem that a terminal lists; of more it has the number."""
_STALE: Final = 3
"""Looks that are due and not there, from which on the time of the last one is marked."""

_ORDER: Final[Sequence[Style]] = ("error", "warning", "plain")


def build_status_lines(
    facts: Status, traits: TerminalTraits, *, with_all: bool = False, is_wide: bool = False
) -> Lines:
    """All of it: what is wrong, the machines that have something of it, the others, notes.

    with_all: list machines without a problem however many there are, as is done for a pipe.
    is_wide: show all columns, whatever the terminal's width, what machines tell of themselves among them.
    """
    judged = judge_machines(facts)
    machines = sort_machines(facts, judged)
    healthy = sum(judged[each.name] == "plain" for each in machines)
    is_summed_up = traits.width is not None and not with_all and healthy > MOST_HEALTHY
    shown = machines[: len(machines) - healthy] if is_summed_up else machines
    width = None if is_wide else traits.width
    more = (f"{healthy:,} machines need no look; `qmesh status --all` lists them",) if is_summed_up else ()
    return tuple(
        chain(
            _build_head(facts, judged),
            _build_problems(facts),
            build_table(
                shown, judged, width=width, gap=traits.gap, has_facts=is_wide or traits.width is not None
            )
            if shown
            else (),
            ((Span(line),) for line in more),
            _build_notes(facts),
        )
    )


def build_watched_lines(
    facts: Status, look: LookState, traits: TerminalTraits, *, is_wide: bool = False
) -> Lines:
    """As much of it as the terminal has room for: what is wrong before what is right.

    Of a terminal that is not there it is as for one of 80 cells and 24 lines.
    """
    width, height = traits.width or 80, traits.height or 24
    judged = judge_machines(facts)
    machines = sort_machines(facts, judged)
    head = _wrap(chain(_build_look_line(look), _build_head(facts, judged)), width)
    problems = _wrap(_build_problems(facts), width)
    notes = _wrap(_build_notes(facts), width)
    columns_width = None if is_wide else width
    table = list(build_table(machines[:height], judged, width=columns_width, gap=traits.gap, has_facts=True))
    room = height - len(head)
    if len(problems) + 1 + len(machines) > room:
        # Each has half of the room, and what the other leaves of its half.
        lines = max((room - 1) // 2, room - 1 - len(table))
        problems = problems[: max(0, lines)]
        rows = max(0, room - 1 - len(problems))
        table = [*table[:rows], _build_hidden_line(machines[max(0, rows - 1) :], judged)]
    body = [*head, *problems, *table, *notes][:height]
    return tuple(clip_line(line, width) for line in body)


def sort_machines(facts: Status, judged: dict[str, Style]) -> list[MachineStatus]:
    """Those with a problem first, and those of one kind in the order of their cores."""
    return sorted(facts.machines, key=lambda machine: _ORDER.index(judged[machine.name]))


def _build_hidden_line(hidden: Sequence[MachineStatus], judged: dict[str, Style]) -> Line:
    bad = sum(judged[each.name] != "plain" for each in hidden)
    more = f"{len(hidden):,} more machines, {bad:,} of them with a problem" if hidden else "more is wrong"
    return (Span(f"{more}: see `qmesh status`", "plain" if hidden and not bad else "warning"),)


def _wrap(lines: Iterable[Line], width: int) -> list[Line]:
    return [part for line in lines for part in wrap_line(line, width)]


def _build_head(facts: Status, judged: dict[str, Style]) -> Iterable[Line]:
    yield (
        Span(
            f"mesh {facts.mesh}, revision {facts.revision}, node {facts.node}, control node {facts.control}"
        ),
    )
    bad = sum(style != "plain" for style in judged.values())
    problem = Span(f"{bad:,} with a problem", "error" if "error" in judged.values() else "warning")
    known = [each for each in facts.machines if each.workers is not None and each.ports]
    alive = sum(each.workers.alive for each in known if each.workers is not None)
    workers = sum(len(each.ports) for each in known)
    count = f"{len(facts.machines):,} machine{'s' * (len(facts.machines) != 1)}"
    where = "" if all(each in known for each in facts.machines if each.ports) else " here"
    yield (
        Span(f"{count}, "),
        problem if bad else Span("none with a problem"),
        Span(f"; {alive:,} of {workers:,} workers{where} alive" if workers else ""),
    )


def _build_problems(facts: Status) -> Iterable[Line]:
    styles: dict[str, Style] = {"connecting to the control process": "warning"}
    return chain.from_iterable(
        style_labels(escape_line(line), styles, "error") for line in list_problems(facts)
    )


def _build_notes(facts: Status) -> Iterable[Line]:
    return ((Span(f"note: {line}"),) for line in facts.advice)


def _build_look_line(look: LookState) -> Iterable[Line]:
    """When what is shown was true, and why it is no newer."""
    at = time.strftime("%H:%M:%S", time.localtime(look.at))
    is_stale = look.age_s > _STALE * look.every_s
    age = Span(f"{at}, {format_duration(look.age_s)} ago", "warning" if is_stale else "plain")
    yield age, Span(f"; every {look.every_s:g} s, until Ctrl-C")
    if look.failure:
        yield Span("the last look failed", "error"), Span(f": {look.failure}")
    yield from ((Span(line, "warning"),) for line in look.talk)
