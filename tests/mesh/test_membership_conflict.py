"""A control node that is an older copy of itself: what tells it, and what it takes for proof."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier
from qmesh.mesh.protocol.membership import SignedMembership, sign_membership
from qmesh.mesh.protocol.membership_conflict import (
    build_proof,
    compute_membership_digest,
    is_contradicting,
    read_proof,
)
from tests.support.factories import key, machine, mesh

replace = msgspec.structs.replace

SIGNING, FOREIGN = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
VERIFIES = SIGNING.public_key().public_bytes_raw()


def mesh_of(revision: int, *names: str) -> Inventory:
    machines = (machine(name, number) for number, name in enumerate(("control", *names), 1))
    return mesh(*machines, mesh=compute_mesh_identifier(VERIFIES), control="control", revision=revision)


OLD, NEW = mesh_of(5, "b"), mesh_of(9, "b", "c")


def signed(inventory: Inventory, by: Ed25519PrivateKey = SIGNING) -> SignedMembership:
    return sign_membership(inventory, by)


def test_what_is_older_or_another_of_the_same_revision_contradicts():
    assert is_contradicting(NEW, OLD)
    assert not is_contradicting(OLD, NEW)
    assert is_contradicting(NEW, replace(OLD, revision=9))
    assert not is_contradicting(NEW, NEW)
    # How a machine is announced, or what another version of qmesh writes besides, tells nothing.
    announced = replace(NEW.machines[1], announce="node.example.org")
    assert not is_contradicting(NEW, replace(NEW, machines=(NEW.machines[0], announced, NEW.machines[2])))
    invited = Machine(name="d", public_key=key(7), address="10.77.0.9", workers=None, state="invited")
    assert not is_contradicting(NEW, replace(NEW, machines=(*NEW.machines, invited)))


@pytest.mark.parametrize(
    "change",
    [{"public_key": key(8)}, {"address": "10.77.0.8"}, {"workers": 4}, {"state": "paused"}, {"name": "z"}],
)
def test_another_machine_is_another_membership(change):
    machines = (NEW.machines[0], NEW.machines[1], replace(NEW.machines[2], **change))
    assert compute_membership_digest(replace(NEW, machines=machines)) != compute_membership_digest(NEW)


@pytest.mark.parametrize("held", [NEW, replace(NEW, revision=5)])
def test_what_the_mesh_has_signed_is_proof_and_travels_as_a_difference(held):
    proof = build_proof(signed(held), signed(OLD), OLD.revision)
    assert read_proof(proof, signed(OLD), VERIFIES, OLD) == held
    assert len(proof) < 600


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        (build_proof(signed(NEW, FOREIGN), signed(OLD), 5), "not signed"),
        (build_proof(signed(OLD), signed(OLD), 5), "contradicts nothing"),
        (build_proof(signed(mesh_of(4)), signed(OLD), 5), "contradicts nothing"),
        (build_proof(signed(NEW), signed(OLD), 4), "another revision"),
        (build_proof(SignedMembership(bytes(1 << 23), bytes(64)), signed(OLD), 5), "damaged"),
        (b"\x00", "not understood"),
    ],
)
def test_nothing_else_is_proof(proof, why):
    with pytest.raises(EnrolmentRefused, match=why):
        read_proof(proof, signed(OLD), VERIFIES, OLD)
