"""A small registry, and what fills it."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.host.registry import IssuedInvitation, Registry
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.enrolment import Redemption, build_redemption, derive_invitation_keys
from qmesh.mesh.values import Endpoint
from tests.support.factories import key, mesh

NOW = 1_800_000_000
DAY_S = 86400
CONTROL = Machine(
    name="control",
    public_key=key(9000),
    address="10.77.0.1",
    workers=3,
    endpoints=(Endpoint("203.0.113.5", 51820), Endpoint("2001:db8::5", 51821)),
)


MESH = mesh(CONTROL, control="control", revision=1)


SIGNS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def path(tmp_path):
    Registry.create(tmp_path / "mesh.db", MESH, now=NOW)
    return tmp_path / "mesh.db"


@pytest.fixture
def registry(path):
    with Registry(path) as found:
        yield found


def invite(
    registry: Registry, name: str = "machine-b", *, workers: int | None = 2, now: int = NOW
) -> IssuedInvitation:
    return registry.invite(name, workers=workers, endpoint=None, expires_at=now + DAY_S, now=now)


def message(
    issued: IssuedInvitation, own_key: str, *, workers: int = 7, endpoint: Endpoint | None = None
) -> Redemption:
    return build_redemption(
        derive_invitation_keys(issued.secret), public_key=own_key, workers=workers, endpoint=endpoint
    )


def redeem(registry: Registry, issued: IssuedInvitation, own_key: str, *, now: int = NOW + 5) -> Inventory:
    return registry.redeem(message(issued, own_key), sender=issued.machine.address, now=now)
