"""Signatures, key agreement and encryption, by the OpenSSL that this Python is linked with.

Classes and errors have the names that the library `cryptography` gives them. That brings an OpenSSL of its
own, which takes 7 MB in each process; here is no more than what qmesh's messages are made of.
Source: EVP_PKEY-ED25519(7ossl), EVP_PKEY-X25519(7ossl), EVP_EncryptInit(3ssl), "AEAD modes".
"""

from __future__ import annotations

import _hashlib
import contextlib
import ctypes
import hashlib
import hmac
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from typing import Final, Self

_KEY_OCTETS: Final = 32
_SIGNATURE_OCTETS: Final = 64
_NONCE_OCTETS: Final = 12
_TAG_OCTETS: Final = 16
_GET_TAG: Final = 0x10
_SET_TAG: Final = 0x11
"""EVP_CTRL_AEAD_GET_TAG and EVP_CTRL_AEAD_SET_TAG."""
_MOST_OCTETS: Final = 2**31 - 1
"""Lengths of ciphers are of type int."""
_ED25519: Final = b"ED25519"
_X25519: Final = b"X25519"

_SIGNATURES: Final[dict[str, tuple[object, tuple[object, ...]]]] = {
    "ERR_clear_error": (None, ()),
    "EVP_PKEY_new_raw_private_key_ex": (c_void_p, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "EVP_PKEY_new_raw_public_key_ex": (c_void_p, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "EVP_PKEY_get_raw_public_key": (c_int, (c_void_p, c_char_p, c_void_p)),
    "EVP_PKEY_free": (None, (c_void_p,)),
    "EVP_MD_CTX_new": (c_void_p, ()),
    "EVP_MD_CTX_free": (None, (c_void_p,)),
    "EVP_DigestSignInit_ex": (c_int, (c_void_p,) * 7),
    "EVP_DigestSign": (c_int, (c_void_p, c_char_p, c_void_p, c_char_p, c_size_t)),
    "EVP_DigestVerifyInit_ex": (c_int, (c_void_p,) * 7),
    "EVP_DigestVerify": (c_int, (c_void_p, c_char_p, c_size_t, c_char_p, c_size_t)),
    "EVP_PKEY_CTX_new_from_pkey": (c_void_p, (c_void_p, c_void_p, c_char_p)),
    "EVP_PKEY_CTX_free": (None, (c_void_p,)),
    "EVP_PKEY_derive_init": (c_int, (c_void_p,)),
    "EVP_PKEY_derive_set_peer": (c_int, (c_void_p, c_void_p)),
    "EVP_PKEY_derive": (c_int, (c_void_p, c_char_p, c_void_p)),
    "EVP_chacha20_poly1305": (c_void_p, ()),
    "EVP_CIPHER_CTX_new": (c_void_p, ()),
    "EVP_CIPHER_CTX_free": (None, (c_void_p,)),
    "EVP_CIPHER_CTX_ctrl": (c_int, (c_void_p, c_int, c_int, c_char_p)),
    "EVP_CipherInit_ex": (c_int, (c_void_p, c_void_p, c_void_p, c_char_p, c_char_p, c_int)),
    "EVP_CipherUpdate": (c_int, (c_void_p, c_char_p, c_void_p, c_char_p, c_int)),
    "EVP_CipherFinal_ex": (c_int, (c_void_p, c_char_p, c_void_p)),
}


def _load_library(*names: str | None) -> ctypes.CDLL:
    """The first of these in which all of that is found. Raises ImportError where none has it."""
    for name in names:
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in _SIGNATURES.items():
                found = getattr(library, function)
                found.restype, found.argtypes = result, arguments
        except (OSError, AttributeError):
            continue
        return library
    raise ImportError("this Python keeps its OpenSSL 3 to itself, and the system has none: install libssl3")


_library: Final = _load_library(
    # What a library is linked with is found through it: whichever OpenSSL hashes here, of whatever number.
    getattr(_hashlib, "__file__", None),
    "libcrypto.so.3",
)


class InvalidSignature(ValueError):
    """What was signed, by whom, or the signature is another."""


class InvalidTag(ValueError):
    """What was encrypted, what it is about, or the key is another."""


class _Refused(ValueError):
    """OpenSSL does not do that, with these octets."""


def _require(result: int | None) -> int:
    """What a function of OpenSSL returned. Raises _Refused where that says that it failed."""
    if result is None or result <= 0:
        _library.ERR_clear_error()  # whoever uses this thread next would take it for his own
        raise _Refused("OpenSSL refuses that")
    return result


@contextlib.contextmanager
def _hold(kind: str, made: int | None) -> Iterator[int]:
    """An object of OpenSSL's, freed afterwards by the function `kind`_free."""
    held = _require(made)
    try:
        yield held
    finally:
        getattr(_library, f"{kind}_free")(held)


def _check_length(octets: bytes, length: int, what: str) -> bytes:
    if len(octets) != length:
        raise ValueError(f"{what} has {length} octets, not {len(octets)}")
    return octets


def _open_private_key(kind: bytes, octets: bytes) -> contextlib.AbstractContextManager[int]:
    made = _library.EVP_PKEY_new_raw_private_key_ex(None, kind, None, octets, len(octets))
    return _hold("EVP_PKEY", made)


def _open_public_key(kind: bytes, octets: bytes) -> contextlib.AbstractContextManager[int]:
    made = _library.EVP_PKEY_new_raw_public_key_ex(None, kind, None, octets, len(octets))
    return _hold("EVP_PKEY", made)


def _open_digest() -> contextlib.AbstractContextManager[int]:
    return _hold("EVP_MD_CTX", _library.EVP_MD_CTX_new())


def _read_public_key(kind: bytes, private: bytes) -> bytes:
    found, length = ctypes.create_string_buffer(_KEY_OCTETS), c_size_t(_KEY_OCTETS)
    with _open_private_key(kind, private) as key:
        _require(_library.EVP_PKEY_get_raw_public_key(key, found, ctypes.byref(length)))
    return found.raw


class _Key:
    """32 octets."""

    def __init__(self, octets: bytes) -> None:
        self._octets = _check_length(octets, _KEY_OCTETS, "a key")


class _PublicKey(_Key):
    @classmethod
    def from_public_bytes(cls, octets: bytes) -> Self:
        """Raises ValueError for another number of octets than 32."""
        return cls(octets)

    def public_bytes_raw(self) -> bytes:
        """The 32 octets."""
        return self._octets


class _PrivateKey(_Key):
    @classmethod
    def from_private_bytes(cls, octets: bytes) -> Self:
        """Raises ValueError for another number of octets than 32."""
        return cls(octets)

    def private_bytes_raw(self) -> bytes:
        """The 32 octets."""
        return self._octets


class Ed25519PublicKey(_PublicKey):
    """A key that tells whether a signature is of its other half (RFC 8032)."""

    def verify(self, signature: bytes, message: bytes) -> None:
        """Raises InvalidSignature, also where this is no key."""
        if len(signature) != _SIGNATURE_OCTETS:
            raise InvalidSignature("a signature has 64 octets")
        try:
            with _open_public_key(_ED25519, self._octets) as key, _open_digest() as digest:
                _require(_library.EVP_DigestVerifyInit_ex(digest, None, None, None, None, key, None))
                _require(_library.EVP_DigestVerify(digest, signature, len(signature), message, len(message)))
        except _Refused:
            raise InvalidSignature("the signature is not that key's") from None


class Ed25519PrivateKey(_PrivateKey):
    """A key that signs (RFC 8032)."""

    def public_key(self) -> Ed25519PublicKey:
        """Its other half."""
        return Ed25519PublicKey(_read_public_key(_ED25519, self._octets))

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 octets."""
        made, length = ctypes.create_string_buffer(_SIGNATURE_OCTETS), c_size_t(_SIGNATURE_OCTETS)
        with _open_private_key(_ED25519, self._octets) as key, _open_digest() as digest:
            _require(_library.EVP_DigestSignInit_ex(digest, None, None, None, None, key, None))
            _require(_library.EVP_DigestSign(digest, made, ctypes.byref(length), message, len(message)))
        return made.raw


class X25519PublicKey(_PublicKey):
    """A key that others agree with (RFC 7748)."""


class X25519PrivateKey(_PrivateKey):
    """A key that agrees with others' public ones on a secret (RFC 7748)."""

    def public_key(self) -> X25519PublicKey:
        """Its other half."""
        return X25519PublicKey(_read_public_key(_X25519, self._octets))

    def exchange(self, other: X25519PublicKey) -> bytes:
        """The secret of both, 32 octets. Raises ValueError where it would be nothing but zeros."""
        agreed, length = ctypes.create_string_buffer(_KEY_OCTETS), c_size_t(_KEY_OCTETS)
        with (
            _open_private_key(_X25519, self._octets) as own,
            _open_public_key(_X25519, other.public_bytes_raw()) as peer,
            _hold("EVP_PKEY_CTX", _library.EVP_PKEY_CTX_new_from_pkey(None, own, None)) as agreement,
        ):
            _require(_library.EVP_PKEY_derive_init(agreement))
            _require(_library.EVP_PKEY_derive_set_peer(agreement, peer))
            _require(_library.EVP_PKEY_derive(agreement, agreed, ctypes.byref(length)))
        return agreed.raw


class ChaCha20Poly1305:
    """Encryption that shows whether anything was changed (RFC 8439)."""

    def __init__(self, key: bytes) -> None:
        self._key = _check_length(key, _KEY_OCTETS, "a key of ChaCha20-Poly1305")

    def encrypt(self, nonce: bytes, octets: bytes, about: bytes | None) -> bytes:
        """The octets encrypted, and a tag of 16.

        nonce: 12 octets, never used twice with one key. about: what the tag is of, besides.
        """
        with self._begin(nonce, len(octets), about, encrypts=1) as context:
            sealed = self._update(context, octets)
            tag = ctypes.create_string_buffer(_TAG_OCTETS)
            _require(_library.EVP_CipherFinal_ex(context, None, ctypes.byref(c_int())))
            _require(_library.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, _TAG_OCTETS, tag))
        return sealed + tag.raw

    def decrypt(self, nonce: bytes, octets: bytes, about: bytes | None) -> bytes:
        """What was encrypted. Raises InvalidTag where anything of it is another."""
        if len(octets) < _TAG_OCTETS:
            raise InvalidTag("it is too short for its tag")
        sealed, tag = octets[:-_TAG_OCTETS], octets[-_TAG_OCTETS:]
        with self._begin(nonce, len(sealed), about, encrypts=0) as context:
            opened = self._update(context, sealed)
            _require(_library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, _TAG_OCTETS, tag))
            try:
                _require(_library.EVP_CipherFinal_ex(context, None, ctypes.byref(c_int())))
            except _Refused:
                raise InvalidTag("something of it is another") from None
        return opened

    @contextlib.contextmanager
    def _begin(self, nonce: bytes, length: int, about: bytes | None, *, encrypts: int) -> Iterator[int]:
        _check_length(nonce, _NONCE_OCTETS, "a nonce")
        about = about or b""
        if max(length, len(about)) > _MOST_OCTETS:
            raise ValueError("that is too long to be encrypted at once")
        with _hold("EVP_CIPHER_CTX", _library.EVP_CIPHER_CTX_new()) as context:
            cipher = _library.EVP_chacha20_poly1305()
            _require(_library.EVP_CipherInit_ex(context, cipher, None, self._key, nonce, encrypts))
            if about:
                done = ctypes.byref(c_int())
                _require(_library.EVP_CipherUpdate(context, None, done, about, len(about)))
            yield context

    @staticmethod
    def _update(context: int, octets: bytes) -> bytes:
        done, length = ctypes.create_string_buffer(max(1, len(octets))), c_int()
        if octets:  # without, it would be told that all has come
            _require(_library.EVP_CipherUpdate(context, done, ctypes.byref(length), octets, len(octets)))
        return done.raw[: length.value]


def derive_hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """32 octets by HKDF with SHA-256, of which that is one block. Source: RFC 5869, section 2."""
    return hmac.digest(hmac.digest(salt, secret, "sha256"), info + b"\1", "sha256")


def derive_scrypt(passphrase: bytes, *, salt: bytes, n: int, r: int, p: int) -> bytes:
    """32 octets by scrypt (RFC 7914)."""
    memory = 128 * r * (n + p + 2)  # what it takes, or it refuses
    return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=memory + (1 << 20), dklen=32)
