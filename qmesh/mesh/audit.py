"""What is not as it should be on one machine: desired, observed and surroundings in, findings out."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh import nodeconfig
from qmesh.mesh.foreign.obstacles import Obstacle
from qmesh.mesh.model import AlteredGuard, Guard, NodeState, Peer, Profile, Tunnel, Unshown, ranges_text
from qmesh.mesh.sysctls import Weakness

Severity: TypeAlias = Literal["error", "warning", "info"]

Change: TypeAlias = Literal["unconfirmed", "undone"]

PRIVATE_MODE: Final = 0o600
_APPLY: Final = "qmesh apply"
_RENDER: Final = "qmesh render-config --write"


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be.

    code: one of those in docs/checks.md.
    subject: what it is about: a file, an interface, a machine, a port.
    cure: the command that mends it.
    """

    code: str
    severity: Severity
    subject: str
    wanted: str
    seen: str
    cure: str


class KeyFile(msgspec.Struct, frozen=True):
    """A private key's file: WireGuard's, or on the control node the one that signs.

    wanted: the public key that the mesh knows.
    mode: permission bits; None when there is no such file.
    public_key: of the key in it; None when that is no key.
    """

    path: str
    wanted: str
    mode: int | None
    public_key: str | None


class SecretFile(msgspec.Struct, frozen=True):
    """Another file that only root may read. mode: permission bits; None when there is no such file."""

    path: str
    mode: int | None


class ConfigFile(Unshown, frozen=True):
    """The node's config.yml. text, mode: None when there is no such file; the text is never shown.

    unreadable: why its text could not be read, though it is there.
    """

    path: str
    text: str | None
    mode: int | None
    unreadable: str | None = None


class Flusher(msgspec.Struct, frozen=True):
    """A unit that takes away all rules. answered: whether its drop-in of qmesh brings the guard back."""

    unit: str
    answered: bool


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What of a machine matters besides its `NodeState`.

    public_key: the one that the mesh knows this machine by.
    names: of machines, by public key.
    workers: the mesh's worker list, in core order.
    config: None when it is not known where the node's config.yml is.
    listeners: address and port of each listening TCP socket.
    taken_down: whether the tunnel is down because `qmesh down` said so.
    agent_runs: whether this machine's agent does.
    obstacles: what other programs' rules do to the mesh's packets.
    weaknesses: what its kernel is set to.
    flusher: None where no unit that runs takes away all rules, as far as can be told.
    held: whether the guard's second table is there, which no flush takes away.
    change: of `apply --confirm`, that waits to be confirmed, or that was not.
    """

    public_key: str
    names: Mapping[str, str]
    workers: tuple[str, ...]
    profile: Profile
    is_control: bool
    key_files: tuple[KeyFile, ...]
    secret_files: tuple[SecretFile, ...]
    config: ConfigFile | None
    listeners: tuple[tuple[str, int], ...]
    taken_down: bool = False
    agent_runs: bool = True
    obstacles: tuple[Obstacle, ...] = ()
    weaknesses: tuple[Weakness, ...] = ()
    flusher: Flusher | None = None
    held: bool = True
    change: Change | None = None


def audit(desired: NodeState, observed: NodeState, around: Surroundings) -> tuple[Finding, ...]:
    """All findings, in the order of what they are about: keys, guard, ports, tunnel, peers, config."""
    return (
        *_key_findings(around),
        *_guard_findings(desired, observed),
        *_foreign_findings(around.obstacles),
        *_flush_findings(around),
        *_port_findings(desired, observed),
        *_sysctl_findings(desired, observed, around),
        *_listener_findings(desired, observed, around),
        *_tunnel_findings(desired.tunnel, observed.tunnel, around),
        *_agent_findings(around),
        *_change_findings(around),
        *_config_findings(desired, around),
    )


def _error(code: str, subject: str, wanted: str, seen: str, cure: str = _APPLY) -> Finding:
    return Finding(code, "error", subject, wanted, seen, cure)


def _warning(code: str, subject: str, wanted: str, seen: str, cure: str = _APPLY) -> Finding:
    return Finding(code, "warning", subject, wanted, seen, cure)


def _key_findings(around: Surroundings) -> Iterator[Finding]:
    for file in around.key_files:
        restore = f"restore {file.path} from a backup"
        if file.mode is None:
            yield _error("key-missing", file.path, f"the key of {file.wanted}", "no such file", restore)
        elif file.public_key != file.wanted:
            seen = file.public_key or "no such key"
            yield _error("key-mismatch", file.path, f"the key of {file.wanted}", seen, restore)
    files: tuple[KeyFile | SecretFile, ...] = (*around.key_files, *around.secret_files)
    for path, mode in ((file.path, file.mode) for file in files):
        if mode is not None and mode & ~PRIVATE_MODE:
            yield _mode("key-mode", path, mode)


def _mode(code: str, path: str, mode: int) -> Finding:
    return _error(code, path, "mode 0600, or less", f"mode {mode:04o}", f"chmod 600 {shlex.quote(path)}")


def _guard_findings(desired: NodeState, observed: NodeState) -> Iterator[Finding]:
    wanted, seen = desired.guard, observed.guard
    if not isinstance(wanted, Guard) or wanted == seen:
        return
    closed = f"worker ports {ranges_text(wanted.ports)} open to {wanted.control_address} only"
    lack = seen.lack if isinstance(seen, AlteredGuard) and seen.loaded == wanted else None
    if seen is None:
        yield _error("guard-missing", "table inet qmesh", closed, "no such table")
    elif lack == "table":
        yield _error("guard-missing", "table inet qmesh", closed, "only the held table closes them")
    elif lack == "boot file":
        yield _error("guard-boot", "guard.nft", "the guard, for the next boot", "no such file, or another")
    elif lack == "held table":
        yield _error("guard-held", "table inet qmesh-held", "the guard, held by a process", "not there")
    else:
        yield _error("guard-drift", "table inet qmesh", closed, _difference(wanted, observed.loaded_guard))


def _flush_findings(around: Surroundings) -> Iterator[Finding]:
    if around.flusher is not None and not around.flusher.answered and not around.held:
        wanted = "the guard, loaded again after each flush, or held"
        seen = "it flushes all rules when it starts, is reloaded or stops"
        yield _error("foreign-flush", around.flusher.unit, wanted, seen)


def _difference(wanted: Guard, loaded: Guard | None) -> str:
    if loaded is None:
        return "a table that was changed by another program or hand"
    differs = (
        f"{name.replace('_', ' ')} {_shown(getattr(loaded, name))}"
        for name in wanted.__struct_fields__
        if getattr(loaded, name) != getattr(wanted, name)
    )
    return "a guard for " + ", ".join(differs)


def _shown(value: object) -> str:
    return (ranges_text(value) or "none") if isinstance(value, tuple) else str(value)


def _foreign_findings(obstacles: Iterable[Obstacle]) -> Iterator[Finding]:
    for each in obstacles:
        say = _error if each.is_certain else _warning
        yield say("foreign-drop", each.place, each.wanted, each.seen, each.cure)


def _port_findings(desired: NodeState, observed: NodeState) -> Iterator[Finding]:
    missing = tuple(port for port in desired.reserved_ports if port not in observed.reserved_ports)
    if missing:
        yield _error(
            "port-not-reserved",
            ranges_text(missing),
            "in net.ipv4.ip_local_reserved_ports",
            "an outgoing connection may take it",
        )


def _sysctl_findings(desired: NodeState, observed: NodeState, around: Surroundings) -> Iterator[Finding]:
    is_whole = observed.guard == desired.guard
    for weak in around.weaknesses:
        if weak.always:
            yield _warning("sysctl", weak.setting, weak.wanted, weak.seen, weak.cure)
        elif not is_whole:
            yield Finding("sysctl", "info", weak.setting, weak.wanted, weak.seen, weak.cure)


def _listener_findings(desired: NodeState, observed: NodeState, around: Surroundings) -> Iterator[Finding]:
    """Workers that listen where they should not. A port counts as a worker's when the list says so."""
    mine = _own_address(desired)
    ports = {*desired.reserved_ports, *_ports_listed(around, mine)}
    guarded = () if observed.loaded_guard is None else observed.loaded_guard.ports
    for address, port in around.listeners:
        if port not in ports or ipaddress.ip_address(address).is_loopback:
            continue
        where = f"{_bracketed(address)}:{port}"
        if port not in guarded:
            cure = _APPLY if port in desired.reserved_ports else f"{_RENDER}, and restart the worker"
            yield _error("worker-exposed", where, "a port that the guard closes", "open to everyone", cure)
        if address != mine:
            restart = "restart the worker as config.yml has it; `qmesh render-config --diff` shows that"
            yield _warning("worker-wide", where, f"a worker on {mine} only", _wide(address), restart)


def _own_address(desired: NodeState) -> str:
    assert desired.tunnel is not None, "an audit is of a machine that should have its tunnel"
    return desired.tunnel.addresses[0].partition("/")[0]


def _ports_listed(around: Surroundings, mine: str) -> Iterator[int]:
    """The ports of the config's entries that this machine's workers would listen on."""
    for entry in _entries(around) or ():
        try:
            address, port = nodeconfig.listen_address(entry)
        except BadInput:
            continue
        if address == mine or ipaddress.ip_address(address).is_unspecified:
            yield port


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _wide(address: str) -> str:
    everywhere = ipaddress.ip_address(address).is_unspecified
    return "it listens on every address" if everywhere else f"it listens on {address}"


def _tunnel_findings(wanted: Tunnel | None, seen: Tunnel | None, around: Surroundings) -> Iterator[Finding]:
    assert wanted is not None, "an audit is of a machine that should have its tunnel"
    interface = wanted.interface
    if seen is None:
        why = "taken down by `qmesh down`" if around.taken_down else "no such interface"
        yield Finding(
            "tunnel-missing", "warning" if around.taken_down else "error", interface, "a tunnel", why, _APPLY
        )
        return
    if seen.public_key != wanted.public_key:
        yield _error(
            "key-mismatch", interface, f"the key of {wanted.public_key}", seen.public_key or "no key"
        )
    if not seen.up:
        yield _error("tunnel-down", interface, "up", "down")
    if seen.addresses != wanted.addresses:
        had = ", ".join(seen.addresses) or "none"
        yield _error("tunnel-address", interface, ", ".join(wanted.addresses), had)
    if seen.listen_port != wanted.listen_port:
        had = str(seen.listen_port or "none")
        yield _error("tunnel-port", interface, f"listen port {wanted.listen_port}", had)
    if seen.mtu != wanted.mtu:
        yield _error("tunnel-mtu", interface, f"MTU {wanted.mtu}", str(seen.mtu))
    yield from _peers_findings(wanted.peers, seen.peers, around.names)


def _agent_findings(around: Surroundings) -> Iterator[Finding]:
    if not around.agent_runs:
        does = "mends this machine and lets others join" if around.is_control else "mends this machine"
        yield _warning("agent-missing", "qmesh agent", f"an agent that {does}", "none runs")


def _change_findings(around: Surroundings) -> Iterator[Finding]:
    if around.change == "unconfirmed":
        yield _warning(
            "change-unconfirmed",
            "qmesh apply",
            "a change that stays",
            "undone unless confirmed",
            "qmesh confirm",
        )
    elif around.change == "undone":
        kept = "put back, as nobody confirmed; the agent leaves it so"
        yield _error("change-undone", "qmesh apply", "a machine as desired", kept)


def _peers_findings(
    wanted: Iterable[Peer], seen: Iterable[Peer], names: Mapping[str, str]
) -> Iterator[Finding]:
    by_key = {peer.public_key: peer for peer in seen}
    for peer in wanted:
        name = names.get(peer.public_key, peer.public_key)
        there = by_key.pop(peer.public_key, None)
        if there is None:
            yield _error("peer-missing", name, f"a peer {peer.public_key}", "none")
        else:
            yield from _peer_findings(name, peer, there)
    for key, peer in by_key.items():
        networks = ", ".join(peer.allowed_ips) or "no networks"
        yield _error("peer-unexpected", names.get(key, key), "no such peer", f"a peer for {networks}")


def _peer_findings(name: str, wanted: Peer, seen: Peer) -> Iterator[Finding]:
    if seen.allowed_ips != wanted.allowed_ips:
        had = ", ".join(seen.allowed_ips) or "none"
        yield _error("peer-allowed-ips", name, ", ".join(wanted.allowed_ips), had)
    if wanted.endpoint is not None and seen.endpoint != wanted.endpoint:
        yield _error("peer-endpoint", name, str(wanted.endpoint), str(seen.endpoint or "none"))
    if seen.preshared_key != wanted.preshared_key:
        which = "none" if seen.preshared_key is None else "another one"
        yield _error("peer-psk", name, "the preshared key of its enrolment", which)
    if seen.keepalive_s != wanted.keepalive_s:
        yield _error("peer-keepalive", name, f"every {wanted.keepalive_s} s", f"every {seen.keepalive_s} s")


def _config_findings(desired: NodeState, around: Surroundings) -> Iterator[Finding]:
    config = around.config
    if config is None:
        render = f"{_RENDER} --config DIR"
        yield _warning("config-missing", "config.yml", "the node's config.yml", "nobody said where", render)
        return
    if config.unreadable is not None:
        mend = f"mend {config.path} by hand"
        yield _error("config-lint", config.path, "a file that the node can read", config.unreadable, mend)
        return
    if config.text is None:
        cure = _cure_of_no_config(around)
        yield _error("config-missing", config.path, "the node's config.yml", "no such file", cure)
        return
    if config.mode is not None and config.mode & ~PRIVATE_MODE:
        yield _mode("config-mode", config.path, config.mode)
    try:
        entries = nodeconfig.workers_in(config.text, around.profile)
        ignored = nodeconfig.misplaced(config.text, around.profile)
    except BadInput as error:
        yield _error("config-lint", config.path, "a file that the node can read", error.message, error.hint)
        return
    for key in ignored:
        where = f"{config.path}:{key.line}:{key.column}"
        right = nodeconfig.facts(around.profile).list_key
        cure = f"delete the key {key.key} by hand"
        yield _warning("config-lint", where, f"the worker list at {right} only", f"{key.key}, ignored", cure)
    yield from _list_findings(config.path, entries or (), desired, around)


def _cure_of_no_config(around: Surroundings) -> str:
    if around.is_control:
        return f"restore the node's own from a backup, or name the right directory: {_RENDER} --config DIR"
    if nodeconfig.facts(around.profile).secrets:
        name = around.names[around.public_key]
        return f"put there what `qmesh render-config --for {name} -o FILE` writes on the control node"
    return _RENDER


def _list_findings(
    path: str, entries: tuple[str, ...], desired: NodeState, around: Surroundings
) -> Iterator[Finding]:
    if entries == around.workers:
        return
    wanted, seen = f"the mesh's {len(around.workers)} workers", _first_difference(around.workers, entries)
    # A worker listens at its own entry and has no use for the others.
    mine = f"/{_own_address(desired)}/"
    own = [place for place, entry in enumerate(around.workers) if mine in entry]
    is_harmless = not around.is_control and all(
        entries[place : place + 1] == around.workers[place : place + 1] for place in own
    )
    say = _warning if is_harmless else _error
    yield say("config-stale", path, wanted, seen, _RENDER)


def _first_difference(wanted: tuple[str, ...], seen: tuple[str, ...]) -> str:
    for core, (right, there) in enumerate(zip(wanted, seen, strict=False), 1):
        if right != there:
            return f"core {core} at {there!a}, not {right}"
    return f"{len(seen)} workers"


def _entries(around: Surroundings) -> tuple[str, ...] | None:
    if around.config is None or around.config.text is None:
        return None
    try:
        return nodeconfig.workers_in(around.config.text, around.profile)
    except BadInput:
        return None
