"""The readers: each takes octets, and returns or raises a QmeshError, whatever they are.

A new one is added here; `tests/test_readers.py` finds modules that read and are not named.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import functools
import hashlib
import html
import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.agent import backup_contents
from qmesh.agent.audit import reporter
from qmesh.agent.commands.status import CoreRange, MachineStatus, Status
from qmesh.agent.daemon import claim_watch, supervisor
from qmesh.agent.node import node_config
from qmesh.agent.node.worker_status import SilentCore, WorkerHealth
from qmesh.agent.readers import answers, ask
from qmesh.errors import QmeshError
from qmesh.host import api, given_rules, registry
from qmesh.host.api import client, collection, dispatch, exchange, http_protocol, server
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.drill import live_network
from qmesh.host.firewall import (
    bpf_programs,
    ipsec_policies,
    ipset_messages,
    legacy_iptables,
    packet_programs,
    rule_messages,
    table_events,
    tables_and_chains,
)
from qmesh.host.lean import nftables_messages
from qmesh.host.log import machine_name
from qmesh.host.metrics import caller_owner
from qmesh.host.network import (
    dns,
    local_addresses,
    netlink_messages,
    path_mtu,
    ports,
    reserved_ports,
    rtnetlink_messages,
)
from qmesh.host.network.kernel_routes import messages as route_messages
from qmesh.host.network.netlink import translate_errors
from qmesh.host.network.netlink_messages import (
    HEADER,
    build_attribute,
    build_request,
    parse_answers,
    parse_messages,
)
from qmesh.host.network.sockets import sock_diag, socket_lists
from qmesh.host.node_program import running_nodes
from qmesh.host.notifications import delivery, notify_socket
from qmesh.host.notifications.delivery_result import DeliveryResult
from qmesh.host.prover import set_elements
from qmesh.host.readers import client as readers_client
from qmesh.host.readers import server as readers_server
from qmesh.host.registry import Registry, RegistryImage, image
from qmesh.host.state import directory as state
from qmesh.host.state import documents
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, processes, ssh_session
from qmesh.host.system.limited_child import ChildEnd
from qmesh.host.wireguard import genetlink_messages, kernel, uapi
from qmesh.mesh import endpoints, imports, mtu, nodeconfig, rollback, values
from qmesh.mesh.audit.findings import failed_check_finding
from qmesh.mesh.drill import frames, shots
from qmesh.mesh.foreign import saved_rules
from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.guard import parse as guard_parse
from qmesh.mesh.guard.scripts import render_held_script, render_load_script
from qmesh.mesh.imports.commands import ScriptOptions, command_lines, render_script
from qmesh.mesh.imports.lines import parse_machine_lines
from qmesh.mesh.imports.machine import ImportedMachines
from qmesh.mesh.imports.proposal import build_proposal
from qmesh.mesh.imports.worker_list import find_machines_in_list
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.links import address_conflicts, handshakes, retirement
from qmesh.mesh.machine import Machine
from qmesh.mesh.machine_facts import facts, proc_files
from qmesh.mesh.node_keys import differences, key_store
from qmesh.mesh.node_processes import reading_record, record
from qmesh.mesh.nodeconfig import program_version
from qmesh.mesh.notifications import guard as alterations
from qmesh.mesh.notifications import targets, url
from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.notifications.guard import AlterationCount, AlterationMemory
from qmesh.mesh.notifications.outbox import Delivery, Outbox
from qmesh.mesh.notifications.record import NotificationRecord
from qmesh.mesh.notifications.tracker import Told
from qmesh.mesh.ports import reserved_lists
from qmesh.mesh.proof_report import nft_hash, report_keys, report_page
from qmesh.mesh.proof_report.verification import verify_alone, verify_rules
from qmesh.mesh.protocol import (
    aead,
    armor,
    backup_file,
    enrolment,
    facts_report,
    file_exchange,
    findings_report,
    handover,
    key_digests,
    member_note,
    membership,
    membership_conflict,
    node_files,
    versions,
)
from qmesh.mesh.routes.tables import describe_rule
from qmesh.mesh.standing_proof.record import ClaimResult, ProofLine
from qmesh.mesh.state import Guard, Peer, Tunnel
from qmesh.mesh.systemd import due_restarts, node_restarts, units
from qmesh.mesh.values import Endpoint, Secret
from qmesh.mesh.view import answers as view_answers
from qmesh.mesh.view import questions
from tests.support.checkout import CHECKOUT
from tests.support.initiation import build_initiation
from tests.support.machine_facts import FACTS
from tests.support.node_identity import KEY_STORE
from tests.support.proof_reports import REPORT_WORDS, make_report_facts
from tests.support.readers import images, mutate


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


_RULE: Final = (
    bytes(16)
    + b"\1\0\0\0"
    + _attribute(1, b"t\0")
    + _attribute(2, b"c\0")
    + _attribute(3, struct.pack("!Q", 3))
    + _attribute(
        4,
        _attribute(
            1,
            _attribute(1, b"meta\0")
            + _attribute(2, _attribute(1, struct.pack("!I", 1)) + _attribute(2, struct.pack("!I", 16))),
        )
        + _attribute(
            1,
            _attribute(1, b"cmp\0")
            + _attribute(2, _attribute(1, struct.pack("!I", 1)) + _attribute(3, _attribute(1, b"\x11"))),
        ),
    )
)
"""A rule, as the kernel tells of it."""
_NFT: Final = b'table inet t {\n\tchain c {\n\t\tiif "eth0" accept\n\t}\n}\n'
_NFT_JSON: Final = msgspec.json.encode(
    {"nftables": [{"rule": {"expr": [{"match": {"left": {"meta": {"key": "iif"}}, "right": "eth0"}}]}}]}
)
REPORT_KEYS: Final = report_keys.derive_report_keys(Secret(mutate.KEY))
REPORT_FACTS: Final = make_report_facts(REPORT_KEYS)
REPORT: Final = report_page.render_page(REPORT_FACTS, REPORT_KEYS, made="now")
_ELEMENT: Final = (
    bytes(16)
    + b"\1\0\0\0"
    + _attribute(
        3,
        _attribute(1, _attribute(2, _attribute(2, _attribute(1, bytes(4)) + _attribute(2, b"c\0")))),
    )
)
_SET: Final = (
    bytes(16)
    + b"\1\0\0\0"
    + _attribute(1, b"t\0")
    + _attribute(2, b"s\0")
    + _attribute(5, struct.pack("!I", 4))
    + _attribute(18, _attribute(1, _attribute(1, b"limit\0")))
)
_LEGACY: Final = (
    struct.pack("=32sI5I5III", b"filter", 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 328)
    + struct.pack("=88xHH20x", 112, 152)
    + struct.pack("=H29sBi4x", 40, b"", 0, -2)
    + struct.pack("=88xHH20x", 112, 176)
    + struct.pack("=H29sB32s", 64, b"ERROR", 0, b"ERROR")
)
"""What IPT_SO_GET_INFO and IPT_SO_GET_ENTRIES tell of a table without rules."""


_CHAIN: Final = (
    bytes(16)
    + b"\1\0\0\0"
    + b"".join(
        (
            _attribute(1, b"t\0"),
            _attribute(2, struct.pack("!Q", 3)),
            _attribute(3, b"c\0"),
            _attribute(4, _attribute(1, struct.pack("!I", 1)) + _attribute(2, struct.pack("!i", -5))),
            _attribute(5, struct.pack("!I", 1)),
            _attribute(7, b"filter\0"),
        )
    )
)
"""A base chain, as the kernel tells of it."""
CORPUS: Final = CHECKOUT / "tests/mesh/corpus"

KEYS: Final = tuple(base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 9))
SIGNING: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIES: Final = SIGNING.public_key().public_bytes_raw()
MESH: Final = enrolment.compute_mesh_identifier(VERIFIES)
SHARED: Final = Secret(KEYS[5])
PRIVATE: Final = Secret(mutate.KEY)
OWN_KEY: Final = enrolment.derive_public_key(PRIVATE)
NOW: Final = 1_700_000_000


def _wrap_report(said: bytes) -> bytes:
    """A page that says this."""
    begin, _, rest = REPORT.partition(b'<pre id="facts">')
    _, _, end = rest.partition(b"</pre>")
    return begin + b'<pre id="facts">' + html.escape(_text(said)).encode() + b"</pre>" + end


def _verify_report(octets: bytes) -> object:
    """As `prove --verify` does, where nothing is proved."""
    report = report_page.parse_page(octets)
    said = verify_alone(report, None, REPORT_KEYS, now_s=NOW)
    return verify_rules(said, report.facts, REPORT_FACTS, REPORT_WORDS)


class Reader(NamedTuple):
    """What reads. modules: whose reading this tries. read: octets in, and a QmeshError or anything out."""

    name: str
    modules: tuple[ModuleType, ...]
    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    mutate: mutate.Mutator = mutate.octets


INVENTORY: Final = Inventory(
    mesh=MESH,
    network="10.77.0.0/20",
    control="a",
    node="2.1",
    base_port=32500,
    service_port=51820,
    revision=7,
    machines=(
        Machine(
            name="a",
            public_key=OWN_KEY,
            address="10.77.0.1",
            workers=3,
            endpoints=(Endpoint("203.0.113.5", 51820),),
        ),
        Machine(
            name="b",
            public_key=KEYS[1],
            address="10.77.0.2",
            workers=4,
            endpoints=(Endpoint("b.example", 5),),
        ),
        Machine(name="c", public_key=KEYS[2], address="10.77.0.3", workers=1, state="paused"),
    ),
    p2p_base_port=25000,
)
SIGNED: Final = membership.sign_membership(INVENTORY, SIGNING)
NEWER: Final = membership.sign_membership(
    msgspec.structs.replace(INVENTORY, revision=8, restart=True), SIGNING
)
INVITATION: Final = enrolment.Invitation(
    secret=bytes(range(32)),
    mesh=MESH,
    verification_key=VERIFIES,
    control_key=OWN_KEY,
    control_address="10.77.0.1",
    network="10.77.0.0/20",
    service_port=51820,
    endpoints=(Endpoint("203.0.113.5", 51820), Endpoint("2001:db8::5", 51820)),
    name="d",
    address="10.77.0.4",
    workers=2,
    expires_at=NOW,
)
REDEMPTION: Final = enrolment.build_redemption(
    INVITATION.derived_keys,
    public_key=enrolment.derive_public_key(SHARED),
    workers=4,
    endpoint=Endpoint("192.0.2.9", 51820),
)
ANNOUNCED: Final = enrolment.build_redemption(
    INVITATION.derived_keys,
    public_key=enrolment.derive_public_key(SHARED),
    workers=4,
    endpoint=None,
    announce="node.example.org",
)
SETTINGS: Final = documents.Settings(
    mesh=MESH,
    name="a",
    control=True,
    interface="qmesh0",
    listen_port=51820,
    verification_key=VERIFIES,
    control_endpoints=(Endpoint("203.0.113.5", 51820),),
    config_directory="/root/.config",
    mtu=1380,
    invitation="0" * 32,
)
TUNNEL: Final = Tunnel(
    interface="qmesh0",
    kind="wireguard",
    public_key=OWN_KEY,
    listen_port=51820,
    addresses=("10.77.0.1/20",),
    mtu=1420,
    up=True,
    peers=(
        Peer(
            public_key=KEYS[1],
            allowed_ips=("10.77.0.2/32",),
            endpoint=Endpoint("192.0.2.1", 5),
            preshared_key=SHARED,
            keepalive_s=25,
        ),
    ),
)
GUARD: Final = Guard(
    role="worker",
    interface="qmesh0",
    kind="wireguard",
    listen_port=51820,
    control_address="10.77.0.1",
    service_port=51820,
    ports=(32503, 32504, 32600),
)


def _shown(value: object) -> str:
    assert isinstance(value, Secret)
    return value.reveal()


def _json(value: object) -> bytes:
    return msgspec.json.encode(value, enc_hook=_shown)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")


# Registries


def _registry() -> bytes:
    """One with a member of each kind, an open invitation, one to replace, a key on offer and a successor."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "mesh.db")
        Registry.create(path, msgspec.structs.replace(INVENTORY, machines=INVENTORY.machines[:1]), now=NOW)
        with Registry(path) as registry:
            for name, key in (("b", KEYS[1]), ("c", KEYS[2])):
                _joined(registry, name, key)
            registry.invite("d", workers=2, endpoint=None, expires_at=NOW + 9000, now=NOW)
            registry.invite("c", workers=None, endpoint=None, expires_at=NOW + 9000, now=NOW, replace=True)
            registry.record_acknowledgements({"10.77.0.2": 3})
            return registry.copy_database()


def _joined(registry: Registry, name: str, private: str) -> None:
    issued = registry.invite(
        name, workers=2, endpoint=Endpoint("192.0.2.9", 5), expires_at=NOW + 9000, now=NOW
    )
    derived = enrolment.derive_invitation_keys(issued.secret)
    key = enrolment.derive_public_key(Secret(private))
    message = enrolment.build_redemption(derived, public_key=key, workers=2, endpoint=None)
    registry.redeem(message, sender=issued.machine.address, now=NOW)


def _succeeded(octets: bytes) -> bytes:
    with RegistryImage(octets) as registry:
        registry.begin_handover("b", now=NOW)
        return registry.serialize()


REGISTRY: Final = _registry()
IN_HANDOVER: Final = _succeeded(REGISTRY)
ESTATE: Final = handover.encode_handover_data(
    handover.HandoverData(event=5, registry=IN_HANDOVER, signing_key=bytes(range(32)))
)

_USES: Final[tuple[Callable[[RegistryImage], object], ...]] = (
    RegistryImage.inventory,
    RegistryImage.preshared_keys,
    RegistryImage.events,
    RegistryImage.revision,
    RegistryImage.last_event_number,
    RegistryImage.successor,
    lambda it: [it.read_news(since=number) for number in (1, 3, 5)],
    lambda it: it.list_open_invitations(now=NOW),
    lambda it: it.expire_invitations(now=NOW + 99_999),
    lambda it: it.withdraw_invitation("d", now=NOW),
    lambda it: it.withdraw_all_invitations(command="backup", now=NOW),
    lambda it: it.invite("e", workers=None, endpoint=None, expires_at=NOW + 9, now=NOW),
    lambda it: it.invite("b", workers=None, endpoint=None, expires_at=NOW + 9, now=NOW, replace=True),
    lambda it: it.redeem(REDEMPTION, sender="10.77.0.4", now=NOW),
    lambda it: it.offer_key(KEYS[6], sender="10.77.0.2", now=NOW + 99),
    lambda it: it.activate_pending_key(KEYS[6], now=NOW),
    lambda it: it.find_preshared_key("10.77.0.2"),
    lambda it: it.find_file_requester("10.77.0.2"),
    lambda it: it.record_files_fetched(INVENTORY.machines[1], now=NOW, endpoint=None),
    lambda it: it.find_successor_preshared_key("10.77.0.2"),
    lambda it: it.record_progress(handover.HandoverProgress(holds=4, silent=()), sender="10.77.0.2", now=NOW),
    lambda it: it.check_readiness("b", now=NOW),
    lambda it: it.begin_handover("b", now=NOW),
    lambda it: it.end_handover(now=NOW),
    lambda it: it.complete_handover("b", now=NOW),
    lambda it: it.promote_successor(now=NOW),
    RegistryImage.serialize_for_successor,
    RegistryImage.discard_handover,
    lambda it: it.change_mesh(lambda mesh: mesh, command="set", what="mesh-changed", machine="a", now=NOW),
    lambda it: it.change_mesh(
        lambda mesh: backup_file.build_restored_inventory(mesh, ()),
        command="restore",
        what="restored",
        machine="a",
        now=NOW,
    ),
    lambda it: it.record_acknowledgements({"10.77.0.2": 9}),
    RegistryImage.serialize,
    RegistryImage.copy_database,
)
"""All that is asked of a registry. Of one image a few, which its octets choose."""


def _use_registry(octets: bytes) -> None:
    chosen = hashlib.blake2b(octets, digest_size=4).digest()
    refused: QmeshError | None = None
    with RegistryImage(octets) as registry:
        for number in chosen:
            try:
                _USES[number % len(_USES)](registry)
            except QmeshError as error:
                refused = error
    if refused is not None:
        raise refused


def _use_estate(octets: bytes) -> None:
    estate = handover.decode_handover_data(octets)
    with RegistryImage(estate.registry) as registry:
        registry.inventory()
        registry.preshared_keys()
        membership.sign_membership(
            registry.promote_successor(now=NOW), Ed25519PrivateKey.from_private_bytes(estate.signing_key)
        )
        registry.serialize()


# State files


@contextlib.contextmanager
def _state() -> Iterator[State]:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        yield State(Path(place))


class _Own(NamedTuple):
    """What one process uses: those that share the tests are forked when this module has been imported."""

    state: State
    loop: asyncio.AbstractEventLoop


@functools.cache
def _own_of(process: int) -> _Own:
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    loop = asyncio.new_event_loop()
    opened.callback(loop.close)
    return _Own(opened.enter_context(_state()), loop)


def _own() -> _Own:
    return _own_of(os.getpid())


def _of_state(name: str, read: Callable[[State], object]) -> Callable[[bytes], object]:
    def reader(octets: bytes) -> object:
        state = _own().state
        path = state.directory / name
        path.write_bytes(octets)
        try:
            return read(state)
        finally:
            path.unlink()

    return reader


def _ports_closed(octets: bytes) -> object:
    return _of_state("guard.nft", State.list_closed_ports)(octets)


def _bring_back(octets: bytes) -> None:
    """Without the kernel's list, which is this machine's."""
    path = _own().state.directory / reserved_ports.REMEMBERED
    path.write_bytes(octets)
    try:
        reserved_ports.read_own_ports(path.parent)
    finally:
        path.unlink()


ASKED: Final = documents.SentRequest(
    mesh=MESH,
    name="b",
    address="10.77.0.2",
    endpoints=SETTINGS.control_endpoints,
    verification_key=VERIFIES,
    interface="qmesh0",
    listen_port=51820,
    config_directory=None,
    redemption=REDEMPTION,
    preshared_key=SHARED,
)
UNDOING: Final = rollback.RollbackRecord(
    before=rollback.MachineSnapshot(
        guard=rollback.GuardSnapshot(script="add table x", boot_file=None, held_file=None),
        tunnel=TUNNEL,
        reserved_ports=(32503,),
        up=True,
        guarded=True,
    ),
    boot="f00d",
    deadline_s=12.5,
    by=rollback.ChangeProcess(process=77, started=5),
)
CLAIM_RESULT: Final = ClaimResult(
    claim="outside", closes=True, words="b", state="refuted", family="ip", packet="c", rules=("d",)
)
STATUS: Final = _json(
    Status(
        mesh=MESH,
        revision=7,
        node="2.1",
        control="a",
        machines=(
            MachineStatus(
                name="a",
                role="control",
                address="10.77.0.1",
                public_key=OWN_KEY,
                endpoint="203.0.113.5:51820",
                cores=CoreRange(1, 1),
                ports=(32500,),
                state="active",
                last_handshake=1.5,
                rx_bytes=1,
                tx_bytes=2,
                workers=WorkerHealth(
                    0,
                    (SilentCore(1, "10.77.0.1", 32500, "u", "r", "refused"),),
                    None,
                    "r",
                    restarts={"a": "b"},
                ),
                node_files=False,
            ),
        ),
        advice=("a",),
        errors=(failed_check_finding("a", "b", "c"),),
    )
)
_DELIVERED: Final = DeliveryResult(is_delivered=True, text="delivered: 200 OK", said="ok")
WEB_ADDRESS: Final = b"https://u:p@h.example:8443/services/T012?token=abcdef"
WEB_URL: Final = url.parse_web_url(WEB_ADDRESS.decode())

HEALTH: Final = agent_health.Health(
    process=5,
    looked_s=1.5,
    troubles=(agent_health.Trouble(part="p", reason="r", hint="h", since=1.0),),
    restarts=(agent_health.Restart(part="p", reason="r", times=2, last=1.0),),
)

_READING: Final = reading_record.Reading("0" * 32, 7.5)
PROCESSES: Final = record.ProcessRecord(
    boot="f00d",
    readings=reading_record.ReadingRecord(
        boot="f00d",
        looked_s=12.5,
        stamp=(5, NOW * 10**9, 700, NOW * 10**9),
        profile="2.1-rust",
        facts=reading_record.ConfigFacts(is_managed=True, is_private=True, control_ports=(("udp", 8336),)),
        control=_READING,
        cores={4: _READING, 5: _READING},
    ),
    absent={4: record.Absence(77, 9.5)},
    called=record.CalledWorkers(76, 3.5, 4.5, (1, 4)),
)

NOTIFIED: Final = targets.NotifySettings(
    targets=(
        targets.NotifyTarget("0" * 16, "slack", targets.SecretUrl("https://hooks.slack.com/services/T/B/X")),
    ),
    program="/usr/local/bin/tell",
    program_identifier="1" * 16,
    after_s=90,
)

TOLD: Final = NotificationRecord(
    mesh=MESH,
    control="a",
    event=7,
    told=(Told("finding", "a", "clock b", is_on=True, changed_at=NOW, flips=2, code="clock"),),
    guard=AlterationMemory(counted=(AlterationCount("holder", "1-2", 3, "nft"),), told_at=NOW, times=1),
    outbox=Outbox(
        next_number=3,
        changes=(ToldChange(at=NOW, kind="worker-silent", phase="begun", number=2, cores=((1, 3),)),),
        deliveries=(Delivery(receiver="0" * 16, delivered=1, failures=2, due_at=NOW, sent=(NOW,)),),
    ),
)

RETIRED: Final = retirement.RetiredKey(
    machine="b", public_key=KEYS[1], preshared_key=SHARED, reason="removed", at=NOW
)

_OF_STATE: Final[tuple[tuple[str, Callable[[State], object], object], ...]] = (
    ("machine.json", State.find_settings, SETTINGS),
    (
        "joining.json",
        lambda state: state.unfinished_redemption.read(),
        documents.UnfinishedRedemption("0" * 32),
    ),
    ("request.json", lambda state: state.sent_request.read(), ASKED),
    ("reserved-ports.json", State.read_port_reservations, documents.PortReservations((40000,), (22,))),
    ("node-ports.json", State.read_node_ports, documents.NodePorts(1000, (8337, 8448))),
    ("successor.json", lambda state: state.successor_key.read(), documents.SuccessorKey(KEYS[1], SHARED)),
    (
        "key-origin.json",
        lambda state: state.key_origin.read(),
        documents.KeyOrigin("0" * 32, KEYS[1]),
    ),
    (
        "conflict.json",
        lambda state: state.membership_conflict.read(),
        membership_conflict.MembershipConflict(5, 9, "machine-b", NOW),
    ),
    (
        "retired.json",
        lambda state: state.retired_keys.read(),
        retirement.RetiredKeys((RETIRED,)),
    ),
    (
        "retirement.json",
        lambda state: state.key_retirement.read(),
        retirement.KeyRetirement(mesh=MESH, machine="b", public_key=KEYS[1], reason="replaced", at=NOW),
    ),
    ("rotating.json", lambda state: state.key_rotation.read(), documents.KeyRotation(KEYS[1], KEYS[2])),
    (
        "restored.json",
        lambda state: state.restore_progress.read(),
        documents.RestoreProgress("0" * 64, done=True),
    ),
    ("backup.json", lambda state: state.last_backup.read(), documents.LastBackup(NOW, 7)),
    (
        "due.json",
        lambda state: state.due_restarts.read(),
        due_restarts.DueRestarts(restart=(1, 2), stop=(9,), control=True),
    ),
    ("notify.json", lambda state: state.notify_settings.read(), NOTIFIED),
    ("notifications.json", lambda state: state.notification_record.read(), TOLD),
    ("undo.json", lambda state: state.rollback_record.read(), UNDOING),
    ("processes.json", lambda state: state.process_record.read(), PROCESSES),
    (
        "node-keys.json",
        lambda state: state.key_differences.read(),
        differences.KeyDifferences({"b": differences.KeyDifference(("keys.yml",), NOW)}),
    ),
)


# What the kernel and WireGuard say


def _dump() -> bytes:
    blocks = b"".join(block for peer in TUNNEL.peers for block in genetlink_messages.peer_blocks(peer))
    port = build_attribute(genetlink_messages._LISTEN_PORT, (51820).to_bytes(2, "little"))
    key = build_attribute(genetlink_messages._PUBLIC_KEY, base64.b64decode(OWN_KEY))
    peers = build_attribute(genetlink_messages._PEERS | genetlink_messages._NESTED, blocks)
    return genetlink_messages._build_set_message(30, "qmesh0", port + key + peers)


def _netlink(octets: bytes) -> None:
    with translate_errors("read"):
        for kind, _, message in parse_messages(octets):
            table_events._describe_process(message)
            list(parse_attributes(message[20:]))
            del kind
        for _message, code, _torn in parse_answers(octets):
            if code:
                with translate_errors("ask"):
                    raise OSError(code, "said")


def _addresses(octets: bytes) -> None:
    with translate_errors("look"):
        list(rtnetlink_messages.parse_addresses([octets], 7))


def _live_link(octets: bytes) -> None:
    with translate_errors("look"):
        live_network.parse_live_link(octets)


def _frame(octets: bytes) -> object:
    return frames.answer_question(octets), shots.read_packet_trace(frames.read_frame(octets))


def _link(octets: bytes) -> None:
    with translate_errors("look"):
        rtnetlink_messages.parse_link(octets)


def _told(head: bytes, *parts: tuple[int, bytes]) -> bytes:
    packed = b"".join(build_attribute(kind, each) for kind, each in parts)
    return HEADER.pack(HEADER.size + len(head) + len(packed), 16, 0, 1, 0) + head + packed


INTERFACE_OF_DRILL: Final = _told(struct.pack("=BxHiII", 0, 1, 2, 1, 0), (3, b"eth0\0"), (4, bytes(4)))
(PACKET_OF_DRILL,) = shots.render_shot(
    shots.Shot(
        way="eth0", source="2001:db8::1", target="2001:db8::2", protocol="udp", source_port=1, target_port=2
    ),
    shots.FIRST_NUMBER,
)


FAMILY: Final = _told(struct.pack("=BBH", 1, 2, 0), (2, b"wireguard\0"), (1, b"\x21\0"))
IPSET: Final = _told(bytes((2, 0, 0, 0)), (1, b"\7"), (2, b"friends\0"), (3, b"hash:ip,port\0"))


def _ipset(octets: bytes) -> None:
    with translate_errors("ask for elements of sets"):
        ipset_messages.parse_name(octets)
        ipset_messages.parse_type(octets)


LINK: Final = _told(
    rtnetlink_messages._LINK.pack(0, 1, 7, 1, 0),
    (3, b"qmesh0\0"),
    (4, (1420).to_bytes(4, "little")),
    (18, build_attribute(1, b"wireguard\0")),
)
ADDRESS: Final = _told(
    rtnetlink_messages._ADDRESS.pack(2, 20, 0, 0, 7), (1, bytes((10, 77, 0, 1))), (2, bytes((10, 77, 0, 1)))
)


ROUTE: Final = _told(
    route_messages._ROUTE.pack(2, 20, 0, 0, 254, 2, 253, 1, 0),
    (route_messages._TABLE, (254).to_bytes(4, "little")),
    (route_messages._TO, bytes((10, 77, 0, 0))),
    (route_messages._OIF, (7).to_bytes(4, "little")),
    (route_messages._SOURCE_HINT, bytes((10, 77, 0, 2))),
)
WAY: Final = _told(
    route_messages._ROUTE.pack(2, 32, 0, 0, 254, 0, 0, 1, 0x200),
    (route_messages._TO, bytes((192, 0, 2, 1))),
    (route_messages._OIF, (7).to_bytes(4, "little")),
    (route_messages._GATEWAY, bytes((10, 77, 0, 1))),
    (route_messages._METRICS, build_attribute(route_messages._METRIC_MTU, (1400).to_bytes(4, "little"))),
    (route_messages._CACHE, bytes(32)),
)
ROUTE_OF_TWO_HOPS: Final = _told(
    route_messages._ROUTE.pack(10, 0, 0, 0, 254, 2, 0, 1, 0),
    (
        route_messages._MULTIPATH,
        route_messages._HOP.pack(28, 0, 0, 7) + build_attribute(route_messages._GATEWAY, bytes(15) + b"\x01"),
    ),
)


RULE: Final = _told(
    route_messages._RULE.pack(2, 20, 32, 0, 52, 0, 0, 1, 2),
    (route_messages._RULE_TO, bytes((10, 77, 0, 0))),
    (route_messages._RULE_FROM, bytes((10, 77, 0, 2))),
    (route_messages._RULE_PRIORITY, (5270).to_bytes(4, "little")),
    (route_messages._RULE_DPORTS, bytes((1, 0, 2, 0))),
    (route_messages._USERS, bytes(8)),
    (route_messages._IIF, b"lo\0"),
)


def _kernel_route(octets: bytes) -> None:
    with translate_errors("read the routes"):
        route_messages.parse_route(octets)
        route_messages.overlaps(octets, ip_network("10.77.0.0/20"))
        route_messages.parse_answer(24, octets)
        route_messages.is_plain_route(octets)
        route_messages.parse_answer(2, octets)
        route_messages.parse_way(octets)


def _netlink_family(octets: bytes) -> None:
    with translate_errors("ask for WireGuard"):
        genetlink_messages.parse_family(octets)


def _kernel_rule(octets: bytes) -> None:
    with translate_errors("read the rules"):
        rule = route_messages.parse_rule(octets)
        if rule is not None:
            describe_rule(rule)


IPSEC_POLICY: Final = _told(
    ipsec_policies._SELECTOR.pack(
        bytes((10, 0, 0, 0)),
        bytes((10, 77, 0, 0)),
        ipsec_policies._PORTS.pack(40003, 0xFFFF, 0, 0),
        2,
        8,
        20,
        6,
        0,
        0,
    )
    + bytes(ipsec_policies._LIFETIMES)
    + ipsec_policies._REST.pack(7, 1, 1, 0, 0, 0)
    + bytes(4),
    (ipsec_policies._TEMPLATES, bytes(64)),
    (ipsec_policies._MARK, bytes(8)),
)
FILTER: Final = _told(
    packet_programs._TRAFFIC.pack(0, 7, 0, 0xFFFFFFF2, 0), (packet_programs._TC_KIND, b"bpf\0")
)
XDP: Final = _told(
    rtnetlink_messages._LINK.pack(0, 1, 7, 1, 0), (packet_programs._XDP, build_attribute(2, bytes((1,))))
)


def _ipsec_policy(octets: bytes) -> None:
    with translate_errors("read the IPsec policies"):
        ipsec_policies.parse_policy(octets)


def _packet_programs(octets: bytes) -> None:
    with translate_errors("read the filters of interfaces"):
        packet_programs.has_xdp(octets)
        packet_programs.parse_kind(octets)


RESERVED_LISTS: Final = (
    b"# mine\n-net/ipv4/ip_local_reserved_ports=22,40000-40002\n",
    b"sysctl -w net.ipv4.ip_local_reserved_ports=1\n",
)
SAVED_RULES: Final = (
    b'table inet qmesh {\n\tchain c {\n\t}\n}\ninclude "/etc/nftables.d/*.nft"\n',
    b'{"nftables": [{"table": {"family": "inet", "name": "qmesh"}}, {"chain": {"table": "qmesh"}}]}',
    b"[Service]\nExecStart=/usr/sbin/nft -f /etc/rules\n",
)


def _reserved_lists(octets: bytes) -> None:
    list(reserved_lists.parse_sysctl_lists("/etc/sysctl.conf", octets))
    list(reserved_lists.find_commands("/etc/rc.local", octets))


def _saved_rules(octets: bytes) -> None:
    saved_rules.find_saved_rules("/etc/nftables.conf", octets)
    saved_rules.list_includes(octets)
    saved_rules.list_loaded_files(octets)


def _bpf_program_name(octets: bytes) -> None:
    with translate_errors("read"):
        bpf_programs.parse_name(octets)


def _tcp_sockets(octets: bytes) -> None:
    with translate_errors("read"):
        sock_diag.parse_outline(octets)
        sock_diag.parse_socket(octets)


def _caller_owner(octets: bytes) -> None:
    with contextlib.suppress(ValueError, struct.error):
        caller_owner.parse_owner(octets)


CALLER_OWNER: Final = build_request(
    20, 0, b"\2\1\0\0" + bytes(48 + 12) + (1000).to_bytes(4, "little") + b"\7\0\0\0"
)
UAPI: Final = (
    f"\nprivate_key={base64.b64decode(PRIVATE.reveal()).hex()}\nlisten_port=51820\nfwmark=0\n"
    f"public_key={base64.b64decode(KEYS[1]).hex()}\npreshared_key={'00' * 32}\nprotocol_version=1\n"
    "endpoint=[2001:db8::1]:51820\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\n"
    "tx_bytes=5\nrx_bytes=7\npersistent_keepalive_interval=25\nallowed_ip=10.77.0.2/32\nallowed_ip=fd00::2/128\n"
    "errno=0"
).encode()
TCP: Final = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    b"   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1 0 100\n"
    b"   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000"
    b" 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n"
)
ROUTES: Final = (
    b"Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    b"qmesh0\t00004D0A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0\n"
)
ROUTES_6: Final = (
    b"fd770000000000000000000000000000 40 00000000000000000000000000000000 00"
    b" 00000000000000000000000000000000 00000100 00000001 00000000 00000001   qmesh0\n"
)
STAT: Final = b"77 (a) name) S 1 77 77 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0 18446744073709551615"
PROCESS: Final = b"Uid:\t1000\t1000\t1000\t1000\nnode\0--config\0/root/.config\0"
ANSWER: Final = b"quil-node 2.1.0.25\n"
UNIT: Final = b'[Service]\nExecStart="/opt/a b/node" --config /root/.config --core %i\n'


# Configs, imports, listings of others


def _each(uses: Iterable[Callable[[], object]]) -> None:
    """Have all of it done. Raises the last refusal where each of them refuses."""
    refused: list[QmeshError] = []
    taken = 0
    for use in uses:
        try:
            use()
            taken += 1
        except QmeshError as error:
            refused.append(error)
    if refused and not taken:
        raise refused[-1]


def _config(octets: bytes) -> None:
    text = _text(octets)
    profile: values.Profile = values.PROFILES[len(octets) % len(values.PROFILES)]
    mesh = msgspec.structs.replace(
        INVENTORY, node=profile, p2p_base_port=25000 if profile.startswith("2.1") else None
    )
    _each(
        (
            lambda: nodeconfig.redact_config(text),
            lambda: nodeconfig.lint_config(text, profile=profile),
            lambda: nodeconfig.read_secret(text, "p2p.peerPrivKey"),
            lambda: nodeconfig.read_workers(text, profile),
            lambda: nodeconfig.find_ignored_lists(text, profile),
            lambda: nodeconfig.list_possible_profiles(text),
            lambda: nodeconfig.detect_profile(text),
            lambda: nodeconfig.find_listen_address(3, text),
            lambda: nodeconfig.edit_settings(text, nodeconfig.build_desired_settings(mesh, "a")),
            lambda: node_restarts.is_managed_by_qmesh(text, mesh),
        )
    )


def _imported(read: Callable[[str], ImportedMachines], octets: bytes) -> None:
    reading = read(_text(octets))
    options = ScriptOptions(init=True, control_endpoints=(), base_port=False, config=None)
    proposal = build_proposal(reading, "2.1", 32500)
    render_script(proposal, options)
    command_lines(proposal, options)


def _import_lines(octets: bytes) -> None:
    _imported(lambda text: parse_machine_lines(text, {"192.168.0.200"}), octets)


def _import_list(octets: bytes) -> None:
    def read(profile: values.Profile) -> None:
        _imported(
            lambda text: find_machines_in_list(
                text, nodeconfig.read_workers(text, profile) or (), {"192.168.0.200"}
            ),
            octets,
        )

    _each(partial(read, profile) for profile in values.PROFILES)


def _guards(octets: bytes) -> None:
    text = _text(octets)
    guard_parse.parse_table_header(text)
    guard_parse.parse_table(text)
    guard_parse.parse_load_script(text)
    guard_parse.parse_held_table(text)
    guard_parse.build_observed_guard(text, text, text)


def _process(octets: bytes) -> None:
    running_nodes.parse_users(octets)
    running_nodes.find_option(running_nodes.parse_words(octets), "config", "c")


def _hardware(octets: bytes) -> None:
    text = _text(octets)
    memory, available = proc_files.parse_memory(text)
    found = facts.MachineFacts(
        cpu=proc_files.parse_cpu_model(text),
        nft=proc_files.parse_program_version(text),
        memory_bytes=memory,
        memory_available_bytes=available,
        disk_bytes=proc_files.parse_own_memory(text, 4096),
    )
    facts_report.encode_facts(found)


def _program_answer(octets: bytes) -> None:
    program_version.parse_version_answer(_text(octets))
    program_version.parse_file_name(_text(octets))


def _units(octets: bytes) -> None:
    units.parse_node_program(_text(octets))
    units.is_unedited(_text(octets))


_TYPED: Final[tuple[Callable[[str], object], ...]] = (
    values.validate_machine_name,
    values.validate_interface_name,
    values.normalize_ip_address,
    values.normalize_ip_network,
    values.validate_interface_address,
    values.validate_wireguard_key,
    Endpoint.parse,
    partial(Endpoint.parse, default_port=None),
    nodeconfig.parse_multiaddr,
    enrolment.parse_duration_s,
    partial(mtu.parse_mtu, network="10.77.0.0/20"),
)


def _typed(octets: bytes) -> None:
    """What is typed as an option's value."""
    _each(partial(read, _text(octets)) for read in _TYPED)


# What is said in the channel


def _ask(octets: bytes) -> None:
    """A control node's answer, as a member takes it. That nobody answers is no error of a reader."""
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.suppress(ControlNodeUnavailable):
        theirs.settimeout(1)
        theirs.sendall(octets[:100_000])
        theirs.shutdown(socket.SHUT_WR)
        client.send_request(ours, "GET", "/", host="a", read_s=5.0)


class _Closed(asyncio.Transport):
    """A transport of which nobody takes anything."""

    def abort(self) -> None:
        """Nothing is to be broken off."""


def _question(octets: bytes) -> None:
    """A member's request, as the control node takes it."""

    async def arrive() -> None:
        wire = http_protocol.HttpProtocol(exchange.ConnectedPeer("10.77.0.2"))
        wire.connection_made(_Closed())
        for begin in range(0, len(octets), 700):
            wire.data_received(octets[begin : begin + 700])
        wire.connection_lost(None)
        found = wire.question.result()
        if isinstance(found, exchange.HttpRequest):
            for said in found.query.values():
                dispatch._parse_number(said)
        else:
            assert isinstance(found, http_protocol.BadRequest | exchange.RequestTooLarge), found

    _own().loop.run_until_complete(arrive())


HTTP: Final = (
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
)
ASKED_HTTP: Final = (
    b"GET /v1/membership?newer_than=5&wait=50&whole=1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST /v1/keys HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /v1/keys HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
)


# Messages


def _line(prefix: str, octets: bytes) -> bytes:
    return armor.encode_line(prefix, octets).encode()


def _of_line(prefix: str, octets: bytes) -> bytes:
    return armor.decode_line(octets.decode(), prefix, what="x", most=1 << 30, hint="")


def _lined(prefix: str) -> mutate.Mutator:
    return mutate.within(mutate.msgpack_trees, partial(_of_line, prefix), partial(_line, prefix))


def _redeem(octets: bytes) -> None:
    enrolment.verify_redemption_proof(enrolment.read_redemption(octets), INVITATION.secret)


def _believe_signed(octets: bytes) -> None:
    signature = SIGNING.sign(b"qmesh membership 1\n" + octets)
    membership.verify_membership(membership.SignedMembership(octets, signature), VERIFIES, mesh=MESH)


def _believe_stored(octets: bytes) -> None:
    membership.verify_membership(membership.decode_membership(octets), VERIFIES, mesh=MESH)


def _update(octets: bytes) -> None:
    update = membership.read_update(octets)
    held = None if update.base is None else SIGNED
    membership.verify_membership(membership.apply_update(update, held), VERIFIES, mesh=MESH)


NOTICE: Final = retirement.build_notice(
    retirement.sign_retirement(RETIRED, MESH, SIGNING), MESH, source="10.77.0.1", nonce=bytes(12)
)


def _notice(octets: bytes) -> None:
    """What comes in by the tunnel of a machine whose control node is silent."""
    retirement.read_notice(octets, KEYS[1], SHARED, VERIFIES, mesh=MESH)


INITIATION: Final = build_initiation(
    base64.b64encode(bytes(range(32))).decode(), enrolment.derive_public_key(SHARED), 0.0
)


ARP_ANSWER: Final = address_conflicts.build_arp_probe(bytes(range(6)), "192.0.2.7")[:-14] + bytes(
    [192, 0, 2, 7, 1, 2, 3, 4, 5, 6, 192, 0, 2, 7]
)


def _arp_answer(octets: bytes) -> None:
    """Of a machine of the same network, whoever it is."""
    address_conflicts.read_conflict(octets, bytes(6), "192.0.2.7")


def _initiation(octets: bytes) -> None:
    """What comes in at WireGuard's port."""
    handshakes.read_initiation(octets, SHARED)


def _notice_signed(octets: bytes) -> None:
    signed = SIGNING.sign(b"qmesh retirement 1\n" + octets) + octets
    body = aead.encrypt_message(signed, SHARED, about=retirement.ABOUT, nonce=bytes(12))
    retirement.read_notice(NOTICE[:20] + body, KEYS[1], SHARED, VERIFIES, mesh=MESH)


def _conflict(octets: bytes) -> None:
    """What root of a member shows."""
    membership_conflict.read_proof(octets, SIGNED, VERIFIES, INVENTORY)


FILES_REQUEST: Final = node_files.NodeFilesRequest(
    name="b", reply_key=node_files.compute_reply_key(bytes(range(32))), key_store="/root/.config/keys.yml"
)
FILES_ANSWER: Final = node_files.encrypt_node_files(
    node_files.NodeFiles(config="p2p: {}\n", keys=KEY_STORE.encode()),
    FILES_REQUEST,
    member_key=OWN_KEY,
    shared=SHARED,
    private_key=bytes(range(1, 33)),
)


def _request_files(octets: bytes) -> None:
    """A request of a member that root of it made."""
    body = aead.encrypt_message(octets, SHARED, about=node_files.REQUEST, nonce=bytes(12))
    asked = node_files.decrypt_request(body, SHARED)
    files = node_files.NodeFiles(config="", keys=None)
    node_files.encrypt_node_files(files, asked, member_key=OWN_KEY, shared=SHARED, private_key=bytes(32))


def _read_files(octets: bytes) -> None:
    node_files.decrypt_node_files(
        octets, private_key=bytes(range(32)), member_private_key=PRIVATE, shared=SHARED
    )


def _report_keys(octets: bytes) -> None:
    body = aead.encrypt_message(octets, SHARED, about=key_digests.DIGESTS, nonce=bytes(12))
    reported = key_digests.decrypt_digests(body, SHARED)
    key_digests.find_different_keys(
        reported, key_digests.NodeIdentity(peer_key=b"aa"), SHARED, needed=key_digests.NODE_KEYS
    )


def _report_facts(octets: bytes) -> None:
    body = aead.encrypt_message(octets, SHARED, about=facts_report.FACTS, nonce=bytes(12))
    found = facts_report.decrypt_facts(body, SHARED, cores=range(1, 9))
    assert facts_report.decode_facts(facts_report.encode_facts(found)) == found


def _report_findings(octets: bytes) -> None:
    body = aead.encrypt_message(octets, SHARED, about=findings_report.FINDINGS, nonce=bytes(12))
    findings_report.decrypt_report(body, "0" * 32, SHARED)


def _collect(octets: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(octets[: 1 << 16])
        theirs.shutdown(socket.SHUT_WR)
        with contextlib.suppress(collection.NoCollection):
            list(collection.read_reports(ours, time.monotonic() + 5.0))


def _receive(octets: bytes, read: Callable[[socket.socket], object]) -> None:
    """What is read of a connection by which these octets came, and no more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(octets[: 1 << 16])
        theirs.shutdown(socket.SHUT_WR)
        read(ours)


def _read_answer(octets: bytes) -> None:
    with contextlib.suppress(ConnectionResetError):  # which ask_agent tells of
        _receive(octets, lambda ours: readers_client.receive_answer(ours, time.monotonic() + 5.0))
    ask.read_answer(octets.partition(b"\n")[2], Status)


def _unsealed(octets: bytes) -> None:
    enrolment.read_key_offer(aead.decrypt_message(octets, SHARED, about=enrolment.KEY_OFFER))


def _answer(octets: bytes) -> None:
    opened = file_exchange.decrypt_answer(file_exchange.parse_answer(_text(octets)), SHARED)
    membership.verify_membership(membership.decode_membership(opened), VERIFIES, mesh=MESH)


def _request(octets: bytes) -> None:
    enrolment.read_redemption(file_exchange.parse_request(_text(octets)).redemption)


def _plain(body: bytes) -> bytes:
    head = backup_file.MAGIC + backup_file.VERSION.to_bytes(2, "big") + b"\0"
    return head + body + hashlib.sha256(head + body).digest()


def _body(octets: bytes) -> bytes:
    return octets[len(backup_file.MAGIC) + 3 : -32]


def _restore(octets: bytes) -> None:
    backup_contents.parse_contents(backup_file.decode_backup(octets, None))


def _settings_of(octets: bytes) -> bytes:
    return bytes(msgspec.msgpack.decode(_body(octets))["settings"])


def _with_settings(octets: bytes) -> bytes:
    return backup_file.encode_backup(msgspec.structs.replace(BACKUP, settings=octets), None)


BACKUP: Final = backup_file.Backup(
    taken_at=NOW,
    written_by="0.1.0",
    settings=msgspec.json.encode(SETTINGS),
    private_key=PRIVATE.reveal(),
    signing_key=bytes(range(32)),
    registry=REGISTRY,
    withdrawn=("d",),
)
UPDATES: Final = tuple(
    msgspec.msgpack.encode(each)
    for each in (
        membership.build_full_update(NEWER),
        membership.Update(
            7, (membership.compute_difference(SIGNED.payload, NEWER.payload),), NEWER.signature
        ),
    )
)
_CONFIGS: Final = tuple(
    path.read_bytes() for path in sorted(CORPUS.glob("*.yml")) if path.stat().st_size < 3000
)

READERS: Final[dict[str, Reader]] = {
    each.name: each
    for each in (
        # In the order of who can reach them: strangers and members first, this machine's own last.
        Reader("question", (api,), _question, ASKED_HTTP, mutate.text),
        Reader("answer to a question", (api,), _ask, HTTP, mutate.text),
        Reader("redemption", (enrolment,), _redeem, (_json(REDEMPTION), _json(ANNOUNCED)), mutate.json_trees),
        Reader(
            "key offer",
            (enrolment,),
            enrolment.read_key_offer,
            (_json(enrolment.KeyOffer(KEYS[1])),),
            mutate.json_trees,
        ),
        Reader(
            "progress",
            (handover,),
            handover.read_progress,
            (_json(handover.HandoverProgress(holds=3, silent=("10.77.0.2",))),),
            mutate.json_trees,
        ),
        Reader(
            "request for node files",
            (node_files,),
            _request_files,
            (msgspec.msgpack.encode(FILES_REQUEST),),
            mutate.msgpack_trees,
        ),
        Reader("node files", (node_files,), _read_files, (FILES_ANSWER,), mutate.msgpack_trees),
        Reader(
            "digests of keys",
            (key_digests,),
            _report_keys,
            (msgspec.msgpack.encode(key_digests.KeyDigests(bytes(32), None, bytes(range(32)))),),
            mutate.msgpack_trees,
        ),
        Reader(
            "note of a member",
            (member_note,),
            lambda octets: member_note.decode_note(octets.decode("ascii", "replace")),
            (b"down", b"4@127.0.0.1,5@::1"),
            mutate.text,
        ),
        Reader(
            "what a machine speaks",
            (versions,),
            lambda octets: versions.rank_version(versions.decode_protocol(octets).qmesh),
            (versions.encode_protocol().encode(), b"3 2 0.2.0rc1.dev4+g12ab"),
            mutate.text,
        ),
        Reader(
            "facts of a member",
            (facts_report,),
            _report_facts,
            (facts_report.encode_facts(FACTS),),
            mutate.msgpack_trees,
        ),
        Reader("WireGuard's first message", (handshakes,), _initiation, (INITIATION,)),
        Reader("answer to an ARP probe", (address_conflicts,), _arp_answer, (ARP_ANSWER,)),
        Reader("notice of a retired key", (retirement,), _notice, (NOTICE,)),
        Reader(
            "notice of a retired key, signed",
            (retirement,),
            _notice_signed,
            (
                _json(
                    retirement.KeyRetirement(
                        mesh=MESH, machine="b", public_key=KEYS[1], reason="removed", at=5
                    )
                ),
            ),
            mutate.json_trees,
        ),
        Reader(
            "proof of a conflict",
            (membership_conflict,),
            _conflict,
            (membership_conflict.build_proof(NEWER, SIGNED, INVENTORY.revision),),
            mutate.msgpack_trees,
        ),
        Reader(
            "findings of a member",
            (findings_report,),
            _report_findings,
            (msgspec.msgpack.encode(["0" * 32, 3, 0, [["clock", "error", "a", "b", "c", "d"]]]),),
            mutate.msgpack_trees,
        ),
        Reader(
            "collected findings",
            (collection,),
            _collect,
            (collection.encode_line(collection.CollectedReport(machine="b", silence="older")),),
            mutate.json_trees,
        ),
        Reader(
            "findings of a child",
            (reporter,),
            lambda octets: reporter.read_answer(octets, code=1),
            (
                _json(reporter.CheckAnswer(findings=(failed_check_finding("a", "b", "c"),), revision=7)),
                b'{"error":"a","hint":"b","exit_code":3}',
            ),
            mutate.json_trees,
        ),
        Reader(
            "results of the process that proves",
            (claim_watch,),
            lambda octets: claim_watch.read_proof(ChildEnd(0, octets)),
            (
                _json(ProofLine(rules=90, results=(CLAIM_RESULT,))),
                _json(ProofLine(problem="a", printed=0)),
            ),
            mutate.json_trees,
        ),
        Reader(
            "question of a reader",
            (readers_server, questions),
            lambda octets: _receive(octets, readers_server.receive_question),
            tuple(f"{question}\n".encode() for question in questions.QUESTIONS),
            mutate.text,
        ),
        Reader(
            "answer to a reader",
            (readers_client, ask, questions),
            _read_answer,
            (questions.render_head(questions.AnswerHead(octets=len(STATUS))) + STATUS,),
            mutate.text,
        ),
        Reader(
            "what a command tells readers",
            (answers, view_answers),
            lambda octets: answers.select_shown(octets, view_answers.StatusAnswer, "status"),
            (STATUS,),
            mutate.json_trees,
        ),
        Reader("keys.yml", (key_store,), key_store.normalize_key_store, (KEY_STORE.encode(),), mutate.text),
        Reader(
            "sealed",
            (aead, enrolment),
            _unsealed,
            (
                aead.encrypt_message(
                    _json(enrolment.KeyOffer(KEYS[1])), SHARED, about=enrolment.KEY_OFFER, nonce=bytes(12)
                ),
            ),
        ),
        Reader(
            "what a member holds",
            (membership, aead),
            lambda octets: membership.decrypt_held_revision(
                aead.encrypt_message(octets, SHARED, about=membership.HOLDS, nonce=bytes(12)), SHARED
            ),
            (b"7",),
            mutate.json_trees,
        ),
        Reader("update", (membership,), _update, UPDATES, mutate.msgpack_trees),
        Reader("membership signed", (membership,), _believe_signed, (SIGNED.payload,), mutate.json_trees),
        Reader(
            "membership stored",
            (membership,),
            _believe_stored,
            (membership.encode_membership(SIGNED),),
            mutate.json_trees,
        ),
        Reader(
            "refusal to a member",
            (api,),
            client._build_refusal,
            (b'{"error":"no","hint":"see"}',),
            mutate.json_trees,
        ),
        Reader(
            "refusal to itself",
            (api,),
            server._build_probe_error,
            (b'{"error":"no","hint":"see"}',),
            mutate.json_trees,
        ),
        Reader(
            "query number",
            (api,),
            lambda octets: dispatch._parse_number(_text(octets)),
            (b"42",),
            mutate.text,
        ),
        Reader(
            "invitation",
            (enrolment, armor),
            lambda octets: enrolment.parse_invitation(_text(octets)),
            (INVITATION.text().encode(),),
            _lined(enrolment.PREFIX),
        ),
        Reader(
            "request",
            (file_exchange, armor),
            _request,
            (file_exchange.JoinRequest(MESH, _json(REDEMPTION)).text().encode(),),
            _lined(file_exchange.REQUEST_PREFIX),
        ),
        Reader(
            "answer",
            (file_exchange, armor),
            _answer,
            (
                file_exchange.encrypt_answer(
                    membership.encode_membership(SIGNED),
                    identifier="0" * 32,
                    preshared=SHARED,
                    nonce=bytes(12),
                )
                .text()
                .encode(),
            ),
            _lined(file_exchange.ANSWER_PREFIX),
        ),
        Reader("estate", (handover, image), _use_estate, (ESTATE,), mutate.msgpack_trees),
        Reader("registry", (registry,), _use_registry, (REGISTRY, IN_HANDOVER), images.mutated),
        Reader(
            "backup",
            (backup_file, backup_contents),
            _restore,
            (backup_file.encode_backup(BACKUP, None),),
            mutate.within(mutate.msgpack_trees, _body, _plain),
        ),
        Reader(
            "settings in a backup",
            (backup_contents, documents),
            _restore,
            (backup_file.encode_backup(BACKUP, None),),
            mutate.within(mutate.json_trees, _settings_of, _with_settings, 1.0),
        ),
        Reader("config.yml", (nodeconfig, node_restarts), _config, _CONFIGS, mutate.text),
        Reader(
            "import of a list",
            (imports,),
            _import_list,
            tuple(each for each in _CONFIGS if b"tcp" in each),
            mutate.text,
        ),
        Reader(
            "import of lines",
            (imports,),
            _import_lines,
            (b"root@192.168.0.200:22/4\n[fd00::201]/2, 192.168.0.203 # c\n",),
            mutate.text,
        ),
        Reader(
            "typed",
            (values, enrolment, endpoints),
            _typed,
            (
                b"machine-a",
                b"10.77.0.0/20",
                b"[2001:db8::5]:51820",
                b"/ip4/10.77.0.2/tcp/40000",
                b"24h",
                b"1380",
            ),
            mutate.text,
        ),
        Reader(
            "environment",
            (ssh_session,),
            lambda octets: list(ssh_session.parse_sessions(octets)),
            (b"A=b\0SSH_CONNECTION=192.0.2.1 50000 192.0.2.2 22\0",),
            mutate.text,
        ),
        Reader(
            "process", (processes,), lambda octets: processes.parse_stat(_text(octets)), (STAT,), mutate.text
        ),
        Reader("unit", (units,), _units, (UNIT,), mutate.text),
        Reader("node process", (running_nodes,), _process, (PROCESS,), mutate.text),
        Reader(
            "facts of hardware",
            (proc_files,),
            _hardware,
            (b"MemTotal: 5 kB\nmodel name\t: A B\n",),
            mutate.text,
        ),
        Reader("program answer", (program_version,), _program_answer, (ANSWER,), mutate.text),
        Reader(
            "guard",
            (guard_parse,),
            _guards,
            (render_load_script(GUARD).encode(), render_held_script(GUARD).encode()),
            mutate.text,
        ),
        *(
            Reader(name, (documents, state), _of_state(name, read), (_json(value),), mutate.json_trees)
            for name, read, value in _OF_STATE
        ),
        *(
            Reader(
                name, (documents, state), _of_state(name, read), (mutate.KEY.encode() + b"\n",), mutate.text
            )
            for name, read in (
                ("private.key", lambda state: state.keys.read_private_key()),
                ("joining.key", lambda state: state.keys.read_joining_key()),
                ("preshared.key", lambda state: state.keys.read_preshared_key()),
            )
        ),
        Reader(
            "next.key",
            (documents,),
            _of_state("next.key", lambda state: state.keys.ensure_next_key()),
            (mutate.KEY.encode(),),
            mutate.text,
        ),
        Reader(
            "config.yml on the disk",
            (node_config,),
            _of_state("config.yml", lambda state: node_config.read(ConfigDirectory(state.directory, None))),
            (b"p2p:\n  x: 1\n",),
        ),
        Reader(
            "answers of name servers",
            (dns,),
            lambda octets: list(dns.build_endpoints(_text(octets).split(), 51820)),
            (b"10.0.0.1 2001:db8::1 fe80::1%eth0",),
            mutate.text,
        ),
        Reader(
            "signing.key",
            (documents, state),
            _of_state("signing.key", lambda state: state.keys.read_signing_key()),
            (bytes(32),),
        ),
        Reader(
            "estate.msgpack",
            (documents,),
            _of_state("estate.msgpack", State.handover_payload),
            (ESTATE,),
            mutate.msgpack_trees,
        ),
        Reader(
            "guard.nft", (guard_parse,), _ports_closed, (render_load_script(GUARD).encode(),), mutate.text
        ),
        Reader(
            "reserved ports at boot",
            (reserved_ports,),
            _bring_back,
            (b'{"ours":[40000,40001],"others":[]}',),
            mutate.json_trees,
        ),
        Reader(
            "this machine's name",
            (machine_name,),
            _of_state(machine_name.SETTINGS, lambda each: machine_name.read_machine_name(each.directory)),
            (b'{"name":"fra-1","up":true}', b'{"name":5}'),
            mutate.json_trees,
        ),
        Reader(
            "answer to a test of notifications",
            (notify_socket,),
            notify_socket.parse_results,
            (_json(notify_socket.ReceiverResults((notify_socket.ReceiverResult("x", _DELIVERED),))),),
            mutate.json_trees,
        ),
        Reader(
            "what a sent notification came to",
            (delivery,),
            lambda octets: delivery.judge_answer(octets, 0, WEB_URL),
            (_json(delivery.HttpOutcome(404, "Not Found", "h.example", "no such hook", "")),),
            mutate.json_trees,
        ),
        Reader(
            "count of the guard's alterations",
            (alterations,),
            lambda octets: alterations.parse_alterations("holder", _text(octets)),
            (b"12-34 5 nft (process 7)",),
            mutate.text,
        ),
        Reader(
            "URL of a receiver",
            (url,),
            lambda octets: url.parse_web_url(_text(octets)),
            (WEB_ADDRESS,),
            mutate.text,
        ),
        Reader("health", (agent_health,), agent_health.parse_health, (_json(HEALTH),), mutate.json_trees),
        Reader(
            "restarts",
            (supervisor,),
            lambda octets: supervisor.parse_restarts(_text(octets)),
            (_json(HEALTH.restarts),),
            mutate.json_trees,
        ),
        Reader(
            "rules by netlink",
            (rule_messages,),
            lambda octets: rule_messages.parse_rules([octets], lambda _: True),
            (_RULE,),
        ),
        Reader("interfaces of a drill", (live_network,), _live_link, (INTERFACE_OF_DRILL,)),
        Reader("packets of a drill", (shots,), shots.read_packet_trace, (PACKET_OF_DRILL,)),
        Reader("frames of a drill", (frames,), _frame, (frames.render_frame(PACKET_OF_DRILL, bytes(6)),)),
        Reader("sets of ipset", (ipset_messages,), _ipset, (IPSET,)),
        Reader(
            "sets by netlink",
            (rule_messages,),
            lambda octets: rule_messages.parse_sets([octets], lambda _: True),
            (_SET,),
        ),
        Reader(
            "elements by netlink",
            (rule_messages,),
            lambda octets: rule_messages.parse_elements([octets]),
            (_ELEMENT,),
        ),
        Reader(
            "elements of sets for the prover",
            (set_elements,),
            lambda octets: set_elements.parse_set_elements([octets], has_timeout=False),
            (_ELEMENT,),
        ),
        Reader("report about a proof", (report_page,), _verify_report, (REPORT,), mutate.text),
        Reader(
            "what a report about a proof says",
            (report_page,),
            lambda octets: _verify_report(_wrap_report(octets)),
            (_json(REPORT_FACTS),),
            mutate.json_trees,
        ),
        Reader(
            "signature of a report",
            (report_keys,),
            lambda octets: report_keys.check_signature(REPORT, octets),
            (report_keys.sign_octets(REPORT, REPORT_KEYS).encode(),),
            mutate.text,
        ),
        Reader("JSON of nft's", (nft_hash,), nft_hash.hash_nft_listing, (_NFT_JSON,), mutate.json_trees),
        Reader(
            "interfaces in a file with rules",
            (given_rules,),
            given_rules.list_interfaces,
            (_NFT, _NFT_JSON),
        ),
        Reader(
            "tables of iptables-legacy",
            (legacy_iptables,),
            lambda octets: legacy_iptables.parse_table("ip", octets[:84], octets[84:]),
            (_LEGACY,),
        ),
        Reader(
            "what routers said",
            (path_mtu,),
            path_mtu.parse_memory,
            (b'{"boot": "x", "told": {"192.0.2.1:51820": [1400, 12.5]}}',),
            mutate.json_trees,
        ),
        Reader(
            "tables by netlink",
            (tables_and_chains, nftables_messages),
            lambda octets: tables_and_chains.parse_tables([octets]),
            (
                struct.pack("=IHHII", 36, 2560, 0, 1, 0)
                + bytes(4)
                + struct.pack("=HH4s", 8, 1, b"t")
                + struct.pack("=HHI", 8, 2, 0),
            ),
        ),
        Reader(
            "chains by netlink",
            (tables_and_chains,),
            lambda octets: tables_and_chains.parse_chains([octets]),
            (_CHAIN,),
        ),
        Reader(
            "wireguard by UAPI",
            (uapi,),
            lambda octets: uapi.parse_device("q", uapi.extract_lines("q", octets.decode("ascii", "replace"))),
            (UAPI,),
            mutate.text,
        ),
        Reader(
            "wireguard by netlink",
            (kernel, genetlink_messages),
            lambda octets: kernel.parse_device("q", [octets]),
            (_dump(),),
        ),
        Reader(
            "netlink",
            (netlink_messages, table_events),
            _netlink,
            (_dump(), rtnetlink_messages.build_link_request("qmesh0")),
        ),
        Reader("netlink family", (genetlink_messages,), _netlink_family, (FAMILY,)),
        Reader("link", (rtnetlink_messages,), _link, (LINK,)),
        Reader("addresses", (rtnetlink_messages,), _addresses, (ADDRESS,)),
        Reader("kernel's routes", (route_messages,), _kernel_route, (ROUTE, ROUTE_OF_TWO_HOPS, WAY)),
        Reader("kernel's rules", (route_messages,), _kernel_rule, (RULE,)),
        Reader("IPsec policies", (ipsec_policies,), _ipsec_policy, (IPSEC_POLICY,)),
        Reader("reserved lists", (reserved_lists,), _reserved_lists, RESERVED_LISTS),
        Reader("saved rules", (saved_rules,), _saved_rules, SAVED_RULES),
        Reader(
            "names of eBPF programs",
            (bpf_programs,),
            _bpf_program_name,
            (bytes(64) + b"drops".ljust(16, b"\0"),),
        ),
        Reader("filters of interfaces", (packet_programs,), _packet_programs, (FILTER, XDP)),
        Reader("connections", (sock_diag,), _tcp_sockets, (bytes(range(100)),)),
        Reader("owner of a connection", (caller_owner,), _caller_owner, (CALLER_OWNER,)),
        Reader(
            "sockets",
            (socket_lists, ports),
            lambda octets: list(socket_lists.parse_sockets("tcp", octets.splitlines()[1:], lambda *_: True)),
            (TCP,),
            mutate.text,
        ),
        Reader(
            "routes",
            (local_addresses,),
            lambda octets: local_addresses.find_network_in_routes(_text(octets).splitlines(), "10.77.0.9"),
            (ROUTES,),
            mutate.text,
        ),
        Reader(
            "routes of IPv6",
            (local_addresses,),
            lambda octets: local_addresses.find_network_in_routes(_text(octets).splitlines(), "fd77::9"),
            (ROUTES_6,),
            mutate.text,
        ),
        Reader(
            "reserved ports",
            (reserved_ports, ports),
            lambda octets: ports.parse_reserved_ports(_text(octets)),
            (b"22,40000-40002,50000\n",),
            mutate.text,
        ),
    )
}
