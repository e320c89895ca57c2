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
    build_notice,
    compute_retired_address,
    read_notice,
    select_retired_keys,
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


def test_a_key_that_a_machine_has_again_is_none_and_the_newest_are_told_of():
    mesh = mesh_of(machine("a", 0), machine("c", 2))
    mesh = replace(mesh, stand_ins=(PendingKey("c", key(3), None),))
    known = [replace(RETIRED, public_key=key(number), at=number) for number in range(6)]
    again = replace(RETIRED, public_key=key(4), reason="replaced", at=9)
    assert select_retired_keys([*known, again], mesh) == (known[1], known[5], again)
    many = [replace(RETIRED, public_key=key(number)) for number in range(10, 11 + MOST_RETIRED)]
    assert select_retired_keys(many, mesh) == tuple(many[1:])


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
    facts = Facts(kind="tun", retired=(RETIRED,))

    def peers(name: str, facts: Facts = facts) -> dict[str, tuple[str, ...]]:
        tunnel = build_desired_state(mesh, name, here, {key(2): SHARED}, facts).tunnel
        assert tunnel is not None
        return {peer.public_key: peer.allowed_ips for peer in tunnel.peers}

    own = compute_retired_address(key(1), is_ipv6=False)
    assert peers("a") == {key(1): (f"{own}/32",), key(2): ("10.77.0.3/32",)}
    assert peers("c") == {key(0): ("10.77.0.1/32",), key(1): (f"{own}/32",)}
    assert peers("c", Facts(kind="tun")) == {key(0): ("10.77.0.1/32",)}
