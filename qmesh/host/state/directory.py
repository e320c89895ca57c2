"""The state directory: what this machine remembers between commands, and the lock around it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import logging
import os
import secrets
import shlex
import time
from collections.abc import Hashable, Iterator
from pathlib import Path

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
from qmesh.host.firewall import guard_keeper, held_table, holder
from qmesh.host.metrics import agent_socket
from qmesh.host.network import reserved_ports
from qmesh.host.state.documents import (
    Document,
    KeyOrigin,
    KeyRotation,
    LastBackup,
    NodePorts,
    PortReservations,
    RestoreProgress,
    SentRequest,
    Settings,
    SuccessorKey,
    UnfinishedRedemption,
)
from qmesh.host.system import agent_health, agent_notify, log_file, processes
from qmesh.mesh.guard.parse import is_complete_script, parse_table_header
from qmesh.mesh.links.retirement import KeyRetirement, RetiredKeys
from qmesh.mesh.node_keys.differences import KeyDifferences
from qmesh.mesh.node_processes.record import ProcessRecord
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.protocol.handover import HandoverData, decode_handover_data
from qmesh.mesh.protocol.membership_conflict import MembershipConflict
from qmesh.mesh.rollback import RollbackRecord
from qmesh.mesh.state import Guard
from qmesh.mesh.systemd.node_restarts import DueRestarts
from qmesh.mesh.values import Secret

_ANEW = f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}"
_REQUEST_ANEW = "run `qmesh join --offline` with the same invitation: it writes a new one"

log = logging.getLogger("qmesh")


class State:
    """The state directory of this machine. Reading never makes anything."""

    def __init__(self, directory: Path, *, patience_s: float | None = None) -> None:
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
        self.held_file = directory / held_table.SCRIPT
        self.agent_socket = directory / agent_notify.SOCKET
        self.findings_socket = directory / agent_notify.FINDINGS_SOCKET
        self.hold_socket = directory / holder.SOCKET
        self.hold_lock_file = directory / holder.LOCK
        self.log_file = directory / log_file.NAME
        self.agent_lock_file = directory / "agent.lock"
        self.health_socket = directory / agent_health.SOCKET
        self.metrics_socket = directory / agent_socket.SOCKET
        self.undo_lock_file = directory / "undo.lock"
        self.worker_config_directory = directory / "node"
        self.estate_file = directory / "estate.msgpack"
        self._next_key_file = directory / "next.key"
        self._joining_key_file = directory / "joining.key"
        self._settings = Document(directory / "machine.json", Settings, hint=_ANEW)
        self._port_reservations = Document(directory / reserved_ports.REMEMBERED, PortReservations)
        self.unfinished_redemption = Document(directory / "joining.json", UnfinishedRedemption)
        self.sent_request = Document(directory / "request.json", SentRequest, hint=_REQUEST_ANEW)
        self.restore_progress = Document(directory / "restored.json", RestoreProgress)
        self.last_backup = Document(directory / "backup.json", LastBackup)
        self.key_rotation = Document(directory / "rotating.json", KeyRotation)
        self.key_origin = Document(directory / "key-origin.json", KeyOrigin)
        self.successor_key = Document(directory / "successor.json", SuccessorKey)
        self.rollback_record = Document(directory / "undo.json", RollbackRecord)
        self.due_restarts = Document(directory / "due.json", DueRestarts)
        self.process_record = Document(directory / "processes.json", ProcessRecord)
        self.node_ports = Document(directory / "node-ports.json", NodePorts)
        self.retired_keys = Document(directory / "retired.json", RetiredKeys)
        self.key_retirement = Document(directory / "retirement.json", KeyRetirement)
        self.membership_conflict = Document(directory / "conflict.json", MembershipConflict)
        self.key_differences = Document(directory / "node-keys.json", KeyDifferences)

    def create_directory(self) -> None:
        """Make the state directory, 0700. Raises MachineRefused where it is in use for something else."""
        if self._is_foreign():
            raise MachineRefused(
                f"{self.directory} has other files in it, and is open to other users",
                hint="pass another directory with --state: qmesh needs one of its own",
            )
        files.make_private_directory(self.directory)

    def _is_foreign(self) -> bool:
        mode = files.read_mode(self.directory)
        if mode is None or not mode & 0o077 or not self.directory.is_dir():
            return False
        return any(self.directory.iterdir()) and files.read_mode(self.private_key_file) is None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the one lock of this machine's qmesh; waits, and says so, while another has it.

        Raises BadInput when there is no state directory: then the machine is in no mesh; Busy when
        this state's patience is over; MachineRefused where the directory is not this user's own.
        """
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._build_no_mesh_error() from None
        except OSError as error:
            raise MachineRefused(
                f"{self.directory} cannot be opened as a directory: {error.strerror}",
                hint="remove it, if it is a link or a file; or pass another directory with --state",
            ) from None
        try:
            self._refuse_other_owner(os.fstat(descriptor))
            if self._patience_s is None:
                _wait_for_lock(descriptor)
            elif not _try_lock(descriptor, self._patience_s):
                raise self._build_busy_error()
            yield
        finally:
            os.close(descriptor)

    def _refuse_other_owner(self, found: os.stat_result) -> None:
        """Raise MachineRefused where another user says what this machine is, and root would do it."""
        if found.st_uid != os.geteuid() == 0:
            raise MachineRefused(
                f"{self.directory} belongs to user {found.st_uid}, who could have root do anything by it",
                hint="pass root's own state directory with --state; or look at all of its files, then run"
                f" `chown -R root {shlex.quote(str(self.directory))}`",
            )

    def _build_busy_error(self) -> Busy:
        others = ", ".join(map(str, sorted(processes.list_opening_processes(self.directory)))) or "unknown"
        return Busy(
            f"another command of qmesh is at work on this machine (process {others})",
            hint="wait until it ends; if you stopped it with Ctrl-Z, type `fg` in its shell",
        )

    @contextlib.contextmanager
    def try_lock(self, seconds: float) -> Iterator[bool]:
        """Hold the lock where it can be had in that time; gives whether it is held. Raises as `lock`."""
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise MachineRefused(
                f"{self.directory} cannot be used: {error.strerror}",
                hint=f"look at it with `ls -ld {self.directory}`: was it removed or replaced?",
            ) from None
        try:
            self._refuse_other_owner(os.fstat(descriptor))
            yield _try_lock(descriptor, seconds)
        finally:
            os.close(descriptor)

    def settings(self) -> Settings:
        """This machine's settings. Raises BadInput when it is in no mesh."""
        found = self.find_settings()
        if found is None:
            raise self._build_no_mesh_error()
        return found

    def _build_no_mesh_error(self) -> QmeshError:
        if self.has_leftover_state():
            return StateUnreadable(
                f"{self._settings.path} is missing, though other files of a mesh are there",
                hint=f"if an `init`, `join` or `restore` was cut off, run it again; else {_ANEW}",
            )
        if self.sent_request.exists():
            return BadInput(
                "this machine is in no mesh yet: it waits for the answer to its request",
                hint="run `qmesh admit` with the request on the control node, then `qmesh join --answer FILE`"
                " here",
            )
        return BadInput(
            f"this machine is in no mesh: there is none in {self.directory}",
            hint="start a mesh with `qmesh init`, or join one with `qmesh join`",
        )

    def has_leftover_state(self) -> bool:
        """Whether there is state of a mesh besides the settings: theirs was lost, or not yet written."""
        rests = (
            self.registry_file,
            self.membership_file,
            self.unfinished_redemption.path,
            self.restore_progress.path,
        )
        return any(files.read_mode(path) is not None for path in rests)

    def has_own_guard(self) -> bool:
        """Whether a guard is written here; of one that is being removed the second file is left."""
        return any(files.read_mode(path) is not None for path in (self.guard_file, self.held_file))

    def read_directory_id(self) -> tuple[int, int] | None:
        """Which directory this is, by the kernel's numbers; None where there is none."""
        try:
            found = self.directory.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino

    def is_gone(self, home: tuple[int, int] | None) -> bool:
        """Whether the state is not there any more that was in that directory: it is another one, or bare."""
        kept = (self._settings.path, self.private_key_file, self.registry_file, self.membership_file)
        return self.read_directory_id() != home or not any(path.exists() for path in (*kept, self.guard_file))

    def read_stamp(self) -> Hashable:
        """What is another once a file was replaced of which this machine's desired state is made.

        SQLite writes into the registry's file: that is another only where it was put in its place.
        """
        written = (
            self._settings.path,
            self.membership_file,
            self.preshared_key_file,
            self.private_key_file,
            self.rollback_record.path,
            self.successor_key.path,
            self.estate_file,
            self.node_ports.path,
        )
        return (*map(files.read_stamp, written), (files.read_stamp(self.registry_file) or (None,))[0])

    def find_settings(self) -> Settings | None:
        """This machine's settings; None when it is in no mesh. Raises MachineRefused as `lock`."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            self._refuse_other_owner(self.directory.stat())
        return self._settings.read()

    def find_valid_settings(self) -> Settings | None:
        """The same, but None where they are damaged too."""
        return self._settings.read_valid()

    def has_settings(self) -> bool:
        """Whether there are some, damaged ones included."""
        return self._settings.exists()

    def save_settings(self, settings: Settings) -> None:
        """Remember; durable when this returns."""
        files.write(self._settings.path, msgspec.json.format(msgspec.json.encode(settings)))

    def remove_mesh_state(self, *, keep_private_key: bool) -> None:
        """Delete the files of the mesh: the settings first, so that leftovers of the others mean nothing."""
        self._settings.remove()
        self.remove_control_files()
        for path in (
            self.membership_file,
            self.preshared_key_file,
            self.successor_key.path,
            self.estate_file,
            self.unfinished_redemption.path,
            self.sent_request.path,
            self.rollback_record.path,
            self.due_restarts.path,
            self.process_record.path,
            self.node_ports.path,
            self._next_key_file,
            self._joining_key_file,
            self.key_origin.path,
            self.membership_conflict.path,
            self.retired_keys.path,
            self.key_retirement.path,
            self.key_rotation.path,
            *(() if keep_private_key else (self.private_key_file,)),
            self.last_backup.path,
            self.restore_progress.path,
        ):
            files.remove(path)

    def remove_control_files(self) -> None:
        """Have no signing key and no registry any more, and little of what a control node's agent knows.

        Retired keys are kept: a machine with such a key calls this one still.
        """
        files.remove(self.signing_key_file)
        self.key_differences.remove()
        self.membership_conflict.remove()
        for end in ("", "-wal", "-shm"):
            files.remove(self.registry_file.with_name(self.registry_file.name + end))

    def remove_temporary_files(self) -> None:
        """Remove temporary files of a process that was killed while it wrote: keys may be in them.

        The caller has the lock, as for writing.
        """
        for path in self.directory.glob(".*.????????"):
            if path.is_file() and not path.is_symlink():
                files.remove(path)

    def handover_payload(self) -> HandoverData | None:
        """What this machine will be the control node from, if it is named to be the next."""
        octets = files.read(self.estate_file)
        try:
            return None if octets is None else decode_handover_data(octets)
        except EnrolmentRefused:
            raise StateUnreadable(
                f"{self.estate_file} is damaged",
                hint="delete it: during the handover the control node sends it again",
            ) from None

    def save_handover_payload(self, octets: bytes | None) -> None:
        """Remember it, durably, or that there is none."""
        if octets is None:
            files.remove(self.estate_file)
        else:
            files.write(self.estate_file, octets)

    def read_port_reservations(self) -> PortReservations:
        """Which ports qmesh keeps reserved."""
        return self._port_reservations.read() or PortReservations()

    def save_port_reservations(self, held: PortReservations) -> None:
        """Remember which ports qmesh keeps reserved."""
        self._port_reservations.write(None if held == PortReservations() else held)

    def list_closed_ports(self) -> tuple[int, ...]:
        """Worker ports that qmesh closed here last, ascending: by the guard's file, else what it reserved.

        What others did to the loaded table is not in it.
        """
        guard = self._read_guard_file()
        if guard is not None:
            return guard.ports
        held = self.read_port_reservations()
        return tuple(sorted((*held.ours, *held.others)))

    def list_guarded_ports(self) -> tuple[int, ...]:
        """The ports besides workers' that the guard closed here last, ascending, by its file."""
        guard = self._read_guard_file()
        return () if guard is None else guard.guarded_ports

    def _read_guard_file(self) -> Guard | None:
        """What the guard's file says of itself, of whichever version it is; None where it does not."""
        script = files.read(self.guard_file)
        text = "" if script is None else script.decode("utf-8", "replace")
        return parse_table_header(text) if is_complete_script(text) else None

    def read_node_ports(self) -> NodePorts | None:
        """What the node's own file was last found to open.

        Where that is damaged, what the guard closes for all but this machine itself stands for it.
        """
        try:
            return self.node_ports.read()
        except StateUnreadable:
            guard = self._read_guard_file()
            return NodePorts(owner=0, ports=() if guard is None else guard.own_ports)

    def private_key(self) -> Secret | None:
        """This machine's WireGuard private key; None when there is none yet."""
        return self._read_key(self.private_key_file)

    def ensure_private_key(self) -> Secret:
        """The machine's private key, made now if there is none: E1, 0600 from the first byte."""
        key = self.private_key()
        return self._generate_key(self.private_key_file) if key is None else key

    @staticmethod
    def _generate_key(path: Path) -> Secret:
        raw = X25519PrivateKey.generate().private_bytes_raw()
        key = Secret(base64.b64encode(raw).decode())
        files.write(path, key.reveal().encode() + b"\n")
        return key

    def ensure_next_key(self) -> Secret:
        """The key that this machine is to change to, made now if there is none."""
        key = self._read_key(self._next_key_file)
        return self._generate_key(self._next_key_file) if key is None else key

    def activate_next_key(self) -> None:
        """Make it this machine's private key; durable when this returns."""
        files.move(self._next_key_file, self.private_key_file)

    def ensure_joining_key(self, identifier: str, *, is_replacing: bool) -> tuple[Secret, bool]:
        """The key to join with, by the invitation with this identifier; and whether it was made just now.

        is_replacing: whether it is for the place of a member. Then the key that was made for it counts, and
            none that is older: a copy of this machine may use that. Else it is the machine's own.
        """
        own = self.private_key()
        if own is not None and not is_replacing:
            return own, False
        origin, joining = self.key_origin.read(), self.joining_key()
        for key in (own, joining):
            if key is not None and origin == KeyOrigin(identifier, derive_public_key(key)):
                return key, False
        made = self._generate_key(self.private_key_file if own is None else self._joining_key_file)
        if is_replacing:
            self.key_origin.write(KeyOrigin(identifier, derive_public_key(made)))
        return made, True

    def joining_key(self) -> Secret | None:
        """The key with which this machine is about to take its own place; None where there is none."""
        return self._read_key(self._joining_key_file)

    def activate_joining_key(self, public_key: str) -> None:
        """Make it this machine's private key, where it is the one with that public key; durable."""
        joining = self.joining_key()
        if joining is not None and derive_public_key(joining) == public_key:
            files.move(self._joining_key_file, self.private_key_file)

    def discard_joining_key(self, public_key: str) -> None:
        """Have the key with that public key no more, which was made for a join that told nobody of it."""
        for file in (self._joining_key_file, self.private_key_file):
            key = self._read_key(file)
            if key is not None and derive_public_key(key) == public_key:
                files.remove(file)
        origin = self.key_origin.read()
        if origin is not None and origin.public_key == public_key:
            self.key_origin.remove()

    def save_private_key(self, key: Secret) -> None:
        """Have this private key, 0600 from the first byte."""
        files.write(self.private_key_file, key.reveal().encode() + b"\n")

    def preshared_key(self) -> Secret | None:
        """The key that a worker machine shares with the control node."""
        return self._read_key(self.preshared_key_file)

    def save_preshared_key(self, key: Secret) -> None:
        """Remember the key that a worker machine shares with the control node, and with no next one yet."""
        files.write(self.preshared_key_file, key.reveal().encode() + b"\n")
        self.successor_key.remove()

    def _read_key(self, path: Path) -> Secret | None:
        octets = files.read(path, limit=1024)
        if octets is None:
            return None
        try:
            key = Secret(octets.decode("ascii").strip())
            derive_public_key(key)
        except (UnicodeDecodeError, QmeshError):
            raise StateUnreadable(
                f"there is no WireGuard key in {path}",
                hint=f"on a member: delete it, then {JOIN_ANEW}; on a control node: {RESTORE}",
            ) from None
        return key

    def signing_key(self) -> Ed25519PrivateKey:
        """The control node's key for memberships. Raises StateUnreadable when it is not there."""
        octets = files.read(self.signing_key_file, limit=1024)
        if octets is None or len(octets) != 32:
            raise StateUnreadable(f"there is no signing key in {self.signing_key_file}", hint=RESTORE)
        return Ed25519PrivateKey.from_private_bytes(octets)

    def ensure_signing_key(self) -> Ed25519PrivateKey:
        """The signing key, made now if there is none."""
        if files.read(self.signing_key_file, limit=1024) is None:
            self.save_signing_key(secrets.token_bytes(32))
        return self.signing_key()

    def save_signing_key(self, octets: bytes) -> None:
        """Have this signing key, 32 octets, 0600 from the first byte."""
        files.write(self.signing_key_file, octets)


def _wait_for_lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # A command usually ends within a second: only a longer wait is worth a word.
        if _try_lock(descriptor, 1):
            return
        log.info("waiting for another qmesh command on this machine to end ...")
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _try_lock(descriptor: int, seconds: float) -> bool:
    begun = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() - begun >= seconds:
            return False
        time.sleep(0.02)
