"""What `check` finds: by table, one thing wrong at a time; and nothing on a machine as desired."""

import ast
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.pretty import pretty_repr

from qmesh.mesh.audit import parts
from qmesh.mesh.audit.findings import Finding, failed_check_finding
from qmesh.mesh.audit.maintenance import invalid_membership_finding
from qmesh.mesh.audit.node.processes import process_findings
from qmesh.mesh.audit.parts import list_findings, list_node_findings
from qmesh.mesh.audit.surroundings import (
    CONTROL_NODE,
    LOOK,
    SERVICE,
    AgentStatus,
    AgentTrouble,
    AuditContext,
    BlackHole,
    ClockOffset,
    ConfigFile,
    FlushingUnit,
    KeyFile,
    LinkContext,
    NarrowPath,
    NodeReport,
    OtherKeys,
    PortContext,
    SecretFile,
    SilentWorkers,
)
from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.guard.render import render_held_table, render_table
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.links.activity import LinkReport, SharedKey, SilentLink
from qmesh.mesh.machine import Machine
from qmesh.mesh.node_processes.control import ControlProcess
from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.other_nodes import TakenPort
from qmesh.mesh.node_processes.unconnected import UnconnectedMachine
from qmesh.mesh.node_processes.workers import ForeignWorker, WorkerProcess
from qmesh.mesh.nodeconfig import build_desired_settings, edit_settings
from qmesh.mesh.nodeconfig.program_version import NodeProgram, ProgramVersion
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.ports.reserved_lists import ReservedList
from qmesh.mesh.protocol.membership_conflict import MembershipConflict
from qmesh.mesh.protocol.versions import SpokenProtocol
from qmesh.mesh.reachability.announcements import MissingAnnouncement, list_missing_announcements
from qmesh.mesh.reachability.unsupported_options import UnsupportedOption, list_unsupported_options
from qmesh.mesh.routes.detours import Detour
from qmesh.mesh.routes.overlaps import NetworkOverlap
from qmesh.mesh.routes.tables import TableRoute
from qmesh.mesh.standing_proof.record import ClaimResult, StandingProof
from qmesh.mesh.state import AlteredGuard, Guard, NodeState, TunnelRoute, list_address_routes
from qmesh.mesh.sysctls import Weakness
from qmesh.mesh.systemd.instructions import NodeHost, UnstartedUnit
from qmesh.mesh.systemd.unit_failures import UnitFailure
from qmesh.mesh.systemd.units import WORKERS as UNITS
from qmesh.mesh.values import PROFILES, Endpoint, Secret
from tests.support.finding_codes import findings_in_the_code
from tests.support.machine_facts import FACTS as TOLD
from tests.support.older_guard import as_of_format_3, as_of_format_4

replace = msgspec.structs.replace

CONTROL_KEY, OWN_KEY, OTHER_KEY = ("A" * 42 + end for end in ("A=", "E=", "I="))
SHARED = Secret("A" * 42 + "M=")
KEY_FILE = KeyFile("/s/private.key", OWN_KEY, 0o600, OWN_KEY)
MESH = Inventory(
    mesh="0011223344556677",
    network="10.77.0.0/20",
    control="control",
    node="1.4",
    base_port=40000,
    service_port=51820,
    revision=2,
    machines=(
        Machine(name="control", public_key=CONTROL_KEY, address="10.77.0.1", workers=2),
        Machine(name="machine-b", public_key=OWN_KEY, address="10.77.0.2", workers=3),
    ),
)
WORKERS = tuple(worker.multiaddr for worker in list_workers(MESH))
HERE = LocalEnd(interface="qmesh0", listen_port=51820)
FACTS = Facts(kind="tun", endpoints={"control": Endpoint("192.0.2.1", 51820)})
WANTED = build_desired_state(MESH, "machine-b", HERE, {CONTROL_KEY: SHARED}, FACTS)
assert WANTED.tunnel is not None
assert isinstance(WANTED.guard, Guard)
TUNNEL, (PEER,), GUARD = WANTED.tunnel, WANTED.tunnel.peers, WANTED.guard


def config(entries: tuple[str, ...] = WORKERS, *, more: str = "") -> str:
    lines = "".join(f"    - {entry}\n" for entry in entries)
    return f"engine:\n  dataWorkerMultiaddrs:{' []' if not entries else ''}\n{lines}{more}"


AROUND = AuditContext(
    public_key=OWN_KEY,
    names={machine.public_key: machine.name for machine in MESH.machines},
    members={machine.name: machine.address for machine in MESH.machines},
    workers=WORKERS,
    profile="1.4",
    is_control=False,
    key_files=(KEY_FILE,),
    secret_files=(SecretFile("/s/preshared.key", 0o600),),
    config=ConfigFile("/c/config.yml", config(), 0o600),
    listeners=(("10.77.0.2", 40002), ("192.0.2.7", 22), ("127.0.0.1", 40003), ("::1", 40003)),
)


def found(seen: NodeState = WANTED, around: AuditContext = AROUND) -> list[tuple[str, str, str]]:
    """Code, severity and subject of each finding."""
    findings = list_findings(WANTED, seen, around)
    for finding in findings:
        assert all((finding.subject, finding.wanted, finding.seen, finding.cure)), finding
        assert all(part.isprintable() for part in msgspec.structs.astuple(finding)), finding
    return [(finding.code, finding.severity, finding.subject) for finding in findings]


def with_tunnel(**changes: object) -> NodeState:
    return replace(WANTED, tunnel=replace(TUNNEL, **changes))


def with_peer(**changes: object) -> NodeState:
    return with_tunnel(peers=(replace(PEER, **changes),))


def with_config(text: str | None, mode: int | None = 0o600) -> AuditContext:
    return replace(AROUND, config=ConfigFile("/c/config.yml", text, mode))


def test_a_machine_as_desired_has_no_finding():
    assert found() == []


STRANGER = replace(PEER, public_key=OTHER_KEY, allowed_ips=())


@pytest.mark.parametrize(
    ("seen", "code", "subject"),
    [
        (replace(WANTED, tunnel=None), "tunnel-missing", "qmesh0"),
        (with_tunnel(up=False), "tunnel-down", "qmesh0"),
        (with_tunnel(addresses=()), "tunnel-address", "qmesh0"),
        (with_tunnel(addresses=("10.77.0.2/20", "10.77.0.9/20")), "tunnel-address", "qmesh0"),
        (with_tunnel(listen_port=51821), "tunnel-port", "qmesh0"),
        (with_tunnel(listen_port=0), "tunnel-port", "qmesh0"),
        (with_tunnel(mtu=1500), "tunnel-mtu", "qmesh0"),
        (with_tunnel(public_key=OTHER_KEY), "key-mismatch", "qmesh0"),
        (with_tunnel(public_key=None), "key-mismatch", "qmesh0"),
        (with_tunnel(peers=()), "peer-missing", "control"),
        (with_tunnel(peers=(PEER, STRANGER)), "peer-unexpected", OTHER_KEY),
        (with_tunnel(peers=(PEER, replace(STRANGER, public_key=OWN_KEY))), "peer-unexpected", "machine-b"),
        (with_peer(allowed_ips=("10.77.0.0/20",)), "peer-allowed-ips", "control"),
        (with_peer(allowed_ips=()), "peer-allowed-ips", "control"),
        (with_peer(endpoint=Endpoint("192.0.2.9", 51820)), "peer-endpoint", "control"),
        (with_peer(endpoint=None), "peer-endpoint", "control"),
        (with_peer(preshared_key=None), "peer-psk", "control"),
        (with_peer(preshared_key=Secret("A" * 42 + "Q=")), "peer-psk", "control"),
        (with_peer(keepalive_s=0), "peer-keepalive", "control"),
        (replace(WANTED, guard=None), "guard-missing", "table inet qmesh"),
        (replace(WANTED, guard=AlteredGuard("table inet qmesh {}")), "guard-drift", "table inet qmesh"),
        (
            replace(WANTED, guard=replace(GUARD, control_address="10.77.0.9")),
            "guard-drift",
            "table inet qmesh",
        ),
        (replace(WANTED, reserved_ports=(40002,)), "port-not-reserved", "40003-40004"),
    ],
)
def test_what_the_machine_is_not(seen, code, subject):
    expected = [(code, "error", subject)]
    without_guard = [("worker-exposed", "error", "10.77.0.2:40002")]
    is_unguarded = getattr(seen.guard, "ports", ()) != GUARD.ports
    assert found(seen) == expected + (without_guard if is_unguarded else [])


def test_a_guard_for_other_ports_is_named_with_them():
    (finding,) = list_findings(WANTED, replace(WANTED, guard=replace(GUARD, ports=(40002,))), AROUND)
    assert finding.seen == "a guard for ports 40002"
    (finding, _) = list_findings(WANTED, replace(WANTED, guard=replace(GUARD, ports=())), AROUND)
    assert finding.seen == "a guard for ports none"


@pytest.mark.parametrize(
    ("lack", "code", "subject"),
    [
        ("table", "guard-missing", "table inet qmesh"),
        ("held table", "guard-held", "table inet qmesh-held"),
        ("boot file", "guard-boot", "guard.nft"),
    ],
)
def test_a_guard_that_lacks_a_part_is_named_by_it_though_the_ports_are_closed(lack, code, subject):
    altered = AlteredGuard("table inet qmesh {}", loaded=GUARD, lack=lack)
    assert found(replace(WANTED, guard=altered)) == [(code, "error", subject)]


def test_a_guard_whose_chains_are_elsewhere_among_others_is_not_first():
    text = render_table(GUARD)
    moved = text.replace("hook input priority mangle", "hook input priority filter + 10")
    altered = replace(WANTED, guard=AlteredGuard(moved))
    assert found(altered)[0] == ("guard-not-first", "error", "table inet qmesh")
    (finding, *_) = list_findings(WANTED, altered, AROUND)
    assert (
        finding.seen
        == "chain arrived_at at hook input priority filter + 10, not at hook input priority mangle"
    )
    more = text.replace(
        "\tchain sent {", "\tchain x {\n\t\ttype filter hook input priority 7;\n\t}\n\n\tchain sent {"
    )
    assert found(replace(WANTED, guard=AlteredGuard(more)))[0][0] == "guard-drift"
    without = replace(WANTED, guard=AlteredGuard(text.replace("counter drop", "accept")))
    assert found(without)[0][0] == "guard-drift"


@pytest.mark.parametrize("of_older", [as_of_format_3, as_of_format_4])
def test_a_guard_of_another_version_for_the_same_ports_is_none_that_somebody_changed(of_older):
    older = AlteredGuard(of_older(render_table(GUARD)))
    # No worker is said to be open, and no setting to matter that it makes up for.
    around = replace(AROUND, weaknesses=(SOMETIMES,))
    (finding,) = list_findings(WANTED, replace(WANTED, guard=older), around)
    assert (finding.code, finding.severity, finding.cure) == ("guard-outdated", "warning", "qmesh restart")
    wanted = replace(WANTED, guard=replace(GUARD, ports=(40002,)))
    (finding, *_) = list_findings(wanted, replace(WANTED, guard=older), AROUND)
    assert (finding.code, finding.severity) == ("guard-drift", "error")
    assert finding.seen == "a guard for ports 40002-40004"
    held = AlteredGuard(of_older(render_held_table(GUARD)), lack="table")
    assert found(replace(WANTED, guard=held)) == [("guard-missing", "error", "table inet qmesh")]


@pytest.mark.parametrize(
    ("clock", "seen"),
    [
        (ClockOffset(61.0, "x"), "61 s ahead of x"),
        (ClockOffset(-3600.4, "x"), "3600 s behind x"),
        (ClockOffset(-61.0, "x", may_be_ahead=True), "61 s behind x"),
    ],
)
def test_a_clock_that_is_wrong_is_named_with_how_much(clock, seen):
    around = replace(AROUND, clock=clock)
    assert found(around=around) == [("clock", "warning", "this machine's clock")]
    assert list_findings(WANTED, WANTED, around)[0].seen == seen


@pytest.mark.parametrize("clock", [ClockOffset(60.0, "x"), ClockOffset(1e9, "x", may_be_ahead=True)])
def test_a_clock_that_is_right_enough_is_no_finding(clock):
    assert found(around=replace(AROUND, clock=clock)) == []


def test_a_membership_that_is_none_is_named_with_what_is_wrong_with_it():
    finding = invalid_membership_finding("/s/membership.json", "is missing", "run x")
    assert (finding.code, finding.severity, finding.subject) == (
        *("membership-invalid", "error", "/s/membership.json"),
    )
    assert (finding.seen, finding.cure) == ("the file is missing", "run x")


ALWAYS = Weakness("net.ipv4.conf.*.route_localnet", "off", "on", "sysctl -w x=0", always=True)
SOMETIMES = Weakness("net.ipv4.ip_forward", "off", "on", "sysctl -w y=0")


def test_a_weak_setting_is_told_where_it_matters_and_the_rest_only_while_the_guard_is_not_whole():
    around = replace(AROUND, weaknesses=(ALWAYS, SOMETIMES))
    assert found(around=around) == [("sysctl", "warning", "net.ipv4.conf.*.route_localnet")]
    codes = found(replace(WANTED, guard=None), around)
    assert ("sysctl", "info", "net.ipv4.ip_forward") in codes
    assert ("sysctl", "warning", "net.ipv4.conf.*.route_localnet") in codes


@pytest.mark.parametrize(("is_certain", "severity"), [(True, "error"), (False, "warning")])
def test_g4_what_another_firewall_drops_is_told_with_its_rule_and_its_cure(is_certain, severity):
    obstacle = Obstacle(
        place="table inet filter chain input",
        seen="policy drop",
        wanted="WireGuard's packets come in via eth0: UDP port 51820",
        cure="nft ...",
        is_certain=is_certain,
    )
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, obstacles=(obstacle,)))
    assert finding == Finding(
        "foreign-drop", severity, obstacle.place, obstacle.wanted, obstacle.seen, obstacle.cure
    )


def test_a_guard_that_lost_a_port_is_drift_whatever_the_next_boot_would_load():
    fewer = replace(GUARD, ports=(40003, 40004))
    for seen in (fewer, AlteredGuard("table inet qmesh {}", loaded=fewer)):
        assert found(replace(WANTED, guard=seen)) == [
            ("guard-drift", "error", "table inet qmesh"),
            ("worker-exposed", "error", "10.77.0.2:40002"),
        ]


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ("unconfirmed", ("change-unconfirmed", "warning", "qmesh confirm")),
        ("undone", ("change-undone", "error", "qmesh apply")),
    ],
)
def test_a_change_that_is_not_kept_is_told(change, finding):
    (told,) = list_findings(WANTED, WANTED, replace(AROUND, change=change))
    assert (told.code, told.severity, told.cure) == finding


@pytest.mark.parametrize(("is_control", "does"), [(True, "lets others join"), (False, "fixes this machine")])
def test_an_agent_that_does_not_run_is_an_error(is_control, does):
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, agent=None, is_control=is_control))
    assert (finding.code, finding.severity) == ("agent-missing", "error")
    assert does in finding.wanted


RESTART = "systemctl restart qmesh.service"


def told(**changed: Any) -> list[tuple[str, str, str, str]]:
    found = list_findings(WANTED, WANTED, replace(AROUND, **changed))
    return [(each.code, each.severity, each.subject, each.cure) for each in found]


def test_a1_an_agent_that_does_not_answer_is_an_error_cured_by_another() -> None:
    agent = AgentStatus("no answer within 3 s", (), RESTART)
    assert told(agent=agent) == [("agent-silent", "error", "qmesh agent", RESTART)]


def test_a1_an_agent_whose_looks_fail_is_told_with_the_reason_and_not_to_be_restarted() -> None:
    """As where WireGuard is gone: another agent would fail alike."""
    agent = AgentStatus("40 s ago", (AgentTrouble(LOOK, "no WireGuard", "install it"),), RESTART)
    assert told(agent=agent) == [("agent-failing", "error", LOOK, "install it")]


@pytest.mark.parametrize(("hint", "cure"), [("free the disk", "free the disk"), ("", RESTART)])
def test_a1_a_part_of_the_agent_that_is_down_is_an_error(hint, cure):
    agent = AgentStatus(None, (AgentTrouble("holder of the guard", "it ended", hint),), RESTART)
    assert told(agent=agent) == [("agent-failing", "error", "holder of the guard", cure)]


@pytest.mark.parametrize(("hint", "cure"), [("free the port", "free the port"), ("", RESTART)])
def test_a1_a_membership_service_that_is_down_is_an_error_on_the_control_node(hint, cure):
    agent = AgentStatus(None, (AgentTrouble(SERVICE, "it ended", hint),), RESTART)
    assert told(agent=agent) == [("service-silent", "error", SERVICE, cure)]


def test_a1_a_registry_that_takes_no_change_is_an_error_though_all_else_works() -> None:
    trouble = AgentTrouble("registry", "another program is writing to it", "find that program")
    assert told(unwritable=trouble) == [("service-silent", "error", "registry", "find that program")]


def test_a1_a_control_node_that_does_not_answer_is_one_error_on_a_member() -> None:
    agent = AgentStatus(None, (AgentTrouble(CONTROL_NODE, "nobody answers", "see there"),), RESTART)
    (found,) = list_findings(WANTED, WANTED, replace(AROUND, agent=agent, unanswered="nobody answers"))
    assert (found.code, found.severity, found.seen) == ("service-silent", "error", "nobody answers")
    assert "control node" in found.cure
    # Where there is no tunnel, that is why, and it is named.
    without = list_findings(
        WANTED, msgspec.structs.replace(WANTED, tunnel=None), replace(AROUND, unanswered="nobody")
    )
    assert [each.code for each in without] == ["tunnel-missing"]
    # What the agent heard a while ago is of no matter, where it is answered now.
    assert told(agent=agent) == []


@pytest.mark.parametrize(
    ("revision", "seen"), [(9, "holds revision 9, and the registry had 5"), (5, "another revision 5")]
)
def test_a_registry_that_a_member_contradicts_is_an_error_with_the_way_out(revision, seen):
    conflict = MembershipConflict(own=5, revision=revision, machine="machine-b", at=0)
    (found,) = list_findings(WANTED, WANTED, replace(AROUND, conflict=conflict))
    assert (found.code, found.severity, found.subject) == ("membership-conflict", "error", "registry")
    assert seen in found.seen
    assert "`qmesh restore FILE`" in found.cure


def test_a1_a_part_that_was_begun_anew_is_a_warning() -> None:
    agent = AgentStatus(None, (), RESTART, (AgentTrouble("monitor", "it hung", "see the log"),))
    assert told(agent=agent) == [("agent-restarted", "warning", "monitor", "see the log")]


def test_a1_what_runs_another_version_than_the_installed_one_is_a_warning() -> None:
    older = AgentTrouble("qmesh hold", "it runs 0.1.0; 0.2.0 is installed", "qmesh restart")
    agent = AgentStatus(None, (), RESTART, outdated=(older,))
    assert told(agent=agent) == [("agent-outdated", "warning", "qmesh hold", "qmesh restart")]


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_a_unit_that_flushes_is_an_error_where_nothing_of_the_guard_outlasts_it(answered, held):
    around = replace(AROUND, flusher=FlushingUnit("nftables.service", answered), held=held)
    found = list_findings(WANTED, WANTED, around)
    assert [(each.code, each.severity, each.subject, each.cure) for each in found] == (
        [] if answered or held else [("foreign-flush", "error", "nftables.service", "qmesh apply")]
    )
    assert list_findings(WANTED, WANTED, replace(around, flusher=None)) == ()


@pytest.mark.parametrize("removed", [False, True])
def test_tables_of_qmesh_in_saved_rules_and_firewalls_that_failed_are_named(removed):
    saved = SavedRules(path="/etc/nftables.conf", tables=("qmesh", "qmesh-held"), cure="sed ...")
    around = replace(
        AROUND,
        removed=removed,
        saved_rules=(saved, replace(saved, path="/etc/rules.json", is_json=True)),
        failed_firewalls=("nftables.service",),
    )
    found = list_findings(WANTED, WANTED, around)
    told = [(each.code, each.severity, each.subject, each.cure) for each in found]
    assert [each for each in told if each[0].startswith("foreign")] == [
        ("foreign-saved", "warning", "/etc/nftables.conf", "sed ..."),
        ("foreign-saved", "error", "/etc/rules.json", "sed ..."),
        ("foreign-failed", "error", "nftables.service", "systemctl restart nftables.service"),
    ]
    assert "table inet qmesh, table inet qmesh-held: each load" in next(
        each.seen for each in found if each.code == "foreign-saved"
    )


@pytest.mark.parametrize(
    ("is_control", "profile", "cure"),
    [
        (True, "1.4", "restore"),
        (False, "1.4", "qmesh render-config --write"),
        (False, "2.0", "qmesh set machine-b --node-files on; then here: qmesh node-files --write"),
    ],
)
def test_no_cure_would_make_a_node_without_its_identity(is_control, profile, cure):
    around = replace(with_config(None, None), is_control=is_control, profile=profile, own_name="machine-b")
    (finding,) = list_findings(WANTED, WANTED, around)
    assert cure in finding.cure


def test_e7_a_removed_machine_is_told_so_and_is_to_be_closed_still():
    around = replace(AROUND, removed=True)
    closed = ("membership-stale", "error", "membership")
    assert found(replace(WANTED, tunnel=None), around) == [closed]
    opened = ("guard-missing", "error", "table inet qmesh")
    assert found(replace(WANTED, tunnel=None, guard=None), around) == [closed, opened]


def test_a_tunnel_that_was_taken_down_on_purpose_is_a_warning():
    around = replace(AROUND, taken_down=True)
    assert found(replace(WANTED, tunnel=None), around) == [("tunnel-missing", "warning", "qmesh0")]


@pytest.mark.parametrize(
    ("around", "code", "severity", "subject"),
    [
        (
            replace(AROUND, key_files=(replace(KEY_FILE, mode=None, public_key=None),)),
            "key-missing",
            "error",
            "/s/private.key",
        ),
        (
            replace(AROUND, key_files=(replace(KEY_FILE, public_key=OTHER_KEY),)),
            "key-mismatch",
            "error",
            "/s/private.key",
        ),
        (
            replace(AROUND, key_files=(replace(KEY_FILE, public_key=None),)),
            "key-mismatch",
            "error",
            "/s/private.key",
        ),
        (replace(AROUND, key_files=(replace(KEY_FILE, mode=0o640),)), "key-mode", "error", "/s/private.key"),
        (replace(AROUND, key_files=(replace(KEY_FILE, mode=0o700),)), "key-mode", "error", "/s/private.key"),
        (replace(AROUND, secret_files=(SecretFile("/s/mesh.db", 0o604),)), "key-mode", "error", "/s/mesh.db"),
        (replace(AROUND, config=None), "config-missing", "warning", "config.yml"),
        (with_config(None, None), "config-missing", "error", "/c/config.yml"),
        (with_config(config(), 0o644), "config-mode", "error", "/c/config.yml"),
        (with_config(config(()), 0o600), "config-stale", "error", "/c/config.yml"),
        (with_config("engine:\n  maxFrames: 1\n"), "config-stale", "error", "/c/config.yml"),
        (with_config(config(WORKERS[:-1])), "config-stale", "error", "/c/config.yml"),
        (
            with_config(config((*WORKERS, "/ip4/10.77.0.3/tcp/40005"))),
            "config-stale",
            "warning",
            "/c/config.yml",
        ),
        (with_config(config(("x", *WORKERS[1:]))), "config-stale", "warning", "/c/config.yml"),
        (with_config("engine: [\n"), "config-lint", "error", "/c/config.yml:2:1"),
        (with_config("engine: 1\n"), "config-lint", "error", "/c/config.yml:1:9"),
        (with_config("engine: &x {}\ny: *x\n"), "config-stale", "error", "/c/config.yml"),
        (with_config("engine:\n  filter: [x]\n"), "config-lint", "error", "/c/config.yml:2:11"),
        (with_config("- engine\n"), "config-lint", "error", "/c/config.yml:1:1"),
        (
            with_config(config(more="p2p:\n")),
            "config-lint",
            "error",
            "/c/config.yml:8:1",
        ),
        (
            with_config(config(more="dataworkerMultiaddrs: []\n")),
            "config-lint",
            "warning",
            "/c/config.yml:8:1",
        ),
    ],
)
def test_what_is_around_it(around, code, severity, subject):
    assert found(around=around) == [(code, severity, subject)]


def test_a_stale_list_on_the_control_node_is_an_error_whatever_differs():
    more = with_config(config((*WORKERS, "/ip4/10.77.0.3/tcp/40005")))
    assert found(around=replace(more, is_control=True)) == [("config-stale", "error", "/c/config.yml")]


def test_a_stale_list_is_an_error_where_the_node_does_not_load_the_file():
    """Of a worker machine whose own entries are right: what writing corrects is told with the list."""
    text = config(("x", *WORKERS[1:])).replace("dataWorkerMultiaddrs", "dataWorkerStreamMultiaddrs")
    for flag, severity in (("false", "warning"), ("'false'", "error")):
        around = replace(with_config(f"{text}  enableMasterProxy: {flag}\n"), profile="2.1")
        (stale,) = [each for each in list_findings(WANTED, WANTED, around) if each.code == "config-stale"]
        assert stale.severity == severity
        assert ("the node does not load this file" in stale.seen) is (severity == "error")


def test_workers_that_nobody_answers_for_are_named_with_what_restarts_them():
    one = SilentWorkers("machine-b", "10.77.0.2", (4,), are_all=False)
    rest = SilentWorkers("control", "10.77.0.1", (1, 2), are_all=True)
    around = replace(AROUND, silent=(one, rest), host=NodeHost(has_units=False, directory="/c"))
    findings = list_findings(WANTED, WANTED, around)
    assert [
        (each.severity, each.subject, each.cure) for each in findings if each.code == "worker-silent"
    ] == [
        ("warning", "machine-b core 4", "on machine-b: restart the worker of core 4 (--config /c --core 4)"),
        (
            "warning",
            "control core 1-2",
            "on control: restart the workers of cores 1-2 (with systemd: qmesh-workers.target)",
        ),
    ]
    with_units = list_findings(WANTED, WANTED, replace(around, host=NodeHost(has_units=True)))
    assert [each.cure for each in with_units if each.code == "worker-silent"] == [
        "on machine-b: systemctl restart qmesh-worker@4.service",
        f"on control: systemctl restart {UNITS} (without systemd: restart the workers of cores 1-2)",
    ]
    # Before the node's file has the mesh's list, no worker is to be there.
    unready = replace(around, config=ConfigFile("/c/config.yml", config(()), 0o600))
    assert [each.code for each in list_findings(WANTED, WANTED, unready)] == ["config-stale"]
    nowhere = replace(around, config=None)
    assert [each.code for each in list_findings(WANTED, WANTED, nowhere)] == ["config-missing"]


def test_where_no_config_is_known_the_cure_also_says_how_a_worker_gets_one():
    def cure(**changes: object) -> str:
        (finding,) = list_findings(WANTED, WANTED, replace(AROUND, config=None, **changes))
        return finding.cure

    render = "qmesh render-config --write --config DIR"
    fetch = "qmesh node-files --write --config DIR"
    names = {"own_name": "machine-b", "control": "control", "listeners": ()}
    assert cure(**names) == render
    assert cure(**names, profile="2.1-rust", may_fetch=True) == (
        f"{render}; if there is no config.yml yet, {fetch}"
    )
    assert cure(**names, profile="2.1-rust") == (
        f"{render}; if there is no config.yml yet, on control: qmesh set machine-b --node-files on;"
        f" then here: {fetch}"
    )
    assert cure(**names, profile="2.1-rust", is_control=True) == render


def test_processes_are_audited_once_the_file_has_the_meshs_list_and_foreign_ones_always():
    process = NodeProcess(7, "node", 5.0)
    report = NodeReport(
        name="machine-b",
        control_node="control",
        workers=(WorkerProcess(3, "outdated", process),),
        control=ControlProcess("silent", ("8336/udp",)),
        foreign=(ForeignWorker("10.77.0.2", 40001, process, 2, "control"),),
    )
    around = replace(AROUND, node=report)
    foreign = ("worker-not-ours", "error", "10.77.0.2:40001")
    assert found(around=around) == [
        foreign,
        ("control-silent", "error", "control process"),
        ("worker-outdated", "error", "machine-b core 3"),
    ]
    assert foreign in found(around=replace(around, config=ConfigFile("/c/config.yml", config(()), 0o600)))
    removed = found(replace(WANTED, tunnel=None), replace(around, removed=True))
    assert removed == [("membership-stale", "error", "membership"), foreign]


def test_a_port_that_another_node_on_the_machine_has_is_named_with_that_node():
    other = NodeProcess(90, "node", 5.0)
    report = NodeReport(
        name="machine-b",
        control_node="control",
        workers=(WorkerProcess(3, "silent"), WorkerProcess(4, "silent")),
        control=ControlProcess("silent", ("8336/udp",)),
        taken=(
            TakenPort("tcp", "0.0.0.0", 40002, other, "/b/it's", 3),  # noqa: S104
            TakenPort("tcp", "10.77.0.2", 40003, other, "/b/it's", 4),
            TakenPort("tcp", "10.77.0.2", 40003, other, "/c", 4),
            TakenPort("udp", "127.0.0.1", 8336, other, "/b/it's", None),
        ),
    )
    listeners = (("0.0.0.0", 40002), ("0.0.0.0", 40003))  # noqa: S104
    around = replace(AROUND, node=report, listeners=listeners)
    findings = list_findings(WANTED, WANTED, around)
    assert [(each.code, each.subject, each.wanted) for each in findings if each.severity == "error"] == [
        ("worker-not-ours", "machine-b cores 3-4", "port 40002-40003 free for this machine's node"),
        ("control-silent", "control process", "port 8336 free for this machine's node"),
        ("worker-not-ours", "machine-b core 4", "port 40003 free for this machine's node"),
    ]
    assert findings[-3].seen == "another node has it, that of /b/it's: node (process 90)"
    assert "in '/b/it'\"'\"'s/config.yml', and restart it" in findings[-3].cure
    # The listener of the other node is no worker of this one's that listens too wide.
    assert [each.subject for each in findings if each.code == "worker-wide"] == ["0.0.0.0:40003"]
    # Where a port is taken and another one only silent, both are said.
    both = replace(
        report, control=ControlProcess("silent", ("8336/udp", "8340/tcp")), taken=report.taken[-1:]
    )
    findings = list_findings(WANTED, WANTED, replace(around, node=both))
    assert [each.seen for each in findings if each.code == "control-silent"] == [
        "another node has it, that of /b/it's: node (process 90)",
        "nothing listens on 8336/udp and 8340/tcp",
    ]


@pytest.mark.parametrize("is_first", [None, False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_units_of_another_order_than_the_nodes_version_needs_are_stale(profile, is_first):
    around = replace(AROUND, is_control=True, profile=profile, is_control_first=is_first)
    findings = [each for each in list_findings(WANTED, WANTED, around) if each.code == "units-stale"]
    needs_first = profile.startswith("2.1")
    assert bool(findings) == (is_first is not None and is_first != needs_first)
    for each in findings:
        assert (each.severity, each.subject) == ("warning", "qmesh-control.service")
        assert f"a start {'before' if needs_first else 'after'} the workers" in each.wanted
        assert each.seen == f"it starts {'after' if needs_first else 'before'} them"
        assert each.cure == "qmesh units --write /etc/systemd/system && systemctl daemon-reload"
    member = replace(around, is_control=False)  # where it is the former control node's
    assert not [each for each in list_findings(WANTED, WANTED, member) if each.code == "units-stale"]


def failure(core: int, **named: object) -> UnitFailure:
    values = {"state": "failed", "result": "exit-code", "code": 1, "status": 1, "restarts": 2}
    return UnitFailure(core=core, **{**values, **named})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "told"),
    [
        ((), ""),
        (
            (failure(3, last_line="no keys.yml"),),
            "core 3 ended with exit status 1, 2 restarts, last line: no keys.yml",
        ),
        ((failure(3, code=2, status=9, restarts=1),), "core 3 was ended by SIGKILL, 1 restart"),
        ((failure(3, code=3, status=99),), "core 3 was ended by signal 99, 2 restarts"),
        ((failure(3, code=0, restarts=0),), "core 3 is failed (exit-code), 0 restarts"),
        (
            (failure(3, restarts=0, last_line="\x1b[2Jx\ny" + 500 * "z"),),
            f"core 3 ended with exit status 1, 0 restarts, last line: \\x1b[2Jx\\ny{189 * 'z'}...",
        ),
        ((failure(9),), ""),  # of another machine's core
    ],
)
def test_a_workers_unit_that_failed_says_how_and_its_last_words(failures, told):
    own = SilentWorkers("machine-b", "10.77.0.2", (3, 4, 5, 6), are_all=True)
    other = SilentWorkers("control", "10.77.0.1", (1, 2), are_all=True)
    around = replace(AROUND, silent=(own, other), unit_failures=failures, host=NodeHost(has_units=True))
    seen = {
        each.subject: each for each in list_findings(WANTED, WANTED, around) if each.code == "worker-silent"
    }
    mine, others = seen["machine-b core 3-6"], seen["control core 1-2"]
    assert mine.seen == ("no answer; " + told if told else "no answer")
    restart = f"systemctl restart {UNITS}"
    fix = "fix what `journalctl -u qmesh-worker@3.service` says, then " if told else ""
    assert mine.cure == f"on machine-b: {fix}{restart}"
    assert (others.seen, "journalctl" in others.cure) == ("no answer", False)


def test_of_many_units_that_failed_the_first_are_told():
    own = SilentWorkers("machine-b", "10.77.0.2", tuple(range(3, 9)), are_all=True)
    around = replace(AROUND, silent=(own,), unit_failures=tuple(failure(core) for core in range(3, 9)))
    (found,) = (each for each in list_findings(WANTED, WANTED, around) if each.code == "worker-silent")
    assert found.seen.count(" ended with ") == 3


def test_what_2_1_wants_besides_the_list_is_compared_as_well():
    mesh = replace(MESH, node="2.1", base_port=32500, p2p_base_port=25000)
    settings = build_desired_settings(mesh, "machine-b")
    text = edit_settings("", settings)
    workers = tuple(worker.multiaddr for worker in list_workers(mesh))
    around = replace(AROUND, profile="2.1", workers=workers, settings=settings[1:], listeners=(), config=None)

    def stale(text: str) -> list[str]:
        there = replace(around, config=ConfigFile("/c/config.yml", text, 0o600))
        wanted = build_desired_state(mesh, "machine-b", HERE, {CONTROL_KEY: SHARED}, FACTS)
        return [
            finding.seen for finding in list_findings(wanted, wanted, there) if finding.code == "config-stale"
        ]

    assert stale(text) == []
    elsewhere = text.replace("/ip4/10.77.0.1/tcp/8340", "/ip4/0.0.0.0/tcp/8340").replace("25003", "26003")
    announced = "engine.dataWorkerAnnounceP2PMultiaddrs"
    others = f"other values of engine.dataWorkerP2PMultiaddrs, p2p.streamListenMultiaddr, {announced}"
    assert stale(elsewhere) == [others]
    # The mesh knows no address of machine-b: what the owner wrote is kept, if the network can call it.
    assert stale(text.replace("/dns4/unknown.invalid/tcp/25003", "/ip4/203.0.113.7/tcp/25003")) == []
    for inner in ("/ip4/0.0.0.0/tcp/25003", "/ip4/10.77.0.2/tcp/25003", "/ip4/203.0.113.7/tcp/25004"):
        assert stale(text.replace("/dns4/unknown.invalid/tcp/25003", inner)) == [
            f"other values of {announced}"
        ]
    assert stale(text.replace("streamListenMultiaddr: ", "streamListenMultiaddr: [x] # ")) == []


RUST = replace(MESH, node="2.1-rust", base_port=32500, p2p_base_port=25000)


def announcements(mesh: Inventory, around: AuditContext, seen: NodeState = WANTED) -> list[Finding]:
    """What is found of announcements on a machine that otherwise is as desired."""
    around = replace(
        around,
        profile=mesh.node,
        config=None,
        control=mesh.control,
        missing_announcements=list_missing_announcements(mesh),
        unsupported=list_unsupported_options(mesh),
    )
    found = list_findings(WANTED, seen, around)
    return [each for each in found if each.code in {"announce-missing", "node-unsupported"}]


def test_a_machine_without_an_address_to_announce_is_an_error_with_the_command():
    control, worker = announcements(RUST, replace(AROUND, own_addresses=("192.168.0.7",)))
    assert (control.severity, control.subject) == ("error", "control")
    assert control.seen == "no public address is known: no other node can call cores 1-2"
    # What WireGuard sees of a peer is a good guess.
    assert control.cure == "on control: qmesh set control --announce 192.0.2.1"
    assert worker.cure == "on control: qmesh set machine-b --announce ADDRESS"
    there = replace(AROUND, is_control=True, own_addresses=("192.168.0.7", "198.51.100.7"))
    (_, worker) = announcements(RUST, there, with_peer(endpoint=None))
    assert worker.cure == "qmesh set machine-b --announce 198.51.100.7"
    (control, _) = announcements(RUST, there, replace(WANTED, tunnel=None))
    assert control.cure == "qmesh set control --announce ADDRESS"


def test_a_machine_that_meets_the_control_node_in_a_private_network_is_reached_where_that_is():
    """Behind one router, which forwards ports."""
    hub, other = RUST.machines[:2]
    known = replace(RUST, machines=(replace(hub, announce="203.0.113.5"), other, *RUST.machines[2:]))
    beside = Endpoint("192.168.0.9", 51820)
    at_home = (
        "qmesh set machine-b --announce 203.0.113.5; as machine-b and control meet in a private network, its"
        " router has to forward machine-b's ports: `qmesh status --ports`"
    )
    (found,) = announcements(
        known, replace(AROUND, own_addresses=("192.168.0.7",)), with_peer(endpoint=beside)
    )
    assert found.cure == f"on control: {at_home}"
    (found,) = announcements(known, replace(AROUND, own_addresses=("192.168.0.7",)))
    assert found.cure == "on control: qmesh set machine-b --announce ADDRESS"
    there = replace(AROUND, is_control=True, public_key=CONTROL_KEY, own_addresses=("203.0.113.5",))
    for host, cure in (
        ("192.168.0.9", at_home),
        ("198.51.100.7", "qmesh set machine-b --announce 198.51.100.7"),
        ("router.lan", "qmesh set machine-b --announce ADDRESS"),
    ):
        seen = with_peer(public_key=OWN_KEY, endpoint=Endpoint(host, 51820))
        (found,) = announcements(known, there, seen)
        assert found.cure == cure


def test_machines_that_are_announced_and_nodes_that_announce_none_are_no_finding():
    machines = tuple(replace(each, announce="203.0.113.7") for each in RUST.machines)
    assert announcements(replace(RUST, machines=machines), AROUND) == []
    assert announcements(MESH, AROUND) == []
    # With a master proxy the control process is announced alone.
    proxied = replace(RUST, node="2.1", master_proxy=True, machines=(machines[0], RUST.machines[1]))
    assert announcements(proxied, AROUND) == []


def test_a_control_node_that_is_announced_by_ipv6_is_reached_by_nobody_for_data():
    machines = tuple(replace(each, announce="2001:db8::7") for each in RUST.machines)
    (finding,) = announcements(replace(RUST, machines=machines), AROUND)
    assert finding.subject == "control"
    reason = "its control process listens for streams on IPv4 alone, not at 2001:db8::7"
    assert finding.seen == f"{reason}: no other node can ask for data"


@pytest.mark.parametrize(
    ("entries", "severity", "end"),
    [
        ("[/ip4/203.0.113.5/tcp/25000, /ip4/203.0.113.5/tcp/25001]", "warning", "--announce 203.0.113.5"),
        ("[/ip4/203.0.113.5/tcp/25000, /ip4/203.0.113.6/tcp/25001]", "error", "--announce ADDRESS"),
        ("[/ip4/203.0.113.5/tcp/25000]", "error", "--announce ADDRESS"),
        ("[/ip4/203.0.113.5/tcp/25000, x]", "error", "--announce ADDRESS"),
        ("[/ip4/10.77.0.1/tcp/25000, /ip4/10.77.0.1/tcp/25001]", "error", "--announce ADDRESS"),
        ("x", "error", "--announce ADDRESS"),
        ("[{}]", "error", "--announce ADDRESS"),
        ("~", "error", "--announce ADDRESS"),
    ],
)
def test_an_address_that_only_the_file_has_is_named_in_the_command(entries, severity, end):
    """What its owner announced before goes on being announced, and is not lost by the mesh's ignorance."""
    text = f"engine:\n  dataWorkerAnnounceP2PMultiaddrs: {entries}\n"
    around = replace(
        AROUND,
        profile="2.1",
        is_control=True,
        config=ConfigFile("/c/config.yml", text, 0o600),
        missing_announcements=list_missing_announcements(RUST)[:1],
    )
    found = list_findings(WANTED, with_peer(endpoint=None), around)
    (finding,) = (each for each in found if each.code == "announce-missing")
    assert finding.severity == severity
    assert finding.cure.endswith(end)


def test_an_option_of_before_that_the_node_does_not_support_is_an_error():
    proxied = replace(RUST, master_proxy=True)
    findings = [each for each in announcements(proxied, AROUND) if each.code == "node-unsupported"]
    assert [(each.severity, each.subject, each.cure) for each in findings] == [
        ("error", "--master-proxy", "run `qmesh set --no-master-proxy`")
    ]


def test_a_stale_list_is_named_by_its_first_wrong_core():
    (finding,) = list_findings(
        WANTED, WANTED, with_config(config((*WORKERS[:3], "/ip4/192.0.2.1/tcp/1", WORKERS[4])))
    )
    assert finding.seen == (
        "core 4 is at '/ip4/192.0.2.1/tcp/1' instead of /ip4/10.77.0.2/tcp/40003;"
        " core 4 has a public address instead of the tunnel address of machine-b"
    )
    (finding,) = list_findings(WANTED, WANTED, with_config(config(WORKERS[:2])))
    assert finding.seen == "2 workers; there is no entry for cores 3-5 of machine-b"


def test_what_the_list_cures_is_told_with_the_list_and_all_else_by_itself():
    text = config(("/ip4/0.0.0.0/tcp/40000", "/ip4/0.0.0.0/tcp/40001", *WORKERS[2:]))
    around = with_config(f"{text}  dataWorkerBaseListenMultiaddr: /ip4/127.0.0.1/tcp/40000\n")
    template, stale = list_findings(WANTED, WANTED, around)
    assert (template.code, template.subject) == ("config-lint", "/c/config.yml:8:34")
    assert template.seen == "`dataWorkerBaseListenMultiaddr` has no `%d` instead of one, for a core's port"
    assert template.cure == "write it as /ip4/127.0.0.1/tcp/%d"
    assert stale.seen.endswith(
        "; core 1 has a wildcard address instead of the tunnel address of control, and 1 more like it"
    )


def test_a_port_of_the_lists_own_that_an_outgoing_connection_may_take():
    entries = (*WORKERS[:-1], "/ip4/10.77.0.2/tcp/50004", "/ip4/10.77.0.2/tcp/50005")
    around = replace(with_config(config(entries)), ephemeral=(32768, 60999), reserved=frozenset({50005}))
    lint, stale = list_findings(WANTED, WANTED, around)
    assert (lint.code, lint.severity, lint.subject) == ("config-lint", "warning", "/c/config.yml:7:7")
    assert "may take port 50004, " in lint.seen
    assert stale.code == "config-stale"


def test_a_list_that_qmesh_cannot_read_is_told_with_what_else_there_is():
    around = with_config("x: &x []\nengine:\n  dataWorkerMultiaddrs: *x\ndataWorkersMultiaddrs: []\n")
    wrong = [finding.seen for finding in list_findings(WANTED, WANTED, around)]
    assert any("is misspelt" in each for each in wrong)
    assert any("an anchor (&), alias (*) or tag (!)" in each for each in wrong)


def test_keys_yml_is_its_owners_alone_too():
    keys = SecretFile("/c/keys.yml", 0o644)
    right = with_config(config(WORKERS))
    assert right.config is not None
    around = replace(right, config=replace(right.config, keys=keys))
    (finding,) = list_findings(WANTED, WANTED, around)
    assert (finding.code, finding.subject, finding.seen) == ("config-mode", "/c/keys.yml", "mode 0644")
    assert finding.cure == "chmod 600 /c/keys.yml"
    for mode in (0o600, 0o400, None):
        around = replace(right, config=replace(right.config, keys=replace(keys, mode=mode)))
        assert found(around=around) == []


def test_utf_16_is_read_where_the_node_reads_it_and_no_program_writes_it():
    right = with_config(config(WORKERS))
    assert right.config is not None
    around = replace(right, config=replace(right.config, is_utf16=True))
    assert found(around=around) == [("config-lint", "warning", "/c/config.yml:1:1")]
    assert ("config-lint", "error", "/c/config.yml:1:1") in found(around=replace(around, profile="2.1-rust"))


def test_a_stale_list_that_qmesh_cannot_write_says_what_to_change_first():
    around = with_config("engine: {filter: x}\nengine:\n  dataWorkerMultiaddrs: []\n")
    lint, stale = list_findings(WANTED, WANTED, around)
    assert (lint.code, lint.severity, stale.code, stale.severity) == (
        "config-lint",
        "warning",
        "config-stale",
        "error",
    )
    assert "a second `engine:`" in stale.seen
    assert stale.cure.startswith("move what is below it to line 1")
    assert stale.cure.endswith("then `qmesh render-config --write`")


@pytest.mark.parametrize(
    "text",
    [
        f"x: &x [{', '.join(WORKERS)}]\nengine: {{dataWorkerMultiaddrs: *x}}\n",
        f"x: &x {{dataWorkerMultiaddrs: [{', '.join(WORKERS)}]}}\nengine: *x\n",
        f"engine: {{dataWorkerMultiaddrs: !x [{', '.join(WORKERS)}]}}\n",
        f"x: &x {{dataWorkerMultiaddrs: [{', '.join(WORKERS)}]}}\nengine: {{<<: *x}}\n",
        f"engine: {{dataWorkerMultiaddrs: []}}\nengine: {{dataWorkerMultiaddrs: [{', '.join(WORKERS)}]}}\n",
        f"engine: {{dataWorkerMultiaddrs: [{', '.join(WORKERS)}]}}\nengine: {{filter: x}}\n",
    ],
)
def test_a_list_is_compared_as_the_node_reads_it(text):
    around = with_config(text)
    assert [code for code, severity, _ in found(around=around) if severity == "error"] == []
    wrong = text.replace("40003", "40009").replace("10.77.0.1/tcp", "10.77.0.9/tcp")
    assert [code for code, severity, _ in found(around=with_config(wrong)) if severity == "error"]


def test_a_file_that_cannot_be_read_is_a_finding_and_nothing_else_is_guessed():
    unreadable = ConfigFile("/c/config.yml", None, None, unreadable="/c/config.yml is not UTF-8")
    assert found(around=replace(AROUND, config=unreadable)) == [("config-lint", "error", "/c/config.yml")]
    told = replace(unreadable, cure="save it as UTF-8")
    for config, cure in ((unreadable, "edit /c/config.yml"), (told, "save it as UTF-8")):
        (finding,) = list_findings(WANTED, WANTED, replace(AROUND, config=config))
        assert finding.cure == cure


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::7"])  # noqa: S104 - not bound to
def test_a_worker_that_listens_beyond_its_tunnel_address_is_wide(address):
    where = f"[{address}]:40002" if ":" in address else f"{address}:40002"
    around = replace(AROUND, listeners=((address, 40002),))
    assert found(around=around) == [("worker-wide", "warning", where)]
    assert found(replace(WANTED, guard=None), around) == [
        ("guard-missing", "error", "table inet qmesh"),
        ("worker-exposed", "error", where),
        ("worker-wide", "warning", where),
    ]


@pytest.mark.parametrize("entry", ["/ip4/10.77.0.2/tcp/40999", "/ip4/0.0.0.0/tcp/40999"])
def test_a_worker_at_a_port_that_only_the_config_names_is_exposed(entry):
    around = replace(with_config(config((*WORKERS, entry))), listeners=(("10.77.0.2", 40999),))
    exposed, stale = list_findings(WANTED, WANTED, around)
    assert (exposed.code, exposed.subject) == ("worker-exposed", "10.77.0.2:40999")
    assert exposed.cure == "qmesh render-config --write, then restart the worker"
    assert stale.code == "config-stale"


def test_listeners_at_one_address_and_no_workers_port_are_nobodys_business():
    elsewhere = (("192.0.2.7", 8337), ("127.0.0.1", 80), ("10.77.0.2", 39999), ("10.77.0.2", 40005))
    others = with_config(config((*WORKERS, "/ip4/10.77.0.3/tcp/8337", "/dns/x/tcp/39999")))
    assert found(around=replace(others, listeners=elsewhere)) == [
        ("config-stale", "warning", "/c/config.yml")
    ]


WIDE = replace(AROUND, listeners=(("0.0.0.0", 5432), ("::", 5432), ("::", 8336), ("0.0.0.0", 2222)))  # noqa: S104
PORTS = PortContext(
    untouched={8336: "the network's", 51820: "WireGuard's"},
    of_ssh=frozenset({2222}),
    programs={5432: "postgres"},
)


def test_a_port_that_anyone_reaches_is_told_once_but_ssh_and_what_others_have_to_reach():
    around = replace(WIDE, ports=PORTS)
    assert found(around=around) == [("port-wide", "warning", "5432")]
    (finding,) = list_findings(WANTED, WANTED, around)
    assert finding.seen == "postgres listens on every address, and anyone reaches it"
    assert "qmesh set machine-b --guard-port 5432" in finding.cure
    assert "--leave-open 5432" in finding.cure
    unnamed = replace(WIDE, ports=replace(PORTS, programs={}), public_key=OTHER_KEY)
    (finding,) = [each for each in list_findings(WANTED, WANTED, unnamed) if each.code == "port-wide"]
    assert finding.seen.startswith("an unknown program")
    assert "qmesh set NAME --guard-port 5432" in finding.cure


def test_a_port_that_is_left_open_on_purpose_is_told_as_that_and_no_more():
    around = replace(WIDE, ports=replace(PORTS, left_open=(80, 5432)))
    assert found(around=around) == [("port-wide", "info", "80"), ("port-wide", "info", "5432")]
    free, taken = list_findings(WANTED, WANTED, around)
    assert free.seen == "nothing listens there now"
    assert taken.seen == "postgres listens there"


def test_g1_a_guarded_port_that_the_loaded_guard_lacks_is_exposed():
    wanted = replace(WANTED, guard=replace(GUARD, own_ports=(5432,), mesh_ports=(9100,)))
    around = replace(WIDE, ports=PORTS)
    assert list_findings(wanted, wanted, around) == ()
    for seen in (WANTED, replace(WANTED, guard=None)):
        drift, exposed = list_findings(wanted, seen, around)
        assert drift.code in {"guard-drift", "guard-missing"}
        assert "5432" in drift.wanted
        assert (exposed.code, exposed.severity, exposed.subject) == ("port-exposed", "error", "5432")
        assert (exposed.seen, exposed.cure) == ("open to everyone; postgres listens there", "qmesh apply")
    (drift,) = list_findings(wanted, WANTED, AROUND)  # nobody listens
    assert "own ports none" in drift.seen


def test_g2_a_port_that_was_asked_for_and_is_sshs_is_told_and_stays_open():
    around = replace(WIDE, ports=replace(PORTS, asked=(2222, 5432), left_open=(5432,)))
    assert found(around=around) == [("port-not-guarded", "warning", "2222"), ("port-wide", "info", "5432")]


def test_g2_a_port_that_was_asked_for_and_that_others_have_to_reach_is_told_and_stays_open():
    """As only the machine knows where its WireGuard listens, and as other provers' ports move."""
    around = replace(WIDE, listeners=(), ports=replace(PORTS, asked=(8336, 9100, 51820)))
    public, tunnel = list_findings(WANTED, WANTED, around)
    assert {each.code for each in (public, tunnel)} == {"port-not-guarded"}
    assert (tunnel.subject, tunnel.seen) == ("51820", "it stays open: it is WireGuard's")
    assert "`qmesh set machine-b --leave-open 51820`" in tunnel.cure


def test_where_it_is_not_known_what_is_closed_open_ports_are_told_all_the_same():
    bare = replace(WANTED, guard=None)
    assert [each.code for each in list_findings(bare, bare, replace(WIDE, ports=PORTS))] == ["port-wide"]


def test_listeners_are_told_even_where_the_config_is_damaged():
    around = replace(with_config("engine: ["), listeners=(("::", 40003),))
    assert [code for code, _, _ in found(around=around)] == ["worker-wide", "config-lint"]


def test_a_path_with_a_space_is_quoted_in_its_cure():
    around = replace(AROUND, key_files=(KeyFile("/my state/private.key", OWN_KEY, 0o644, OWN_KEY),))
    (finding,) = list_findings(WANTED, WANTED, around)
    assert finding.cure == "chmod 600 '/my state/private.key'"
    in_a_users = KeyFile(
        "/home/a/state/private.key", OWN_KEY, 0o644, OWN_KEY, closing="(cd -P /home/a/state)"
    )
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, key_files=(in_a_users,)))
    assert finding.cure == "(cd -P /home/a/state)"


def test_no_finding_shows_a_secret():
    text = config(("x", *WORKERS[1:])) + "p2p:\n  peerPrivKey: 5ecret\n"
    around = with_config(text, 0o644)
    said = repr((list_findings(WANTED, with_peer(preshared_key=Secret("A" * 42 + "Q=")), around), around))
    assert "5ecret" not in said
    assert "A" * 42 + "Q=" not in said
    assert SHARED.reveal() not in said


def test_the_control_nodes_audit_wants_its_own_role():
    wanted = build_desired_state(MESH, "control", HERE, {OWN_KEY: SHARED}, Facts(kind="tun"))
    around = replace(AROUND, public_key=CONTROL_KEY, is_control=True, listeners=(("10.77.0.1", 40000),))
    around = replace(around, key_files=(KeyFile("/s/private.key", CONTROL_KEY, 0o600, CONTROL_KEY),))
    assert list_findings(wanted, wanted, around) == ()


OWN_ROUTES = list_address_routes(TUNNEL.addresses)
OWN_WORDS = ("10.77.0.0/20 src 10.77.0.2", "local 10.77.0.2/32")


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({"routes": OWN_ROUTES}, []),
        ({"routes": None}, []),
        ({"routes": OWN_ROUTES[1:]}, [("the route 10.77.0.0/20 src 10.77.0.2", "no such route")]),
        (
            {"routes": (TunnelRoute("10.77.0.0/20", "192.0.2.1"), OWN_ROUTES[1])},
            [
                ("the route 10.77.0.0/20 src 10.77.0.2", "no such route"),
                ("no such route", "the route 10.77.0.0/20 src 192.0.2.1"),
            ],
        ),
        (
            {"routes": (), "master": "blue"},
            [
                ("an interface that is part of no other", "a part of blue"),
                *((f"the route {words}", "no such route") for words in OWN_WORDS),
            ],
        ),
    ],
)
def test_a_route_of_the_tunnel_that_is_missing_or_not_its_own_is_named(seen, words):
    tunnel = replace(TUNNEL, routes=OWN_ROUTES)
    wanted, there = (replace(WANTED, tunnel=each) for each in (tunnel, replace(tunnel, **seen)))
    found = list_findings(wanted, there, AROUND)
    assert {(each.code, each.severity, each.cure) for each in found} <= {
        ("tunnel-route", "error", "qmesh apply")
    }
    assert len(found) == len(words)
    for each, said in zip(found, words, strict=True):
        assert (each.wanted, each.seen[: len(said[1])]) == said


@pytest.mark.parametrize("seen", [{"up": False}, {"addresses": ()}])
def test_routes_are_not_named_besides_what_they_are_missing_for(seen):
    tunnel = replace(TUNNEL, routes=OWN_ROUTES)
    wanted, gone = (replace(WANTED, tunnel=each) for each in (tunnel, replace(tunnel, routes=(), **seen)))
    (finding,) = list_findings(wanted, gone, AROUND)
    assert finding.code in {"tunnel-down", "tunnel-address"}


DETOUR = Detour(("a", "b", "c", "d"), "10.77.0.3", "they leave by eth0, by a rule", "ip rule add")


def test_packets_that_do_not_go_into_the_tunnel_are_named():
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, detours=(DETOUR,)))
    assert (finding.code, finding.severity, finding.subject) == ("route-collision", "error", "qmesh0")
    assert finding.wanted == "packets for a, b, c and 1 more (10.77.0.3) go into qmesh0"
    assert (finding.seen, finding.cure) == (DETOUR.reason, DETOUR.cure)
    assert WANTED.tunnel is not None
    own = WANTED.tunnel.addresses[0].partition("/")[0]
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, detours=(replace(DETOUR, address=own),)))
    assert finding.wanted == f"packets for a, b, c and 1 more ({own}) stay here"


@pytest.mark.parametrize(("is_harmful", "severity"), [(True, "error"), (False, "info")])
def test_another_use_of_the_tunnels_network_is_named(is_harmful, severity):
    overlap = NetworkOverlap("10.77.0.0/20", "a route overlaps", "remove it", is_harmful)
    around = replace(AROUND, overlaps=(overlap,), unanswered="no answer")
    found = {each.code: each for each in list_findings(WANTED, WANTED, around)}
    assert found["route-collision"].severity == severity
    assert found["route-collision"].wanted == "10.77.0.0/20 for the mesh only"
    # What is in nobody's way does not explain that the control node is silent.
    assert ("service-silent" in found) is not is_harmful


def test_a_route_is_named_once():
    route = TableRoute(network="10.77.0.3/32", interface="eth0")
    overlaps = tuple(
        NetworkOverlap("10.77.0.0/20", text, "nothing", is_harmful=False, route=each)
        for text, each in (("this one", route), ("another", replace(route, metric=7)), ("no route", None))
    )
    around = replace(AROUND, detours=(DETOUR, replace(DETOUR, route=route)), overlaps=overlaps)
    seen = [finding.seen for finding in list_findings(WANTED, WANTED, around)]
    assert seen == [DETOUR.reason, DETOUR.reason, "another", "no route"]


@pytest.mark.parametrize("seen", [{"up": False}, {"routes": ()}, {"master": "blue"}, None])
def test_where_packets_go_is_no_news_while_the_tunnel_itself_is_missing(seen):
    tunnel = replace(TUNNEL, routes=OWN_ROUTES)
    wanted = replace(WANTED, tunnel=tunnel)
    there = replace(wanted, tunnel=None if seen is None else replace(tunnel, **seen))
    found = list_findings(wanted, there, replace(AROUND, detours=(DETOUR,)))
    assert found
    assert "route-collision" not in {each.code for each in found}


@pytest.mark.parametrize(
    ("passes", "seen", "cure"),
    [
        (1232, "above 1232 bytes", "qmesh apply --mtu 1232"),
        (None, "only the smallest packets arrive", "find the link"),
    ],
)
def test_a_black_hole_is_named_with_what_passes(passes, seen, cure):
    hole = BlackHole("control", "203.0.113.5:51820", 1420, passes)
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, black_hole=hole))
    assert (finding.code, finding.severity, finding.subject) == ("tunnel-mtu", "error", "qmesh0")
    assert "203.0.113.5:51820" in finding.wanted
    assert seen in finding.seen
    assert finding.cure.startswith(cure)


def test_what_is_lost_with_a_wrong_mtu_is_no_word_on_the_path():
    hole = BlackHole("control", "192.0.2.1", 9000, 1440)
    path = NarrowPath(Endpoint("192.0.2.1", 51820), 1280)
    for around in (replace(AROUND, black_hole=hole), replace(AROUND, narrow_path=path)):
        (finding,) = list_findings(WANTED, with_tunnel(mtu=9000), around)
        assert (finding.code, finding.cure) == ("tunnel-mtu", "qmesh apply")


@pytest.mark.parametrize(
    ("direction", "wanted", "seen"),
    [("to", "arrive at control", "path to control"), ("from", "arrive from control", "path from control")],
)
def test_a_black_hole_one_way_is_named_with_its_direction(direction, wanted, seen):
    hole = BlackHole("control", "203.0.113.5:51820", 1420, 1232, direction)
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, black_hole=hole))
    assert wanted in finding.wanted
    assert finding.seen.endswith(seen)
    assert finding.cure == "qmesh apply --mtu 1232"


def test_what_drops_routers_messages_is_named_with_the_black_hole_that_it_makes():
    rule = Obstacle(place="chain", seen="drop", wanted="routers", cure="nft ...", is_certain=True)
    hole = BlackHole("control", "203.0.113.5:51820", 1420, 1232, "to")
    found = list_findings(WANTED, WANTED, replace(AROUND, black_hole=hole, path_obstacles=(rule,)))
    codes = [(each.code, each.severity) for each in found]
    assert codes == [("foreign-drop", "error"), ("tunnel-mtu", "error")]


@pytest.mark.parametrize(
    ("host", "addresses", "path", "outer", "cure"),
    [
        ("203.0.113.5", ("10.77.0.1/20",), 1280, 1340, "qmesh apply --mtu 1220"),
        ("2001:db8::5", ("10.77.0.1/20",), 1280, 1360, "qmesh apply --mtu 1200"),
        ("203.0.113.5", ("10.77.0.1/20",), 600, 1340, "find the link"),
        ("203.0.113.5", ("fd77:1::1/64",), 1280, 1340, "find the link"),
    ],
)
def test_a_tunnel_of_1280_on_a_path_of_1280_is_named(host, addresses, path, outer, cure):
    tunnel = replace(TUNNEL, mtu=1280, addresses=addresses)
    state = replace(WANTED, tunnel=tunnel)
    around = replace(AROUND, narrow_path=NarrowPath(Endpoint(host, 51820), path))
    (finding,) = [each for each in list_findings(state, state, around) if each.code == "tunnel-mtu"]
    assert (finding.severity, finding.subject) == ("warning", "qmesh0")
    assert f"the path of {path} bytes" in finding.wanted
    assert f"packets {outer} bytes: each is sent as two fragments" in finding.seen
    assert finding.cure.startswith(cure)
    hole = BlackHole("control", f"{host}:51820", 1280, 1200)
    found = list_findings(state, state, replace(around, black_hole=hole))
    assert [each.severity for each in found if each.code == "tunnel-mtu"] == ["error"]  # once, as what it is
    gone = list_findings(state, replace(state, tunnel=None), around)
    assert [each.code for each in gone if each.code.startswith("tunnel")] == ["tunnel-missing"]


def test_every_code_is_one_that_stays():
    """The codes that tools are written against; more may be added, none may be renamed."""
    stable = {
        *("key-missing", "key-mode", "key-mismatch", "key-shared", "key-retired"),
        *("tunnel-missing", "tunnel-down", "tunnel-address", "tunnel-port", "tunnel-mtu", "tunnel-route"),
        *(
            "peer-missing",
            "peer-unexpected",
            "peer-allowed-ips",
            "peer-endpoint",
            "peer-psk",
            "peer-keepalive",
            "peer-silent",
        ),
        *(
            "guard-missing",
            "guard-not-first",
            "guard-drift",
            "guard-outdated",
            "guard-boot",
            "guard-held",
            "foreign-flush",
            "foreign-saved",
            "foreign-failed",
            "foreign-drop",
            "claim-refuted",
            "claims-unproved",
            "agent-missing",
            "agent-silent",
            "agent-failing",
            "agent-restarted",
            "agent-outdated",
            "service-silent",
            "change-unconfirmed",
            "change-undone",
            "worker-wide",
            "worker-silent",
            "worker-exposed",
            "worker-outdated",
            "worker-cut-off",
            "worker-not-ours",
            "control-silent",
            "control-outdated",
            "port-not-reserved",
            "port-not-guarded",
            "port-wide",
            "port-exposed",
        ),
        *("config-missing", "config-stale", "config-mode", "config-lint"),
        *("node-keys", "node-unsupported", "node-program", "node-builds", "worker-memory"),
    }
    first_words = set(
        "key agent tunnel peer guard config worker control port foreign change service node claim"  # noqa: SIM905
        " claims".split()
    )
    sources = Path(parts.__file__).parent.rglob("*.py")
    words = {
        node.value
        for source in sources
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert stable == {
        word for word in words if word.partition("-")[0] in first_words and "-" in word and " " not in word
    }
    assert Finding.__struct_fields__ == ("code", "severity", "subject", "wanted", "seen", "cure", "link")


def test_a_config_file_shows_neither_itself_nor_by_rich_what_it_holds():
    file = ConfigFile("/c/config.yml", "p2p:\n  peerPrivKey: 5ecret\n", 0o600)
    for shown in (repr(file), str(file), pretty_repr(file), pretty_repr([file])):
        assert "5ecret" not in shown
        assert "ConfigFile" in shown


def test_a_part_that_could_not_be_audited_is_an_error_with_its_reason():
    found = failed_check_finding("tunnel", "WireGuard says nothing", "look")
    assert (found.code, found.severity, found.subject, found.seen, found.cure) == (
        *("check-failed", "error", "tunnel"),
        *("WireGuard says nothing", "look"),
    )


RUST_25 = ProgramVersion(("2.1-rust",), "2.1.0.25")
GO = ProgramVersion(("1.4", "2.0", "2.1"), None)


def with_program(version: ProgramVersion, profile: str, *, core: int | None = 0, **more: Any) -> AuditContext:
    program = NodeProgram(path="/root/node/node", version=version, core=core)
    return replace(AROUND, profile=profile, programs=(program,), **more)


def version_findings(around: AuditContext) -> list[Finding]:
    found = dict(parts.list_audit_parts(WANTED, WANTED, around))
    return list(found["node's program"]())


@pytest.mark.parametrize(
    ("version", "profile"), [(RUST_25, "2.1-rust"), (GO, "1.4"), (GO, "2.0"), (GO, "2.1")]
)
def test_a_program_of_the_meshs_version_is_no_finding(version, profile):
    assert version_findings(with_program(version, profile, core=1)) == []


@pytest.mark.parametrize(
    ("version", "profile", "text", "node"),
    [
        (RUST_25, "2.1", "engine:\n  archiveMode: false\n", "2.1-rust"),
        (RUST_25, "1.4", None, "2.1-rust"),
        (GO, "2.1-rust", "engine:\n  archiveMode: false\n", "2.1"),
        (GO, "2.1-rust", "engine:\n  fullProver: false\n", "2.0"),
        (GO, "2.1-rust", None, "2.1"),
        (GO, "2.1-rust", "a: [", "2.1"),
    ],
)
def test_a_program_of_another_version_is_an_error_with_the_version_to_set(version, profile, text, node):
    file = None if text is None else ConfigFile("/c/config.yml", text, 0o600)
    (error,) = version_findings(with_program(version, profile, is_control=True, config=file))
    assert (error.code, error.severity, error.subject) == ("node-program", "error", "/root/node/node")
    assert error.wanted == f"node {profile}"
    assert error.seen == f"core 0 runs '/root/node/node', which is {version}"
    assert error.cure == f"qmesh set --node {node}"


def test_a_control_process_on_another_machine_than_the_control_node_is_an_error():
    """As on the former control node after a handover: two processes with one identity."""
    program = with_program(RUST_25, "2.1-rust", own_name="fra-1", control="hel-2")
    for host, cure in (
        (NodeHost(has_units=True), "systemctl disable --now qmesh-control.service"),
        (NodeHost(has_units=False), "stop the control process"),
    ):
        (error,) = version_findings(replace(program, host=host))
        assert (error.code, error.severity, error.subject) == ("worker-not-ours", "error", "control process")
        assert "on hel-2 alone" in error.wanted
        assert "core 0 runs '/root/node/node'" in error.seen
        assert error.cure == cure
    assert version_findings(replace(program, is_control=True)) == []
    for core in (1, None):
        assert version_findings(with_program(RUST_25, "2.1-rust", core=core)) == []


def test_on_a_worker_machine_it_may_be_the_program_that_is_wrong():
    (error,) = version_findings(with_program(RUST_25, "2.1", core=None))
    assert error.seen == "the units start '/root/node/node', which is node 2.1-rust (2.1.0.25)"
    assert error.cure == (
        "if all machines run it: `qmesh set --node 2.1-rust` on the control node; else install the program of"
        " node 2.1 here, and restart its processes"
    )


def around_agent(trouble: AgentTrouble | None = None, **fields: Any) -> AuditContext:
    agent = AgentStatus(
        **{"silent": None, "troubles": (trouble,) if trouble else (), "restart": "x", **fields}
    )
    return replace(AROUND, agent=agent)


def around_node(**fields: Any) -> AuditContext:
    return replace(AROUND, node=NodeReport(name="machine-b", control_node="control", **fields))


def around_workers(state: Any) -> AuditContext:
    return around_node(workers=(WorkerProcess(3, state, NodeProcess(7, "node", 5.0)),))


def around_links(**fields: Any) -> AuditContext:
    report = LinkReport(watched=1, **fields)
    return replace(AROUND, is_control=True, links=LinkContext(report=report))


def test_n2_a_machine_whose_workers_answer_and_have_no_connection_is_named_by_the_control_node():
    around = around_node(unconnected=(UnconnectedMachine("machine-c", (4, 5, 6), 1),))
    (found,) = process_findings(around)
    assert (found.code, found.severity, found.subject) == ("worker-cut-off", "error", "machine-c cores 4-6")
    assert found.seen == "3 answer and 1 have a connection, for more than a minute"
    assert found.cure == (
        "on machine-c: `qmesh check`; if all is well there: restart the workers of cores 4-6"
        " (with systemd: qmesh-workers.target)"
    )
    silent = SilentWorkers("machine-c", "10.77.0.3", (4, 5), are_all=False)
    assert [*process_findings(replace(around, silent=(silent,)))] == []
    assert len([*process_findings(replace(around, silent=(replace(silent, cores=(4,)),)))]) == 1


TROUBLE = AgentTrouble("monitor", "it hung", "see the log")


@pytest.mark.parametrize(
    ("unit", "state", "code", "cure"),
    [
        ("qmesh-guard.service", "disabled", "guard-boot", "systemctl enable qmesh-guard.service"),
        (
            "qmesh-hold.service",
            "masked",
            "guard-boot",
            "systemctl unmask qmesh-hold.service && systemctl enable qmesh-hold.service",
        ),
        ("qmesh.service", "disabled", "agent-missing", "systemctl enable qmesh.service"),
    ],
)
def test_a_unit_that_no_boot_starts_is_found_before_the_next_boot(unit, state, code, cure):
    around = replace(AROUND, unstarted=(UnstartedUnit(unit, state),))
    (finding,) = list_findings(WANTED, WANTED, around)
    assert (finding.code, finding.severity, finding.subject, finding.cure) == (code, "error", unit, cure)
    open_on_purpose = replace(WANTED, guard=None)
    found = list_findings(open_on_purpose, open_on_purpose, around)
    assert {each.code for each in found} - {"worker-exposed"} == {code} - {"guard-boot"}


REFUTED = ClaimResult(
    claim="outside", closes=True, words="no packet", state="refuted", family="ip6", packet="tcp from a to b",
    rules=tuple(f"input: rule {number}" for number in range(5)),
)  # fmt: skip
EACH_CODE: dict[str, NodeState | AuditContext | Finding] = {
    "core-slow": replace(AROUND, facts={"a": TOLD, "b": replace(TOLD, core_speed=4000)}),
    "machine-versions": replace(AROUND, facts={"a": TOLD, "b": replace(TOLD, qmesh="0.2.0")}),
    "versions-apart": replace(AROUND, apart=SpokenProtocol(99, 98, "9.0.0")),
    "node-builds": replace(AROUND, facts={"a": TOLD, "b": replace(TOLD, node="2.1.0.24")}),
    "worker-memory": replace(AROUND, facts={"a": replace(TOLD, memory_bytes=10**9)}),
    "agent-failing": around_agent(TROUBLE),
    "agent-missing": replace(AROUND, agent=None),
    "agent-outdated": around_agent(outdated=(TROUBLE,)),
    "agent-restarted": around_agent(restarts=(TROUBLE,)),
    "agent-silent": around_agent(silent="no answer"),
    "announce-missing": replace(
        AROUND, profile="2.1", missing_announcements=(MissingAnnouncement("machine-b", (3,), "none"),)
    ),
    "change-unconfirmed": replace(AROUND, change="unconfirmed"),
    "change-undone": replace(AROUND, change="undone"),
    "check-failed": failed_check_finding("tunnel", "no", "look"),
    "claim-refuted": replace(AROUND, proof=StandingProof(claims=(REFUTED,))),
    "claims-unproved": replace(AROUND, proof=StandingProof(problem="no solver")),
    "clock": replace(AROUND, clock=ClockOffset(99.0, "x")),
    "config-lint": with_config("engine: ["),
    "config-missing": with_config(None),
    "config-mode": with_config(config(), 0o644),
    "config-stale": with_config(config(())),
    "control-outdated": around_node(control=ControlProcess("outdated", ())),
    "control-silent": around_node(control=ControlProcess("silent", ("8336/udp",))),
    "foreign-drop": replace(
        AROUND, obstacles=(Obstacle(place="a", seen="b", wanted="c", cure="d", is_certain=True),)
    ),
    "foreign-failed": replace(AROUND, failed_firewalls=("nftables.service",)),
    "foreign-saved": replace(
        AROUND, saved_rules=(SavedRules(path="/etc/nftables.conf", tables=("qmesh",), cure="sed ..."),)
    ),
    "foreign-flush": replace(AROUND, flusher=FlushingUnit("nftables.service", answered=False), held=False),
    "guard-boot": replace(WANTED, guard=AlteredGuard("x", loaded=GUARD, lack="boot file")),
    "guard-drift": replace(WANTED, guard=AlteredGuard("x")),
    "guard-held": replace(WANTED, guard=AlteredGuard("x", loaded=GUARD, lack="held table")),
    "guard-missing": replace(WANTED, guard=None),
    "guard-outdated": replace(WANTED, guard=AlteredGuard(as_of_format_4(render_table(GUARD)))),
    "guard-not-first": replace(WANTED, guard=AlteredGuard(render_table(GUARD).replace("mangle", "7"))),
    "key-mismatch": replace(AROUND, key_files=(replace(KEY_FILE, public_key=None),)),
    "key-missing": replace(AROUND, key_files=(replace(KEY_FILE, mode=None),)),
    "key-mode": replace(AROUND, key_files=(replace(KEY_FILE, mode=0o644),)),
    "key-retired": replace(AROUND, retired_since="2026-11-14 22:13"),
    "key-shared": around_links(shared=(SharedKey(CONTROL_KEY, (Endpoint("192.0.2.1", 1),) * 2, 5),)),
    "membership-conflict": replace(
        AROUND, conflict=MembershipConflict(own=5, revision=9, machine="machine-b", at=0)
    ),
    "membership-invalid": invalid_membership_finding("/s/membership.json", "is missing", "join"),
    "membership-stale": replace(AROUND, removed=True),
    "node-keys": replace(AROUND, other_keys=(OtherKeys(machine="b", keys=(), since="", may_fetch=True),)),
    "node-program": with_program(RUST_25, "2.1"),
    "node-unsupported": replace(AROUND, unsupported=(UnsupportedOption("--x", "no", "do it"),)),
    "peer-allowed-ips": with_peer(allowed_ips=()),
    "peer-endpoint": with_peer(endpoint=None),
    "peer-keepalive": with_peer(keepalive_s=0),
    "peer-missing": with_tunnel(peers=()),
    "peer-psk": with_peer(preshared_key=None),
    "peer-silent": around_links(silent=(SilentLink(CONTROL_KEY, 200.0, True),)),
    "peer-unexpected": with_tunnel(peers=(PEER, STRANGER)),
    "port-exposed": replace(WIDE, ports=PORTS),
    "port-not-guarded": replace(WIDE, ports=replace(PORTS, asked=(2222,))),
    "port-not-reserved": replace(WANTED, reserved_ports=()),
    "port-wide": replace(WIDE, ports=PORTS),
    "route-collision": replace(AROUND, detours=(DETOUR,)),
    "service-silent": replace(AROUND, unanswered="no answer"),
    "sysctl": replace(AROUND, weaknesses=(ALWAYS,)),
    "tunnel-address": with_tunnel(addresses=()),
    "tunnel-down": with_tunnel(up=False),
    "tunnel-missing": replace(WANTED, tunnel=None),
    "tunnel-mtu": with_tunnel(mtu=1500),
    "tunnel-port": with_tunnel(listen_port=1),
    "tunnel-route": with_tunnel(master="blue"),
    "units-stale": replace(AROUND, is_control=True, is_control_first=True),
    "worker-cut-off": around_workers("cut-off"),
    "worker-exposed": replace(WANTED, guard=replace(GUARD, ports=(40003,))),
    "worker-not-ours": around_workers("not-the-node"),
    "worker-outdated": around_workers("outdated"),
    "worker-silent": replace(AROUND, silent=(SilentWorkers("machine-b", "10.77.0.2", (4,), are_all=False),)),
    "worker-wide": replace(AROUND, listeners=(("::", 40003),)),
}
"""What each code is found of, one thing wrong at a time."""


@pytest.mark.parametrize("code", EACH_CODE)
def test_each_code_is_found_where_that_is_wrong(code):
    wrong, wanted = EACH_CODE[code], WANTED
    if code == "port-exposed":
        wanted = replace(WANTED, guard=replace(GUARD, own_ports=(5432,)))
    match wrong:
        case Finding():
            findings: tuple[Finding, ...] = (wrong,)
        case NodeState():
            findings = list_findings(wanted, wrong, AROUND)
        case _:
            findings = list_findings(wanted, WANTED, wrong)
    assert code in {finding.code for finding in findings}


def test_a_claim_that_a_packet_breaks_is_an_error_with_the_packet_and_its_rules():
    around = replace(AROUND, proof=StandingProof(claims=(REFUTED,)))
    (finding,) = list_findings(WANTED, WANTED, around)
    assert (finding.code, finding.severity, finding.subject) == ("claim-refuted", "error", "outside")
    rules = "input: rule 0; input: rule 1; input: rule 2; 2 more"
    assert finding.seen == f"IPv6: tcp from a to b, by {rules}"
    bare = replace(REFUTED, rules=(), without="qmesh")
    (finding,) = list_findings(WANTED, WANTED, replace(AROUND, proof=StandingProof(claims=(bare,))))
    assert finding.seen == "IPv6 without the table qmesh: tcp from a to b, as no rule stops it"


def test_what_is_not_proved_is_a_note_and_what_should_arrive_is_for_others():
    def look(**proof: Any) -> list[str]:
        found = list_findings(WANTED, WANTED, replace(AROUND, proof=StandingProof(**proof)))
        assert {each.severity for each in found} <= {"info"}
        return [each.seen for each in found]

    unclear = replace(REFUTED, state="not proved", rules=("a rule",))
    assert look(claims=(replace(REFUTED, closes=False), replace(REFUTED, state="proved"))) == []
    assert look(claims=(unclear,)) == ["`outside` depends on rules that are not understood (a rule)"]
    strange = replace(unclear, rules=(), unusual=("its mark", "its user"))
    assert look(claims=(strange,)) == [
        "`outside` may be broken by a packet that is not ordinary: its mark, its user"
    ]
    assert look(behind_s=100.0) == []
    assert look(behind_s=3600.0, problem="late") == [
        "late; rules changed 60 min ago, and were not proved since"
    ]


def test_a_list_of_reserved_ports_that_is_read_only_is_written_from_outside():
    around = replace(AROUND, can_reserve=False)
    (finding,) = list_findings(WANTED, replace(WANTED, reserved_ports=()), around)
    ports = format_port_ranges(WANTED.reserved_ports, ",")
    assert (finding.code, finding.severity) == ("port-not-reserved", "error")
    assert f"`sysctl -w net.ipv4.ip_local_reserved_ports={ports}`" in finding.cure
    assert "qmesh apply" not in finding.cure


def test_where_a_port_is_not_reserved_the_files_that_set_the_list_are_named():
    lists = (
        ReservedList("/etc/sysctl.d/10-a.conf", 1, frozenset({1})),
        ReservedList("/etc/sysctl.d/20-b.conf", 7, frozenset({22})),
        ReservedList("/etc/rc.local", 3, None),
    )
    (finding,) = list_findings(
        WANTED, replace(WANTED, reserved_ports=()), replace(AROUND, reserved_lists=lists)
    )
    assert finding.seen == (
        "an outgoing connection may take it; /etc/sysctl.d/20-b.conf, line 7, sets a list without it;"
        " /etc/rc.local, line 3, names that list"
    )


def test_of_the_node_alone_files_and_programs_are_looked_at():
    around = replace(with_config(config(), 0o644), change=AROUND.change, key_files=())
    findings = list_node_findings(WANTED, around)
    assert [finding.code for finding in findings] == ["config-mode"]
    assert list_node_findings(WANTED, AROUND) == ()


def test_no_code_is_left_out():
    assert EACH_CODE.keys() == findings_in_the_code()
