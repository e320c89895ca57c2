"""A member fetches the node's files from the control node, and puts them into its node's directory.

It is the member's root that asks, never the control node that sends. What was fetched is in this process's
memory until it is written, and nowhere else.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from qmesh.agent.control_client import build_client
from qmesh.agent.local import Local
from qmesh.agent.node import node_directory
from qmesh.agent.node.identity_files import refuse_unprintable_path
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_processes import note_readings
from qmesh.agent.node.node_restarts import update_workers_target
from qmesh.errors import BadInput, MachineRefused, StateUnreadable
from qmesh.host import config_directory, files
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.files import FileChange
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.host.system import systemd
from qmesh.mesh.node_keys.key_store import KEY_STORE
from qmesh.mesh.node_keys.planned_files import PlannedFile, plan_node_files, refuse_replacement
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.node_files import (
    NodeFiles,
    NodeFilesRequest,
    compute_reply_key,
    decrypt_node_files,
    encrypt_request,
)
from qmesh.mesh.systemd.instructions import describe_workers_action
from qmesh.mesh.values import SecretStruct

COMMAND: Final = "qmesh node-files --write"
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 30.0
"""Seconds for the answer to begin: the control node waits until nothing writes to its files."""


class FetchedFiles(SecretStruct, frozen=True, kw_only=True):
    """What is about to be written, and where. Never to be printed but by name and outcome."""

    here: Local
    directory: ConfigDirectory
    files: tuple[PlannedFile, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the files will be, in their order."""
        return tuple(self.directory.path / each.name for each in self.files)


def choose_directory(state: State, settings: Settings, given: Path | None) -> ConfigDirectory:
    """The node's directory: as given, as it is remembered, `.config` here, or one of qmesh's own.

    Raises BadInput as `node_directory.find_directory`.
    """
    if given is None and settings.node_directory is not None:
        return settings.node_directory
    found = node_directory.find_directory(given)
    return found or ConfigDirectory(state.worker_config_directory.absolute(), os.geteuid())


def fetch_node_files(state: State, here: Local, directory: ConfigDirectory) -> FetchedFiles:
    """Fetch the files for this machine, and see what becomes of those that it has. Nothing is written.

    Raises BadInput where this machine can't ask, or where its own files can't be read; EnrolmentRefused where
    the control node says no, and MachineRefused where it does not answer.
    """
    _refuse_to_ask(here)
    path = refuse_unprintable_path(directory)
    config = _read_octets(directory, node_directory.FILE_NAME)
    key_store = _read_octets(directory, KEY_STORE)
    fetched = _ask_control_node(state, here, path)
    planned = plan_node_files(
        here.inventory,
        here.settings.name,
        fetched,
        directory=str(directory.path),
        config=config,
        key_store=key_store,
    )
    return FetchedFiles(here=here, directory=directory, files=planned)


def _refuse_to_ask(here: Local) -> None:
    if here.settings.control:
        raise BadInput(
            f"{here.settings.name} is the control node, which has the node's files itself",
            hint="run the command on a machine that should have them",
        )
    if not here.settings.up:
        raise BadInput(
            "the tunnel is down, and the node's files come through it alone", hint="run `qmesh apply` first"
        )


def _read_octets(directory: ConfigDirectory, name: str) -> bytes | None:
    found = config_directory.read(directory, name)
    return None if found is None else found.octets


def _ask_control_node(state: State, here: Local, key_store: str) -> NodeFiles:
    hub = here.inventory.control_node
    shared, own = here.preshared.get(hub.public_key), state.keys.read_private_key()
    if shared is None or own is None:
        raise StateUnreadable(
            "this machine's key, or the one that it shares with the control node, is missing",
            hint="run `qmesh check`: it says what to do",
        )
    private_key = secrets.token_bytes(32)
    request = NodeFilesRequest(
        name=here.settings.name, reply_key=compute_reply_key(private_key), key_store=key_store
    )
    try:
        answer = build_client(here).fetch_node_files(
            encrypt_request(request, shared, nonce=secrets.token_bytes(NONCE_OCTETS)),
            connect_s=_CONNECT_S,
            read_s=_ANSWER_S,
        )
    except ControlNodeUnavailable as error:
        raise MachineRefused(
            f"{hub.name} did not give the node's files: {error}",
            hint=f"run `qmesh check` on {hub.name} and here; then run `{COMMAND}`",
        ) from None
    return decrypt_node_files(answer, private_key=private_key, member_private_key=own, shared=shared)


def write_node_files(state: State, fetched: FetchedFiles, *, replace: bool) -> tuple[Path, ...]:
    """Write both files or none, and remember where they are; those that changed. Takes the lock.

    replace: whether files of another identity may be replaced. Raises BadInput where they may not.
    """
    if not replace:
        refuse_replacement(fetched.files, str(fetched.directory))
    changes = [FileChange(each.name, each.octets, each.old) for each in fetched.files]
    if fetched.directory.path == state.worker_config_directory.absolute():
        files.make_private_directory(fetched.directory.path)
    # Without the lock: the agent's loop waits for that, and a user's directory for whoever it likes.
    written = config_directory.write_all(fetched.directory, changes)
    with state.lock():
        settings = state.settings()
        if settings.node_directory != fetched.directory:
            state.save_settings(settings.with_node_directory(fetched.directory))
        if systemd.has_worker_units():
            update_workers_target(fetched.here)
    note_readings(state)
    return written


def describe_restart(fetched: FetchedFiles) -> str | None:
    """What has to be restarted for changed files to count; None where no worker can run with others yet."""
    settings = fetched.here.settings.with_node_directory(fetched.directory)
    cores = tuple(fetched.here.inventory.core_numbers(settings.name))
    if not cores or all(each.outcome in {"new", "unchanged"} for each in fetched.files):
        return None
    restart = describe_workers_action("restart", cores, find_node_host(settings), are_all=True)
    return f"restart this machine's workers, which read these files when they start: {restart}"
