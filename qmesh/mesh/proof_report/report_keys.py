"""The key with which a machine signs reports, and signatures in the format of `ssh-keygen -Y sign`.

WireGuard's key can't sign. A pair for Ed25519 is derived from it, and a key for marks: no other secret has to
be kept, a backup has it, and `qmesh rotate-key` changes it. Source: PROTOCOL.sshsig of OpenSSH, RFC 8709.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from qmesh.errors import BadInput
from qmesh.mesh.protocol.aead import derive_key
from qmesh.mesh.values import Secret, SecretStruct

SUFFIX: Final = ".sig"
"""Of the file beside a report that has its signature."""
NAMESPACE: Final = "qmesh-report"
"""As `ssh-keygen -Y verify -n` takes it."""
MOST_SIGNATURE: Final = 4096
"""Octets of a file with a signature."""
BEGIN: Final = "-----BEGIN SSH SIGNATURE-----"
_END: Final = "-----END SSH SIGNATURE-----"
_SALT: Final = b"qmesh report 1"
_MAGIC: Final = b"SSHSIG"
_KIND: Final = b"ssh-ed25519"
_HASH: Final = b"sha512"
_HINT: Final = "pass the file that `qmesh prove --report FILE --sign` wrote beside the report"


class ReportKeys(SecretStruct, frozen=True, kw_only=True):
    """What a machine has for its reports: 32 octets each. marking: of marks, which only it can make."""

    signing: bytes
    marking: bytes

    @property
    def fingerprint(self) -> str:
        """Of the public key, as `ssh-keygen -l` prints it."""
        return compute_fingerprint(self.public_key)

    @property
    def public_key(self) -> bytes:
        """The public key, 32 octets."""
        return Ed25519PrivateKey.from_private_bytes(self.signing).public_key().public_bytes_raw()


def derive_report_keys(private_key: Secret) -> ReportKeys:
    """Those of the machine with this WireGuard key."""
    secret = base64.b64decode(private_key.reveal())
    return ReportKeys(
        signing=derive_key(secret, salt=_SALT, info=b"signatures"),
        marking=derive_key(secret, salt=_SALT, info=b"marks"),
    )


class CheckedSignature(msgspec.Struct, frozen=True):
    """A signature that holds. public_key: 32 octets, of whoever made it."""

    public_key: bytes

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return compute_fingerprint(self.public_key)


def compute_fingerprint(public_key: bytes) -> str:
    """Of a public key."""
    digest = hashlib.sha256(_pack_key(public_key)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def render_public_key(public_key: bytes) -> str:
    """A public key as a line of `allowed_signers` has it, behind the name."""
    return f"{_KIND.decode()} {base64.b64encode(_pack_key(public_key)).decode()}"


def sign_octets(octets: bytes, keys: ReportKeys) -> str:
    """A signature as a file that `ssh-keygen -Y verify` takes."""
    made = Ed25519PrivateKey.from_private_bytes(keys.signing).sign(_build_signed(octets))
    blob = _build_blob(keys.public_key, made)
    text = base64.b64encode(blob).decode()
    lines = (text[place : place + 70] for place in range(0, len(text), 70))
    return "\n".join((BEGIN, *lines, _END, ""))


def check_signature(octets: bytes, signature: bytes) -> CheckedSignature | None:
    """Whose signature it is; None where it is of other octets. Raises BadInput for what is none of ours."""
    lines = signature[: MOST_SIGNATURE + 1].decode("ascii", "replace").split()
    text = " ".join(lines)
    if len(signature) > MOST_SIGNATURE or not (text.startswith(f"{BEGIN} ") and text.endswith(f" {_END}")):
        raise _build_error()
    try:
        blob = base64.b64decode(text[len(BEGIN) : -len(_END)].replace(" ", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _build_error() from None
    # All but key and signature is fixed, so it is compared, and nothing is parsed.
    key, made = blob[33:65], blob[-64:]
    if blob != _build_blob(key, made):
        raise _build_error()
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(made, _build_signed(octets))
    except (InvalidSignature, ValueError):
        return None
    return CheckedSignature(key)


def _build_blob(public_key: bytes, made: bytes) -> bytes:
    """A signature as it stands in a file."""
    parts = (_pack_key(public_key), NAMESPACE.encode(), b"", _HASH, _pack(_KIND) + _pack(made))
    return _MAGIC + struct.pack(">I", 1) + b"".join(map(_pack, parts))


def _build_signed(octets: bytes) -> bytes:
    digest = hashlib.sha512(octets).digest()
    return _MAGIC + b"".join(map(_pack, (NAMESPACE.encode(), b"", _HASH, digest)))


def _pack_key(public_key: bytes) -> bytes:
    return _pack(_KIND) + _pack(public_key)


def _pack(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def _build_error() -> BadInput:
    return BadInput("this is no signature of a qmesh report", hint=_HINT)
