"""The keys in the state directory: each a file, 0600 from the first byte, replaced whole."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from qmesh.errors import JOIN_ANEW, RESTORE, QmeshError, StateUnreadable
from qmesh.host import files
from qmesh.host.state.documents import Document, KeyOrigin, SuccessorKey
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.values import Secret


class KeyFiles:
    """This machine's keys. Reading raises StateUnreadable for a damaged key, or a missing signing key."""

    def __init__(
        self, directory: Path, *, origin: Document[KeyOrigin], successor: Document[SuccessorKey]
    ) -> None:
        """origin: by which invitation a joining key was made. successor: of the next control node's."""
        self.private_file = directory / "private.key"
        self.preshared_file = directory / "preshared.key"
        self.signing_file = directory / "signing.key"
        self.next_file = directory / "next.key"
        self.joining_file = directory / "joining.key"
        self._origin = origin
        self._successor = successor

    def read_private_key(self) -> Secret | None:
        """This machine's WireGuard private key; None when there is none yet."""
        return self._read_key(self.private_file)

    def ensure_private_key(self) -> Secret:
        """The machine's private key, made now if there is none: E1, 0600 from the first byte."""
        key = self.read_private_key()
        return self._generate_key(self.private_file) if key is None else key

    @staticmethod
    def _generate_key(path: Path) -> Secret:
        raw = X25519PrivateKey.generate().private_bytes_raw()
        key = Secret(base64.b64encode(raw).decode())
        files.write(path, key.reveal().encode() + b"\n")
        return key

    def ensure_next_key(self) -> Secret:
        """The key that this machine is to change to, made now if there is none."""
        key = self._read_key(self.next_file)
        return self._generate_key(self.next_file) if key is None else key

    def activate_next_key(self) -> None:
        """Make it this machine's private key; durable when this returns."""
        files.move(self.next_file, self.private_file)

    def ensure_joining_key(self, identifier: str, *, is_replacing: bool) -> tuple[Secret, bool]:
        """The key to join with, by the invitation with this identifier; and whether it was made just now.

        is_replacing: whether it is for the place of a member. Then the key that was made for it counts, and
            none that is older: a copy of this machine may use that. Else it is the machine's own.
        """
        own = self.read_private_key()
        if own is not None and not is_replacing:
            return own, False
        origin, joining = self._origin.read(), self.read_joining_key()
        for key in (own, joining):
            if key is not None and origin == KeyOrigin(identifier, derive_public_key(key)):
                return key, False
        made = self._generate_key(self.private_file if own is None else self.joining_file)
        if is_replacing:
            self._origin.write(KeyOrigin(identifier, derive_public_key(made)))
        return made, True

    def read_joining_key(self) -> Secret | None:
        """The key with which this machine is about to take its own place; None where there is none."""
        return self._read_key(self.joining_file)

    def plan_activation(self, public_key: str) -> dict[Path, bytes | Path | None]:
        """What makes the joining key this machine's private key, where it is the one with that public key."""
        joining = self.read_joining_key()
        if joining is None or derive_public_key(joining) != public_key:
            return {}
        return {self.private_file: self.joining_file}

    def discard_joining_key(self, public_key: str) -> None:
        """Have the key with that public key no more, which was made for a join that told nobody of it."""
        for file in (self.joining_file, self.private_file):
            key = self._read_key(file)
            if key is not None and derive_public_key(key) == public_key:
                files.remove(file)
        origin = self._origin.read()
        if origin is not None and origin.public_key == public_key:
            self._origin.remove()

    def save_private_key(self, key: Secret) -> None:
        """Have this private key, 0600 from the first byte."""
        files.write(self.private_file, key.reveal().encode() + b"\n")

    def read_preshared_key(self) -> Secret | None:
        """The key that a worker machine shares with the control node."""
        return self._read_key(self.preshared_file)

    def save_preshared_key(self, key: Secret) -> None:
        """Remember the key that a worker machine shares with the control node, and with no next one yet."""
        files.replace_together(self.plan_preshared_key(key))

    def plan_preshared_key(self, key: Secret) -> dict[Path, bytes | Path | None]:
        """What `save_preshared_key` does, for `files.replace_together`."""
        return {self.preshared_file: key.reveal().encode() + b"\n", self._successor.path: None}

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

    def read_signing_key(self) -> Ed25519PrivateKey:
        """The control node's key for memberships. Raises StateUnreadable when it is not there."""
        octets = files.read(self.signing_file, limit=1024)
        if octets is None or len(octets) != 32:
            raise StateUnreadable(f"there is no signing key in {self.signing_file}", hint=RESTORE)
        return Ed25519PrivateKey.from_private_bytes(octets)

    def ensure_signing_key(self) -> Ed25519PrivateKey:
        """The signing key, made now if there is none."""
        if files.read(self.signing_file, limit=1024) is None:
            self.save_signing_key(secrets.token_bytes(32))
        return self.read_signing_key()

    def save_signing_key(self, octets: bytes) -> None:
        """Have this signing key, 32 octets, 0600 from the first byte."""
        files.write(self.signing_file, octets)
