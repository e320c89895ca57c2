"""The state directory: what this machine remembers between commands, and the lock around it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.errors import (
    JOIN_ANEW,
    RESTORE,
    BadInput,
    Busy,
    EnrolmentRefused,
    MachineRefused,
    QmeshError,
    StateUnreadable,
)
from qmesh.host import files
from qmesh.host.firewall import guard_keeper, holder
from qmesh.host.network import reserved_ports
from qmesh.host.state.documents import (
    Asked,
    BackedUp,
    HeldPorts,
    NextShared,
    Pending,
    Restoring,
    Rotation,
    Settings,
)
from qmesh.host.system import agent_health, agent_notify, log_file, processes
from qmesh.mesh.decode import Malformed, from_json
from qmesh.mesh.guard import parse_script
from qmesh.mesh.model import Guard, Secret, wireguard_key
from qmesh.mesh.node_restarts import Due
from qmesh.mesh.protocol.enrolment import public_key_of
from qmesh.mesh.protocol.handover import Estate, unpacked
from qmesh.mesh.rollback import Undoing

DEFAULT_STATE = Path("/var/lib/qmesh")

_ANEW = f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}"
_DELETE = "delete it: it only tells of what was under way"

T = TypeVar("T")

log = logging.getLogger("qmesh")


class State:
    """The state directory of this machine. Reading never makes anything."""

    def __init__(self, directory: Path = DEFAULT_STATE, *, patience_s: float | None = None) -> None:
        """patience_s: seconds that `lock` waits; None is as long as it takes."""
        self._patience_s = patience_s
        directory = directory.absolute()
        self.directory = directory
        self.private_key_file = directory / "private.key"
        self.signing_key_file = directory / "signing.key"
        self.preshared_key_file = directory / "preshared.key"
        self.registry_file = directory / "mesh.db"
        self.membership_file = directory / "membership.json"
        self.guard_file = directory / guard_keeper.SCRIPT
        self.held_file = directory / holder.SCRIPT
        self.agent_socket = directory / agent_notify.SOCKET
        self.hold_socket = directory / holder.SOCKET
        self.hold_lock_file = directory / holder.LOCK
        self.log_file = directory / log_file.NAME
        self.agent_lock_file = directory / "agent.lock"
        self.health_socket = directory / agent_health.SOCKET
        self.undo_file = directory / "undo.json"
        self.undo_lock_file = directory / "undo.lock"
        self.worker_config_directory = directory / "node"
        self._settings_file = directory / "machine.json"
        self._pending_file = directory / "joining.json"
        self._restoring_file = directory / "restored.json"
        self.asked_file = directory / "request.json"
        self._held_ports_file = directory / reserved_ports.REMEMBERED
        self._backed_up_file = directory / "backup.json"
        self._next_key_file = directory / "next.key"
        self._rotation_file = directory / "rotating.json"
        self._due_file = directory / "due.json"
        self._next_shared_file = directory / "successor.json"
        self.estate_file = directory / "estate.msgpack"

    def prepare(self) -> None:
        """Make the state directory, 0700. Raises MachineRefused where it is in use for something else."""
        if self._is_somebody_elses():
            raise MachineRefused(
                f"{self.directory} holds other files, and is open to other users",
                hint="choose another place with --state; qmesh wants a directory of its own",
            )
        files.make_private_directory(self.directory)

    def _is_somebody_elses(self) -> bool:
        mode = files.mode_of(self.directory)
        if mode is None or not mode & 0o077 or not self.directory.is_dir():
            return False
        return any(self.directory.iterdir()) and files.mode_of(self.private_key_file) is None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the one lock of this machine's qmesh; waits, and says so, while another has it.

        Raises BadInput when there is no state directory: then the machine is in no mesh; Busy when
        this state's patience is over.
        """
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._in_no_mesh() from None
        except OSError as error:
            raise MachineRefused(
                f"{self.directory} cannot be used: it is a link, no directory, or: {error.strerror}",
                hint="remove it, or choose another place with --state",
            ) from None
        try:
            if self._patience_s is None:
                _lock(descriptor)
            elif not _locked_within(descriptor, self._patience_s):
                raise self._busy()
            yield
        finally:
            os.close(descriptor)

    def _busy(self) -> Busy:
        others = ", ".join(map(str, sorted(processes.with_open(self.directory)))) or "unknown"
        return Busy(
            f"another command of qmesh is at work on this machine (process {others})",
            hint="wait for it to end; one that was stopped by Ctrl-Z goes on by `fg`",
        )

    @contextlib.contextmanager
    def lock_within(self, seconds: float) -> Iterator[bool]:
        """Hold the lock where it can be had in that time; gives whether it is held. Raises as `lock`."""
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise MachineRefused(
                f"{self.directory} cannot be used: {error.strerror}", hint="is it still there?"
            ) from None
        try:
            yield _locked_within(descriptor, seconds)
        finally:
            os.close(descriptor)

    def settings(self) -> Settings:
        """This machine's settings. Raises BadInput when it is in no mesh."""
        found = self.settings_or_none()
        if found is None:
            raise self._in_no_mesh()
        return found

    def _in_no_mesh(self) -> QmeshError:
        if self.holds_a_rest():
            return StateUnreadable(
                f"{self._settings_file} is missing, though this machine was to be in a mesh",
                hint=f"if an `init`, `join` or `restore` was cut off, run it again; else {_ANEW}",
            )
        if files.mode_of(self.asked_file) is not None:
            return BadInput(
                "this machine is in no mesh yet: it waits for the answer to its request",
                hint="`qmesh admit` the request on the control node, then `qmesh join --answer FILE` here",
            )
        return BadInput(
            f"this machine is in no mesh: {self.directory} holds none",
            hint="start one with `qmesh init`, or join one with `qmesh join`",
        )

    def holds_a_rest(self) -> bool:
        """Whether there is state of a mesh besides the settings: theirs was lost, or not yet written."""
        rests = (self.registry_file, self.membership_file, self._pending_file, self._restoring_file)
        return any(files.mode_of(path) is not None for path in rests)

    def home(self) -> tuple[int, int] | None:
        """Which directory this is, by the kernel's numbers; None where there is none."""
        try:
            found = self.directory.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    def is_gone(self, home: tuple[int, int] | None) -> bool:
        """Whether the state is not there any more that was in that directory: it is another one, or bare."""
        kept = (self._settings_file, self.private_key_file, self.registry_file, self.membership_file)
        return self.home() != home or not any(path.exists() for path in (*kept, self.guard_file))

    def stamp(self) -> Hashable:
        """What is another once a file was replaced of which this machine's desired state is made.

        SQLite writes into the registry's file: that is another only where it was put in its place.
        """
        written = (
            self._settings_file,
            self.membership_file,
            self.preshared_key_file,
            self.private_key_file,
            self.undo_file,
            self._next_shared_file,
            self.estate_file,
        )
        return (*map(files.stamp, written), (files.stamp(self.registry_file) or (None,))[0])

    def settings_or_none(self) -> Settings | None:
        """This machine's settings; None when it is in no mesh."""
        return _decoded(self._settings_file, Settings)

    def has_settings(self) -> bool:
        """Whether there are some, damaged ones included."""
        return files.mode_of(self._settings_file) is not None

    def save_settings(self, settings: Settings) -> None:
        """Remember; durable when this returns."""
        files.write(self._settings_file, msgspec.json.format(msgspec.json.encode(settings)))

    def forget(self, *, keep_private_key: bool) -> None:
        """Leave the mesh, in the files: the settings go first, so that a rest of them means nothing."""
        files.remove(self._settings_file)
        self.forget_mesh()
        for path in (
            self.membership_file,
            self.preshared_key_file,
            self._next_shared_file,
            self.estate_file,
            self._pending_file,
            self.asked_file,
            self.undo_file,
            self._due_file,
            self._next_key_file,
            self._rotation_file,
            *(() if keep_private_key else (self.private_key_file,)),
            self._backed_up_file,
            self._restoring_file,
        ):
            files.remove(path)

    def forget_mesh(self) -> None:
        """Have no signing key and no registry any more."""
        files.remove(self.signing_key_file)
        for end in ("", "-wal", "-shm"):
            files.remove(self.registry_file.with_name(self.registry_file.name + end))

    def remove_half_written(self) -> None:
        """Remove what a process that was killed left beside a file that it was about to write: keys, maybe.

        Holds the lock, as whoever writes does.
        """
        for path in self.directory.glob(".*.????????"):
            if path.is_file() and not path.is_symlink():
                files.remove(path)

    def next_shared(self) -> NextShared | None:
        """The key that this machine will share with the next control node, if one is named."""
        return _decoded(self._next_shared_file, NextShared, hint=_DELETE)

    def save_next_shared(self, shared: NextShared | None) -> None:
        """Remember it, durably, or that there is none."""
        if shared is None:
            files.remove(self._next_shared_file)
        else:
            files.write(self._next_shared_file, msgspec.json.encode(shared, enc_hook=_revealed))

    def estate(self) -> Estate | None:
        """What this machine will be the control node from, if it is named to be the next."""
        octets = files.read(self.estate_file)
        try:
            return None if octets is None else unpacked(octets)
        except EnrolmentRefused:
            raise StateUnreadable(
                f"{self.estate_file} is damaged",
                hint="delete it: the control node gives it again while the handover lasts",
            ) from None

    def save_estate(self, octets: bytes | None) -> None:
        """Remember it, durably, or that there is none."""
        if octets is None:
            files.remove(self.estate_file)
        else:
            files.write(self.estate_file, octets)

    def pending(self) -> Pending | None:
        """The redemption that was begun and not ended, if any."""
        return _decoded(self._pending_file, Pending, hint=_DELETE)

    def save_pending(self, pending: Pending | None) -> None:
        """Remember that a redemption is under way, or that none is any more."""
        if pending is None:
            files.remove(self._pending_file)
        else:
            files.write(self._pending_file, msgspec.json.encode(pending))

    def restoring(self) -> Restoring | None:
        """The restore that made this machine what it is, or was cut off; None where there was none."""
        return _decoded(self._restoring_file, Restoring, hint=_DELETE)

    def save_restoring(self, restoring: Restoring) -> None:
        """Remember that a restore is under way, or done; durably."""
        files.write(self._restoring_file, msgspec.json.encode(restoring))

    def backed_up(self) -> BackedUp | None:
        """The last backup that was written of this state; None where there was none."""
        return _decoded(self._backed_up_file, BackedUp, hint=_DELETE)

    def save_backed_up(self, backed_up: BackedUp) -> None:
        """Remember that there is a backup."""
        files.write(self._backed_up_file, msgspec.json.encode(backed_up))

    def asked(self) -> Asked | None:
        """The request by a file that waits for its answer, if any."""
        try:
            return _decoded(self.asked_file, Asked)
        except StateUnreadable as error:
            raise StateUnreadable(
                error.message, hint="`qmesh join --offline` with the same invitation writes it anew"
            ) from None

    def save_asked(self, asked: Asked | None) -> None:
        """Remember what a request's answer will need, durably, or that none waits any more."""
        if asked is None:
            files.remove(self.asked_file)
        else:
            files.write(self.asked_file, msgspec.json.encode(asked, enc_hook=_revealed))

    def undoing(self) -> Undoing | None:
        """The change that waits to be confirmed, or was undone; None where there is neither."""
        return _decoded(self.undo_file, Undoing, hint=_DELETE)

    def save_undoing(self, undoing: Undoing | None) -> None:
        """Remember what a change is undone to, durably, or that there is nothing to undo any more."""
        if undoing is None:
            files.remove(self.undo_file)
        else:
            files.write(self.undo_file, msgspec.json.encode(undoing, enc_hook=_revealed))

    def due(self) -> Due | None:
        """What the node's processes have to do still for a config that is written; None for nothing."""
        return _decoded(self._due_file, Due, hint=_DELETE)

    def save_due(self, due: Due | None) -> None:
        """Remember what the node's processes have to do, durably, or that there is nothing."""
        if due:
            files.write(self._due_file, msgspec.json.encode(due))
        else:
            files.remove(self._due_file)

    def held_ports(self) -> HeldPorts:
        """Which ports qmesh keeps reserved."""
        return _decoded(self._held_ports_file, HeldPorts, hint=_DELETE) or HeldPorts()

    def save_held_ports(self, held: HeldPorts) -> None:
        """Remember which ports qmesh keeps reserved."""
        if held == HeldPorts():
            files.remove(self._held_ports_file)
        else:
            files.write(self._held_ports_file, msgspec.json.encode(held))

    def ports_closed(self) -> tuple[int, ...]:
        """The ports that qmesh closed here last, ascending: by the guard's file, else by what it reserved.

        What others did to the loaded table is not in it.
        """
        script = files.read(self.guard_file)
        guard = None if script is None else parse_script(script.decode("utf-8", "replace"))
        if isinstance(guard, Guard):
            return guard.ports
        held = self.held_ports()
        return tuple(sorted((*held.ours, *held.others)))

    def private_key(self) -> Secret | None:
        """This machine's WireGuard private key; None when there is none yet."""
        return self._key(self.private_key_file)

    def make_private_key(self) -> Secret:
        """The machine's private key, made now if there is none: E1, 0600 from the first byte."""
        key = self.private_key()
        return self._new_key(self.private_key_file) if key is None else key

    @staticmethod
    def _new_key(path: Path) -> Secret:
        raw = X25519PrivateKey.generate().private_bytes_raw()
        key = Secret(base64.b64encode(raw).decode())
        files.write(path, key.reveal().encode() + b"\n")
        return key

    def make_next_key(self) -> Secret:
        """The key that this machine is to change to, made now if there is none."""
        key = self._key(self._next_key_file)
        return self._new_key(self._next_key_file) if key is None else key

    def take_up_next_key(self) -> None:
        """Make it this machine's private key; durable when this returns."""
        files.move(self._next_key_file, self.private_key_file)

    def rotation(self) -> Rotation | None:
        """The change of the key that is under way, if any."""
        return _decoded(self._rotation_file, Rotation, hint=_DELETE)

    def save_rotation(self, rotation: Rotation | None) -> None:
        """Remember a change of the key, durably, or that it is done."""
        if rotation is None:
            files.remove(self._rotation_file)
        else:
            files.write(self._rotation_file, msgspec.json.encode(rotation))

    def save_private_key(self, key: Secret) -> None:
        """Have this private key, 0600 from the first byte."""
        files.write(self.private_key_file, key.reveal().encode() + b"\n")

    def preshared_key(self) -> Secret | None:
        """The key that a worker machine shares with the control node."""
        return self._key(self.preshared_key_file)

    def save_preshared_key(self, key: Secret) -> None:
        """Remember the key that a worker machine shares with the control node, and with no next one yet."""
        files.write(self.preshared_key_file, key.reveal().encode() + b"\n")
        self.save_next_shared(None)

    def _key(self, path: Path) -> Secret | None:
        octets = files.read(path, limit=1024)
        if octets is None:
            return None
        try:
            key = Secret(octets.decode("ascii").strip())
            public_key_of(key)
        except (UnicodeDecodeError, QmeshError):
            raise StateUnreadable(
                f"{path} holds no WireGuard key",
                hint=f"on a member: delete it, {JOIN_ANEW}; on a control node: {RESTORE}",
            ) from None
        return key

    def signing_key(self) -> Ed25519PrivateKey:
        """The control node's key for memberships. Raises StateUnreadable when it is not there."""
        octets = files.read(self.signing_key_file, limit=1024)
        if octets is None or len(octets) != 32:
            raise StateUnreadable(f"{self.signing_key_file} holds no signing key", hint=RESTORE)
        return Ed25519PrivateKey.from_private_bytes(octets)

    def make_signing_key(self) -> Ed25519PrivateKey:
        """The signing key, made now if there is none."""
        if files.read(self.signing_key_file, limit=1024) is None:
            self.save_signing_key(secrets.token_bytes(32))
        return self.signing_key()

    def save_signing_key(self, octets: bytes) -> None:
        """Have this signing key, 32 octets, 0600 from the first byte."""
        files.write(self.signing_key_file, octets)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # A command usually ends within a second: only a longer wait is worth a word.
        if _locked_within(descriptor, 1):
            return
        log.info("waiting for another qmesh command on this machine to end ...")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _locked_within(descriptor: int, seconds: float) -> bool:
    begun = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() - begun >= seconds:
            return False
        time.sleep(0.02)


def _revealed(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def _hidden(kind: type, value: object) -> Secret:
    if kind is Secret and isinstance(value, str):
        return Secret(wireguard_key(value))
    raise ValueError(f"no {kind.__name__}")


def _decoded(path: Path, kind: type[T], hint: str = _ANEW) -> T | None:
    octets = files.read(path)
    if octets is None:
        return None
    try:
        return from_json(octets, kind, hook=_hidden)
    except Malformed:
        raise StateUnreadable(f"{path} is damaged, and qmesh does not guess", hint=hint) from None
