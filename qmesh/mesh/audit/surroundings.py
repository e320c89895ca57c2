"""What of a machine an audit looks at, besides its `NodeState`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.links.address_conflicts import AddressConflict
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.node_processes.control import ControlProcess
from qmesh.mesh.node_processes.other_nodes import TakenPort
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.node_processes.unconnected import UnconnectedMachine
from qmesh.mesh.node_processes.workers import ForeignWorker, WorkerProcess
from qmesh.mesh.nodeconfig import ParsedConfig, Setting, refuse_oddities, scan_config
from qmesh.mesh.nodeconfig.program_version import NodeProgram
from qmesh.mesh.ports.reserved_lists import ReservedList
from qmesh.mesh.protocol.key_digests import NodeKey
from qmesh.mesh.protocol.membership_conflict import MembershipConflict
from qmesh.mesh.protocol.versions import SpokenProtocol
from qmesh.mesh.reachability.announcements import MissingAnnouncement
from qmesh.mesh.reachability.unsupported_options import UnsupportedOption
from qmesh.mesh.routes.detours import Detour
from qmesh.mesh.routes.discards import DiscardedWay
from qmesh.mesh.routes.overlaps import NetworkOverlap
from qmesh.mesh.standing_proof.record import StandingProof
from qmesh.mesh.sysctls import Weakness
from qmesh.mesh.systemd.instructions import NodeHost, UnstartedUnit
from qmesh.mesh.systemd.unit_failures import UnitFailure
from qmesh.mesh.values import Endpoint, Profile, SecretStruct

SERVICE: Final = "membership service"
HOLDER: Final = "holder of the guard"
CONTROL_NODE: Final = "answers of the control node"
LOOK: Final = "look at this machine"
"""Parts of the agent: its own service, its requests to the control node, and its looks."""

Change: TypeAlias = Literal["unconfirmed", "undone"]


class KeyFile(msgspec.Struct, frozen=True):
    """A private key's file: WireGuard's, or on the control node the one that signs.

    wanted: the public key that the mesh knows.
    mode: permission bits; None when there is no such file.
    public_key: of the key in it; None when that is no key.
    closing: the command after which no other user reads it.
    """

    path: str
    wanted: str
    mode: int | None
    public_key: str | None
    closing: str = ""


class SecretFile(msgspec.Struct, frozen=True):
    """Another file that only its owner may read. mode: permission bits; None when there is no such file.

    closing: the command after which no other user reads it.
    """

    path: str
    mode: int | None
    closing: str = ""


NEW_CONFIG: Final = "/run/config.yml.new"
"""Where a config.yml waits that is about to be written into another file."""


class FileObstacle(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps a file from being replaced. path: of the file, or of its directory.

    reason: in words, after the path; cure: what to do, with the command.
    fill: the command that writes `NEW_CONFIG` into it, where it is a mount point; empty where it is none.
    forbids_change: whether neither its mode nor its content can be changed.
    """

    path: str
    reason: str
    cure: str
    fill: str = ""
    forbids_change: bool = False


class ConfigFile(SecretStruct, frozen=True):
    """The node's config.yml. text, mode: None when there is no such file; the text is never shown.

    unreadable, cure: why its text could not be read, though it is there, and what to do.
    closing: the command after which no other user reads it.
    is_utf16: whether it is that, and not UTF-8.
    keys: keys.yml, to which it leads; None where that is not known.
    obstacle: what keeps it from being replaced; None where nothing does.
    scanned: the text parsed, where that was done already: of thousands of workers it takes long.
    """

    path: str
    text: str | None
    mode: int | None
    unreadable: str | None = None
    cure: str = ""
    closing: str = ""
    is_utf16: bool = False
    keys: SecretFile | None = None
    obstacle: FileObstacle | None = None
    scanned: ParsedConfig | None = None

    def scan(self) -> ParsedConfig:
        """The file with its oddities. Raises BadInput where it is YAML to no node."""
        return self.scanned or scan_config(self.text or "", is_utf16=self.is_utf16)

    def parse(self) -> ParsedConfig:
        """The file, where every node reads the same in it. Raises BadInput."""
        parsed = self.scan()
        refuse_oddities(parsed)
        return parsed


class KeyStoreFile(SecretStruct, frozen=True, kw_only=True):
    """The node's keys.yml, where config.yml leads. octets: None when there is no such file; never shown.

    is_beside_config: whether a keys.yml is in the directory of config.yml.
    unreadable, cure: why it could not be read, though it is there, and what to do.
    obstacle: what keeps it from being replaced; None where nothing does.
    """

    path: str
    octets: bytes | None
    is_beside_config: bool
    unreadable: str | None = None
    cure: str = ""
    obstacle: FileObstacle | None = None


class OtherKeys(msgspec.Struct, frozen=True, kw_only=True):
    """A machine whose node has other keys than the control node's. since: a time, in words.

    may_fetch: whether the machine may fetch them.
    """

    machine: str
    keys: tuple[NodeKey, ...]
    since: str
    may_fetch: bool


class FlushingUnit(msgspec.Struct, frozen=True):
    """A unit that flushes all rules. answered: whether qmesh's drop-in for it loads the guard again."""

    unit: str
    answered: bool


class SilentWorkers(msgspec.Struct, frozen=True):
    """Cores of a machine whose workers do not answer. are_all: whether no other worker of it answers.

    why: as far as this machine can tell. elsewhere: the addresses at which something has their ports instead.
    """

    machine: str
    address: str
    cores: tuple[int, ...]
    are_all: bool
    why: SilenceReason = ""
    elsewhere: tuple[str, ...] = ()


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """The node's processes on this machine.

    name, control_node: this machine, and the control node. directory: of config.yml, where it is known.
    workers: by core, of this machine. control: None where it should not run, or cannot be known.
    foreign: workers whose cores are not this machine's.
    taken: ports of this node's that another node on this machine has.
    unconnected: on the control node, machines of whose workers too few are connected.
    """

    name: str
    control_node: str
    directory: str | None = None
    workers: tuple[WorkerProcess, ...] = ()
    control: ControlProcess | None = None
    foreign: tuple[ForeignWorker, ...] = ()
    taken: tuple[TakenPort, ...] = ()
    unconnected: tuple[UnconnectedMachine, ...] = ()


class PortContext(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit has to know of a machine's ports besides who listens.

    untouched: ports that others have to reach, with what for. of_ssh: those at which SSH is served.
    asked: ports that the guard should close as an option says. left_open: those open on purpose.
    programs: who listens, by port, as far as that is known.
    """

    untouched: Mapping[int, str] = {}
    of_ssh: frozenset[int] = frozenset()
    asked: tuple[int, ...] = ()
    left_open: tuple[int, ...] = ()
    programs: Mapping[int, str] = {}


class AgentStatus(msgspec.Struct, frozen=True):
    """This machine's agent, where it runs.

    silent: why it does not answer; None where it does.
    troubles: what it reports to be wrong with its parts.
    restarts: which of them were restarted lately, and why.
    restart: the command that restarts it.
    outdated: what runs another version than the installed one, the holder of the guard too.
    """

    silent: str | None
    troubles: tuple[AgentTrouble, ...]
    restart: str
    restarts: tuple[AgentTrouble, ...] = ()
    outdated: tuple[AgentTrouble, ...] = ()


class AgentTrouble(msgspec.Struct, frozen=True):
    """What is wrong with a part of the agent, and what to do; that is empty where nothing is known."""

    part: str
    reason: str
    hint: str


class TriedEndpoint(msgspec.Struct, frozen=True):
    """Where a silent machine should be. is_echoed: whether a ping comes back; has_route: or can leave.

    translated: where this machine, which has no IPv4, reaches it by the translation of its network (NAT64).
    discard: what of this machine's own routes discards the packets there; None for nothing.
    """

    endpoint: Endpoint
    has_route: bool
    is_echoed: bool
    translated: Endpoint | None = None
    discard: DiscardedWay | None = None


class LinkContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is heard of other machines, as the agent says, and what of the way to silent ones works.

    unasked: on the control node, the machines whose agents ask for no membership, and for how many seconds.
    tried: by public key, of some that are silent. listen_port: of this machine's WireGuard.
    unreachable: machines without any worker that answers, and that answer no ping through the tunnel either.
    conflict: another machine that has this one's address, from which it sends to silent ones; None for none.
    discarded: by machine, silent or not yet, what of this machine's own routes discards what is sent there.
    """

    report: LinkReport = LinkReport()
    unasked: tuple[tuple[str, float], ...] = ()
    tried: Mapping[str, tuple[TriedEndpoint, ...]] = {}
    unreachable: frozenset[str] = frozenset()
    listen_port: int = 0
    conflict: AddressConflict | None = None
    discarded: Mapping[str, DiscardedWay] = {}


class BlackHole(msgspec.Struct, frozen=True):
    """A path that drops large packets and sends no error.

    to: the machine at the other end; by: the endpoint of its WireGuard; sent, passes: bytes of a packet in
    the tunnel that does not arrive, and of the largest that does, or None where that is too small for a MTU.
    direction: in which they are lost: to that machine, from it, or both.
    """

    to: str
    by: str
    sent: int
    passes: int | None
    direction: Literal["to", "from", "both"] = "both"


class NarrowPath(msgspec.Struct, frozen=True):
    """A path to an endpoint that the tunnel's packets do not fit once WireGuard has wrapped them.

    mtu: bytes of a packet that it carries.
    """

    endpoint: Endpoint
    mtu: int


class ClockOffset(msgspec.Struct, frozen=True):
    """What this machine's clock differs by. seconds: it is ahead by that; less than 0 where it is behind.

    than: what it was compared with. may_be_ahead: whether that is as it should be, as with what has happened.
    """

    seconds: float
    than: str
    may_be_ahead: bool = False


RUNS: Final = AgentStatus(silent=None, troubles=(), restart="")
"""An agent that is well."""


class AuditContext(msgspec.Struct, frozen=True, kw_only=True):
    """What of a machine matters besides its `NodeState`.

    public_key: the one that the mesh knows this machine by.
    names: of machines, by public key.
    members: tunnel addresses of its machines, by name.
    workers: the mesh's worker list, in core order.
    settings: what else the node's config.yml should have here; nothing before node 2.1.
    own_name: this machine's.
    may_fetch: whether this machine may fetch the node's files.
    config: None when it is not known where the node's config.yml is.
    control: name of the control node.
    missing_announcements: machines without an address for the network, all or this one, as far as it is told.
    unsupported: options of the mesh that its node's program does not support.
    own_addresses: this machine's own, but for those that only it or its link reaches.
    programs: those that run the node here, or that its units would start.
    key_store: None where config.yml does not tell where it is.
    other_keys: on the control node, the machines whose nodes have other keys.
    ephemeral: first and last port that an outgoing connection may take; None when that is not known.
    reserved: ports that it may not take. can_reserve: whether that can be changed from here.
    reserved_lists: what files on this machine set them to; only where a port of the mesh is missing.
    listeners: address and port of each listening TCP socket.
    ports: what else there is to know of ports.
    taken_down: whether the tunnel is down because `qmesh down` said so.
    removed: whether the mesh has removed this machine; then it should have no tunnel.
    agent: None where none runs.
    unanswered: why the membership service does not answer this machine's question; None where it does, or
        where it was not asked.
    unwritable: on the control node, why its registry takes no change now; None where it does.
    apart: what the control node speaks, where this machine's qmesh does not understand that.
    obstacles: what other programs' rules do to the mesh's packets.
    suspects: programs that see these packets too, and that can't be read.
    proof: what this machine's agent has proved of the guard; None where nothing.
    weaknesses: what its kernel is set to.
    flusher: None where no unit that runs flushes all rules, as far as can be told.
    held: whether the guard's second table is there, which no flush removes.
    saved_rules: files with rules of other firewalls in which there are tables of qmesh.
    failed_firewalls: units that load other firewalls, and have failed.
    unstarted: units of qmesh's own that no boot starts.
    host: how it runs the node's processes.
    is_control_first: whether its unit lets the control process start before the workers; None without one.
    silent: workers that do not answer, as far as this machine can tell.
    unit_failures: how the units of those of this machine ended.
    node: the node's processes on this machine; None where they were not looked at.
    black_hole: on the path to the control node, where there is one.
    path_obstacles: what drops routers' messages of packets that are too large; only with a black hole.
    narrow_path: to the control node, where the tunnel's packets do not fit it.
    links: what is heard of the other machines.
    retired_since: since when the mesh has another key for this machine, in words; empty where it has not.
    conflict: on the control node, what a member showed that contradicts its registry.
    detours: packets for members that do not go into the tunnel.
    overlaps: what else of this machine's network has addresses of the tunnel's.
    change: of `apply --confirm`, that waits to be confirmed, or that was not.
    clock: None where this machine's clock was not compared.
    facts: what machines have and run, by name, as they told lately: on the control node of all, elsewhere of
        this one.
    """

    public_key: str
    names: Mapping[str, str]
    members: Mapping[str, str]
    workers: tuple[str, ...]
    profile: Profile
    is_control: bool
    key_files: tuple[KeyFile, ...]
    secret_files: tuple[SecretFile, ...]
    config: ConfigFile | None
    listeners: tuple[tuple[str, int], ...]
    ports: PortContext = PortContext()
    own_name: str = ""
    may_fetch: bool = False
    key_store: KeyStoreFile | None = None
    other_keys: tuple[OtherKeys, ...] = ()
    taken_down: bool = False
    removed: bool = False
    agent: AgentStatus | None = RUNS
    unanswered: str | None = None
    unwritable: AgentTrouble | None = None
    apart: SpokenProtocol | None = None
    obstacles: tuple[Obstacle, ...] = ()
    suspects: tuple[Obstacle, ...] = ()
    proof: StandingProof | None = None
    weaknesses: tuple[Weakness, ...] = ()
    flusher: FlushingUnit | None = None
    held: bool = True
    saved_rules: tuple[SavedRules, ...] = ()
    failed_firewalls: tuple[str, ...] = ()
    unstarted: tuple[UnstartedUnit, ...] = ()
    change: Change | None = None
    settings: tuple[Setting, ...] = ()
    host: NodeHost = NodeHost(has_units=False)
    is_control_first: bool | None = None
    silent: tuple[SilentWorkers, ...] = ()
    unit_failures: tuple[UnitFailure, ...] = ()
    node: NodeReport | None = None
    black_hole: BlackHole | None = None
    path_obstacles: tuple[Obstacle, ...] = ()
    narrow_path: NarrowPath | None = None
    links: LinkContext = LinkContext()
    retired_since: str = ""
    conflict: MembershipConflict | None = None
    detours: tuple[Detour, ...] = ()
    overlaps: tuple[NetworkOverlap, ...] = ()
    control: str = ""
    missing_announcements: tuple[MissingAnnouncement, ...] = ()
    unsupported: tuple[UnsupportedOption, ...] = ()
    own_addresses: tuple[str, ...] = ()
    programs: tuple[NodeProgram, ...] = ()
    ephemeral: tuple[int, int] | None = None
    reserved: frozenset[int] = frozenset()
    can_reserve: bool = True
    reserved_lists: tuple[ReservedList, ...] = ()
    clock: ClockOffset | None = None
    facts: Mapping[str, MachineFacts] = {}
