"""What is heard of other machines: silence is found once it lasts, and named once for one cause."""

from __future__ import annotations

import struct

import msgspec
import pytest

from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.maintenance import service_findings
from qmesh.mesh.audit.network.links import away_worker_findings, link_findings, suspect_findings
from qmesh.mesh.audit.network.listeners import silent_worker_findings
from qmesh.mesh.audit.surroundings import AuditContext, ConfigFile, LinkContext, SilentWorkers, TriedEndpoint
from qmesh.mesh.endpoints import translate_endpoint
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.links.activity import (
    LEAST_RETURNS,
    MOST_GAP_S,
    QUIET_S,
    SILENT_S,
    TURNS_S,
    LinkReport,
    LinkWatch,
    SharedKey,
    SilentLink,
)
from qmesh.mesh.links.address_conflicts import AddressConflict, build_arp_probe, read_conflict
from qmesh.mesh.routes.discards import DiscardedWay
from qmesh.mesh.state import Counters
from qmesh.mesh.values import Endpoint
from tests.support.factories import audit_context, key

A, B = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 40000)
LOOK_S = 5.0


class Tunnels:
    """Tunnels as they are seen, look by look."""

    def __init__(self, *keys: str, handshake: int | None = 1_700_000_000) -> None:
        self.watch = LinkWatch()
        self.now = 1000.0
        self.counters = {each: Counters(handshake, 0, 0, A) for each in keys}

    def look(self, seconds: float = LOOK_S, *, over: float = LOOK_S, **received: int) -> LinkReport:
        """Looks over so many seconds, once in `over`; received: octets at each, by key."""
        until = self.now + seconds
        while self.now < until:
            self.now += over
            for name, octets in received.items():
                self.receive(name, octets)
            self.watch.note_counters(self.counters, self.counters, at_s=self.now)
        return self.watch.report

    def receive(self, name: str, octets: int, at: Endpoint | None = A) -> None:
        before = self.counters[name]
        self.counters[name] = msgspec.structs.replace(before, rx_bytes=before.rx_bytes + octets, endpoint=at)


def silent(report: LinkReport) -> list[tuple[str, bool]]:
    return [(link.public_key, link.was_heard) for link in report.silent]


def test_a_link_is_silent_after_three_minutes_and_not_before():
    tunnels = Tunnels("a", "b")
    report = tunnels.look(SILENT_S, a=32)
    assert (silent(report), report.quiet) == ([], ("b",))
    report = tunnels.look(LOOK_S, a=32)
    assert (silent(report), report.quiet, report.watched) == ([("b", True)], (), 2)
    report = tunnels.look(LOOK_S, a=32, b=32)
    assert (silent(report), report.quiet) == ([], ())


def test_a_link_that_never_had_a_handshake_is_waited_for_and_then_silent():
    tunnels = Tunnels("a", handshake=None)
    report = tunnels.look(SILENT_S)
    assert (silent(report), report.waiting) == ([], ("a",))
    report = tunnels.look(LOOK_S)
    assert (silent(report), report.waiting) == ([("a", False)], ())
    assert tunnels.look(LOOK_S, a=92).silent == ()


def test_who_only_begins_handshakes_is_silent_and_who_answers_them_is_not():
    """One direction is dead."""
    tunnels = Tunnels("a", "b")
    report = tunnels.look(SILENT_S + LOOK_S, a=148, b=92)
    assert silent(report) == [("a", True)]
    tunnels.counters["a"] = Counters(None, 0, 0, A)  # the peer was set again, and has said nothing
    assert silent(tunnels.look(LOOK_S, b=92)) == [("a", True)]


def test_a_new_peer_one_that_went_and_one_that_is_no_peer_are_not_silent():
    tunnels = Tunnels("a", "b")
    tunnels.look(SILENT_S + LOOK_S, a=32)
    assert silent(tunnels.watch.report) == [("b", True)]
    tunnels.watch.note_counters(tunnels.counters, ["a"], at_s=tunnels.now)  # b was removed, or paused
    assert tunnels.watch.report == LinkReport(watched=1)
    assert tunnels.look(LOOK_S, a=32).silent == ()  # and is back
    tunnels.watch.note_counters({}, ["a", "b"], at_s=tunnels.now)
    assert tunnels.watch.report == LinkReport()
    tunnels.look(SILENT_S)
    tunnels.watch.clear()
    assert tunnels.watch.report == LinkReport()
    assert tunnels.look(LOOK_S).silent == ()


def test_a_machine_that_slept_has_not_missed_what_it_could_not_hear():
    tunnels = Tunnels("a")
    tunnels.look(LOOK_S, a=32)
    assert tunnels.look(1, over=36_000.0).silent == ()
    assert tunnels.look(SILENT_S - MOST_GAP_S - LOOK_S).silent == ()
    assert silent(tunnels.look(LOOK_S)) == [("a", True)]


def test_two_machines_with_one_key_are_seen_by_the_address_that_comes_back():
    tunnels = Tunnels("a")
    tunnels.look()
    for turn in range(LEAST_RETURNS + 2):
        assert tunnels.watch.report.shared == ()
        tunnels.receive("a", 32, at=(A, B)[turn % 2])
        tunnels.watch.note_counters(tunnels.counters, tunnels.counters, at_s=tunnels.now + turn)
    assert tunnels.watch.report.shared == (SharedKey("a", (A, B), LEAST_RETURNS),)
    # One of them went: ten minutes later it is over.
    tunnels.now += LEAST_RETURNS + 2
    tunnels.look(TURNS_S, over=30.0, a=32)
    tunnels.receive("a", 32, at=B)
    assert tunnels.look(LOOK_S).shared == ()


def test_a_machine_that_moves_and_one_that_is_sent_to_elsewhere_is_one_machine():
    tunnels = Tunnels("a")
    tunnels.look()
    for turn in range(20):  # NAT forgets it, again and again
        tunnels.receive("a", 32, at=Endpoint("192.0.2.1", 40000 + turn))
        assert tunnels.look(LOOK_S).shared == ()
    for turn in range(20):  # this machine looks for it at one address, then at the other
        tunnels.receive("a", 0, at=(A, B)[turn % 2])
        assert tunnels.look(LOOK_S).shared == ()
    tunnels.receive("a", 32, at=None)
    assert tunnels.look(LOOK_S).shared == ()


def around(
    count: int,
    *,
    is_control: bool = True,
    report: LinkReport = LinkReport(),  # noqa: B008 - frozen
    **links: object,
) -> AuditContext:
    """On `control`, or on `m0`: a mesh with so many members, m0 and following."""
    names = ("control", *(f"m{number}" for number in range(count)))
    return audit_context(
        *names,
        names={key(number): name for number, name in enumerate(names)},
        public_key=key(0) if is_control else key(1),
        is_control=is_control,
        links=LinkContext(report=report, listen_port=51820, **links),  # type: ignore[arg-type]
    )


def gone(*numbers: int, watched: int, seconds: float = 840.0, was_heard: bool = True) -> LinkReport:
    links = tuple(SilentLink(key(number), seconds, was_heard) for number in numbers)
    return LinkReport(watched=watched, silent=links)


def only(context: AuditContext) -> Finding:
    (finding,) = link_findings(context)
    assert all(part.isprintable() and part for part in msgspec.structs.astuple(finding))
    return finding


ECHOED, MUTE, ROUTELESS = (
    TriedEndpoint(A, has_route=True, is_echoed=True),
    TriedEndpoint(B, has_route=True, is_echoed=False),
    TriedEndpoint(Endpoint("2001:db8::5", 51820), has_route=False, is_echoed=False),
)
BANNED = msgspec.structs.replace(
    ROUTELESS,
    discard=DiscardedWay("the route `unreachable 2001:db8::5/128` discards", "ip -6 route delete it"),
)
ANSWER = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, bytes(range(3, 9)), bytes([192, 0, 2, 7]), b"", b"")
PRIVATE = TriedEndpoint(Endpoint("fd00::1", 51820), has_route=True, is_echoed=False)
TRANSLATED = TriedEndpoint(
    A, has_route=False, is_echoed=False, translated=translate_endpoint(A, "64:ff9b::/96")
)


def test_a_machine_to_which_nothing_leaves_is_named_before_it_is_silent_and_once():
    way = DiscardedWay("the route `unreachable 192.0.2.1/32` discards", "ip route delete it")
    discarded = {"m0": way, "left": way}
    assert only(around(2, report=LinkReport(watched=2), discarded=discarded)) == Finding(
        "peer-silent", "error", "m0", "packets through the tunnel", way.reason, way.cure
    )
    silent = only(around(2, report=gone(1, watched=2), discarded=discarded))
    assert (silent.subject, way.reason in silent.seen) == ("m0", False)


@pytest.mark.parametrize(
    ("tried", "seen", "cure"),
    [
        (
            (ECHOED, MUTE),
            "a ping is answered by 192.0.2.1; a ping is not answered by 192.0.2.2",
            "m1 is there",
        ),
        ((MUTE,), "a ping is not answered by 192.0.2.2", "`qmesh pause m1`"),
        ((ROUTELESS,), "this machine has no route to 2001:db8::5", "`ip route`"),
        ((), "no address of it is known here", "`qmesh pause m1`"),
        (
            (MUTE, BANNED),
            (
                "a ping is not answered by 192.0.2.2; this machine has no route to 2001:db8::5;"
                " the route `unreachable 2001:db8::5/128` discards"
            ),
            "ip -6 route delete it",
        ),
    ],
)
def test_a_silent_member_is_named_with_what_still_works(tried, seen, cure):
    finding = only(around(3, report=gone(2, watched=3), tried={key(2): tried}))
    assert (finding.code, finding.severity, finding.subject) == ("peer-silent", "error", "m1")
    assert finding.seen == f"no packet for 14 min; {seen}; 2 of 2 other machines are reachable"
    assert cure in finding.cure


@pytest.mark.parametrize(
    ("tried", "cure"),
    [
        ((ECHOED,), "`qmesh invite m0`"),
        ((MUTE,), "--control-endpoint"),
        ((ROUTELESS,), "`ip route`"),
        ((TRANSLATED, ROUTELESS), "`qmesh apply --control-endpoint [64:ff9b::c000:201]:51820`"),
        ((TRANSLATED, PRIVATE), "`qmesh apply --control-endpoint [64:ff9b::c000:201]:51820`"),
        ((TRANSLATED, MUTE), "look whether control runs"),
        ((BANNED,), "ip -6 route delete it"),
        ((BANNED, ECHOED), "`qmesh invite m0`"),
        ((), "its name has no address"),
    ],
)
def test_a_silent_control_node_is_named_on_a_member(tried, cure):
    report = gone(0, watched=1, seconds=3 * 3600, was_heard=False)
    context = around(2, is_control=False, report=report, tried={key(0): tried})
    finding = only(context)
    assert (finding.code, finding.subject) == ("peer-silent", "control")
    assert finding.seen.startswith("never a handshake, in 3 h; ")
    assert "other machines" not in finding.seen
    assert cure in finding.cure
    # One cause is told once: its service cannot be reached either, and that is no news.
    asked = msgspec.structs.replace(context, unanswered="no connection")
    assert list(service_findings(asked, has_way=True)) == []


def test_another_machine_with_the_same_address_is_named_before_all_else():
    conflict = AddressConflict("192.0.2.7", "02:00:00:00:00:07")
    context = around(2, is_control=False, report=gone(0, watched=1), tried={key(0): (ECHOED, BANNED)})
    links = msgspec.structs.replace(context.links, conflict=conflict)
    finding = only(msgspec.structs.replace(context, links=links))
    assert "02:00:00:00:00:07 answers for 192.0.2.7 too" in finding.seen
    assert "only one may have 192.0.2.7" in finding.cure
    every = around(9, report=gone(*range(1, 10), watched=9))
    finding = only(
        msgspec.structs.replace(every, links=msgspec.structs.replace(every.links, conflict=conflict))
    )
    assert (finding.subject, "answers for 192.0.2.7 too" in finding.seen) == ("all 9 machines", True)
    assert "only one may have 192.0.2.7" in finding.cure


OWN_LINK, OTHER_LINK = bytes(range(2, 8)), bytes(range(3, 9))


@pytest.mark.parametrize(
    ("packet", "is_conflict"),
    [
        (build_arp_probe(OTHER_LINK, "192.0.2.7"), False),  # who asks for it does not have it
        (build_arp_probe(OTHER_LINK, "192.0.2.9"), False),
        (b"", False),
        (build_arp_probe(OTHER_LINK, "192.0.2.7")[:-1], False),
        (bytes(28), False),
        (ANSWER, True),
        (ANSWER + bytes(18), True),  # what fills a frame
        (ANSWER.replace(OTHER_LINK, OWN_LINK), False),
        (ANSWER.replace(bytes([192, 0, 2, 7]), bytes([192, 0, 2, 9])), False),
    ],
)
def test_who_answers_for_an_own_address_has_it_too(packet, is_conflict):
    found = read_conflict(packet, OWN_LINK, "192.0.2.7")
    assert found == (AddressConflict("192.0.2.7", "03:04:05:06:07:08") if is_conflict else None)


def test_thousands_of_silent_machines_are_one_finding():
    every = gone(*range(1, 2001), watched=2000, seconds=3 * 86400)
    finding = only(around(2000, report=every, tried={key(1): (MUTE,)}))
    assert (finding.code, finding.subject) == ("peer-silent", "all 2000 machines")
    assert finding.seen.startswith("no packet of m0, m1, m2, m3, m4 and 1995 more for 3 days or more; ")
    assert "own network" in finding.cure
    there = only(around(2000, report=every, tried={key(1): (ECHOED,)}))
    assert "UDP port 51820 of this machine" in there.cure
    banned = only(around(2000, report=every, tried={key(1): (BANNED,)}))
    assert banned.cure == "ip -6 route delete it"

    some = only(around(2000, report=gone(*range(1, 301), watched=2000)))
    assert some.subject == "300 of 2000 machines"
    assert "1700 other machines are reachable" in some.seen
    assert "in common" in some.cure
    few = list(link_findings(around(2000, report=gone(*range(1, 6), watched=2000))))
    assert [each.subject for each in few] == ["m0", "m1", "m2", "m3", "m4"]
    assert only(around(2, report=gone(1, 2, watched=2))).subject == "all 2 machines"
    assert only(around(1, report=gone(1, watched=1))).subject == "m0"


def test_a_machine_that_was_just_removed_or_paused_and_a_tunnel_taken_down_are_no_finding():
    context = around(1, report=gone(1, 7, watched=2))
    assert only(context).subject == "m0"  # key 7 is in no membership any more
    paused = msgspec.structs.replace(context, members={"control": "10.77.0.1"})
    assert list(link_findings(paused)) == []
    assert list(link_findings(msgspec.structs.replace(context, taken_down=True))) == []


def test_a_shared_key_is_named_with_both_addresses_and_the_way_out():
    shared = (SharedKey(key(1), (A, B), 5), SharedKey(key(9), (A, B), 5))
    finding = only(around(1, report=LinkReport(watched=1, shared=shared)))
    assert (finding.code, finding.severity, finding.subject) == ("key-shared", "error", "m0")
    assert "192.0.2.1:51820 and 192.0.2.2:40000 in turn" in finding.seen
    assert "`qmesh invite m0 --replace`" in finding.cure
    # A member looks for its control node at one address after the other.
    assert list(link_findings(around(1, is_control=False, report=LinkReport(watched=1, shared=shared)))) == []


def test_a_machine_whose_key_is_not_the_meshs_any_more_is_told_that_and_nothing_else():
    silent = around(1, is_control=False, report=gone(0, watched=1))
    context = msgspec.structs.replace(
        silent, retired_since="2026-11-14 22:13", own_name="m0", unanswered="no connection"
    )
    finding = only(context)
    assert (finding.code, finding.severity, finding.subject) == ("key-retired", "error", "m0")
    assert "since 2026-11-14 22:13: " in finding.seen
    assert "`qmesh invite m0 --replace`" in finding.cure
    assert list(service_findings(context, has_way=True)) == []


def test_a_member_whose_agent_does_not_ask_is_named_on_the_control_node():
    finding = only(around(2, report=LinkReport(watched=2), unasked=(("m1", 200.0),)))
    assert (finding.code, finding.severity, finding.subject) == ("service-silent", "error", "m1")
    assert "has not asked for 3 min" in finding.seen
    # Of one that is not heard at all, that says nothing more.
    silent_too = around(2, report=gone(2, watched=2), unasked=(("m1", 200.0),))
    assert only(silent_too).code == "peer-silent"
    quiet = around(2, report=LinkReport(watched=2, quiet=(key(2),)), unasked=(("m1", 200.0),))
    assert list(link_findings(quiet)) == []
    many = only(around(9, report=LinkReport(watched=9), unasked=tuple((f"m{n}", 200.0) for n in range(7))))
    assert (many.code, many.subject) == ("service-silent", "7 machines")
    assert "m4 and 2 more" in many.seen


def test_a_machine_whose_wireguard_is_heard_and_that_answers_nothing_is_named_after_three_minutes():
    """Something on it takes what comes out of the tunnel: neither side's link is silent."""
    silent = (SilentWorkers("m1", "10.77.0.3", (5,), are_all=True, why="dropped"),)
    context = around(2, report=LinkReport(watched=2), unasked=(("m1", 200.0),), unreachable=frozenset({"m1"}))
    finding = only(msgspec.structs.replace(context, silent=silent))
    assert (finding.code, finding.severity, finding.subject) == ("service-silent", "error", "m1")
    assert finding.seen.startswith("its WireGuard sends packets, but it answers nothing")
    assert "`qmesh check` here and on m1" in finding.cure


SUSPECT = Obstacle(place="XDP program, eth0", seen="x", wanted="y", cure="z", is_certain=False)


@pytest.mark.parametrize(
    ("changed", "is_told"),
    [
        ({}, False),
        (
            {"links": LinkContext(report=LinkReport(watched=1, silent=(SilentLink(key(1), 200.0, True),)))},
            True,
        ),
        ({"silent": (SilentWorkers("m0", "10.77.0.2", (5,), are_all=False, why="dropped"),)}, True),
        ({"silent": (SilentWorkers("m0", "10.77.0.2", (5,), are_all=True, why="refused"),)}, False),
        ({"unanswered": "no connection"}, True),
        ({"unanswered": "no connection", "taken_down": True}, False),
    ],
)
def test_a_program_that_cannot_be_read_is_told_of_where_packets_are_missing(changed, is_told):
    context = msgspec.structs.replace(around(1), suspects=(SUSPECT,), **changed)
    found = [(each.code, each.severity, each.subject) for each in suspect_findings(context)]
    assert found == [("foreign-drop", "warning", "XDP program, eth0")] * is_told


def test_a_service_that_is_silent_while_the_tunnel_works_says_so():
    heard = msgspec.structs.replace(
        around(1, is_control=False, report=LinkReport(watched=1)), unanswered="no connection"
    )
    (finding,) = service_findings(heard, has_way=True)
    assert finding.seen == "no connection; packets do come through the tunnel"
    waiting = msgspec.structs.replace(
        heard, links=LinkContext(report=LinkReport(watched=1, waiting=(key(0),)))
    )
    assert list(service_findings(waiting, has_way=True)) == []
    quiet = msgspec.structs.replace(heard, links=LinkContext(report=LinkReport(watched=1, quiet=(key(0),))))
    (finding,) = service_findings(quiet, has_way=True)
    assert finding.seen == "no connection"


def test_no_worker_is_restarted_because_its_whole_machine_is_silent():
    away = [SilentWorkers(f"m{number}", f"10.77.0.{number}", (number,), are_all=True) for number in range(8)]
    assert list(away_worker_findings(around(2), [])) == []
    (finding,) = away_worker_findings(around(2), away)
    assert (finding.code, finding.severity) == ("worker-silent", "warning")
    assert finding.subject == "m0, m1, m2, m3, m4 and 3 more"
    assert finding.cure.startswith("restart no workers")
    for links in (
        {"report": gone(1, watched=2)},
        {"report": LinkReport(watched=2, quiet=(key(1),))},
        {"unreachable": frozenset({"m0"})},
    ):
        config = ConfigFile("/c/config.yml", "engine:\n  dataWorkerMultiaddrs: []\n", 0o600)
        context = msgspec.structs.replace(around(2, **links), silent=tuple(away[:2]), config=config)
        whole, one = silent_worker_findings(context)
        assert (whole.subject, one.subject) == ("m0", "m1 core 1")
        assert "restart no workers" in whole.cure
        assert ("m0: no packet for " in whole.seen) == (links == {"report": gone(1, watched=2)})
        assert "restart" in one.cure


def test_a_machine_of_whose_workers_some_answer_is_not_silent_as_a_whole():
    """The agent looks every few seconds: of a machine that joined just now it has not seen the handshake."""
    config = ConfigFile("/c/config.yml", "engine:\n  dataWorkerMultiaddrs: []\n", 0o600)
    silent = (SilentWorkers("m0", "10.77.0.2", (5,), are_all=False),)
    links = LinkContext(report=LinkReport(watched=1, waiting=(key(1),)))
    context = msgspec.structs.replace(around(2), links=links, silent=silent, config=config)
    (finding,) = silent_worker_findings(context)
    assert finding.subject == "m0 core 5"
    assert "restart" in finding.cure


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20.0, "20 s"), (240.0, "4 min"), (7200.0, "2 h"), (47 * 3600.0, "47 h"), (2.5e5, "2 days")],
)
def test_ages_are_told_in_words(seconds, text):
    assert f"no packet for {text};" in only(around(3, report=gone(2, watched=3, seconds=seconds))).seen


def test_what_is_quiet_is_so_before_it_is_silent():
    assert 25 < QUIET_S < SILENT_S


def test_only_who_came_while_it_was_watched_is_heard():
    """After an agent's start a handshake of before says nothing, and nothing does later that is old."""
    tunnels = Tunnels("a", "b")
    for seconds in (LOOK_S, 60.0):
        tunnels.look(seconds)
        assert tunnels.watch.list_heard() == frozenset()
    tunnels.look(10.0, a=32)
    assert tunnels.watch.list_heard() == {"a"}
    tunnels.look(QUIET_S)
    assert tunnels.watch.list_heard() == frozenset()
    tunnels.look(10.0, b=148)  # it only begins handshakes
    assert tunnels.watch.list_heard() == frozenset()
    tunnels.watch.clear()
    assert tunnels.watch.list_heard() == frozenset()
