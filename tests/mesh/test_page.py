"""What the page shows of a view, what it says has changed, what it keeps, and whom it answers."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.machine_facts.differences import FRESH_S
from qmesh.mesh.machine_facts.facts import MachineFacts, WorkerFacts
from qmesh.mesh.page.access import DEFAULT_PORT, find_file_name, refuse_page_port, refuse_request
from qmesh.mesh.page.changes import Change, describe_events, list_changes
from qmesh.mesh.page.history import LEAST_SAMPLES, MOST_NUMBERS, MOST_SAMPLES, AnswerHistory
from qmesh.mesh.page.picture import HANDSHAKE_S, PageMachine, PagePicture, build_page_picture
from qmesh.mesh.view.cluster_view import ClusterView, EventView, TunnelView
from tests.support.page_views import FAULTS, NOW, build_view

replace = msgspec.structs.replace


def picture(**named) -> PagePicture:
    return build_page_picture(build_view(**named))


def with_member(view: ClusterView, **named: object) -> ClusterView:
    """The view with its second machine otherwise."""
    first, second, *rest = view.machines
    return replace(view, machines=(first, replace(second, **named), *rest))


def texts(before: PagePicture, after: PagePicture) -> list[tuple[str, str]]:
    return [(each.kind, each.text) for each in list_changes(before, after)]


# The picture


def test_the_workers_of_a_machine_are_columns_in_the_order_of_their_cores():
    shown = picture(silent=(5,), restarting=(6,))
    fra, hel, ams = shown.machines
    assert (fra.first, hel.first, ams.first) == (1, 4, 8)
    assert (fra.states, hel.states, ams.states) == ("aaa", "asra", "aaaa")
    view = build_view(silent=(5,), restarting=(6,))
    seconds = [worker.answer_s for worker in view.machines[1].workers]
    assert hel.answers == tuple(None if each is None else round(each * 1e6) for each in seconds)
    assert hel.whys == {"5": "refused", "6": "refused"}
    assert (shown.guard, shown.control, shown.findings) == (True, "fra-1", ())


def test_an_answer_that_took_no_time_is_an_answer():
    view = build_view()
    workers = tuple(replace(each, answer_s=1e-9) for each in view.machines[1].workers)
    assert build_page_picture(with_member(view, workers=workers)).machines[1].answers == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("named", "link"),
    [
        ({}, "up"),
        ({"is_silent": True}, "silent"),
        ({"is_silent": True, "handshake_s": None}, "silent"),
        ({"handshake_s": None}, "never"),
        ({"is_silent": None}, "up"),
        ({"is_silent": None, "handshake_s": HANDSHAKE_S + 1}, "unknown"),
        ({"is_silent": False, "handshake_s": 10_000.0}, "up"),
    ],
)
def test_the_state_of_a_tunnel_is_what_is_heard_else_what_its_handshake_says(named, link):
    tunnel = TunnelView(
        **{"handshake_s": 9.0, "received_bytes": 1, "sent_bytes": 2, "is_silent": False, **named}
    )
    assert build_page_picture(with_member(build_view(), tunnel=tunnel)).machines[1].link == link


def test_a_machine_that_is_not_active_and_was_never_heard_is_no_alarm():
    tunnel = TunnelView(handshake_s=None, received_bytes=0, sent_bytes=0, is_silent=None)
    for state, link in (("paused", "unknown"), ("invited", "none")):
        view = with_member(build_view(), tunnel=tunnel, state=state, workers=())
        machine = build_page_picture(view).machines[1]
        assert (machine.link, machine.first, machine.states) == (link, 0, "")


def test_a_worker_machine_shows_its_own_tunnel_and_says_nothing_of_others():
    view = build_view()
    control, hel, ams = view.machines
    machines = (replace(control, tunnel=hel.tunnel), replace(hel, tunnel=None), replace(ams, tunnel=None))
    shown = build_page_picture(replace(view, name="hel-2", role="worker", machines=machines))
    assert [machine.link for machine in shown.machines] == ["here", "up", "none"]


def test_nothing_is_in_the_picture_that_the_view_does_not_have():
    """The view is what may be shown; the page makes it small, and asks nothing else."""
    fields = set(ClusterView.__struct_fields__)
    assert set(PagePicture.__struct_fields__) <= fields
    assert PageMachine.__struct_fields__ == (
        *("name", "role", "state", "address", "link", "first", "states", "answers", "whys", "handshake_s"),
        *("received_bytes", "sent_bytes", "revision", "agent_silent_s", "facts"),
    )


def test_of_a_machines_facts_those_are_shown_that_are_known():
    facts = MachineFacts(
        qmesh="0.1.0",
        cpu="AMD EPYC 7763",
        cores=8,
        load=0.5,
        memory_bytes=2**34,
        memory_available_bytes=3 * 2**30,
    )
    shown = build_page_picture(with_member(build_view(), facts=facts)).machines[1]
    assert shown.facts == (
        ("processor", "AMD EPYC 7763"),
        ("logical cores", "8"),
        ("load", "0.50"),
        ("memory available", "3.0 of 16.0 GiB"),
        ("qmesh", "0.1.0"),
    )
    for unknown in (MachineFacts(), None):
        assert build_page_picture(with_member(build_view(), facts=unknown)).machines[1].facts == ()


@pytest.mark.parametrize(("age_s", "is_said"), [(-60, False), (FRESH_S, False), (FRESH_S + 1, True)])
def test_facts_that_are_old_say_so(age_s, is_said):
    view = with_member(build_view(), facts_at=NOW - age_s)
    shown = dict(build_page_picture(view).machines[1].facts)
    assert shown.get("told") == ("more than 15 minutes ago" if is_said else None)


@pytest.mark.parametrize(
    ("workers", "memory", "restarts"),
    [
        (
            (WorkerFacts(4, 2**30), WorkerFacts(5, 3 * 2**30, 2)),
            "4.0 GiB, of which core 5 has 3.0 GiB",
            "2 (core 5)",
        ),
        (
            (WorkerFacts(4, None, 1), WorkerFacts(5, 2**29, 2)),
            "0.5 GiB, of which core 5 has 0.5 GiB",
            "3 (cores 4-5)",
        ),
        ((WorkerFacts(4, 0),), "0.0 GiB, of which core 4 has 0.0 GiB", "none"),
        ((WorkerFacts(4),), None, "none"),
        ((), None, None),
    ],
)
def test_memory_and_restarts_of_workers_are_among_the_facts_of_their_machine(workers, memory, restarts):
    (_, shown, _) = build_page_picture(
        with_member(build_view(), facts=MachineFacts(workers=workers))
    ).machines
    found = dict(shown.facts)
    assert (found.get("memory of workers"), found.get("restarts of workers")) == (memory, restarts)


# Changes


def test_what_stays_is_no_change():
    assert texts(picture(), picture(at=NOW + 9)) == []
    assert texts(picture(), picture(seed=2)) == []


def test_workers_that_change_alike_are_one_change():
    well, ill = picture(), picture(silent=(4, 5, 7), restarting=(6,))
    assert texts(well, ill) == [
        ("bad", "hel-2: cores 4-5, 7 silent"),
        ("note", "hel-2: core 6 restarting"),
    ]
    assert texts(ill, well) == [("good", "hel-2: cores 4-7 alive again")]
    assert list_changes(well, ill)[0].at == NOW


def test_a_worker_of_which_nothing_was_known_did_not_come_back():
    view = build_view()
    workers = tuple(replace(each, state="unknown", answer_s=None) for each in view.machines[1].workers)
    unknown = build_page_picture(with_member(view, workers=workers))
    assert texts(unknown, picture()) == texts(picture(), unknown) == []


def test_a_machine_with_other_cores_is_not_compared_core_by_core():
    assert texts(picture(silent=(5,)), picture(workers=(3, 5, 4))) == []
    assert texts(picture(silent=(5,)), picture(workers=(4, 4, 4))) == []


def test_machines_that_come_and_go_are_for_the_events():
    assert texts(picture(), picture(workers=(3, 4))) == texts(picture(workers=(3, 4)), picture()) == []


def test_a_tunnel_that_falls_silent_and_comes_back_is_said_with_its_agent():
    well, gone = picture(), picture(gone=(2,))
    assert texts(well, gone) == [
        ("bad", "ams-3: the tunnel is silent"),
        ("bad", "ams-3: its agent is silent"),
        ("bad", "ams-3: cores 8-11 silent"),
    ]
    assert texts(gone, well) == [
        ("good", "ams-3: the tunnel is up again"),
        ("good", "ams-3: its agent asks again"),
        ("good", "ams-3: cores 8-11 alive again"),
    ]


def test_a_tunnel_that_was_unknown_is_not_up_again():
    view = build_view()
    unknown = build_page_picture(with_member(view, tunnel=None))
    assert texts(unknown, picture()) == texts(picture(), unknown) == []


def test_the_guard_and_findings_are_said_where_both_moments_know_them():
    well, ill = picture(), picture(guard=False, findings=FAULTS)
    note = replace(FAULTS[0], code="note", severity="info")
    assert texts(well, ill) == [
        ("bad", "the guard of fra-1 is not whole"),
        ("bad", "found worker-silent: core 6"),
        ("bad", "found peer-silent: ams-3"),
    ]
    assert texts(ill, well) == [
        ("good", "the guard of fra-1 is whole again"),
        ("good", "no longer found: peer-silent: ams-3"),
        ("good", "no longer found: worker-silent: core 6"),
    ]
    assert texts(picture(findings=FAULTS[:1]), picture(findings=FAULTS)) == [
        ("bad", "found peer-silent: ams-3")
    ]
    assert texts(well, picture(findings=(note,))) == [("note", "found note: core 6")]
    unknown = build_page_picture(replace(build_view(guard=None), findings=None))
    assert texts(unknown, ill) == texts(ill, unknown) == []


def event(
    what: str, machine: str | None = "hel-2", user: str | None = None, command: str = "set"
) -> EventView:
    return EventView(at=7, what=what, machine=machine, revision=1, command=command, user=user)


def test_events_are_sentences_and_one_that_is_not_known_is_told_all_the_same():
    found = describe_events(
        (
            event("joined", user="root", command="join"),
            event("mesh-changed", None, "anna"),
            event("of-later"),
            event("of-later", None),
        )
    )
    assert found == (
        Change(7, "note", "hel-2 joined, invited by root"),
        Change(7, "note", "the mesh was changed, by anna"),
        Change(7, "note", "of-later hel-2"),
        Change(7, "note", "of-later"),
    )


def test_every_event_of_the_registry_has_its_words():
    for kind in get_args(EventKind):
        (change,) = describe_events((event(kind),))
        assert change.text != f"{kind} hel-2"


# History


def test_each_look_is_kept_once_and_the_oldest_goes():
    history = AnswerHistory()
    for seed in range(MOST_SAMPLES + 5):
        for ago in (0, 2):
            history.note_picture(picture(seed=seed, at=NOW + ago))
    assert len(history.samples) == MOST_SAMPLES
    last = picture(seed=MOST_SAMPLES + 4)
    assert [(each.first, each.answers) for each in history.samples[-1]] == [
        (each.first, each.answers) for each in last.machines
    ]


def test_of_thousands_of_workers_fewer_looks_are_kept():
    history = AnswerHistory()
    two = [picture(workers=[2048, 1], seed=seed) for seed in range(2)]
    for number in range(40):
        history.note_picture(two[number % 2])
    assert len(history.samples) == MOST_NUMBERS // 2049
    large = [picture(workers=[40_000], seed=seed) for seed in range(2)]
    for number in range(2 * LEAST_SAMPLES):
        history.note_picture(large[number % 2])
    assert len(history.samples) == LEAST_SAMPLES
    history.note_picture(picture(workers=[0]))
    assert len(history.samples) == LEAST_SAMPLES + 1


# Access

HOST = {b"host": b"localhost:9587"}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"localhost:9587", 0),
        (b"127.0.0.1:8080", 0),
        (b"LOCALHOST", 0),
        (b"[::1]:8080", 0),
        (b"evil.example", 421),
        (b"localhost.evil.example:9587", 421),
        (b"evil.example@localhost", 421),
        (b"localhost:9587/", 421),
        (b"localhost:", 421),
        (b"127.0.0.1.", 421),
        (b"127.0.0.2", 421),
        (b"10.77.0.1:9587", 421),
        (b"localhost\n", 421),
        (b"", 421),
    ],
)
def test_only_names_of_loopback_are_hosts_of_the_page(host, status):
    assert refuse_request("127.0.0.1", "GET", {b"host": host}) == status


def test_a_request_without_a_host_is_refused():
    assert refuse_request("", "GET", {}) == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 0),
        ({b"sec-fetch-site": b"none", b"sec-fetch-mode": b"navigate"}, 0),
        ({b"sec-fetch-site": b"same-origin", b"sec-fetch-mode": b"cors"}, 0),
        ({b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"no-cors"}, 403),
        ({b"sec-fetch-site": b"same-site", b"sec-fetch-mode": b"cors"}, 403),
        (
            {
                b"sec-fetch-site": b"cross-site",
                b"sec-fetch-mode": b"navigate",
                b"sec-fetch-dest": b"document",
            },
            0,
        ),
        (
            {b"sec-fetch-site": b"cross-site", b"sec-fetch-mode": b"navigate", b"sec-fetch-dest": b"iframe"},
            403,
        ),
        ({b"sec-fetch-site": b"?"}, 403),
        ({b"origin": b"http://localhost:9587"}, 0),
        ({b"origin": b"http://localhost:8080"}, 403),
        ({b"origin": b"https://localhost:9587"}, 403),
        ({b"origin": b"https://evil.example"}, 403),
        ({b"origin": b"null"}, 403),
    ],
)
def test_pages_of_other_sites_are_refused_and_a_link_on_one_is_not(headers, status):
    assert refuse_request("127.0.0.1", "GET", {**HOST, **headers}) == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "get", "PATCH", "TRACE"])
def test_nothing_but_reading_is_answered(method):
    assert refuse_request("127.0.0.1", method, HOST) == 405
    assert refuse_request("127.0.0.1", "HEAD", HOST) == 0


def test_other_machines_are_refused_also_where_the_kernel_routes_packets_for_loopback():
    assert refuse_request("192.0.2.7", "GET", HOST) == 403
    assert refuse_request("127.8.8.8", "GET", HOST) == refuse_request("", "GET", HOST) == 0


@pytest.mark.parametrize(
    ("path", "token", "name"),
    [
        ("/", "", ""),
        ("/page.css", "", "page.css"),
        ("page.css", "", None),
        ("http://localhost/events", "", None),
        ("/t0ken/", "t0ken", ""),
        ("/t0ken/events", "t0ken", "events"),
        ("/t0ken", "t0ken", None),
        ("/", "t0ken", None),
        ("/events", "t0ken", None),
        ("/T0ken/", "t0ken", None),
        ("//t0ken/", "t0ken", None),
        ("/t0ke/", "t0ken", None),
        ("/t0k\ufffdn/", "t0ken", None),
        ("/t0ken/../events", "t0ken", "../events"),
    ],
)
def test_without_the_token_nothing_is_there(path, token, name):
    assert find_file_name(path, token) == name


@pytest.mark.parametrize(("port", "whose"), [(32501, "a worker's"), (22, "SSH's"), (8337, "the node's own")])
def test_a_port_that_the_node_needs_is_refused(port, whose):
    with pytest.raises(BadInput, match=f"port {port}: it is {whose}"):
        refuse_page_port(build_view(), port)


def test_ports_of_other_machines_workers_are_free_here():
    refuse_page_port(build_view(), 32503)
    refuse_page_port(build_view(), DEFAULT_PORT)
    refuse_page_port(build_view(), 0)
