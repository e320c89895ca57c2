"""Receivers of notifications on loopback: honest ones, slow ones, lying ones; and certificates for them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Behaviour = Callable[[socket.socket], None]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Receiver:
    """A TCP server that takes one connection after another. requests: what came, one for each connection.

    greeting: what it sends to who connects, before it reads anything.
    """

    def __init__(
        self, behave: Behaviour, context: ssl.SSLContext | None = None, greeting: bytes = b""
    ) -> None:
        self.requests: list[bytes] = []
        self._behave = behave
        self._context = context
        self._greeting = greeting
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, ssl.SSLError):
                caller, _ = self._listening.accept()
                caller.settimeout(30)
                with caller:
                    self._answer(caller)

    def _answer(self, caller: socket.socket) -> None:
        caller.sendall(self._greeting)
        taken = caller if self._context is None else self._context.wrap_socket(caller, server_side=True)
        with taken:
            self.requests.append(read_request(taken))
            self._behave(taken)


def read_request(caller: socket.socket) -> bytes:
    """A whole request, head and body."""
    octets = b""
    while b"\r\n\r\n" not in octets:
        piece = caller.recv(1 << 16)
        if not piece:
            return octets
        octets += piece
    head, _, body = octets.partition(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += caller.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@contextlib.contextmanager
def receiving(
    behave: Behaviour | bytes = OK, context: ssl.SSLContext | None = None, greeting: bytes = b""
) -> Iterator[Receiver]:
    """A receiver while the block runs. behave: what it does once it has a request, or what it answers."""
    does: Behaviour = behave if callable(behave) else lambda caller: caller.sendall(behave)
    receiver = Receiver(does, context, greeting)
    try:
        yield receiver
    finally:
        receiver.close()


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA of tests")])
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._sign(self._name, self._key, is_authority=True))

    def trust(self) -> ssl.SSLContext:
        """What accepts its certificates and no others."""
        return ssl.create_default_context(cafile=str(self.file))

    def serve(self, address: str = "127.0.0.1", *, days: int = 2) -> ssl.SSLContext:
        """What serves with a certificate for that address, which ends in so many days."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a receiver")])
        path = self._directory / f"server-{address}-{days}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(private + self._sign(name, key, address=address, days=days))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        address: str = "",
        days: int = 2,
        is_authority: bool = False,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=9))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if is_authority:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"), False
            ) | dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False)
            built = built.add_extension(
                x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
        if address:
            built = built.add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
            )
        return built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
