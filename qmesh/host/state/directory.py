"""The state directory of this machine: its files, documents, keys and lock as one object."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Iterator
from pathlib import Path

import msgspec

from qmesh.errors import (
    JOIN_ANEW,
    RESTORE,
    BadInput,
    EnrolmentRefused,
    MachineRefused,
    QmeshError,
    StateUnreadable,
)
from qmesh.host import files
from qmesh.host.firewall import guard_keeper, holder
from qmesh.host.lean import owned_table
from qmesh.host.log import log_outlets, machine_name
from qmesh.host.network import reserved_ports
from qmesh.host.notifications import notify_socket
from qmesh.host.readers import place as readers_place
from qmesh.host.state.documents import (
    UPGRADE_BACKUP,
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
from qmesh.host.state.key_files import KeyFiles
from qmesh.host.state.lock import build_busy_error, refuse_other_owner, try_lock, wait_for_lock
from qmesh.host.system import agent_health, agent_notify
from qmesh.mesh.guard.parse import parse_table_header
from qmesh.mesh.guard.script_text import is_complete_script
from qmesh.mesh.links.retirement import KeyRetirement, RetiredKeys
from qmesh.mesh.node_keys.differences import KeyDifferences
from qmesh.mesh.node_processes.record import ProcessRecord
from qmesh.mesh.notifications.record import NotificationRecord
from qmesh.mesh.notifications.targets import NotifySettings
from qmesh.mesh.protocol.handover import HandoverData, decode_handover_data
from qmesh.mesh.protocol.membership_conflict import MembershipConflict
from qmesh.mesh.rollback import RollbackRecord
from qmesh.mesh.state import Guard
from qmesh.mesh.systemd.due_restarts import DueRestarts
from qmesh.mesh.values import Secret

_ANEW = f"on a member: {JOIN_ANEW}; on a control node: {RESTORE}"
_NOTIFY_ANEW = "delete it, and run `qmesh set --notify` again with the URLs"
_REQUEST_ANEW = "run `qmesh join --offline` with the same invitation: it writes a new one"


class State:
    """The state directory of this machine. Reading never makes anything."""

    def __init__(self, directory: Path, *, patience_s: float | None = None) -> None:
        """patience_s: seconds that `lock` waits; None is as long as it takes."""
        self._patience_s = patience_s
        directory = directory.absolute()
        self.directory = directory
        self.registry_file = directory / "mesh.db"
        self.upgrade_backup_file = directory / UPGRADE_BACKUP
        self.membership_file = directory / "membership.json"
        self.guard_file = directory / guard_keeper.SCRIPT
        self.held_file = directory / owned_table.SCRIPT
        self.agent_socket = directory / agent_notify.SOCKET
        self.findings_socket = directory / agent_notify.FINDINGS_SOCKET
        self.hold_socket = directory / holder.SOCKET
        self.hold_lock_file = directory / holder.LOCK
        self.log_file = directory / log_outlets.NAME
        self.agent_lock_file = directory / "agent.lock"
        self.health_socket = directory / agent_health.SOCKET
        self.questions_socket = directory / readers_place.SOCKET
        self.notify_socket = directory / notify_socket.SOCKET
        self.undo_lock_file = directory / "undo.lock"
        self.worker_config_directory = directory / "node"
        self.estate_file = directory / "estate.msgpack"
        self._settings = Document(directory / machine_name.SETTINGS, Settings, hint=_ANEW)
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
        self.keys = KeyFiles(directory, origin=self.key_origin, successor=self.successor_key)
        self.key_differences = Document(directory / "node-keys.json", KeyDifferences)
        self.notify_settings = Document(directory / "notify.json", NotifySettings, hint=_NOTIFY_ANEW)
        self.notification_record = Document(directory / "notifications.json", NotificationRecord)

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
        return any(self.directory.iterdir()) and files.read_mode(self.keys.private_file) is None

    @contextlib.contextmanager
    def lock(self, wait_s: float | None = None) -> Iterator[None]:
        """Hold the one lock of this machine's qmesh; waits, and says so, while another has it.

        wait_s: seconds to wait for it; None where this state's patience counts.
        Raises BadInput when there is no state directory: then the machine is in no mesh; Busy when
        that is over; MachineRefused where the directory is not this user's own.
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
            refuse_other_owner(self.directory, os.fstat(descriptor))
            if wait_s is None and self._patience_s is not None:  # the agent's, who tries again
                is_held = try_lock(descriptor, self._patience_s)
            else:
                is_held = wait_for_lock(descriptor, self.directory, wait_s)
            if not is_held:
                raise build_busy_error(self.directory)
            yield
        finally:
            os.close(descriptor)

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
            refuse_other_owner(self.directory, os.fstat(descriptor))
            yield try_lock(descriptor, seconds)
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
        kept = (self._settings.path, self.keys.private_file, self.registry_file, self.membership_file)
        return self.read_directory_id() != home or not any(path.exists() for path in (*kept, self.guard_file))

    def read_stamp(self) -> Hashable:
        """What is another once a file was replaced of which this machine's desired state is made.

        SQLite writes into the registry's file: that is another only where it was put in its place.
        """
        written = (
            self._settings.path,
            self.membership_file,
            self.keys.preshared_file,
            self.keys.private_file,
            self.rollback_record.path,
            self.successor_key.path,
            self.estate_file,
            self.node_ports.path,
        )
        return (*map(files.read_stamp, written), (files.read_stamp(self.registry_file) or (None,))[0])

    def read_registry_stamp(self) -> Hashable:
        """What is another once something was written into the registry, if only by one transaction.

        Two that come within a tick of the file system's clock may look like one.
        """
        log = files.read_stamp(self.registry_file.with_name(f"{self.registry_file.name}-wal"))
        # An empty one comes and goes with readers.
        return files.read_stamp(self.registry_file), log if log is not None and log[2] else None

    def find_settings(self) -> Settings | None:
        """This machine's settings; None when it is in no mesh. Raises MachineRefused as `lock`."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            refuse_other_owner(self.directory, self.directory.stat())
        return self._settings.read()

    def find_valid_settings(self) -> Settings | None:
        """The same, but None where they are damaged too."""
        return self._settings.read_valid()

    def has_settings(self) -> bool:
        """Whether there are some, damaged ones included."""
        return self._settings.exists()

    def save_settings(self, settings: Settings) -> None:
        """Remember; durable when this returns."""
        files.write(self._settings.path, _encode_settings(settings))

    def save_membership(
        self, public_key: str, preshared: Secret, membership: bytes, settings: Settings
    ) -> None:
        """Be a member, in one durable step: the settings, which make this machine one, are the last.

        public_key: the one that this membership has for this machine.
        """
        files.replace_together(
            {
                **self.keys.plan_preshared_key(preshared),
                self.membership_file: membership,
                **self.keys.plan_activation(public_key),
                self.key_retirement.path: None,
                # After it: until then the key that it tells of is in no membership here.
                self.key_rotation.path: None,
                self._settings.path: _encode_settings(settings),
                self.unfinished_redemption.path: None,
            }
        )

    def remove_mesh_state(self, *, keep_private_key: bool) -> None:
        """Delete the files of the mesh: the settings first, so that leftovers of the others mean nothing."""
        self._settings.remove()
        self.remove_control_files()
        for path in (
            self.membership_file,
            self.keys.preshared_file,
            self.successor_key.path,
            self.estate_file,
            self.unfinished_redemption.path,
            self.sent_request.path,
            self.rollback_record.path,
            self.due_restarts.path,
            self.process_record.path,
            self.node_ports.path,
            self.keys.next_file,
            self.keys.joining_file,
            self.key_origin.path,
            self.membership_conflict.path,
            self.retired_keys.path,
            self.key_retirement.path,
            self.key_rotation.path,
            self.notify_settings.path,
            self.notification_record.path,
            *(() if keep_private_key else (self.keys.private_file,)),
            self.last_backup.path,
            self.restore_progress.path,
        ):
            files.remove(path)

    def remove_control_files(self) -> None:
        """Have no signing key and no registry any more, and little of what a control node's agent knows.

        Retired keys are kept: a machine with such a key calls this one still.
        """
        files.remove(self.keys.signing_file)
        files.remove(self.upgrade_backup_file)
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


def _encode_settings(settings: Settings) -> bytes:
    return msgspec.json.format(msgspec.json.encode(settings))
