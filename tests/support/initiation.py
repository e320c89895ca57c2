"""WireGuard's first message as a machine with any clock sends it; or `python initiation.py HOST AT < KEYS`.

Written from WireGuard's protocol on its own, so that what reads such messages is held to it.
"""

from __future__ import annotations

import base64
import hmac
import os
import socket
import struct
import sys
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305


def build_initiation(private_key: str, peer_key: str, at: float) -> bytes:
    """The message of the owner of a private key to a peer, dated so many seconds after 1970."""
    own = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key))
    peer_octets = base64.b64decode(peer_key)
    peer, ephemeral = X25519PublicKey.from_public_bytes(peer_octets), X25519PrivateKey.generate()
    sent = ephemeral.public_key().public_bytes_raw()

    def mac(key: bytes, octets: bytes) -> bytes:
        return hmac.new(key, octets, blake2s).digest()

    def kdf(key: bytes, octets: bytes) -> tuple[bytes, bytes]:
        first = mac(mac(key, octets), b"\x01")
        return first, mac(mac(key, octets), first + b"\x02")

    c = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s").digest()
    h = blake2s(c + b"WireGuard v1 zx2c4 Jason@zx2c4.com").digest()
    h = blake2s(h + peer_octets).digest()
    c = kdf(c, sent)[0]
    h = blake2s(h + sent).digest()
    c, k = kdf(c, ephemeral.exchange(peer))
    static = ChaCha20Poly1305(k).encrypt(bytes(12), own.public_key().public_bytes_raw(), h)
    h = blake2s(h + static).digest()
    c, k = kdf(c, own.exchange(peer))
    time = struct.pack(">QI", 0x400000000000000A + min(int(at), 2**62), int(at % 1 * 1e9))
    sealed = ChaCha20Poly1305(k).encrypt(bytes(12), time, h)
    message = b"\x01\0\0\0" + os.urandom(4) + sent + static + sealed
    first_mac = blake2s(message, digest_size=16, key=blake2s(b"mac1----" + peer_octets).digest()).digest()
    return message + first_mac + bytes(16)


def main() -> None:
    """Send one from port 51820's machine. Standard input: the private key, then the peer's public one."""
    private_key, peer_key = sys.stdin.read().split()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.sendto(build_initiation(private_key, peer_key, float(sys.argv[2])), (sys.argv[1], 51820))


if __name__ == "__main__":
    main()
