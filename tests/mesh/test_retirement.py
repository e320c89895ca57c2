"""Keys that the mesh does not have any more: who is told what, and that nothing of them is let in."""

import base64
import ipaddress

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.mesh.desired import Facts, LocalEnd, build_desired_state
from qmesh.mesh.links.retirement import (
    ABOUT,
    MOST_RETIRED,
    KeyRetirement,
    RetiredKey,
    RetiredKeys,
    build_notice,
    compute_retired_address,
    read_notice,
    retire_keys,
    sign_retirement,
)
from qmesh.mesh.machine import Machine, PendingKey
from qmesh.mesh.protocol.aead import encrypt_message
from qmesh.mesh.values import Secret
from tests.support.factories import key
from tests.support.factories import mesh as mesh_of

replace = msgspec.structs.replace

SIGNING, FOREIGN = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))
VERIFIES = SIGNING.public_key().public_bytes_raw()
SHARED, OTHER = (Secret(base64.b64encode(bytes([number]) * 32).decode()) for number in (3, 4))
RETIRED = RetiredKey(machine="b", public_key=key(1), preshared_key=SHARED, reason="removed", at=1_700_000_000)

SIGNED = sign_retirement(RETIRED, "m", SIGNING)


def machine(name: str, number: int) -> Machine:
    return Machine(name=name, public_key=key(number), address=f"10.77.0.{number + 1}", workers=1)


def test_a_key_that_goes_is_remembered_with_what_became_of_its_machine():
    before = {key(1): ("b", SHARED), key(2): ("c", OTHER), key(3): ("d", OTHER)}
    found = retire_keys(RetiredKeys(), before, (machine("c", 2), machine("d", 7)), at=5)
    assert [(each.machine, each.public_key, each.reason, each.at) for each in found.keys] == [
        ("b", key(1), "removed", 5),
        ("d", key(3), "replaced", 5),
    ]
    # One that is a machine's again is none, and one that goes once more is there once.
    back = retire_keys(found, {}, (machine("b", 1), machine("c", 2)), at=6)
    assert [each.public_key for each in back.keys] == [key(3)]
    again = retire_keys(found, {key(1): ("b", OTHER)}, (), at=7)
    assert [(each.public_key, each.at) for each in again.keys] == [(key(3), 5), (key(1), 7)]
    many = {key(number): (f"m{number}", SHARED) for number in range(10, 10 + MOST_RETIRED)}
    assert [each.machine for each in retire_keys(found, many, (), at=8).keys] == [
        name for name, _ in many.values()
    ]


def test_such_a_key_has_an_address_that_no_kernel_takes_a_packet_from():
    addresses = {ipaddress.ip_address(compute_retired_address(key(n), is_ipv6=False)) for n in range(300)}
    assert len(addresses) == 300
    assert all(each in ipaddress.ip_network("239.0.0.0/8") for each in addresses)
    assert ipaddress.ip_address(compute_retired_address(key(1), is_ipv6=True)).is_multicast


@pytest.mark.parametrize("source", ["10.77.0.1", "fd00::1"])
def test_who_has_it_is_told_by_a_packet_that_the_mesh_has_signed(source):
    packet = build_notice(SIGNED, "m", source=source, nonce=bytes(12))
    said = read_notice(packet, key(1), SHARED, VERIFIES, mesh="m")
    assert said == KeyRetirement(mesh="m", machine="b", public_key=key(1), reason="removed", at=RETIRED.at)
    assert len(packet) < 1280
    if source.startswith("10."):  # RFC 791: the header sums up to all ones
        words = [int.from_bytes(packet[at : at + 2]) for at in range(0, 20, 2)]
        assert (sum(words) & 0xFFFF) + (sum(words) >> 16) == 0xFFFF
        assert int.from_bytes(packet[2:4]) == len(packet)
    else:
        assert int.from_bytes(packet[4:6]) == len(packet) - 40


NOTICE = build_notice(SIGNED, "m", source="10.77.0.1", nonce=bytes(12))


@pytest.mark.parametrize(
    ("packet", "own", "shared", "mesh"),
    [
        (NOTICE, key(2), SHARED, "m"),
        (NOTICE, key(1), OTHER, "m"),
        (NOTICE, key(1), SHARED, "n"),
        (NOTICE[:-1], key(1), SHARED, "m"),
        (NOTICE[:19], key(1), SHARED, "m"),
        (b"", key(1), SHARED, "m"),
        (b"\x60" + bytes(80), key(1), SHARED, "m"),
        (
            build_notice(sign_retirement(RETIRED, "m", FOREIGN), "m", source="10.77.0.1", nonce=bytes(12)),
            key(1),
            SHARED,
            "m",
        ),
        (
            NOTICE[:20] + encrypt_message(bytes(100), SHARED, about=ABOUT, nonce=bytes(12)),
            key(1),
            SHARED,
            "m",
        ),
        (
            NOTICE[:20]
            + encrypt_message(
                SIGNING.sign(b"qmesh retirement 1\n{}") + b"{}", SHARED, about=ABOUT, nonce=bytes(12)
            ),
            key(1),
            SHARED,
            "m",
        ),
    ],
)
def test_nothing_else_is_believed(packet, own, shared, mesh):
    assert read_notice(packet, own, shared, VERIFIES, mesh=mesh) is None


def test_who_is_or_was_the_control_node_keeps_it_as_a_peer():
    mesh = mesh_of(machine("a", 0), machine("c", 2))
    here = LocalEnd(interface="qmesh0", listen_port=51820)
    facts = Facts(kind="tun", retired=(RETIRED, replace(RETIRED, public_key=key(2))))

    def peers(name: str, facts: Facts = facts) -> dict[str, tuple[str, ...]]:
        tunnel = build_desired_state(mesh, name, here, {key(2): SHARED}, facts).tunnel
        assert tunnel is not None
        return {peer.public_key: peer.allowed_ips for peer in tunnel.peers}

    own = compute_retired_address(key(1), is_ipv6=False)
    assert peers("a") == {key(1): (f"{own}/32",), key(2): ("10.77.0.3/32",)}
    assert peers("c") == {key(0): ("10.77.0.1/32",), key(1): (f"{own}/32",)}
    assert peers("c", Facts(kind="tun")) == {key(0): ("10.77.0.1/32",)}
    # One that a machine is about to have again is none.
    mesh = replace(mesh, stand_ins=(PendingKey("c", key(1), None),))
    assert peers("a")[key(1)] == ()
