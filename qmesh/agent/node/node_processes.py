"""The node's processes on this machine: looked at for `status`, `check` and the agent."""

from __future__ import annotations

import time
from collections import Counter

import msgspec

from qmesh.agent.local import Local, load_local
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.node.other_nodes import FindOtherNodes, ask_other_nodes
from qmesh.errors import QmeshError
from qmesh.host import config_directory
from qmesh.host.network.sockets.node_sockets import SocketObserver, SocketPorts
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock
from qmesh.mesh.audit.surroundings import NodeReport
from qmesh.mesh.inventory import list_worker_ports
from qmesh.mesh.node_keys.key_store import KEY_STORE, normalize_key_store, read_identity
from qmesh.mesh.node_processes.control import judge_control
from qmesh.mesh.node_processes.expected import ExpectedNode, build_expected_node, list_control_ports
from qmesh.mesh.node_processes.observed import NodeSockets
from qmesh.mesh.node_processes.other_nodes import find_taken_ports, set_aside_other_nodes
from qmesh.mesh.node_processes.reading_record import ConfigFacts, ReadingRecord, Stamp
from qmesh.mesh.node_processes.readings import digest_config, digest_keys, is_current, update_readings
from qmesh.mesh.node_processes.record import ProcessRecord
from qmesh.mesh.node_processes.unconnected import find_unconnected_machines
from qmesh.mesh.node_processes.workers import find_foreign_workers, judge_workers
from qmesh.mesh.nodeconfig import ParsedConfig, parse_config, profile_facts
from qmesh.mesh.rollback import BootTimestamp
from qmesh.mesh.systemd.node_restarts import is_managed_by_qmesh
from qmesh.mesh.values import CONTROL_PORTS, STREAM_PORT

_PRIVATE = 0o077


class NodeLook(msgspec.Struct, frozen=True, kw_only=True):
    """The node on this machine at one moment.

    every: all sockets that were looked at; seen: those without the ones of other nodes on this machine.
    readings: None where its config.yml is not known, or not read.
    stream_peers: how many connections each tunnel address has to the control process here.
    """

    now: BootTimestamp
    expected: ExpectedNode
    every: NodeSockets
    seen: NodeSockets
    readings: ReadingRecord | None
    report: NodeReport
    stream_peers: dict[str, int]

    @property
    def is_begun(self) -> bool:
        """Whether the node's file has a list that qmesh wrote: before that, no process should run."""
        return self.readings is not None and self.readings.facts.is_managed


def note_readings(state: State) -> None:
    """Remember what the node's processes read, where a command has just written it.

    The agent looks every few seconds: by then processes were started with it, and it may be another already.
    """
    now = boot_clock.now()
    try:
        record = state.process_record.read_valid()
        readings = read_readings(load_local(state), record)
        known = ProcessRecord(boot=now.boot) if record is None or not record.is_of(now) else record
        with state.lock():
            state.process_record.write(msgspec.structs.replace(known, readings=readings))
    except QmeshError:  # it is only a note; what is wrong with the file is a finding
        return


def read_readings(here: Local, record: ProcessRecord | None) -> ReadingRecord | None:
    """What the node's processes read of config.yml, and since when.

    The file is read only where it is another than before. None where there is none.
    Raises QmeshError where it cannot be read, or does not load.
    """
    directory = here.settings.node_directory
    stamp = None if directory is None else config_directory.read_stamp(directory, node_directory.FILE_NAME)
    if directory is None or stamp is None:
        return None
    current = _find_current(here, record, stamp, _read_keys_stamp(here))
    if current is not None:
        return current
    file = node_config.read(directory)
    return None if file.text is None else build_readings(here, record, stamp, file.text, file.mode)


def build_readings(
    here: Local, record: ProcessRecord | None, stamp: Stamp, text: str | ParsedConfig, mode: int | None
) -> ReadingRecord:
    """The same for a file that was read already. Raises BadInput where it does not load.

    stamp: the file's, from before it was read.
    """
    keys_stamp = _read_keys_stamp(here)
    current = _find_current(here, record, stamp, keys_stamp)
    if current is not None:
        return current
    before = None if record is None else record.readings
    profile, config = here.inventory.node, parse_config(text)
    return update_readings(
        before,
        digest_config(
            config,
            profile,
            here.inventory.core_numbers(here.settings.name),
            more=read_identity(config, None).values,
        ),
        profile=profile,
        facts=ConfigFacts(
            is_managed=is_managed_by_qmesh(config, here.inventory),
            is_private=mode is not None and not mode & _PRIVATE,
            control_ports=list_control_ports(config, profile),
        ),
        stamp=stamp,
        now=boot_clock.now(),
        wall_s=time.time(),
        keys=None if keys_stamp is None else (_digest_keys(here, before), keys_stamp),
    )


def _read_keys_stamp(here: Local) -> Stamp | None:
    """Of the keys.yml beside config.yml; None where there is none, or the node here writes it itself."""
    directory, mesh = here.settings.node_directory, here.inventory
    if directory is None or mesh.control == here.settings.name or not profile_facts(mesh.node).key_store:
        return None
    try:
        return config_directory.read_stamp(directory, KEY_STORE)
    except QmeshError:  # which is a finding of the keys
        return None


def _digest_keys(here: Local, before: ReadingRecord | None) -> str:
    """Of what keys.yml says; as it was where that cannot be read, which is a finding of the keys."""
    assert here.settings.node_directory is not None
    try:
        found = config_directory.read(here.settings.node_directory, KEY_STORE)
        return digest_keys(normalize_key_store(b"" if found is None else found.octets))
    except QmeshError:
        return digest_keys(b"") if before is None or before.keys is None else before.keys.digest


def _find_current(
    here: Local, record: ProcessRecord | None, stamp: Stamp, keys_stamp: Stamp | None
) -> ReadingRecord | None:
    """What is remembered, where it is of the files as they are and of this start of the machine."""
    before = None if record is None else record.readings
    cores = here.inventory.core_numbers(here.settings.name)
    is_so = before is not None and before.boot == boot_clock.now().boot
    return (
        before
        if is_so and before is not None and is_current(before, stamp, keys_stamp, here.inventory.node, cores)
        else None
    )


def look_at_node(
    state: State,
    here: Local,
    *,
    record: ProcessRecord | None,
    readings: ReadingRecord | None,
    observer: SocketObserver | None = None,
    find_other_nodes: FindOtherNodes = ask_other_nodes,
) -> NodeLook:
    """Look at the sockets of the node's processes, and judge them. Raises MachineRefused.

    find_other_nodes: tells those of another node on this machine from this one's, as `ask_other_nodes`.
    """
    now, settings = boot_clock.now(), here.settings
    directory = settings.node_directory
    is_private = readings is not None and readings.facts.is_private and directory is not None
    expected = build_expected_node(
        here.inventory,
        settings.name,
        closed_ports=state.list_closed_ports(),
        readers={0, directory.owner or 0} if is_private and directory is not None else None,
        removed=settings.removed,
    )
    ports = () if readings is None or not expected.is_control else readings.facts.control_ports
    every = (observer or SocketObserver()).observe_sockets(_list_socket_ports(here, expected, ports))
    others = {} if directory is None else find_other_nodes(directory, every)
    seen = set_aside_other_nodes(every, others)
    timed = None if record is None or not record.is_of(now) else record
    control = judge_control(ports, seen, readings) if not settings.removed else None
    streams = dict(Counter(each.remote for each in seen.connections if each.port == STREAM_PORT))
    is_called = timed is not None and control is not None and control.state == "alive"
    report = NodeReport(
        name=settings.name,
        control_node=here.inventory.control,
        directory=None if directory is None else str(directory.path),
        workers=judge_workers(expected, seen, readings, {} if timed is None else timed.absent, now.at_s),
        control=control,
        foreign=find_foreign_workers(expected, every),
        taken=find_taken_ports(expected, ports, every, others),
        unconnected=find_unconnected_machines(timed.unconnected, here.inventory, streams, now.at_s)
        if timed is not None and is_called
        else (),
    )
    return NodeLook(
        now=now,
        expected=expected,
        every=every,
        seen=seen,
        readings=readings,
        report=report,
        stream_peers=streams,
    )


def _list_socket_ports(
    here: Local, expected: ExpectedNode, control_ports: tuple[tuple[str, int], ...]
) -> SocketPorts:
    workers = list_worker_ports(here.inventory)
    stream = frozenset({STREAM_PORT}).intersection(CONTROL_PORTS[expected.profile])
    told = {
        protocol: {port for each, port in control_ports if each == protocol} for protocol in ("tcp", "udp")
    }
    return SocketPorts(
        tcp=expected.closed | stream | told["tcp"],
        udp=frozenset(told["udp"]),
        at=expected.closed | stream,
        to=stream,
        workers=workers,
        called=workers if expected.is_control else range(0),
    )


def look_for_command(state: State, here: Local) -> tuple[NodeLook, ProcessRecord | None]:
    """Look once, for a command, with what the agent remembers; and that."""
    record = state.process_record.read_valid()
    try:
        readings = read_readings(here, record)
    except QmeshError:  # which is a finding of config.yml
        readings = None
    return look_at_node(state, here, record=record, readings=readings), record
