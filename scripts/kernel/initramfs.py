"""What a kernel unpacks before anything else, a cpio archive. Source: initramfs buffer format."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

GUEST = Path(__file__).with_name("guest")


def archive(files: Mapping[str, bytes]) -> bytes:
    """The files, by their paths without a first slash, as an archive; folders are made for them.

    Archives may follow one another: the kernel unpacks them all.
    """
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    entries = [
        *((folder, stat.S_IFDIR | 0o755, b"") for folder in sorted(folders)),
        *((path, stat.S_IFREG | 0o755, content) for path, content in files.items()),
        ("TRAILER!!!", 0, b""),
    ]
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries))


def _entry(number: int, path: str, mode: int, content: bytes) -> bytes:
    name = path.encode() + b"\0"
    # inode, mode, uid, gid, links, time, size, two devices of two numbers each, size of the name, checksum
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    return _padded(b"070701" + b"".join(b"%08X" % field for field in fields) + name) + _padded(content)


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


def settings(values: Mapping[str, str]) -> bytes:
    """Variables as a shell reads them."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()


def script(command: Iterable[str], *, environment: Mapping[str, str], directory: Path) -> bytes:
    """A shell script that becomes the command."""
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    return f"{exports}cd {shlex.quote(str(directory))} || exit\nexec {shlex.join(command)}\n".encode()


def guest_files() -> dict[str, bytes]:
    """The programs of a machine: what it starts with, and what it does then."""
    return {
        "init": (GUEST / "init").read_bytes(),
        "bin/busybox": _busybox().read_bytes(),
        "machine/job": (GUEST / "job").read_bytes(),
        "machine/job.service": (GUEST / "job.service").read_bytes(),
    }


def _busybox() -> Path:
    return next(path for path in (Path("/usr/bin/busybox"), Path("/bin/busybox")) if path.exists())
