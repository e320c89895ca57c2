"""What an operator is told: a change once, many at once as one, and what flaps ever more rarely."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.audit.findings import error_finding, warning_finding
from qmesh.mesh.links.activity import LinkReport, SilentLink
from qmesh.mesh.metrics.snapshot import WorkerSample
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.notifications import outbox as boxes
from qmesh.mesh.notifications import sources
from qmesh.mesh.notifications.change import MOST_TEXT, Condition, ToldChange
from qmesh.mesh.notifications.guard import (
    AGAIN_S,
    MOST_AGAIN_S,
    AlterationCount,
    AlterationMemory,
    note_alterations,
    parse_alterations,
)
from qmesh.mesh.notifications.outbox import Outbox
from qmesh.mesh.notifications.record import NotificationRecord
from qmesh.mesh.notifications.tracker import (
    GATHER_S,
    MOST_DOUBLINGS,
    MOST_GAP_S,
    OFTEN_S,
    Absence,
    ConditionTracker,
    Told,
)
from qmesh.mesh.view.cluster_view import EventView
from tests.support.factories import key, machine, mesh

NOW = 1_700_000_000
AFTER_S = 60.0
SILENT = Condition("peer-silent", "b")


class Watched:
    """A tracker, look by look, once in so many seconds."""

    def __init__(self, told: Iterable[Told] = (), *, every: float = 5.0) -> None:
        self.tracker = ConditionTracker(told)
        self.every = every
        self.now = float(NOW)
        self.tracker.advance(self.now)

    def look(self, seconds: float, *present: Condition, absence: Absence = "ended") -> list[ToldChange]:
        """Looks over so many seconds; what was told of them."""
        until = self.now + seconds
        found: list[ToldChange] = []
        while self.now < until:
            self.now += self.every
            self.tracker.advance(self.now)
            self.tracker.observe("peer-silent", present, patience_s=AFTER_S, judge=lambda _: absence)
            found += self.tracker.take_due(int(self.now))
        return found


def phases(changes: Iterable[ToldChange]) -> list[tuple[str, str]]:
    return [(each.machine, each.phase) for each in changes]


def test_a_change_is_told_once_when_it_has_lasted_and_not_before():
    watched = Watched()
    assert watched.look(AFTER_S, SILENT) == []
    assert phases(watched.look(5, SILENT)) == [("b", "begun")]
    assert watched.look(86_400, SILENT) == []
    assert watched.look(AFTER_S) == []
    assert phases(watched.look(5)) == [("b", "ended")]
    assert watched.look(86_400) == []


def test_what_does_not_last_is_not_told():
    watched = Watched()
    for _ in range(20):
        assert watched.look(AFTER_S / 2 - 5, SILENT) == []
        assert watched.look(AFTER_S / 2) == []


def test_what_never_lasts_and_begins_again_and_again_is_told_once():
    """A worker that crashes, starts, and crashes again."""
    watched, said = Watched(), []
    for _ in range(100):
        said += watched.look(AFTER_S - 10, SILENT) + watched.look(10)
    assert phases(said) == [("b", "begun")]
    assert said[0].hold_s > AFTER_S
    assert phases(watched.look(said[0].hold_s + 10)) == [("b", "ended")]


def test_few_dips_in_hours_are_no_flapping():
    watched = Watched()
    for _ in range(50):
        assert watched.look(AFTER_S - 10, SILENT) == []
        assert watched.look(OFTEN_S / 3) == []


def test_what_a_look_cannot_tell_changes_nothing():
    """After an agent's start no machine has been heard yet: those that were silent are not back."""
    watched = Watched()
    (begun,) = watched.look(70, SILENT)
    again = Watched(watched.tracker.list_told())
    assert again.look(3600, absence="unknown") == []
    assert phases(again.look(70)) == [("b", "ended")]
    assert begun.hold_s == 0
    assert again.look(50, SILENT) == []
    assert again.look(5, absence="unknown") == []
    assert again.look(AFTER_S * 2, SILENT) == []  # it had to begin again


def test_what_is_gone_is_neither_told_nor_remembered():
    watched = Watched()
    watched.look(70, SILENT)
    assert watched.look(3600, absence="gone") == []
    assert watched.tracker.list_told() == ()


def test_a_machine_that_stood_still_has_not_missed_what_it_could_not_see():
    watched = Watched(every=3600.0)
    assert watched.look(AFTER_S / MOST_GAP_S * 3600, SILENT) == []
    assert phases(watched.look(3600, SILENT)) == [("b", "begun")]


def test_what_comes_and_goes_is_told_ever_more_rarely_and_says_so():
    watched, said = Watched(), []
    for _ in range(200):
        said += watched.look(90, SILENT) + watched.look(90)
    assert [(each.phase, each.hold_s) for each in said] == [("begun", 0), ("ended", 0), ("begun", 240)]
    (over,) = watched.look(OFTEN_S)
    assert (over.phase, over.hold_s) == ("ended", 480)


def test_what_has_come_and_gone_for_a_year_is_told_within_so_many_times_as_long():
    watched = Watched([Told("peer-silent", "b", "", is_on=True, changed_at=NOW, flips=1000)])
    (over,) = watched.look((1 << MOST_DOUBLINGS) * AFTER_S + 5)
    assert (over.phase, over.hold_s) == ("ended", (1 << MOST_DOUBLINGS) * AFTER_S)


@pytest.mark.parametrize("hours", [-24 * 365 * 40, -2, 2])
def test_what_a_wrong_clock_said_keeps_nothing_for_years(hours):
    """What ended while the clock was ahead is not remembered until that time has come."""
    watched = Watched()
    watched.look(600, SILENT)
    watched.look(600)
    assert [each.is_on for each in watched.tracker.list_told()] == [False]
    watched.tracker.take_due(int(watched.now + hours * 3600))
    assert watched.tracker.list_told() == ()


def test_after_a_calm_hour_it_is_told_as_the_first_time():
    watched = Watched()
    for _ in range(3):
        watched.look(300, SILENT)
        watched.look(300)
    watched.look(3 * OFTEN_S)
    assert watched.tracker.list_told() == ()
    (told,) = watched.look(70, SILENT)
    assert told.hold_s == 0


def test_a_hundred_machines_that_fall_silent_within_seconds_are_told_at_once():
    watched = Watched(every=1.0)
    machines = [Condition("peer-silent", f"m{number}") for number in range(100)]
    said = []
    for second in range(200):
        found = watched.look(1, *machines[: 4 * second])
        said += [found] if found else []
    assert [len(each) for each in said] == [100]


def test_one_that_waits_for_others_does_not_wait_for_ever():
    watched = Watched(every=1.0)
    first = None
    for second in range(300):
        found = watched.look(1, *(Condition("peer-silent", f"m{each}") for each in range(second // 2 + 1)))
        if found and first is None:
            first = second
    assert first is not None
    assert AFTER_S <= first <= AFTER_S + GATHER_S + 2


@given(
    looks=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["on", "off", "unknown", "restart"]),
            st.integers(1, 40),
        ),
        max_size=60,
    )
)
def test_law_what_is_told_of_one_condition_begins_and_ends_in_turn(looks):
    """Whatever happens, and whenever the agent restarts."""
    tracker, clock, now = ConditionTracker(), 0.0, float(NOW)
    on: set[str] = set()
    unknown: set[str] = set()
    said: dict[str, list[str]] = {"a": [], "b": []}
    for name, what, times in looks:
        (on.add if what == "on" else on.discard)(name)
        (unknown.add if what == "unknown" else unknown.discard)(name)
        if what == "restart":
            record = NotificationRecord(mesh="m", control="c", told=tracker.list_told())
            kept = msgspec.json.decode(msgspec.json.encode(record), type=NotificationRecord)
            tracker, clock = ConditionTracker(kept.told), 0.0
        for _ in range(times):
            clock, now = clock + 5, now + 5
            tracker.advance(clock)
            tracker.observe(
                "peer-silent",
                [Condition("peer-silent", each) for each in on],
                patience_s=AFTER_S,
                judge=lambda key: "unknown" if key[1] in unknown else "ended",
            )
            for change in tracker.take_due(int(now)):
                said[change.machine].append(change.phase)
    for phases_of_one in said.values():
        assert phases_of_one == [
            phase for phase, _ in zip(itertools.cycle(("begun", "ended")), phases_of_one)
        ]
    for name in on:  # what lasts is told in the end
        told = said[name]
        for _ in range(2000):
            clock, now = clock + 5, now + 5
            tracker.advance(clock)
            tracker.observe(
                "peer-silent", [Condition("peer-silent", each) for each in on], patience_s=AFTER_S
            )
            for change in tracker.take_due(int(now)):
                said[change.machine].append(change.phase)
        assert told[-1] == "begun"


# Where it comes from

MESH = mesh(machine("a", 1, 2), machine("b", 2, 3), machine("c", 3, 1), machine("d", 4, 1, state="paused"))


def links(*silent: int, quiet: tuple[int, ...] = (), waiting: tuple[int, ...] = ()) -> LinkReport:
    return LinkReport(
        silent=tuple(SilentLink(key(each), 200.0, was_heard=True) for each in silent),
        quiet=tuple(map(key, quiet)),
        waiting=tuple(map(key, waiting)),
    )


_BEGINS = itertools.count(0, 1000)


def tell(tracker: ConditionTracker, observe: Callable[[], None]) -> list[ToldChange]:
    """What is told over forty looks, each 5 seconds after the other."""
    found: list[ToldChange] = []
    begin = next(_BEGINS)
    for at in range(begin, begin + 200, 5):
        tracker.advance(float(at))
        observe()
        found += tracker.take_due(NOW + at)
    return found


def test_a_control_node_tells_of_every_active_machine_and_of_no_other():
    tracker = ConditionTracker()
    report = links(2, 4, quiet=(3,))
    found = tell(
        tracker, lambda: sources.note_machines(tracker, MESH, "a", report, frozenset(), after_s=AFTER_S)
    )
    assert sorted(phases(found)) == [("b", "begun"), ("c", "begun")]
    back = tell(
        tracker, lambda: sources.note_machines(tracker, MESH, "a", LinkReport(), {key(2)}, after_s=AFTER_S)
    )
    assert phases(back) == [("b", "ended")]


def test_a_member_tells_of_its_control_node_alone():
    tracker = ConditionTracker()
    report = links(1, 3)
    found = tell(
        tracker, lambda: sources.note_machines(tracker, MESH, "b", report, frozenset(), after_s=AFTER_S)
    )
    assert phases(found) == [("a", "begun")]


def test_a_machine_that_was_removed_or_paused_is_not_back():
    tracker = ConditionTracker()
    tell(tracker, lambda: sources.note_machines(tracker, MESH, "a", links(2), (), after_s=AFTER_S))
    without = mesh(machine("a", 1, 2), machine("c", 3, 1))
    assert not tell(
        tracker, lambda: sources.note_machines(tracker, without, "a", LinkReport(), {key(2)}, after_s=AFTER_S)
    )
    assert tracker.list_told() == ()


def workers(*silent: int) -> tuple[WorkerSample, ...]:
    cores = [("a", 1), ("a", 2), ("b", 3), ("b", 4), ("b", 5), ("c", 6), ("gone", 7)]
    return tuple(
        WorkerSample(name, core, None if core in silent else 0.001, "refused") for name, core in cores
    )


def test_workers_of_one_machine_are_one_change_with_their_cores():
    tracker = ConditionTracker()
    found = tell(
        tracker,
        lambda: sources.note_workers(tracker, MESH, LinkReport(), workers(1, 3, 4, 5, 7), after_s=AFTER_S),
    )
    assert sorted((each.machine, each.cores) for each in found) == [("a", ((1, 1),)), ("b", ((3, 5),))]
    back = tell(
        tracker, lambda: sources.note_workers(tracker, MESH, LinkReport(), workers(3), after_s=AFTER_S)
    )
    assert sorted((each.machine, each.phase, each.cores) for each in back) == [
        ("a", "ended", ((1, 1),)),
        ("b", "ended", ((4, 5),)),
    ]


def test_workers_of_a_silent_machine_say_nothing_so_that_one_cause_is_one_message():
    tracker = ConditionTracker()
    assert not tell(
        tracker,
        lambda: sources.note_workers(tracker, MESH, links(quiet=(2,)), workers(3, 4, 5), after_s=AFTER_S),
    )
    tell(tracker, lambda: sources.note_workers(tracker, MESH, LinkReport(), workers(3), after_s=AFTER_S))
    assert not tell(
        tracker, lambda: sources.note_workers(tracker, MESH, links(2), workers(3), after_s=AFTER_S)
    )
    assert len(tracker.list_told()) == 1


def test_workers_whose_machine_may_be_away_wait_until_that_is_known():
    """Their machine falls silent first, which is told instead: one cause is one message."""
    tracker = ConditionTracker()

    def look(why: SilenceReason) -> None:
        found = (WorkerSample("b", 3, None, why), WorkerSample("a", 1, None, why))
        sources.note_workers(tracker, MESH, LinkReport(), found, after_s=10.0)

    tracker.advance(0.0)
    for at in range(0, 45, 5):
        tracker.advance(float(at))
        look("dropped")
    assert phases(tracker.take_due(NOW)) == [("a", "begun")]
    for at in range(45, 70, 5):
        tracker.advance(float(at))
        look("dropped")
    (told,) = tracker.take_due(NOW)
    assert (told.machine, told.detail) == ("b", "dropped by a firewall, or hanging")
    tracker = ConditionTracker()
    for at in range(0, 15, 5):
        tracker.advance(float(at))
        look("refused")
    assert sorted(phases(tracker.take_due(NOW))) == [("a", "begun"), ("b", "begun")]


def test_workers_that_are_no_longer_in_the_mesh_or_of_a_member_are_forgotten():
    tracker = ConditionTracker()
    tell(tracker, lambda: sources.note_workers(tracker, MESH, LinkReport(), workers(3, 6), after_s=AFTER_S))
    without = mesh(machine("a", 1, 2), machine("b", 2, 3))
    assert not tell(
        tracker, lambda: sources.note_workers(tracker, without, LinkReport(), workers(3), after_s=AFTER_S)
    )
    assert [each.machine for each in tracker.list_told()] == ["b"]
    sources.forget_workers(tracker)
    assert tracker.list_told() == ()


def test_a_guard_that_is_not_whole_is_told_and_that_it_is_whole_again():
    tracker = ConditionTracker()
    for is_whole, phase in ((False, "begun"), (True, "ended")):
        (told,) = tell(
            tracker,
            lambda: sources.note_guard(tracker, "a", is_whole=is_whole, after_s=AFTER_S),  # noqa: B023
        )
        assert (told.kind, told.phase, told.machine) == ("guard-not-whole", phase, "a")


FINDINGS = (
    error_finding("key-mode", "/x", "0600", "mode 0644", "chmod 600 /x"),
    warning_finding("clock", "fra-1", "the same", "62 s apart"),
    error_finding("worker-silent", "core 3", "", ""),
    error_finding("guard-held", "table inet qmesh-held", "", ""),
    error_finding("guard-not-first", "table inet qmesh", "", ""),
    msgspec.structs.replace(warning_finding("sysctl", "rp_filter", "", ""), severity="info"),
)


def test_findings_are_told_when_a_second_check_finds_them_too_and_when_they_are_gone():
    tracker = ConditionTracker()
    tracker.advance(0.0)
    sources.note_findings(tracker, "a", FINDINGS, after_s=AFTER_S)
    tracker.advance(50.0)
    assert tracker.take_due(NOW) == ()
    found = tell(tracker, lambda: sources.note_findings(tracker, "a", FINDINGS, after_s=AFTER_S))
    assert sorted((each.code, each.severity, each.subject, each.detail, each.fix) for each in found) == [
        ("clock", "warning", "fra-1", "62 s apart", "qmesh apply"),
        ("key-mode", "error", "/x", "mode 0644", "chmod 600 /x"),
    ]
    gone = tell(tracker, lambda: sources.note_findings(tracker, "a", FINDINGS[1:], after_s=AFTER_S))
    assert [(each.code, each.subject, each.phase) for each in gone] == [("key-mode", "/x", "ended")]


def test_findings_without_end_are_cut_and_none_of_them_counts_as_gone():
    tracker = ConditionTracker()
    many = [
        warning_finding("port-wide", f"{number}/tcp" + "x" * 1000, "", "y" * 1000) for number in range(1000)
    ]
    found = tell(tracker, lambda: sources.note_findings(tracker, "a", many, after_s=AFTER_S))
    assert len(found) == sources.MOST_FINDINGS
    assert all(len(each.detail) <= MOST_TEXT + 3 and len(each.subject) <= MOST_TEXT + 3 for each in found)
    worse = [FINDINGS[0], *many]  # which moves the others on
    more = tell(tracker, lambda: sources.note_findings(tracker, "a", worse, after_s=AFTER_S))
    assert [each.code for each in more] == ["key-mode"]


def event(at: int, command: str, what: str, machine: str | None, **named) -> EventView:
    return EventView(at=at, command=command, what=what, machine=machine, revision=1, **named)


def test_events_of_the_registry_are_told_of_and_most_are_not():
    events = (
        event(NOW, "invite", "invited", "c", user="root"),
        event(NOW, "join", "joined", "c", user="root", address="10.77.0.3"),
        event(NOW, "admit", "joined", "d", user="anna"),
        event(NOW, "join", "replaced", "c", user="root"),
        event(NOW, "remove", "removed", "b", user="alice"),
        event(-5, "restore", "restored", None),
    )
    found = sources.list_membership_changes(events, control="a")
    assert [(each.kind, each.machine, each.detail, each.at) for each in found] == [
        ("joined", "c", "at 10.77.0.3, invited by root", NOW),
        ("joined", "d", "by anna", NOW),
        ("replaced", "c", "invited by root", NOW),
        ("removed", "b", "by alice", NOW),
        ("restored", "a", "", 0),
    ]


# The guard that other programs change


def count(
    number: int, start: str = "s", by: str = "nft (process 7)", keeper: str = "holder"
) -> AlterationCount:
    return AlterationCount(keeper, start, number, by)


def note(
    memory: AlterationMemory, now: int, *counts: AlterationCount
) -> tuple[AlterationMemory, ToldChange | None]:
    return note_alterations(memory, counts, machine="a", now=now)


def test_an_alteration_is_told_at_once_with_who_did_it_and_only_once():
    memory, change = note(AlterationMemory(), NOW, count(3))
    assert change is None  # from before anybody was told
    memory, change = note(memory, NOW, count(4))
    assert change is not None
    assert (change.machine, change.detail, change.times, change.hold_s) == (
        "a",
        "nft (process 7)",
        1,
        AGAIN_S,
    )
    memory, change = note(memory, NOW + 5, count(4))
    assert change is None


def test_a_program_that_changes_it_again_and_again_is_told_ever_more_rarely():
    memory, _ = note(AlterationMemory(), NOW, count(0))
    said = []
    for minute in range(7 * 24 * 60):
        memory, change = note(memory, NOW + 60 * minute, count(minute + 1))
        said += [] if change is None else [change]
    assert [each.times for each in said[:3]] == [1, 10, 20]
    assert len(said) < 16
    assert sum(each.times for each in said) > 7 * 24 * 60 - MOST_AGAIN_S / 60 - 2
    memory, change = note(memory, said[-1].at + MOST_AGAIN_S + 1, count(99_999))
    assert change is not None
    assert change.hold_s == AGAIN_S


def test_two_keepers_may_have_seen_the_same_one_and_a_new_process_counts_from_nothing():
    memory, _ = note(AlterationMemory(), NOW, count(5), count(0, keeper="agent", by=""))
    memory, change = note(memory, NOW, count(6), count(1, keeper="agent", by=""))
    assert change is not None
    assert change.times == 1
    later = NOW + MOST_AGAIN_S + 1
    memory, change = note(memory, later, count(0, start="another"), count(1, keeper="agent", by=""))
    assert change is None
    memory, change = note(memory, later, count(2, start="another", by=""))
    assert change is not None
    assert (change.times, change.detail) == (2, "")


def test_a_clock_that_was_set_back_silences_nothing():
    memory, _ = note(AlterationMemory(told_at=NOW + 10**6, times=3, counted=(count(0),)), NOW, count(1))
    assert memory.told_at == NOW


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12-34 5 nft (process 7)", AlterationCount("holder", "12-34", 5, "nft (process 7)")),
        ("12-34 0 ", AlterationCount("holder", "12-34", 0, "")),
        ("", None),
        ("12-34", None),
        ("12-34 many", None),
        ("12-34 -1 x", None),
        (" 3 x", None),
    ],
)
def test_what_a_keeper_says_is_read_or_nothing(text, expected):
    assert parse_alterations("holder", text) == expected


# The outbox


def changes(number: int) -> list[ToldChange]:
    return [
        ToldChange(at=NOW, kind="peer-silent", phase="begun", machine=f"m{each}") for each in range(number)
    ]


def box_for(*receivers: str) -> Outbox:
    return boxes.set_receivers(Outbox(), receivers)


def test_a_receiver_gets_all_that_waits_as_one_message_and_each_change_once():
    box = boxes.add_changes(box_for("x"), changes(100))
    batch = boxes.find_batch(box, "x", NOW)
    assert batch is not None
    assert [each.number for each in batch.changes] == list(range(1, 101))
    assert batch.dropped == 0
    box = boxes.note_delivered(box, "x", batch.last, NOW)
    assert boxes.find_batch(box, "x", NOW + 3600) is None
    assert box.changes == ()


def test_a_new_receiver_is_not_told_what_was_before_it():
    box = boxes.add_changes(box_for("x"), changes(3))
    box = boxes.set_receivers(box, ("x", "y"))
    assert boxes.find_batch(box, "y", NOW) is None
    box = boxes.add_changes(box, changes(1))
    batches = [boxes.find_batch(box, each, NOW) for each in "xy"]
    assert [each and len(each.changes) for each in batches] == [4, 1]
    assert boxes.set_receivers(box, ("y",)).changes == box.changes[-1:]
    assert boxes.set_receivers(box, ()).changes == ()


def test_what_fails_is_tried_again_at_growing_intervals_without_end():
    box, now, waits = boxes.add_changes(box_for("x"), changes(1)), NOW, []
    for _ in range(10):
        box = boxes.note_failure(box, "x", now)
        wait = next(each for each in range(5000) if boxes.find_batch(box, "x", now + each) is not None)
        waits.append(wait)
        now += wait
    assert waits == [*boxes.AGAIN_S, 3600, 3600, 3600]
    assert boxes.find_batch(box, "x", NOW - 10**7) is not None  # where the clock was set back


def test_of_a_receiver_that_is_dead_for_a_week_the_oldest_go_and_it_is_told_how_many():
    box = box_for("x", "y")
    for _ in range(30):
        box = boxes.add_changes(box, changes(100))
        box = boxes.note_delivered(box, "y", box.next_number - 1, NOW)
    assert len(box.changes) == boxes.MOST_CHANGES
    batch = boxes.find_batch(box, "x", NOW)
    assert batch is not None
    assert batch.dropped == 3000 - boxes.MOST_CHANGES
    had = batch.dropped
    while batch is not None:
        assert len(batch.changes) <= boxes.MOST_IN_MESSAGE
        had += len(batch.changes)
        box = boxes.note_delivered(box, "x", batch.last, NOW)
        batch = boxes.find_batch(box, "x", NOW + boxes.BETWEEN_S)
    assert had == 3000


def test_many_messages_within_an_hour_become_fewer():
    box, now, sent = box_for("x"), NOW, 0
    for _ in range(3600):
        now += 1
        box = boxes.add_changes(box, changes(1))
        batch = boxes.find_batch(box, "x", now)
        if batch is not None:
            sent += 1
            box = boxes.note_delivered(box, "x", batch.last, now)
    assert boxes.MOST_IN_HOUR <= sent <= boxes.MOST_IN_HOUR + 3600 / boxes.CROWDED_S


def test_messages_of_a_clock_that_was_ahead_make_none_fewer():
    box, ahead = box_for("x"), NOW + 10**7
    for _ in range(boxes.MOST_IN_HOUR):
        box = boxes.note_delivered(boxes.add_changes(box, changes(1)), "x", box.next_number, ahead)
    box = boxes.note_delivered(boxes.add_changes(box, changes(1)), "x", box.next_number, NOW)
    box = boxes.add_changes(box, changes(1))
    assert boxes.find_batch(box, "x", NOW + boxes.BETWEEN_S) is not None


def test_what_was_taken_once_is_not_sent_again_by_an_answer_that_comes_late():
    box = boxes.add_changes(box_for("x", "y"), changes(3))
    for last in (2, 1):
        box = boxes.note_delivered(box, "x", last, NOW)
    batch = boxes.find_batch(box, "x", NOW + boxes.BETWEEN_S)
    assert batch is not None
    assert [each.number for each in batch.changes] == [3]


def test_what_comes_of_a_receiver_that_is_gone_changes_nothing():
    box = boxes.add_changes(box_for("x"), changes(1))
    assert boxes.note_delivered(box, "y", 1, NOW) == box
    assert boxes.note_failure(box, "y", NOW) == box
    assert boxes.find_batch(box, "y", NOW) is None


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 700)),
            st.tuples(st.sampled_from(["deliver", "fail"]), st.sampled_from("xy")),
        ),
        max_size=40,
    )
)
def test_law_each_receiver_gets_every_change_once_in_order_or_is_told_how_many_it_missed(steps):
    box, now, added = box_for("x", "y"), NOW, 0
    had: dict[str, list[int]] = {"x": [], "y": []}
    missed = {"x": 0, "y": 0}
    last = [
        ("deliver", each) for each in "xy" for _ in range(boxes.MOST_CHANGES // boxes.MOST_IN_MESSAGE + 1)
    ]
    for what, which in [*steps, ("add", 1), *last]:
        now += 3601
        if what == "add":
            box, added = boxes.add_changes(box, changes(which)), added + which
        elif what == "fail":
            box = boxes.note_failure(box, which, now)
        elif (batch := boxes.find_batch(box, which, now)) is not None:
            missed[which] += batch.dropped
            had[which] += [each.number for each in batch.changes]
            box = boxes.note_delivered(box, which, batch.last, now)
        assert len(box.changes) <= boxes.MOST_CHANGES
        box = msgspec.json.decode(msgspec.json.encode(box), type=Outbox)
    for name, numbers in had.items():
        assert numbers == sorted(set(numbers))
        assert len(numbers) + missed[name] == added
