"""Metrics: what of a snapshot is printed, in which words, and where it may be served."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.changes import set_machine_fields
from qmesh.mesh.foreign.expressions import Expression
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.links.activity import LinkReport, SilentLink
from qmesh.mesh.machine import GuardedPort
from qmesh.mesh.machine_facts.differences import FRESH_S
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts, WorkerFacts
from qmesh.mesh.metrics import outlets
from qmesh.mesh.metrics.drops import count_dropped_packets
from qmesh.mesh.metrics.families import METRICS, Metric, MetricFamily, build_families
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample, is_guard_whole
from qmesh.mesh.metrics.text_format import render_metrics
from qmesh.mesh.standing_proof.record import ClaimResult, StandingProof
from qmesh.mesh.state import AlteredGuard, Counters, NodeState
from qmesh.mesh.systemd.sandbox import is_shut_from_agent
from qmesh.mesh.values import Endpoint
from tests.support.factories import cluster, guard, key, machine, mesh

UNKNOWN = 'qmesh="",node="",kernel="",cpu="",cores=""'
VERSIONS = 'qmesh="0.1.0",node="2.1.0.25",kernel="6.1.0",cpu="AMD",cores="8"'
AWAY = Endpoint("198.51.100.77", 51820)
MESH = mesh(
    machine("a", 1, 2),
    machine("b", 2, 1),
    machine("c", 3, 1, state="paused"),
    machine("d", 4, state="invited"),
)


def snapshot(name: str = "a", **named) -> Snapshot:
    return Snapshot(**{"name": name, "version": "0.1.0", "inventory": MESH, "interface": "qmesh0", **named})


def lines(known: Snapshot) -> list[str]:
    text = render_metrics(build_families(known)).decode()
    return [each for each in text.splitlines() if not each.startswith("#")]


KNOWN = MachineFacts(
    qmesh="0.1.0",
    node="2.1.0.25",
    kernel="6.1.0",
    cpu="AMD",
    cores=8,
    memory_bytes=800,
    memory_available_bytes=300,
    disk_bytes=70,
    disk_free_bytes=40,
    load=7.25,
    core_speed=9000,
    workers=(WorkerFacts(3, 150, 2), WorkerFacts(4)),
)
CLAIM = ClaimResult(claim="outside", closes=True, words="", state="proved", family="ip")
FULL = snapshot(
    looked_at=1_700_000_000.04,
    guard_ok=True,
    dropped={"closed_port": 3, "answered": 0},
    counters={
        key(2): Counters(1_700_000_001, 2**60 + 1, 20, AWAY),
        key(3): Counters(None, 0, 148, None),
        key(99): Counters(1, 1, 1, AWAY),
    },
    links=LinkReport(silent=(SilentLink(key(2), 200.0, was_heard=True),)),
    unasked={"10.77.0.3": 75.0},
    revisions={"10.77.0.2": 6, "10.77.0.99": 1},
    workers=(WorkerSample("a", 1, 0.00021), WorkerSample("b", 3, None)),
    is_dialled=True,
    findings=(
        Finding("silent-workers", "warning", "b", "", "", ""),
        Finding("silent-workers", "warning", "c", "", "", ""),
        Finding("guard-altered", "error", "inet qmesh", "", "", ""),
    ),
    checked_at=1_700_000_002.0,
    proof=StandingProof(
        claims=(CLAIM, ClaimResult(claim="tunnel", closes=True, words="", state="not proved", family="ip")),
        at=9.04,
    ),
    facts={
        "10.77.0.1": ToldFacts("10.77.0.1", 1_700_000_000.0, MachineFacts()),
        "10.77.0.2": ToldFacts("10.77.0.2", 1_700_000_000.0 - FRESH_S + 1, KNOWN),
        "10.77.0.3": ToldFacts("10.77.0.3", 1_700_000_000.0 - FRESH_S, KNOWN),
        "10.77.0.99": ToldFacts("10.77.0.99", 1_700_000_000.0, KNOWN),
    },
)


def test_once_rules_have_changed_nothing_is_said_to_be_proved():
    assert FULL.proof is not None
    refuted = msgspec.structs.replace(FULL.proof.claims[1], state="refuted")
    proof = msgspec.structs.replace(FULL.proof, claims=(CLAIM, refuted), behind_s=0.0)
    assert [line for line in lines(snapshot(proof=proof)) if "qmesh_claim" in line] == [
        'qmesh_claim_proved{claim="tunnel"} 0',
        'qmesh_claim_refuted{claim="outside"} 0',
        'qmesh_claim_refuted{claim="tunnel"} 1',
        "qmesh_claims_last_proof_timestamp_seconds 9",
    ]


def test_what_a_control_node_knows_is_printed():
    peer = 'interface="qmesh0",public_key="{}",allowed_ips="10.77.0.{}/32",friendly_name="{}"'
    b, c = peer.format(key(2), 2, "b"), peer.format(key(3), 3, "c")
    assert lines(FULL) == [
        'qmesh_build_info{version="0.1.0",node="2.0"} 1',
        "qmesh_agent_last_look_timestamp_seconds 1700000000",
        "qmesh_guard_ok 1",
        'qmesh_claim_proved{claim="outside"} 1',
        'qmesh_claim_proved{claim="tunnel"} 0',
        'qmesh_claim_refuted{claim="outside"} 0',
        'qmesh_claim_refuted{claim="tunnel"} 0',
        "qmesh_claims_last_proof_timestamp_seconds 9",
        'qmesh_guard_dropped_packets_total{chain="answered"} 0',
        'qmesh_guard_dropped_packets_total{chain="closed_port"} 3',
        'qmesh_findings{code="guard-altered",severity="error"} 1',
        'qmesh_findings{code="silent-workers",severity="warning"} 2',
        "qmesh_findings_timestamp_seconds 1700000002",
        "qmesh_revision 7",
        f'qmesh_machine_info{{machine="a",role="control",state="active",{UNKNOWN}}} 1',
        f'qmesh_machine_info{{machine="b",role="worker",state="active",{VERSIONS}}} 1',
        f'qmesh_machine_info{{machine="c",role="worker",state="paused",{VERSIONS}}} 1',
        'qmesh_machine_up{machine="b"} 0',
        'qmesh_member_agent_up{machine="b"} 1',
        'qmesh_member_agent_up{machine="c"} 0',
        'qmesh_member_revision{machine="b"} 6',
        'qmesh_worker_up{machine="a",core="1"} 1',
        'qmesh_worker_up{machine="b",core="3"} 0',
        'qmesh_worker_answer_seconds{machine="a",core="1"} 0.00021',
        'qmesh_machine_core_speed{machine="b"} 9000',
        'qmesh_machine_load{machine="b"} 7.25',
        'qmesh_machine_memory_bytes{machine="b"} 800',
        'qmesh_machine_memory_available_bytes{machine="b"} 300',
        'qmesh_machine_disk_free_bytes{machine="b"} 40',
        'qmesh_worker_memory_bytes{machine="b",core="3"} 150',
        'qmesh_worker_restarts_total{machine="b",core="3"} 2',
        'qmesh_worker_restarts_total{machine="b",core="4"} 0',
        f"wireguard_sent_bytes_total{{{b}}} 20",
        f"wireguard_sent_bytes_total{{{c}}} 148",
        f"wireguard_received_bytes_total{{{b}}} {2**60 + 1}",
        f"wireguard_received_bytes_total{{{c}}} 0",
        f"wireguard_latest_handshake_seconds{{{b}}} 1700000001",
        f"wireguard_latest_handshake_seconds{{{c}}} 0",
    ]
    assert {family.metric for family in build_families(FULL)} == set(METRICS)


def test_what_is_not_known_is_no_metric():
    """It is left out: zero would say that something is down."""
    assert lines(snapshot("b")) == [
        'qmesh_build_info{version="0.1.0",node="2.0"} 1',
        "qmesh_revision 7",
        f'qmesh_machine_info{{machine="b",role="worker",state="active",{UNKNOWN}}} 1',
        f'qmesh_machine_info{{machine="a",role="control",state="active",{UNKNOWN}}} 1',
    ]


def test_a_member_has_the_control_node_and_tells_how_its_own_workers_listen():
    workers = (WorkerSample("b", 3, 0.0),)
    found = lines(
        snapshot("b", links=LinkReport(), counters={key(1): Counters(5, 6, 7, AWAY)}, workers=workers)
    )
    assert 'qmesh_machine_up{machine="a"} 1' in found
    assert 'qmesh_worker_up{machine="b",core="3"} 1' in found
    assert not [line for line in found if line.startswith(("qmesh_worker_answer", "qmesh_member"))]
    assert sum(line.startswith("wireguard_") for line in found) == 3


def test_neither_an_endpoint_nor_a_path_is_printed():
    text = render_metrics(build_families(FULL)).decode()
    assert AWAY.host not in text
    assert not {label for metric in METRICS for label in metric.labels} & {"endpoint", "address", "path"}


def test_each_metric_is_named_as_prometheus_wants_it():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"(qmesh|wireguard)(_[a-z]+)+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
@example('"\\\n"n\\"} 1', 0.0)
def test_law_what_is_printed_is_one_line_that_means_the_same(text, number):
    one = Metric("qmesh_x", "gauge", "x", ("y",), "all", lambda _: ())
    printed = render_metrics([MetricFamily(one, (((text,), number),))]).decode()
    *_, line = printed.removesuffix("\n").split("\n")
    found = re.fullmatch(r'qmesh_x\{y="((?:[^"\\\n]|\\.)*)"\} (\S+)', line)
    assert found is not None
    back = re.sub(r"\\(.)", lambda each: {"n": "\n"}.get(each[1], each[1]), found[1])
    assert back == text
    assert float(found[2]) == number


def test_half_of_a_character_is_no_reason_to_tell_nothing():
    """A file's name may have one, as Python reads it."""
    one = Metric("qmesh_x", "gauge", "x", ("y",), "all", lambda _: ())
    text = render_metrics([MetricFamily(one, ((("a\udce9",), 1.0),))])
    assert text.endswith(b'\nqmesh_x{y="a?"} 1\n')


def test_the_workers_of_a_machine_that_has_none_any_more_are_not_silent_ones():
    """They were looked at before it was paused, or removed."""
    workers = tuple(WorkerSample(name, 3, seconds) for name in ("c", "gone") for seconds in (None, 0.5))
    assert not [each for each in lines(snapshot(workers=workers, is_dialled=True)) if "_worker_" in each]


def test_drops_are_counted_by_chain():
    counter = Expression("counter", {1: (840).to_bytes(8, "big"), 2: (10).to_bytes(8, "big")})
    drop = Expression("immediate", {})
    rules = [
        KernelRule("inet", "qmesh", chain, 1, each)
        for chain, each in (
            ("closed_port", (counter, drop)),
            ("closed_port", (counter, drop)),
            ("closed_port", (drop,)),
            ("taken_up", (Expression("counter", {}), drop)),
            ("sent", (drop,)),
        )
    ]
    assert count_dropped_packets(rules) == {"closed_port": 20, "taken_up": 0}


def test_a_guard_is_whole_where_it_is_as_the_mesh_wants_it():
    whole = NodeState(guard=guard(), tunnel=None)
    assert is_guard_whole(whole, whole)
    assert not is_guard_whole(whole, NodeState(guard=guard(40003), tunnel=None))
    assert not is_guard_whole(whole, NodeState(guard=AlteredGuard("", loaded=guard()), tunnel=None))
    assert not is_guard_whole(NodeState(guard=None, tunnel=None), NodeState(guard=None, tunnel=None))


@pytest.mark.parametrize("text", ["127.0.0.1:9586", "10.77.0.2:1", "[::1]:65535", "[fd00::2]:9586"])
def test_an_address_is_read_as_it_is_written(text):
    assert str(outlets.parse_metrics_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "9586", ":9586", "127.0.0.1", "localhost:9586", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:9586 ",
     "127.1:9586", "::1:9586", "[::1]", "[fe80::1%eth0]:1", "*:9586", "127.0.0.1:-1", "127.0.0.1:\u0661"],
)  # fmt: skip
def test_what_is_no_address_with_a_port_is_refused(text):
    with pytest.raises(BadInput) as refused:
        outlets.parse_metrics_address(text)
    assert refused.value.hint


PLACES = ["127.0.0.1:9586", "127.9.9.9:9586", "[::1]:9586", "10.77.0.2:9586"]


@pytest.mark.parametrize("text", PLACES)
def test_loopback_and_the_own_tunnel_address_are_fine(text):
    outlets.refuse_metrics_address(cluster(3, 4), "b", outlets.parse_metrics_address(text), {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.0.0.0:9586", "loopback or in the tunnel"),
        ("[::]:9586", "loopback or in the tunnel"),
        ("203.0.113.5:9586", "loopback or in the tunnel"),
        ("10.77.0.1:9586", "loopback or in the tunnel"),
        ("127.0.0.1:40003", "a worker's"),
        ("127.0.0.1:51820", "members reach qmesh"),
        ("127.0.0.1:22", "SSH's"),
        ("127.0.0.1:8336", "the node's own"),
        ("10.77.0.2:9100", "open to every member"),
        ("10.77.0.2:5432", "that of PostgreSQL"),
    ],
)
def test_what_is_somebody_elses_is_refused_with_a_hint(text, words):
    inventory = set_machine_fields(cluster(3, 4), "b", guarded_ports=(GuardedPort(9100, "mesh"),))
    with pytest.raises(BadInput, match=words) as refused:
        outlets.refuse_metrics_address(
            inventory, "b", outlets.parse_metrics_address(text), {5432: "that of PostgreSQL"}
        )
    assert "9586" in refused.value.hint or text.rpartition(":")[2] in refused.value.hint


@pytest.mark.parametrize(
    ("place", "ports"),
    [
        (None, set()),
        ("127.0.0.1:9586", set()),
        ("10.77.0.2:9586", {9586}),
        ("10.77.0.2:40003", set()),  # a worker's by now
        ("10.77.0.9:9586", set()),  # the mesh has other addresses by now
    ],
)
def test_the_guard_leaves_the_port_of_metrics_to_the_control_node_as_long_as_nobody_else_needs_it(
    place, ports
):
    endpoint = None if place is None else outlets.parse_metrics_address(place)
    assert outlets.find_guarded_metrics_ports(cluster(3, 4), "b", endpoint) == ports


@pytest.mark.parametrize(
    ("path", "is_shut"),
    [
        ("/etc/node_exporter", True),
        ("/usr", True),
        ("//tmp/x", True),
        ("/var/lib/../tmp/x", True),
        ("/var/lib/prometheus", False),
        ("/usrlocal", False),
        ("/", False),
    ],
)
def test_where_the_agents_unit_does_not_let_it_write_is_known(path, is_shut):
    assert is_shut_from_agent(path) == is_shut


def test_a_port_for_members_may_serve_on_loopback():
    inventory = set_machine_fields(cluster(3, 4), "b", guarded_ports=(GuardedPort(9100, "mesh"),))
    outlets.refuse_metrics_address(inventory, "b", Endpoint("127.0.0.1", 9100), {})


@pytest.mark.parametrize(
    ("place", "fine", "wrong"),
    [
        (
            "127.0.0.1:9586",
            ["127.0.0.1:9586", "localhost:19586", "LOCALHOST", "127.0.0.1"],
            ["10.77.0.2:9586"],
        ),
        ("[::1]:9586", ["[::1]:9586", "localhost:9586", "[::1]"], ["[::2]:9586"]),
        ("10.77.0.2:9586", ["10.77.0.2:9586", "10.77.0.2"], ["localhost:9586", "127.0.0.1:9586"]),
    ],
)
def test_a_request_has_to_name_the_place(place, fine, wrong):
    endpoint = outlets.parse_metrics_address(place)
    assert all(outlets.is_wanted_host(host, endpoint) for host in fine)
    bad = [
        *wrong,
        "",
        "evil.example",
        "evil.example:9586",
        f"{endpoint.host}.evil.example:9586",
        "127.0.0.1:x",
    ]
    assert not any(outlets.is_wanted_host(host, endpoint) for host in bad)


def test_only_the_control_node_reads_through_the_tunnel():
    place, hubs = Endpoint("10.77.0.2", 9586), ("10.77.0.1",)
    assert outlets.may_read_metrics("10.77.0.1", place, hubs)
    assert not outlets.may_read_metrics("10.77.0.2", place, hubs)
    assert not outlets.may_read_metrics("10.77.0.3", place, hubs)
    for host, peer in (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.53"), ("::1", "::1")):
        assert outlets.may_read_metrics(peer, Endpoint(host, 9586), hubs)
    for peer in ("192.168.0.66", "10.77.0.1", "fe80::66%eth0", "::ffff:192.168.0.66"):
        assert not outlets.may_read_metrics(peer, Endpoint("127.0.0.1", 9586), hubs)
