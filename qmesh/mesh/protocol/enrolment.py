"""Invitation and redemption: the messages, and the rules for believing them.

An invitation is one line of text, `qmesh1` and base64url of a MessagePack array and a checksum.
Everything that joining needs besides is derived from its 32-byte secret by HKDF-SHA256 (RFC 5869):
a throwaway WireGuard key pair and preshared key, an identifier that is safe to keep, the key that
proves a redemption, and, with both public keys, the permanent preshared key.

No randomness and no clock here: keys, secrets and times are arguments.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from typing import Annotated, Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.mesh.decode import decode_json, refuse_malformed
from qmesh.mesh.machine import validate_worker_count
from qmesh.mesh.networks import refuse_endpoint_inside
from qmesh.mesh.protocol.aead import derive_key
from qmesh.mesh.protocol.armor import decode_carried, decode_line, encode_line
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.values import (
    Endpoint,
    Port,
    Secret,
    normalize_ip_address,
    normalize_ip_network,
    quote_text,
    validate_machine_name,
    validate_wireguard_key,
)

PREFIX: Final = "qmesh1"
MAX_TEXT: Final = 8192
"""Characters that an invitation has at most, white space around it included."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S: Final = 30 * 86400
_NOT_AN_INVITATION: Final = "copy the whole line that `qmesh invite` printed, from qmesh1 to its end"


class Invitation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a machine needs to join. Holds a secret: never print or log one but on purpose.

    secret: 32 random octets.
    mesh: the mesh's identifier.
    verification_key: the Ed25519 public key that signs the membership, 32 octets.
    control_key: the control node's WireGuard public key.
    control_address, network: the control node's tunnel address, and the tunnel network.
    service_port: TCP port of the membership service on the control node's tunnel address.
    endpoints: where the control node's WireGuard may be reached, best first.
    name, address: the machine's future name and tunnel address.
    from_address: where it comes from until it is a member, if not from there: the address is in use
        still by the machine whose place it takes.
    workers: its data workers, or None when the machine is to say.
    expires_at: Unix time in seconds, by the control node's clock.
    """

    secret: bytes
    mesh: str
    verification_key: bytes
    control_key: str
    control_address: str
    network: str
    service_port: Port
    endpoints: Annotated[tuple[Endpoint, ...], msgspec.Meta(min_length=1, max_length=16)]
    name: str
    address: str
    workers: int | None
    expires_at: int
    from_address: str | None = None

    def __post_init__(self) -> None:
        if len(self.secret) != 32 or len(self.verification_key) != 32:
            raise BadInput("an invitation's keys have 32 bytes", hint=_NOT_AN_INVITATION)
        validate_wireguard_key(self.control_key)
        validate_machine_name(self.name)
        if normalize_ip_network(self.network) != self.network:
            raise BadInput("an invitation's network is canonical", hint=_NOT_AN_INVITATION)
        network = ipaddress.ip_network(self.network)
        for address in (self.address, self.control_address, self.source_address):
            if normalize_ip_address(address) != address or ipaddress.ip_address(address) not in network:
                raise BadInput("an invitation's addresses lie in its network", hint=_NOT_AN_INVITATION)
        if self.workers is not None:
            validate_worker_count(self.workers)
        for endpoint in self.endpoints:
            refuse_endpoint_inside(self.network, endpoint.host)

    @property
    def source_address(self) -> str:
        """The tunnel address with which the invitation is redeemed."""
        return self.from_address or self.address

    def __repr__(self) -> str:
        return f"Invitation(name={self.name!r}, mesh={self.mesh!r}, secret=...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # rich shows every field of a Struct otherwise
        return [("name", self.name), ("mesh", self.mesh)]

    def text(self) -> str:
        """The one line that `qmesh invite` prints."""
        return encode_line(PREFIX, msgspec.msgpack.encode(self))

    @property
    def derived_keys(self) -> InvitationKeys:
        """What both sides derive from the secret."""
        return derive_invitation_keys(self.secret)


def parse_invitation(text: str) -> Invitation:
    """Read the line that `qmesh invite` printed. Raises BadInput, repeating nothing of the text."""
    packed = decode_line(text, PREFIX, what="invitation", most=MAX_TEXT, hint=_NOT_AN_INVITATION)
    invitation = decode_carried(packed, Invitation, what="invitation")
    if invitation.text() != text.strip():  # MessagePack has several spellings of one value
        raise BadInput("this invitation is damaged", hint=_NOT_AN_INVITATION)
    return invitation


class InvitationKeys(msgspec.Struct, frozen=True):
    """What the invitation's secret gives to those who hold it.

    identifier: names the invitation without giving it away, hexadecimal.
    private_key, public_key, preshared_key: of the throwaway WireGuard peer.
    proof_key: authenticates the redemption.
    """

    identifier: str
    private_key: Secret
    public_key: str
    preshared_key: Secret
    proof_key: bytes

    def __repr__(self) -> str:
        return f"InvitationKeys(identifier={self.identifier!r}, ...)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("identifier", self.identifier)]


def derive_invitation_keys(secret: bytes) -> InvitationKeys:
    """Derive the throwaway keys from an invitation's 32-byte secret."""
    private = X25519PrivateKey.from_private_bytes(_derive(secret, b"throwaway private key"))
    return InvitationKeys(
        identifier=_derive(secret, b"identifier")[:16].hex(),
        private_key=Secret(base64.b64encode(private.private_bytes_raw()).decode()),
        public_key=base64.b64encode(private.public_key().public_bytes_raw()).decode(),
        preshared_key=Secret(base64.b64encode(_derive(secret, b"throwaway preshared key")).decode()),
        proof_key=_derive(secret, b"redemption"),
    )


def derive_permanent_preshared_key(secret: bytes, control_key: str, member_key: str) -> Secret:
    """The preshared key of a member and the control node: both derive it, it crosses no wire."""
    info = b"preshared key" + base64.b64decode(control_key) + base64.b64decode(member_key)
    return Secret(base64.b64encode(_derive(secret, info)).decode())


def derive_public_key(private_key: Secret) -> str:
    """The WireGuard public key of a private key. Raises BadInput when that is none."""
    raw = base64.b64decode(validate_wireguard_key(private_key.reveal()))
    return base64.b64encode(X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()).decode()


def refuse_weak_key(public_key: str) -> None:
    """Raise EnrolmentRefused for a public key with which X25519 agrees on nothing but zeros."""
    probe = X25519PrivateKey.from_private_bytes(hashlib.sha256(b"qmesh weak key probe").digest())
    try:
        probe.exchange(
            X25519PublicKey.from_public_bytes(base64.b64decode(validate_wireguard_key(public_key)))
        )
    except (ValueError, BadInput):
        raise EnrolmentRefused(
            "the machine's public key cannot be used",
            hint="on that machine, delete private.key in the state directory, then run `qmesh join` again",
        ) from None


def _derive(secret: bytes, info: bytes) -> bytes:
    return derive_key(secret, salt=b"qmesh invitation 1", info=info)


def parse_duration_s(text: str) -> int:
    """Seconds in `90s`, `30m`, `24h` or `7d`. Raises BadInput; a minute at least, 30 days at most."""
    said = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    seconds = int(said[1]) * _UNITS[said[2]] if said else 0
    if not 60 <= seconds <= _LONGEST_S:
        raise BadInput(
            f"{quote_text(text)} is not a time that an invitation can be valid for",
            hint="use a number and m, h or d, from 1m to 30d, such as 24h",
        )
    return seconds


class Redemption(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a machine sends through the tunnel to become a member.

    identifier: of the invitation.
    public_key: the machine's own, made on it.
    workers: how many data workers it can run; used where the invitation leaves it open.
    endpoint: where its WireGuard is reached, `HOST:PORT`, or None.
    proof: HMAC-SHA256 of the rest, hexadecimal.
    announce: where the node's network reaches it, an IP address or DNS name, or None.
    """

    identifier: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    public_key: str
    workers: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    endpoint: Annotated[str, msgspec.Meta(max_length=300)] | None
    proof: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    announce: Annotated[str, msgspec.Meta(max_length=253)] | None = None


KEY_OFFER: Final = b"the key that a member changes to"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""


class KeyOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a member sends before it changes to another key of its own."""

    public_key: str


def read_key_offer(body: bytes) -> str:
    """The public key that a member offers. Raises EnrolmentRefused."""
    with refuse_malformed("the key is not understood"):
        offered = decode_json(body, KeyOffer)
        validate_wireguard_key(offered.public_key)
    refuse_weak_key(offered.public_key)
    return offered.public_key


def build_redemption(
    derived: InvitationKeys,
    *,
    public_key: str,
    workers: int,
    endpoint: Endpoint | None,
    announce: str | None = None,
) -> Redemption:
    """The message with which a machine redeems its invitation."""
    where = None if endpoint is None else str(endpoint)
    unproven = Redemption(derived.identifier, public_key, workers, where, "", announce)
    return msgspec.structs.replace(unproven, proof=_compute_proof(derived.proof_key, unproven))


def read_redemption(body: bytes) -> Redemption:
    """Read a redemption as it arrived. Raises EnrolmentRefused."""
    with refuse_malformed("the redemption is not understood"):
        message = decode_json(body, Redemption)
        validate_wireguard_key(message.public_key)
        if message.endpoint is not None:
            Endpoint.parse(message.endpoint, default_port=None)
        if message.announce is not None:
            parse_public_host(message.announce)
    refuse_weak_key(message.public_key)
    return message


def verify_redemption_proof(message: Redemption, secret: bytes) -> None:
    """Raise EnrolmentRefused unless the sender of `message` holds the invitation's secret."""
    expected = _compute_proof(derive_invitation_keys(secret).proof_key, message)
    if not hmac.compare_digest(expected, message.proof):
        raise EnrolmentRefused(
            "the proof of the redemption is wrong",
            hint="run `qmesh invite` on the control node for a new invitation",
        )


def _compute_proof(key: bytes, message: Redemption) -> str:
    said = [message.identifier, message.public_key, message.workers, message.endpoint]
    if message.announce is not None:
        said.append(message.announce)
    return hmac.new(key, msgspec.json.encode(said), hashlib.sha256).hexdigest()


def compute_mesh_identifier(verification_key: bytes) -> str:
    """What a mesh is called: 16 hexadecimal digits of its verification key's SHA-256."""
    return hashlib.sha256(verification_key).hexdigest()[:16]
