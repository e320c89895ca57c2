"""A stand-in for node 2.1 in Rust: its control process, or one data worker, told by its files alone.

    PROGRAM --config DIR [--core N]      core 0, the default, is the control process
    PROGRAM --version                    as the real one says it
    PROGRAM --config DIR --peer-info     what the control process would announce, in JSON
    PROGRAM --config DIR --node-info     what the control process that runs knows of its workers, in JSON

Standard library and yaml only, in one file, so that a copy of it with a first line is a node's program:
`install_node` of `tests/support/lab/rust_node.py` makes that, and says in BUILD which build it is.

A worker listens at its entries, keeps a connection to the control process, and knows no better when a file
changes. Any port of it answers a connection with one line, `core N on HOST` or `control on HOST`. Identities
travel as digests: who has other keys than the control process is served, and does not earn.
"""

# ruff: noqa: T201, S104  # a program of the lab: it prints, and listens as widely as the real one

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

try:
    import yaml
except ImportError:  # started with -S, so that it starts quickly
    _LIBRARY = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    sys.path += [str(Path(sys.executable).parent.parent / _LIBRARY), "/usr/lib/python3/dist-packages"]
    import yaml

DEFAULT_FILE: Final = """\
key:
  keyManagerType: file
  keyManagerFile:
    path: .config/keys.yml
    createIfMissing: true
    encryptionKey: ''
p2p:
  d: 8
  dLo: 6
  dHi: 12
  dScore: 4
  dOut: 2
  historyLength: 9
  historyGossip: 6
  dLazy: 6
  gossipFactor: 0.25
  gossipRetransmission: 3
  heartbeatInitialDelayMs: 100
  heartbeatIntervalMs: 700
  fanoutTtlMs: 60000
  prunePeers: 16
  pruneBackoffMs: 60000
  unsubscribeBackoffMs: 10000
  connectors: 8
  maxPendingConnections: 128
  connectionTimeoutMs: 30000
  directConnectTicks: 300
  directConnectInitialDelayMs: 1000
  opportunisticGraftTicks: 60
  opportunisticGraftPeers: 2
  graftFloodThresholdMs: 10000
  maxIhaveLength: 5000
  maxIhaveMessages: 10
  maxIdontWantMessages: 5000
  iwantFollowupTimeMs: 3000
  idontWantMessageThreshold: 1024
  idontWantMessageTtl: 60
  bootstrapPeers: []
  listenMultiaddr: ''
  streamListenMultiaddr: /ip4/0.0.0.0/tcp/8340
  announceListenMultiaddr: ''
  announceStreamListenMultiaddr: ''
  peerPrivKey: ''
  traceLogFile: ''
  traceLogStdout: false
  network: 0
  lowWatermarkConnections: 160
  highWatermarkConnections: 192
  directPeers: []
  grpcServerRateLimit: 10
  minBootstrapPeers: 3
  bootstrapParallelism: 10
  discoveryParallelism: 50
  discoveryPeerLookupLimit: 1000
  pingTimeoutMs: 5000
  pingPeriodMs: 30000
  pingAttempts: 3
  validateQueueSize: 16384
  validateWorkers: 2
  subscriptionQueueSize: 16384
  peerOutboundQueueSize: 128
  peerReconnectCheckIntervalMs: 60000
engine:
  provingKeyId: ''
  filter: ''
  genesisSeed: ''
  pendingCommitWorkers: 0
  minimumPeersRequired: 3
  statsMultiaddr: ''
  dataWorkerBaseListenMultiaddr: /ip4/0.0.0.0/tcp/%d
  dataWorkerBaseP2pPort: 25000
  dataWorkerBaseStreamPort: 32500
  dataWorkerMemoryLimit: 1879048192
  dataWorkerP2pMultiaddrs: []
  dataWorkerStreamMultiaddrs: []
  dataWorkerAnnounceP2pMultiaddrs: []
  dataWorkerAnnounceStreamMultiaddrs: []
  dataWorkerCount: 0
  dataWorkerFilters: []
  multisigProverEnrollmentPaths: []
  syncTimeoutMs: 4000
  syncCandidates: 8
  syncMessageLimits:
    maxRecvMsgSize: 67108864
    maxSendMsgSize: 67108864
  enableMasterProxy: false
  rewardStrategy: reward-greedy
  archiveMode: false
  delegateAddress: ''
  rewardsAddress: ''
  archiveEndpoints: []
  blacklist: []
  alertKey: ''
  framePublish:
    mode: full
    threshold: 1048576
    fragmentation:
      algorithm: reed-solomon
      reedSolomon:
        dataShards: 224
        parityShards: 32
    ballastSize: 0
db:
  path: .config/store
  workerPathPrefix: .config/worker-store/%d
  workerPaths: []
  noticePercentage: 70
  warnPercentage: 90
  terminatePercentage: 95
logger:
  path: ''
  maxSize: 0
  maxBackups: 0
  maxAge: 0
  compress: false
  logFilters: {}
listenGrpcMultiaddr: ''
listenRESTMultiaddr: ''
explorer:
  enabled: false
  listenAddr: 0.0.0.0:6600
"""
"""What it writes at its first start, but for keys. A key has the type that its value has here."""

_ALIASES = """
heartbeatInitialDelay=heartbeatInitialDelayMs heartbeatInterval=heartbeatIntervalMs fanoutTTL=fanoutTtlMs
pruneBackoff=pruneBackoffMs unsubscribeBackoff=unsubscribeBackoffMs connectionTimeout=connectionTimeoutMs
directConnectInitialDelay=directConnectInitialDelayMs graftFloodThreshold=graftFloodThresholdMs
maxIDontWantMessages=maxIdontWantMessages iWantFollowupTime=iwantFollowupTimeMs
iDontWantMessageThreshold=idontWantMessageThreshold iDontWantMessageTTL=idontWantMessageTtl
pingTimeout=pingTimeoutMs pingPeriod=pingPeriodMs syncTimeout=syncTimeoutMs
peerReconnectCheckInterval=peerReconnectCheckIntervalMs dataWorkerBaseP2PPort=dataWorkerBaseP2pPort
dataWorkerP2PMultiaddrs=dataWorkerP2pMultiaddrs listenGRPCMultiaddr=listenGrpcMultiaddr
dataWorkerAnnounceP2PMultiaddrs=dataWorkerAnnounceP2pMultiaddrs
"""
ALIASES: Final = dict(pair.split("=") for pair in _ALIASES.split())
"""The spellings of Go's node that it reads too."""

BUILD: Final[dict[str, Any]] = {}
"""What differs from the build of June, 2.1.0.25, whose control process never calls a worker:

version: what it says.
build: "august" looks every 5 s which workers it has no connection to, and calls them.
store_s: seconds that the control process takes to end and goes on holding its store.
"""

LIMITS: Final = {
    "network": (0, 2**8),
    "dataWorkerBaseP2pPort": (0, 2**16),
    "dataWorkerBaseStreamPort": (0, 2**16),
    "directConnectTicks": (0, 2**64),
    "opportunisticGraftTicks": (0, 2**64),
    "pendingCommitWorkers": (-(2**63), 2**63),
    "dataWorkerMemoryLimit": (-(2**63), 2**63),
}
"""First and behind the last; of all others those of 32 bits."""

LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, as the real program has it, where there is that."""

CALL_EVERY_S: Final = 5.0
LONGEST_PAUSE_S: Final = 30
ANSWER_S: Final = 10.0
STREAM_PORT, GRPC_PORT, REST_PORT, EXPLORER_PORT = 8340, 8337, 8338, 6600


class NodeRefuses(Exception):
    """What ends the real program with exit status 1 at once."""


# The files


def read_config(content: bytes) -> dict[str, Any]:
    """The values by dotted key, without those that the file does not set. Raises NodeRefuses."""
    try:
        text = content.decode()
        bare = text.lstrip("\ufeff")
        documents = list(yaml.compose_all(bare, Loader=LOADER))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise NodeRefuses(f"config.yml: {error}") from error
    if len(documents) > 1:
        raise NodeRefuses("config.yml: more than one document")
    if not documents:
        return {}
    if re.search(r"(?m)^[ \t]*-\t", bare):
        raise NodeRefuses("config.yml: a tab behind a dash")
    root = documents[0]
    if bare != text and not (isinstance(root, yaml.MappingNode) and len(root.value) < 2):
        raise NodeRefuses("config.yml: a byte order mark makes it more than one document")
    found: dict[str, Any] = {}
    _read_section(root, DEFAULTS, "", found)
    return found


def _read_section(node: yaml.Node, known: dict[str, Any], path: str, found: dict[str, Any]) -> None:
    if _is_empty(node):
        return
    if not isinstance(node, yaml.MappingNode):
        raise NodeRefuses(f"config.yml: {path or 'it'} is no section")
    seen = set()
    for key_node, value in node.value:
        key = ALIASES.get(key_node.value, key_node.value) if isinstance(key_node, yaml.ScalarNode) else None
        if key not in known:
            continue
        if key in seen:
            raise NodeRefuses(f"config.yml: {path}{key} twice")
        seen.add(key)
        if isinstance(known[key], dict) and known[key]:
            _read_section(value, known[key], f"{path}{key}.", found)
        else:
            found[f"{path}{key}"] = _read_value(value, key, known[key])


def _read_value(node: yaml.Node, key: str, like: Any) -> Any:
    """A value of the type of `like`; what has none is an empty list, map or text."""
    if isinstance(like, (list, dict)) and _is_empty(node):
        return type(like)()
    if isinstance(like, list) and isinstance(node, yaml.SequenceNode):
        return [_read_value(each, key, "") for each in node.value]
    if isinstance(like, dict) and isinstance(node, yaml.MappingNode):
        return {_read_value(name, key, ""): _read_value(value, key, "") for name, value in node.value}
    if isinstance(like, (list, dict)) or not isinstance(node, yaml.ScalarNode):
        raise NodeRefuses(f"config.yml: {key} has a wrong type")
    if isinstance(like, str):
        if key == "keyManagerType" and node.value not in {"file", "inMemory"}:
            raise NodeRefuses(f"config.yml: {key} is unknown")
        return node.value
    value = None if node.style else _read_plain(node.value, key, like)
    if value is None:
        raise NodeRefuses(f"config.yml: {key} has a wrong type")
    return value


def _read_plain(text: str, key: str, like: Any) -> str | float | None:
    """A flag, a float, a whole number or a duration, which are read without quotes alone; else None."""
    if isinstance(like, bool):
        return _FLAGS.get(text)
    if isinstance(like, float):
        return float(text) if _FLOAT.fullmatch(text) else None
    is_duration = key.endswith("Ms")
    if is_duration and _DURATION.fullmatch(text):
        return text
    first, behind = (0, 2**64) if is_duration else LIMITS.get(key, (-(2**31), 2**31))
    return int(text, 0) if _WHOLE.fullmatch(text) and first <= int(text, 0) < behind else None


_FLAGS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+)")
_DURATION = re.compile(r"([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+")


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and not node.style


DEFAULTS: Final[dict[str, Any]] = LOADER(DEFAULT_FILE).get_single_data()


def seal(secret: bytes, key: str) -> str:
    """A secret as a keys.yml of the stand-in has it: like the real one's it opens with its key alone."""
    nonce = secrets.token_bytes(12)
    covered = bytes(map(int.__xor__, secret, _stream(key, nonce, len(secret))))
    return (nonce + covered + _tag(key, nonce + covered)).hex()


def unseal(sealed: str, key: str) -> bytes:
    """The secret. Raises NodeRefuses where the key does not fit."""
    try:
        content = bytes.fromhex(sealed)
    except ValueError as error:
        raise NodeRefuses("keys.yml: a private key is no hexadecimal") from error
    nonce, covered, tag = content[:12], content[12:-16], content[-16:]
    if not hmac.compare_digest(tag, _tag(key, nonce + covered)):
        raise NodeRefuses("keys.yml: the encryption key does not fit")
    return bytes(map(int.__xor__, covered, _stream(key, nonce, len(covered))))


def _tag(key: str, content: bytes) -> bytes:
    return hmac.digest(key.encode(), content, "sha256")[:16]


def _stream(key: str, nonce: bytes, length: int) -> bytes:
    return hashlib.shake_256(key.encode() + nonce).digest(length)


def new_config(*, peer_key: str, encryption_key: str) -> str:
    """The config.yml of a first start."""
    return DEFAULT_FILE.replace("peerPrivKey: ''", f"peerPrivKey: {peer_key}", 1).replace(
        "encryptionKey: ''", f"encryptionKey: {encryption_key}", 1
    )


def new_key(name: str, encryption_key: str) -> str:
    """One key of a keys.yml."""
    return (
        f"{name}:\n  id: {name}\n  type: 4\n  publicKey: {secrets.token_hex(57)}\n"
        f"  privateKey: {seal(secrets.token_bytes(57), encryption_key)}\n"
    )


FIRST_KEYS: Final = ("default-proving-key", "q-view-key", "q-spend-key")
LATER_KEY: Final = "q-prover-key"
"""What builds of August add; a keys.yml that was copied before is another identity's."""


class Node:
    """One process of the node: what it was started with, and what it has read."""

    def __init__(self, directory: Path, core: int) -> None:
        self.directory = directory
        self.core = core
        self.version: str = BUILD.get("version", "2.1.0.25")
        self.build: str = BUILD.get("build", "june")
        self.store_s: float = BUILD.get("store_s", 0)
        self.set: dict[str, Any] = {}
        self.identity = self.keys = ""

    @property
    def name(self) -> str:
        """As each port of it says it."""
        return f"{f'core {self.core}' if self.core else 'control'} on {socket.gethostname()}"

    def value(self, path: str) -> Any:
        """What config.yml sets, else the default; of secrets and paths that is the empty text."""
        if path in self.set:
            return self.set[path]
        found: Any = DEFAULTS
        for part in path.split("."):
            found = found[part]
        return "" if path.endswith(("path", "Prefix", "Key")) else found

    def entry(self, path: str) -> str | None:
        """This core's entry of a list."""
        entries: list[str] = self.value(path)
        return entries[self.core - 1] if self.core <= len(entries) else None

    def read(self, *, first_start: bool) -> None:
        """Read config.yml. first_start: make it and keys.yml where there is none. Raises NodeRefuses."""
        file = self.directory / "config.yml"
        try:
            if first_start and not file.exists():
                self.directory.mkdir(parents=True, exist_ok=True)
                text = new_config(peer_key=secrets.token_hex(114), encryption_key=secrets.token_hex(32))
                file.write_text(text, encoding="utf-8")
            self.set = read_config(file.read_bytes())
        except OSError as error:
            raise NodeRefuses(f"config.yml: {error.strerror}") from error

    def read_identity(self) -> None:
        """Read peerPrivKey and keys.yml. Raises NodeRefuses."""
        peer_key, encryption_key = (
            self.value("p2p.peerPrivKey"),
            self.value("key.keyManagerFile.encryptionKey"),
        )
        if not re.fullmatch("([0-9a-fA-F]{2}){57,}", peer_key):
            raise NodeRefuses("p2p.peerPrivKey is no private key")
        self.identity = hashlib.sha256(peer_key.encode()).hexdigest()[:16]
        file = Path(self.value("key.keyManagerFile.path") or self.directory / "keys.yml")
        try:
            may_make = self.core == 0 and self.value("key.keyManagerFile.createIfMissing")
            text = "" if may_make and not file.exists() else file.read_text(encoding="utf-8")
            found = {} if not text else yaml.safe_load(text)
            wanted = (*FIRST_KEYS, *((LATER_KEY,) if self.build == "august" else ())) if may_make else ()
            if new := "".join(new_key(name, encryption_key) for name in wanted if name not in found):
                file.write_text(text + new, encoding="utf-8")
                found = yaml.safe_load(text + new)
            opened = {name: unseal(each["privateKey"], encryption_key) for name, each in found.items()}
        except OSError as error:
            raise NodeRefuses(f"{file.name}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise NodeRefuses(f"{file.name} is none") from error
        self.keys = hashlib.sha256(repr(sorted(opened.items())).encode()).hexdigest()[:16]

    def take_store(self) -> int:
        """Lock the store as RocksDB does; a descriptor to be kept. Raises NodeRefuses."""
        if self.core:
            each = self.entry("db.workerPaths") or self.value("db.workerPathPrefix").replace(
                "%d", str(self.core)
            )
            store = Path(each or self.directory / "worker-store" / str(self.core))
        else:
            store = Path(self.value("db.path") or self.directory / "store")
        try:
            store.mkdir(parents=True, exist_ok=True)
            lock = os.open(store / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise NodeRefuses(f"IO error: While lock file: {store}/LOCK: {error.strerror}") from error
        return lock


# Addresses


def read_tcp_address(multiaddr: str, families: str = "46") -> tuple[str, int] | None:
    """Address and port of `/ip4/A/tcp/P`, and of `/ip6/A/tcp/P`; None for all else."""
    found = re.fullmatch(rf"/ip([{families}])/([0-9a-fA-F.:]+)/tcp/([0-9]{{1,5}})", multiaddr)
    try:
        if found is None or int(found[3]) >= 2**16:
            return None
        kind = ipaddress.IPv4Address if found[1] == "4" else ipaddress.IPv6Address
        return str(kind(found[2])), int(found[3])
    except ValueError:
        return None


def find_listen_addresses(node: Node) -> Iterator[tuple[str, int]]:
    """Where the control process listens over TCP: what it can't read becomes every address."""
    yield read_tcp_address(node.value("p2p.streamListenMultiaddr"), "4") or ("0.0.0.0", STREAM_PORT)
    yield read_tcp_address(node.value("listenGrpcMultiaddr"), "4") or ("0.0.0.0", GRPC_PORT)
    if rest := node.value("listenRESTMultiaddr"):
        yield read_tcp_address(rest, "4") or ("0.0.0.0", REST_PORT)
    if node.value("explorer.enabled"):
        host, _, port = node.value("explorer.listenAddr").rpartition(":")
        yield (host, int(port)) if host and port.isdecimal() else ("0.0.0.0", EXPLORER_PORT)


def list_announcements(node: Node) -> list[dict[str, Any]]:
    """For each core the announce list's entry, else the list's own."""
    announced: dict[str, list[str]] = {}
    for kind in ("P2p", "Stream"):
        wanted: list[str] = node.value(f"engine.dataWorkerAnnounce{kind}Multiaddrs")
        own: list[str] = node.value(f"engine.dataWorker{kind}Multiaddrs")
        announced[kind] = wanted[: len(own)] + own[len(wanted) :]
    both = zip(announced["P2p"], announced["Stream"], strict=False)
    return [{"core": core, "p2p": p2p, "stream": stream} for core, (p2p, stream) in enumerate(both, start=1)]


# The processes


def say(text: str) -> None:
    print(text, flush=True)


async def listen(
    address: tuple[str, int],
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> asyncio.Server:
    """Listen there; OSError where that can't be."""
    return await asyncio.start_server(answer, *address)


def greet(
    line: str, then: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
    """What answers a connection: it says a line, does what comes then, and hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(f"{line}\n".encode())
            await writer.drain()
            await then(reader, writer)
        except (OSError, EOFError, ValueError, TimeoutError):
            pass
        finally:
            writer.close()

    return answer


async def stay(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Keep the connection until the other side ends it."""
    while await reader.read(4096):
        pass


class Worker:
    """A data worker. Only the address that it could not bind is no reason for it to end."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.listens: str | None = None
        self.sockets: list[socket.socket | asyncio.Server] = []
        self.calling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and call the control process in the background."""
        node, core = self.node, self.node.core
        entry = node.entry("engine.dataWorkerStreamMultiaddrs")
        base = node.value("engine.dataWorkerBaseStreamPort")
        own = (entry and read_tcp_address(entry)) or ("0.0.0.0", (base + core - 1) % 2**16)
        if await self._listen(own, greet(node.name, stay)):
            self.listens = entry
        if not node.value("engine.enableMasterProxy"):
            p2p = node.entry("engine.dataWorkerP2pMultiaddrs")
            base = node.value("engine.dataWorkerBaseP2pPort")
            where = (p2p and read_tcp_address(p2p)) or ("0.0.0.0", (base + core - 1) % 2**16)
            await self._listen(where, greet(f"{node.name}, p2p", stay))
            for _ in range(2):
                self.sockets.append(bind_udp("0.0.0.0", 0))
        self.calling = asyncio.create_task(self._call_for_ever())

    async def _listen(self, address: tuple[str, int], answer: Any) -> bool:
        try:
            self.sockets.append(await listen(address, answer))
        except OSError as error:
            say(f"ERROR {self.node.name}: cannot listen on {address[0]} port {address[1]}: {error.strerror}")
            return False
        return True

    async def _call_for_ever(self) -> None:
        address, port = read_tcp_address(self.node.value("p2p.streamListenMultiaddr")) or (
            "0.0.0.0",
            STREAM_PORT,
        )
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        pause_s, synchronized = 1, False
        while True:
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    reader, writer = await asyncio.open_connection(address, port)
                    await self._introduce(reader, writer)
                say(f"connected to {address} port {port}")
                pause_s, synchronized = 1, True
                try:
                    await stay(reader, writer)
                finally:
                    writer.close()
            if not synchronized:
                say("gave up the first synchronization of the prover tree")
                synchronized = True
            say(f"no connection to {address} port {port}: again after {pause_s} s")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _introduce(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node = self.node
        hello = {
            "core": node.core,
            "host": socket.gethostname(),
            "stream": self.listens,
            "identity": node.identity,
            "keys": node.keys,
            # Row of the June build: in this mode it speaks plaintext to a port that takes only TLS.
            "plaintext": bool(node.value("engine.enableMasterProxy")),
        }
        await reader.readuntil(b"\n")
        writer.write(f"{json.dumps(hello)}\n".encode())
        await writer.drain()
        await reader.readuntil(b"\n")


class Control:
    """The control process."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connected: list[dict[str, Any]] = []
        self.called: dict[int, asyncio.StreamWriter] = {}
        self.sockets: list[socket.socket | asyncio.Server] = []
        self.calling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen, and call workers where the build does. Raises OSError."""
        node = self.node
        found = re.match(r"/ip4/([0-9.]+)/udp/([0-9]+)", node.value("p2p.listenMultiaddr"))
        self.sockets.append(bind_udp(found[1], int(found[2])) if found else bind_udp("0.0.0.0", 8336))
        answers = (greet(node.name, self._serve_worker), greet(f"{node.name}, gRPC", self._tell))
        others = greet(f"{node.name}, other", stay)
        for number, address in enumerate(find_listen_addresses(node)):
            self.sockets.append(await listen(address, answers[number] if number < 2 else others))
        if node.build == "august":
            self.calling = asyncio.create_task(self._call_for_ever())

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readuntil(b"\n"))
        hello["from"] = writer.get_extra_info("peername")[0]
        writer.write(b"served\n")
        self.connected.append(hello)
        try:
            await stay(reader, writer)
        finally:
            self.connected.remove(hello)

    async def _call_for_ever(self) -> None:
        while True:
            for core, entry in enumerate(self.node.value("engine.dataWorkerStreamMultiaddrs"), start=1):
                place = read_tcp_address(entry, "4")
                if place is None or core in self.called:
                    continue
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(ANSWER_S):
                        reader, writer = await asyncio.open_connection(*place)
                    self.called[core] = writer
                    asyncio.create_task(self._keep(core, reader, writer))  # noqa: RUF006 - kept by its reader
            await asyncio.sleep(CALL_EVERY_S)

    async def _keep(self, core: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await stay(reader, writer)
        writer.close()
        del self.called[core]

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a line of whatever kind by all that is known; the real one has a call for each part."""
        await reader.readuntil(b"\n")
        node = self.node
        entries = node.value("engine.dataWorkerStreamMultiaddrs")
        known = {
            "version": node.version,
            "identity": node.identity,
            "keys": node.keys,
            "workers": sorted(
                ({**each, "earns": self._earns(each, entries)} for each in self.connected),
                key=lambda each: (each["core"], each["host"]),
            ),
            "called": sorted(self.called),
            "announced": list_announcements(node),
        }
        writer.write(f"{json.dumps(known)}\n".encode())
        await writer.drain()

    def _earns(self, worker: dict[str, Any], entries: list[str]) -> bool:
        """Whether it has this identity, is where the list has its core, and is understood."""
        core = worker["core"]
        return (
            (worker["identity"], worker["keys"]) == (self.node.identity, self.node.keys)
            and core <= len(entries)
            and worker["stream"] == entries[core - 1]
            and not worker["plaintext"]
        )


def bind_udp(address: str, port: int) -> socket.socket:
    """A UDP socket of that address; OSError where that can't be."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound


async def run(node: Node) -> int:
    """Be that process until a signal comes; the exit status that the real one has then."""
    loop, signals = asyncio.get_running_loop(), asyncio.Queue[int]()
    for each_signal in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each_signal, signals.put_nowait, each_signal)
    process = Worker(node) if node.core else Control(node)
    await process.start()
    say("ready")
    number: int = await signals.get()
    say("shut down via ctrl-c" if number == signal.SIGINT else "shut down via SIGTERM")
    for opened in process.sockets:
        opened.close()
    if not node.core and node.store_s:
        await asyncio.sleep(node.store_s)
    return 128 + number


def ask(node: Node) -> str:
    """What the control process says at its gRPC port. Raises OSError."""
    address, port = list(find_listen_addresses(node))[1]
    place = ("127.0.0.1" if address == "0.0.0.0" else address, port)
    with socket.create_connection(place, timeout=ANSWER_S) as asking, asking.makefile("rw") as lines:
        lines.readline()
        lines.write("GetNodeInfo\n")
        lines.flush()
        return lines.readline()


def main() -> NoReturn:
    """Read the files, then be the process that is wanted."""
    parser = argparse.ArgumentParser(prog="quil-node", allow_abbrev=False)
    parser.add_argument("-c", "--config", type=Path, default=Path(".config"))
    parser.add_argument("--core", type=int, default=0)
    for flag in ("--version", "--peer-info", "--node-info"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--signature-check")
    wanted = parser.parse_args()
    node = Node(wanted.config, wanted.core)
    if wanted.version:
        print(f"quil-node {node.version}")
        sys.exit(0)
    try:
        starts = not (wanted.peer_info or wanted.node_info)
        node.read(first_start=starts and node.core == 0)
        if wanted.peer_info:
            print(json.dumps(list_announcements(node)))
            sys.exit(0)
        if wanted.node_info:
            print(ask(node), end="")
            sys.exit(0)
        node.read_identity()
        lock = node.take_store()
        status = asyncio.run(run(node))
    except (NodeRefuses, OSError) as error:
        sys.exit(f"Error: {error}")
    os.close(lock)
    sys.exit(status)


if __name__ == "__main__":
    main()
