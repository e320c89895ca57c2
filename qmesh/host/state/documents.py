"""What a machine remembers between commands, file by file: `State` has each as a `Document`.

None can be built wrong: what was read from a file is as good as what was typed. Building one raises BadInput.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from qmesh.errors import BadInput, StateUnreadable
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.metrics.outlets import parse_metrics_address
from qmesh.mesh.mtu import LEAST_MTU_IPV4
from qmesh.mesh.notifications.targets import SecretUrl
from qmesh.mesh.protocol.enrolment import Redemption
from qmesh.mesh.values import (
    TUNNEL_MTU,
    Endpoint,
    Port,
    Secret,
    SecretStruct,
    UnixTime,
    normalize_ip_address,
    validate_interface_name,
    validate_machine_name,
    validate_wireguard_key,
)
from qmesh.mesh.view.questions import validate_group_name

T = TypeVar("T")

UPGRADE_BACKUP: Final = "upgrade.backup"
"""In the state directory: the backup that is made before the registry is brought to a newer version."""
_DELETE = "delete it: it is only a note of what was under way"

_Identifier = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
_VerificationKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_User = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_Mtu = Annotated[int, msgspec.Meta(ge=LEAST_MTU_IPV4, le=TUNNEL_MTU)]


def _check_directory(path: str | None, *, option: str = "--config") -> None:
    """Raise BadInput for what the kernel takes for no path, or what depends on where a process is."""
    if path is not None and ("\0" in path or not path.startswith("/")):
        raise BadInput(
            f"the directory of {option} is not an absolute path",
            hint=f"pass it with {option}, as a path that begins with /",
        )


class LocalOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine is part of a mesh, as its user said or qmesh chose; valid.

    interface, listen_port: of the tunnel. endpoint: where its WireGuard is reached from outside.
    announce: where the node's network reaches it.
    config_directory: where the node has its config.yml; None while unknown.
    """

    interface: str
    listen_port: int
    config_directory: ConfigDirectory | None
    endpoint: Endpoint | None = None
    announce: str | None = None

    def stored_fields(self) -> dict[str, Any]:
        """What `Settings` and `SentRequest` store of it, by name; endpoint and announce are in the mesh."""
        directory = self.config_directory
        return {
            "interface": self.interface,
            "listen_port": self.listen_port,
            "config_directory": None if directory is None else str(directory.path),
            "config_owner": None if directory is None else directory.owner,
        }


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What this machine knows of itself. With this file the machine is part of a mesh.

    What is as by default is not written, so that an older version can read it while nothing newer is set.

    mesh, name: the mesh's identifier, and this machine's name in it.
    control: whether this machine is the control node, which has the registry.
    interface, listen_port: of the tunnel.
    verification_key: Ed25519, 32 bytes: memberships have to be signed by this key.
    control_endpoints: where a worker machine reaches the control node, best first.
    config_directory: of the node's config.yml; None while unknown.
    config_owner: the number of the user who owns that directory; None where it is not known yet.
    mtu: most bytes of a packet in the tunnel, as the user set it; None leaves it to the path.
    up: False after `qmesh down`.
    guarded: False after `qmesh down --open`.
    removed: whether the mesh has removed this machine; its worker ports stay closed.
    invitation: the identifier of the one that was redeemed here.
    metrics: where the agent serves them, an IP address and a port; None for nowhere.
    metrics_directory: where it writes them for node_exporter; None for where Debian's has its files, if that
        is there, and "" for nowhere.
    readers: the group whose members may ask the agent how the mesh is; None for none.
    prove: whether the agent proves its claims after each change of rules.
    """

    mesh: str
    name: str
    control: bool
    interface: str
    listen_port: Port
    verification_key: _VerificationKey
    control_endpoints: tuple[Endpoint, ...] = ()
    config_directory: str | None = None
    config_owner: _User | None = None
    mtu: _Mtu | None = None
    up: bool = True
    guarded: bool = True
    removed: bool = False
    invitation: str | None = None
    metrics: Endpoint | None = None
    metrics_directory: str | None = None
    readers: str | None = None
    prove: bool = True

    def __post_init__(self) -> None:
        validate_machine_name(self.name)
        validate_interface_name(self.interface)
        _check_directory(self.config_directory)
        _check_directory(self.metrics_directory or None, option="--metrics-directory")
        if self.metrics is not None:
            parse_metrics_address(str(self.metrics))
        if self.readers is not None:
            validate_group_name(self.readers)

    @property
    def node_directory(self) -> ConfigDirectory | None:
        """Where the node has its config.yml, and whose that is."""
        if self.config_directory is None:
            return None
        return ConfigDirectory(Path(self.config_directory), self.config_owner)

    def with_node_directory(self, directory: ConfigDirectory) -> Settings:
        """These settings with another directory of the node's."""
        return msgspec.structs.replace(
            self, config_directory=str(directory.path), config_owner=directory.owner
        )


class UnfinishedRedemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A redemption that was begun, and may have reached the control node.

    identifier: of the invitation.
    """

    identifier: _Identifier


class KeyOrigin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The join for which this machine made a key. identifier: of the invitation; public_key: of the key."""

    identifier: _Identifier
    public_key: str

    def __post_init__(self) -> None:
        validate_wireguard_key(self.public_key)


class KeyRotation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of this machine's key that the membership does not know of yet: public keys."""

    old: str
    new: str

    def __post_init__(self) -> None:
        validate_wireguard_key(self.old)
        validate_wireguard_key(self.new)


class SuccessorKey(SecretStruct, frozen=True, forbid_unknown_fields=True):
    """The key that this machine shares with the next control node. public_key: of that."""

    public_key: str
    preshared_key: Secret

    def __post_init__(self) -> None:
        validate_wireguard_key(self.public_key)
        validate_wireguard_key(self.preshared_key.reveal())


class RestoreProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A restore that was begun. digest: SHA-256 of the backup, hexadecimal; done: whether it was ended."""

    digest: str
    done: bool = False


class LastBackup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last backup that was written. at: Unix time in seconds; revision: of the mesh in it."""

    at: UnixTime
    revision: int


class SentRequest(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine that asked by a file needs for the answer; of the invitation's secret only one key.

    mesh, name, address, endpoints, verification_key: as the invitation has them.
    interface, listen_port, config_directory, config_owner: as `join --offline` was told.
    redemption: as it was sent.
    preshared_key: the permanent one, which the machine keeps once it is a member.
    """

    mesh: str
    name: str
    address: str
    endpoints: tuple[Endpoint, ...]
    verification_key: _VerificationKey
    interface: str
    listen_port: Port
    config_directory: str | None
    redemption: Redemption
    preshared_key: Secret
    config_owner: _User | None = None

    def __post_init__(self) -> None:
        validate_machine_name(self.name)
        normalize_ip_address(self.address)
        validate_interface_name(self.interface)
        _check_directory(self.config_directory)
        validate_wireguard_key(self.preshared_key.reveal())


class PortReservations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ports that qmesh wants reserved: those it reserved itself, and those that others want as well.

    is_pending: whether they were about to be reserved, and may not be.
    """

    ours: tuple[Port, ...] = ()
    others: tuple[Port, ...] = ()
    is_pending: bool = False


class NodePorts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ports at which the node's own file lets it listen on every address. owner: the file's user."""

    owner: _User
    ports: tuple[Port, ...]


def encode_document(value: object) -> bytes:
    """A value as its file has it, secrets in clear."""
    return msgspec.json.encode(value, enc_hook=_encode_secret)


def decode_document(octets: bytes, kind: type[T]) -> T:
    """A value of what its file has. Raises Malformed."""
    return decode_json(octets, kind, hook=_decode_secret)


class Document(Generic[T]):
    """A file that is one value as JSON, and replaced whole. hint: what to do where it is damaged."""

    def __init__(self, path: Path, kind: type[T], *, hint: str = _DELETE) -> None:
        self.path = path
        self._kind = kind
        self._hint = hint

    def exists(self) -> bool:
        """Whether it is there, damaged or not."""
        return files.read_mode(self.path) is not None

    def read(self) -> T | None:
        """What it holds; None where it is not there. Raises StateUnreadable for what is damaged."""
        octets = files.read(self.path)
        if octets is None:
            return None
        try:
            return decode_document(octets, self._kind)
        except Malformed:
            unknown = _list_unknown_fields(octets, self._kind)
            if unknown:
                raise StateUnreadable(
                    f"{self.path} was written by a newer qmesh: this one does not know {', '.join(unknown)}",
                    hint="install that version again, or a newer one; the guard stays as it is. Or, to stay"
                    f" with this one, {self._hint}",
                ) from None
            raise StateUnreadable(
                f"{self.path} is damaged, and qmesh does not guess", hint=self._hint
            ) from None

    def read_valid(self) -> T | None:
        """The same, but None for what is damaged too: for what nothing depends on."""
        with contextlib.suppress(StateUnreadable):
            return self.read()
        return None

    def write(self, value: T | None) -> None:
        """Have it hold this, 0600 from the first byte and durable when this returns; None for no file."""
        if value is None:
            self.remove()
        else:
            files.write(self.path, encode_document(value))

    def remove(self) -> None:
        """Have it no more, durably; it need not be there."""
        files.remove(self.path)


def _list_unknown_fields(octets: bytes, kind: type) -> tuple[str, ...]:
    """What a newer version has put into a file; empty for what is damaged besides."""
    try:
        found = decode_json(octets, dict[str, Any])
        known = {field.encode_name for field in msgspec.structs.fields(kind)}
        rest = {name: value for name, value in found.items() if name in known}
        decode_document(msgspec.json.encode(rest), kind)
    except Malformed:
        return ()
    unknown = sorted(found.keys() - known)
    return tuple(unknown) if all(re.fullmatch(r"[a-z][a-z_]{0,39}", name) for name in unknown) else ()


def _encode_secret(value: object) -> str:
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError(type(value).__name__)


def _decode_secret(kind: type, value: object) -> Secret:
    if kind is Secret and isinstance(value, str):
        return Secret(validate_wireguard_key(value))
    if kind is SecretUrl and isinstance(value, str):
        return SecretUrl(value)
    raise ValueError(f"no {kind.__name__}")
