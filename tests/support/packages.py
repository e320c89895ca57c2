"""Debian packages with next to nothing in them, and a key that signs for as long as a test takes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.checkout import CHECKOUT


def own_architecture() -> str:
    words = ["dpkg", "--print-architecture"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def build_package(folder: Path, version: str, name: str = "qmesh", does: str = "") -> Path:
    """A package whose one program says its version, or does something else."""
    architecture = own_architecture()
    root = folder / f"{name}-{version}"
    program = root / "usr/bin" / name
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{does or f'echo {name} {version}'}\n", encoding="utf-8")
    program.chmod(0o755)
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: a try\n"
    )
    package = folder / f"{name}_{version}_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", root, package],
        check=True,
        capture_output=True,
    )
    return package


class SigningKey(NamedTuple):
    """An OpenPGP key, and the environment in which gpg has it."""

    fingerprint: str
    environment: dict[str, str]


@contextlib.contextmanager
def signing_key() -> Iterator[SigningKey]:
    """A new key; its agent is ended. Its folder has a short name, as it has the agent's socket in it."""
    with tempfile.TemporaryDirectory(prefix="gpg") as home:
        environment = {**os.environ, "GNUPGHOME": home}
        words = ["gpg", "--batch", "--quiet", "--passphrase", ""]
        make = [*words, "--quick-generate-key", "packages of a test", "ed25519", "sign", "never"]
        try:
            subprocess.run(make, env=environment, check=True, capture_output=True)
            listed = subprocess.run(
                ["gpg", "--batch", "--with-colons", "--list-secret-keys"],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            (fingerprint,) = (line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
            yield SigningKey(fingerprint, environment)
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)


def make_repository(
    folder: Path, key: SigningKey, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    """Run `scripts/package repository`."""
    words = [CHECKOUT / "scripts/package", "repository", folder, "--key", key.fingerprint, *arguments]
    return subprocess.run(words, env=key.environment, capture_output=True, text=True, check=False)


def sign_files(folder: Path) -> str:
    """Sums of all files of a folder, and a signature, by a new key; the line of who may sign."""
    with tempfile.TemporaryDirectory() as keys:
        key = Path(keys, "key")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
        subprocess.run(["sh", "-c", "sha256sum -- * >SHA256SUMS"], cwd=folder, check=True)
        sign: list[str | Path] = [
            "ssh-keygen",
            "-q",
            "-Y",
            "sign",
            "-n",
            "qmesh-release",
            "-f",
            key,
            "SHA256SUMS",
        ]
        subprocess.run(sign, cwd=folder, check=True)
        return f"qmesh {key.with_suffix('.pub').read_text('utf-8')}"
