"""This machine's secrets in the state directory: whether they hold its keys, and who reads them."""

from __future__ import annotations

import base64
import contextlib

from qmesh.agent.local import Local
from qmesh.errors import StateUnreadable
from qmesh.host import files
from qmesh.host.state.directory import State
from qmesh.host.typed_commands import CLOSE, build_command
from qmesh.mesh.audit.surroundings import KeyFile, SecretFile
from qmesh.mesh.protocol.enrolment import derive_public_key


def list_secret_files(state: State) -> tuple[SecretFile, ...]:
    """Those that hold no key of this machine's own."""
    paths = (state.keys.preshared_file, state.registry_file)
    return tuple(SecretFile(str(path), files.read_mode(path), build_command(CLOSE, path)) for path in paths)


def list_key_files(state: State, here: Local) -> tuple[KeyFile, ...]:
    """WireGuard's, and on the control node the one that signs."""
    found = [(state.keys.private_file, here.machine.public_key, _read_public_key(state))]
    if here.settings.control:
        wanted = base64.b64encode(here.settings.verification_key).decode()
        found.append((state.keys.signing_file, wanted, _read_verification_key(state)))
    return tuple(
        KeyFile(str(path), wanted, files.read_mode(path), known, build_command(CLOSE, path))
        for path, wanted, known in found
    )


def _read_public_key(state: State) -> str | None:
    with contextlib.suppress(StateUnreadable):
        key = state.keys.read_private_key()
        return None if key is None else derive_public_key(key)
    return None


def _read_verification_key(state: State) -> str | None:
    with contextlib.suppress(StateUnreadable):
        return base64.b64encode(state.keys.read_signing_key().public_key().public_bytes_raw()).decode()
    return None
