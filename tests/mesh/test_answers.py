"""What is known of a worker by its answer, by what its machine notes, and by what the agent hears."""

from __future__ import annotations

import errno

import pytest

from qmesh.mesh.audit.network.links import list_quiet_machines
from qmesh.mesh.audit.node.silence import group_silent_cores
from qmesh.mesh.audit.surroundings import LinkContext, SilentWorkers
from qmesh.mesh.inventory import Worker
from qmesh.mesh.links.activity import LinkReport, SilentLink
from qmesh.mesh.node_processes.answers import (
    MOST_AWAITED,
    WorkerAnswer,
    apply_note,
    explain_connection,
    find_listener,
    list_undialled_machines,
    note_listeners,
)
from qmesh.mesh.protocol.member_note import MemberNote
from tests.support.factories import audit_context, cluster, key

PLACE = ("10.77.0.2", 40003)
HERE, REFUSED, DROPPED = WorkerAnswer(0.0), WorkerAnswer(None, "refused"), WorkerAnswer(None, "dropped")


@pytest.mark.parametrize(
    ("listening", "answer"),
    [
        ([PLACE], HERE),
        ([("::", 40003)], HERE),
        ([("127.0.0.1", 40003), PLACE], HERE),
        ([("127.0.0.1", 40003), ("10.77.0.2", 40004)], WorkerAnswer(None, "elsewhere", ("127.0.0.1",))),
        ([], WorkerAnswer(None, "absent")),
    ],
)
def test_a_worker_of_this_machine_is_looked_for_at_its_own_and_at_every_address(listening, answer):
    assert find_listener(PLACE, frozenset(listening)) == answer


def test_a_connection_says_why_and_a_machine_knows_better_of_its_own_workers():
    assert explain_connection(0.2, 0, WorkerAnswer(None, "absent")) == WorkerAnswer(0.2)
    assert explain_connection(0.2, errno.ECONNREFUSED, None) == REFUSED
    assert explain_connection(0.2, errno.ECONNREFUSED, HERE) == REFUSED
    assert explain_connection(0.2, errno.ECONNREFUSED, WorkerAnswer(None, "absent")).why == "absent"


@pytest.mark.parametrize(
    ("answer", "note", "why"),
    [
        (DROPPED, MemberNote(is_down=True), "down"),
        (REFUSED, MemberNote(is_down=True), "refused"),
        (REFUSED, MemberNote(elsewhere=((3, "127.0.0.1"),)), "elsewhere"),
        (REFUSED, MemberNote(elsewhere=((4, "127.0.0.1"),)), "refused"),
        (DROPPED, MemberNote(elsewhere=((3, "127.0.0.1"),)), "dropped"),
        (HERE, MemberNote(is_down=True), ""),
        (HERE, MemberNote(stopped=((1, 2), (4, 9))), ""),
        (REFUSED, MemberNote(stopped=((1, 3),)), "refused"),
    ],
)
def test_a_note_explains_a_silence_and_contradicts_no_answer(answer, note, why):
    noted = apply_note(3, answer, note)
    assert (noted.seconds, noted.why) == (answer.seconds, why)
    assert noted.elsewhere == (("127.0.0.1",) if why == "elsewhere" else ())


@pytest.mark.parametrize("answer", [HERE, DROPPED])
def test_a_worker_that_stands_still_accepts_calls_and_is_silent_all_the_same(answer):
    noted = apply_note(3, answer, MemberNote(stopped=((1, 2), (3, 9))))
    assert noted == WorkerAnswer(None, "stopped")


def test_a_machine_notes_its_workers_that_stand_still_wherever_they_listen():
    own = [Worker(core, "hel-2", "10.77.0.2", 40000 + core) for core in (3, 4, 5, 7)]
    listening = frozenset(("10.77.0.2", 40000 + core) for core in (3, 4, 5, 7)) | {("::", 40005)}
    stopped = {("10.77.0.2", 40004), ("::", 40005), ("127.0.0.1", 40007)}
    assert note_listeners(own, listening, stopped) == MemberNote(stopped=((4, 5),))


def test_a_machine_notes_only_workers_that_listen_at_another_address():
    own = [Worker(core, "hel-2", "10.77.0.2", 40000 + core) for core in (3, 4, 5)]
    listening = frozenset({("10.77.0.2", 40003), ("127.0.0.1", 40004)})
    assert note_listeners(own, listening) == MemberNote(elsewhere=((4, "127.0.0.1"),))


def test_machines_of_which_nothing_comes_are_not_dialled_but_for_a_few_new_ones():
    inventory = cluster(1, 1, 1)
    names = {each.public_key: each.name for each in inventory.machines}
    silent, quiet, waiting = names
    links = LinkReport(
        silent=(SilentLink(public_key=silent, silent_s=600.0, was_heard=True),), quiet=(quiet,)
    )
    assert list_undialled_machines(inventory, links) == {names[silent], names[quiet]}
    few = LinkReport(waiting=(waiting, *map(str, range(MOST_AWAITED - 1))))
    assert list_undialled_machines(inventory, few) == frozenset()
    many = LinkReport(waiting=(waiting, *map(str, range(MOST_AWAITED))))
    assert list_undialled_machines(inventory, many) == {names[waiting]}


def test_a_machine_that_is_silent_for_two_reasons_is_none_that_answers():
    workers = [Worker(core, "hel-2", "10.77.0.2", 40000 + core) for core in (3, 4, 5)]
    answers = (DROPPED, WorkerAnswer(None, "rejected"), DROPPED)
    mixed = tuple(group_silent_cores("hel-2", "10.77.0.2", zip(workers, answers, strict=True)))
    assert mixed == (
        SilentWorkers("hel-2", "10.77.0.2", (3, 5), are_all=True, why="dropped"),
        SilentWorkers("hel-2", "10.77.0.2", (4,), are_all=True, why="rejected"),
    )
    unheard = LinkContext(report=LinkReport(quiet=(key(2),)))
    assert list_quiet_machines(audit_context(silent=mixed, links=unheard)) == {"hel-2"}
    (one,) = group_silent_cores("hel-2", "10.77.0.2", zip(workers, (HERE, HERE, REFUSED), strict=True))
    assert (one.cores, one.are_all) == ((5,), False)
    assert list_quiet_machines(audit_context(silent=(one,), links=unheard)) == frozenset()
