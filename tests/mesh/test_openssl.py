"""Signatures, agreement and encryption, beside a library that does the same by another OpenSSL."""

from __future__ import annotations

import ctypes

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.protocol import openssl
from qmesh.mesh.protocol.openssl import (
    ChaCha20Poly1305,
    Ed25519PrivateKey,
    Ed25519PublicKey,
    InvalidSignature,
    InvalidTag,
    X25519PrivateKey,
    X25519PublicKey,
)

KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=12, max_size=12)
TEXTS = st.binary(max_size=200)
KEY, NONCE = bytes(range(32)), bytes(12)


def altered(octets: bytes, place: int) -> bytes:
    """The same but for one bit."""
    place %= 8 * len(octets)
    changed = bytearray(octets)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


@given(KEYS, TEXTS)
def test_a_signature_is_the_librarys(key, message):
    own, theirs = Ed25519PrivateKey.from_private_bytes(key), ed25519.Ed25519PrivateKey.from_private_bytes(key)

    assert own.private_bytes_raw() == key
    assert own.public_key().public_bytes_raw() == theirs.public_key().public_bytes_raw()
    assert own.sign(message) == theirs.sign(message)
    own.public_key().verify(theirs.sign(message), message)


@given(KEYS, TEXTS, st.integers(min_value=0))
def test_a_signature_holds_for_nothing_else(key, message, place):
    own = Ed25519PrivateKey(key)
    signature = own.sign(message)

    for other in (altered(signature, place), signature[:-1], signature + b"\0", b""):
        with pytest.raises(InvalidSignature):
            own.public_key().verify(other, message)
    with pytest.raises(InvalidSignature):
        own.public_key().verify(signature, message + b"\0")
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey(altered(own.public_key().public_bytes_raw(), place)).verify(signature, message)


def test_what_is_no_point_of_the_curve_verifies_nothing():
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey.from_public_bytes(b"\xff" * 32).verify(bytes(64), b"")


@given(KEYS, KEYS)
def test_two_agree_as_by_the_library(key, other):
    own, theirs = X25519PrivateKey.from_private_bytes(key), x25519.X25519PrivateKey.from_private_bytes(key)
    peer = X25519PrivateKey(other).public_key()

    assert own.public_key().public_bytes_raw() == theirs.public_key().public_bytes_raw()
    agreed = theirs.exchange(x25519.X25519PublicKey.from_public_bytes(peer.public_bytes_raw()))
    assert own.exchange(X25519PublicKey.from_public_bytes(peer.public_bytes_raw())) == agreed


@pytest.mark.parametrize("weak", [bytes(32), b"\1" + bytes(31)])
def test_none_agrees_on_nothing_but_zeros(weak):
    with pytest.raises(ValueError, match="OpenSSL refuses"):
        X25519PrivateKey(KEY).exchange(X25519PublicKey(weak))


@given(KEYS, NONCES, TEXTS, st.none() | TEXTS)
def test_what_is_encrypted_is_the_librarys(key, nonce, text, about):
    sealed = ChaCha20Poly1305(key).encrypt(nonce, text, about)

    assert sealed == aead.ChaCha20Poly1305(key).encrypt(nonce, text, about)
    assert ChaCha20Poly1305(key).decrypt(nonce, sealed, about) == text


@given(KEYS, NONCES, TEXTS, TEXTS, st.integers(min_value=0))
def test_what_was_changed_is_not_decrypted(key, nonce, text, about, place):
    sealed = ChaCha20Poly1305(key).encrypt(nonce, text, about)

    for octets, beside, with_nonce, with_key in (
        (altered(sealed, place), about, nonce, key),
        (sealed[:-1], about, nonce, key),
        (sealed[:15], about, nonce, key),
        (sealed, about + b"\0", nonce, key),
        (sealed, about, altered(nonce, place), key),
        (sealed, about, nonce, altered(key, place)),
    ):
        with pytest.raises(InvalidTag):
            ChaCha20Poly1305(with_key).decrypt(with_nonce, octets, beside)


@given(TEXTS, TEXTS, TEXTS)
def test_a_key_is_derived_as_by_the_library(secret, salt, info):
    theirs = HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)
    assert openssl.derive_hkdf(secret, salt=salt, info=info) == theirs


def test_a_passphrases_key_is_the_librarys():
    theirs = Scrypt(salt=KEY, length=32, n=2**10, r=8, p=1).derive(b"passphrase")
    assert openssl.derive_scrypt(b"passphrase", salt=KEY, n=2**10, r=8, p=1) == theirs


@pytest.mark.parametrize("length", [0, 31, 33])
@pytest.mark.parametrize(
    "make",
    [
        Ed25519PrivateKey.from_private_bytes,
        Ed25519PublicKey.from_public_bytes,
        X25519PrivateKey.from_private_bytes,
        X25519PublicKey.from_public_bytes,
        ChaCha20Poly1305,
    ],
)
def test_a_key_of_another_length_is_refused(make, length):
    with pytest.raises(ValueError, match="has 32 octets"):
        make(bytes(length))


@pytest.mark.parametrize("length", [0, 11, 13])
def test_a_nonce_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match="has 12 octets"):
        ChaCha20Poly1305(KEY).encrypt(bytes(length), b"text", None)


def test_what_is_too_long_for_one_call_is_refused(monkeypatch):
    monkeypatch.setattr(openssl, "_MOST_OCTETS", 4)

    ChaCha20Poly1305(KEY).encrypt(NONCE, b"text", b"that")
    for text, about in ((b"texts", None), (b"text", b"those")):
        with pytest.raises(ValueError, match="too long"):
            ChaCha20Poly1305(KEY).encrypt(NONCE, text, about)


def test_a_failure_leaves_no_error_for_who_uses_openssl_next():
    """ssl would take it for its own, in the same thread."""
    peek = openssl._library.ERR_peek_error
    peek.restype, peek.argtypes = ctypes.c_ulong, ()

    with pytest.raises(ValueError, match="OpenSSL refuses"):
        X25519PrivateKey(KEY).exchange(X25519PublicKey(bytes(32)))
    with pytest.raises(InvalidSignature):
        Ed25519PublicKey(KEY).verify(bytes(64), b"")
    assert peek() == 0


def test_a_python_that_keeps_its_openssl_to_itself_has_the_systems():
    """Some are linked with one statically; such a file has none of its functions for others."""
    without = "libc.so.6"

    assert openssl._load_library("/nowhere.so", without, "libcrypto.so.3")._name == "libcrypto.so.3"
    with pytest.raises(ImportError, match="install libssl3"):
        openssl._load_library("/nowhere.so", without)
