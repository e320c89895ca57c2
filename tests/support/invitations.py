"""An invitation and its keys."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.mesh.protocol.enrolment import (
    Invitation,
    compute_mesh_identifier,
    derive_public_key,
)
from qmesh.mesh.values import Endpoint, Secret

SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
VERIFICATION_KEY = SIGNING_KEY.public_key().public_bytes_raw()
MESH = compute_mesh_identifier(VERIFICATION_KEY)
SECRET = bytes.fromhex("fbeffe") * 10 + b"\xff\xfe"  # in base64url these octets show both - and _
CONTROL_KEY = derive_public_key(Secret(base64.b64encode(b"c" * 32).decode()))
MEMBER_KEY = derive_public_key(Secret(base64.b64encode(b"m" * 32).decode()))


def invitation(**named: Any) -> Invitation:
    values: dict[str, Any] = {
        "secret": SECRET,
        "mesh": MESH,
        "verification_key": VERIFICATION_KEY,
        "control_key": CONTROL_KEY,
        "control_address": "10.77.0.1",
        "network": "10.77.0.0/20",
        "service_port": 51820,
        "endpoints": (Endpoint("192.168.1.5", 51820), Endpoint("203.0.113.5", 51820)),
        "name": "machine-b",
        "address": "10.77.0.2",
        "workers": 4,
        "expires_at": 1_800_000_000,
    }
    return Invitation(**{**values, **named})


INVITATION = invitation()
