"""Machines of two versions of qmesh in one mesh: what is tried, and which machine has which version.

For tests, and for `scripts/versions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.lab.cluster import all_hold, facts, make_control, make_member, problems, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.waiting import comes_true, wait_until

SOON_S: Final = 30
NOTES: Final = {"machine-versions", "core-slow"}
"""What `check` notes of machines that are unlike each other, which these are."""


class MixedLab(Lab):
    """A lab whose machines have the versions that are named, by host name; others have this checkout's."""

    def __init__(self, versions: Mapping[str, Path]) -> None:
        super().__init__()
        self._versions = versions

    def machine(self, name: str, ipv4: str, ipv6: str | None = None) -> Machine:
        made = super().machine(name, ipv4, ipv6)
        made.version = self._versions.get(name, made.version)
        return made


def expect_well(*machines: Machine, besides: Collection[str] = ()) -> None:
    """That `check` finds nothing on any of them but such codes, soon."""
    for machine in machines:
        comes_true(lambda: problems(machine) <= NOTES.union(besides), SOON_S)  # noqa: B023 - called at once
        found = problems(machine) - NOTES.union(besides)
        assert not found, f"{machine.name}: {qmesh(machine, 'check', code=None).stdout}"


def expect_facts(control: Machine, *members: Machine) -> None:
    """That the control node knows what each member runs."""
    names = {member.name for member in members}

    def are_told() -> bool:
        known = {each["name"]: each["facts"] for each in facts(control, "status")["machines"]}
        return all(known[name] and known[name]["qmesh"] for name in names)

    wait_until(are_told, SOON_S)


def revision_of(control: Machine) -> int:
    return int(facts(control, "status")["revision"])


def follow(control: Machine, *members: Machine) -> None:
    """Wait until the members hold the newest membership."""
    all_hold(list(members), revision_of(control), within_s=SOON_S)


def read_guard(machine: Machine) -> str:
    """The guard's first table, but for who asked lately."""
    words = ["sh", "-c", "nft -s list table inet qmesh | sed '/set askers/,/^\\t}$/d'"]
    return machine.run(words).stdout


def join_online(lab: Lab) -> None:
    control = make_control(lab)
    members = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    follow(control, *members)
    expect_facts(control, *members)
    expect_well(control, *members)
    qmesh(members[0], "join", "invitation")  # again: it changes nothing
    follow(control, *members)


class Row(NamedTuple):
    """Something that machines of a mesh do with each other."""

    name: str
    run: Callable[[Lab], None]


ROWS: Final = (Row("join", join_online),)
MACHINES: Final = ("machine-a", "machine-b", "machine-c")


def list_columns() -> Iterator[tuple[str, dict[str, bool]]]:
    """Which of the machines have the version before; all but those where no machine or every one has."""
    for number in range(1, 7):
        older = {name: bool(number >> place & 1) for place, name in enumerate(MACHINES)}
        yield ", ".join(name[-1].upper() for name, has in older.items() if has), older


COLUMNS: Final = dict(list_columns())
"""By the machines that have the version before; A is the control node at first."""


@contextlib.contextmanager
def make_lab(column: str, before: Path) -> Iterator[Lab]:
    """A lab in which those machines have the version before, and the others this one."""
    older = COLUMNS[column]
    versions = {name: before for name in MACHINES if older[name]}
    with MixedLab(versions) as lab:
        yield lab
