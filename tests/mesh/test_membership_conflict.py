"""A control node that is an older copy of itself: what tells it, and what it takes for proof."""

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import GuardedPort, Machine, PendingKey
from qmesh.mesh.protocol.enrolment import compute_mesh_identifier
from qmesh.mesh.protocol.membership import SignedMembership, sign_membership
from qmesh.mesh.protocol.membership_conflict import (
    build_proof,
    is_contradicting,
    read_membership_content,
    read_proof,
)
from qmesh.mesh.values import Endpoint
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


def contradicts(held: Inventory, offered: Inventory) -> bool:
    return is_contradicting(read_membership_content(signed(held)), read_membership_content(signed(offered)))


def digest_of(document: dict[str, object]) -> str:
    return read_membership_content(SignedMembership(msgspec.json.encode(document), b"")).digest


def test_what_is_older_or_another_of_the_same_revision_contradicts():
    assert contradicts(NEW, OLD)
    assert not contradicts(OLD, NEW)
    assert contradicts(NEW, replace(OLD, revision=9))
    assert not contradicts(NEW, NEW)
    # What no member is told of.
    invited = Machine(name="d", public_key=key(7), address="10.77.0.9", workers=None, state="invited")
    assert not contradicts(NEW, replace(NEW, machines=(*NEW.machines, invited)))
    coming = PendingKey("b", key(8), None)
    assert not contradicts(NEW, replace(NEW, stand_ins=(coming,)))


OTHER_MESH: dict[str, object] = {
    "mesh": compute_mesh_identifier(FOREIGN.public_key().public_bytes_raw()),
    "network": "10.77.0.0/16",
    "control": "b",
    "node": "2.0",
    "base_port": 41000,
    "service_port": 700,
    "revision": 10,
    "machines": NEW.machines[:2],
    "p2p_base_port": 51000,
    "stream": "public",
    "master_proxy": True,
    "restart": True,
    "successor": "b",
}
OTHER_MACHINE: dict[str, object] = {
    "name": "z",
    "public_key": key(8),
    "address": "10.77.0.8",
    "workers": 4,
    "state": "paused",
    "endpoints": (Endpoint("192.0.2.9", 51820),),
    "announce": "node.example.org",
    "guarded_ports": (GuardedPort(9100, "control"),),
    "left_open": (22,),
    "node_files": True,
}


def test_all_that_a_membership_says_is_in_its_digest():
    """A control node that is an older copy can differ from what members hold in a single port."""
    newest = replace(NEW, node="2.1", p2p_base_port=50000)
    reached = tuple(replace(each, endpoints=(Endpoint("192.0.2.1", 1),)) for each in newest.machines)
    newest = replace(newest, machines=reached)
    others = {name: {name: value} for name, value in OTHER_MESH.items()}
    others["node"] |= {"p2p_base_port": None}
    found = {
        name: read_membership_content(signed(replace(newest, **change))) for name, change in others.items()
    }
    for name, value in OTHER_MACHINE.items():
        last = replace(newest.machines[2], **{name: value})
        changed = replace(newest, machines=(*newest.machines[:2], last))
        found[f"machine's {name}"] = read_membership_content(signed(changed))
    found[""] = read_membership_content(signed(newest))

    assert len({each.digest for each in found.values()}) == len(found)
    assert {*OTHER_MESH, "stand_ins"} == set(Inventory.__struct_fields__), "a new field is told or not"
    assert set(OTHER_MACHINE) == set(Machine.__struct_fields__), "the same"


def test_versions_of_qmesh_have_the_same_digest_of_one_membership():
    """Each writes what it knows: fields in another order, and those at their default or not at all."""
    held = msgspec.json.decode(signed(NEW).payload)
    machines = [dict(reversed({**each, "state": "active"}.items())) for each in held["machines"]]
    newer = {**held, "machines": [{**each, "new": None, "news": []} for each in machines], "new": False}
    older = {
        name: value for name, value in held.items() if name not in {"stream", "restart", "p2p_base_port"}
    }

    assert digest_of(newer) == digest_of(older) == digest_of(held)
    # What a newer one says is of the membership for who does not know what it means.
    assert digest_of({**held, "new": True}) != digest_of(held)
    assert digest_of({**held, "machines": [{**machines[0], "new": 1}, *machines[1:]]}) != digest_of(held)


@pytest.mark.parametrize("kind", [Inventory, Machine])
def test_a_new_field_has_a_default_that_an_older_qmesh_drops(kind: type[msgspec.Struct]):
    written = {each.name: each.default for each in msgspec.structs.fields(kind) if not each.required}
    named = {name for name, default in written.items() if default not in (None, False, ())}
    assert named <= {"stream", "state"}, "make it None, False or (): these two are known to every version"


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
