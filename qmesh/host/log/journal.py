"""systemd's journal, written to with fields of our own.

Source: "Native Journal Protocol" of systemd's documentation; systemd.journal-fields(7); JOURNAL_STREAM in
systemd.exec(5); sd-daemon(3) for the prefix of a line.
"""

from __future__ import annotations

import _socket
import os
import struct

from qmesh.host.lean.bare_socket import BareSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "qmesh"


def is_stderr_journal() -> bool:
    """Whether standard error goes to the journal, as a unit's does unless it says otherwise."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def build_fields(
    message: str, *, code: str, priority: int, machine: str, place: tuple[str, int, str], trace: str = ""
) -> dict[str, str]:
    """The fields of one entry.

    message: one line. trace: a traceback of several, or nothing. place: file, line and function of the code.
    priority: as syslog(3) has it. machine: that it is about; empty where that is not known.
    """
    file, line, function = place
    fields = {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "QMESH_CODE": code,
        "QMESH_MACHINE": machine,
        "QMESH_TRACEBACK": trace,
        "CODE_FILE": file,
        "CODE_LINE": str(line),
        "CODE_FUNC": function,
    }
    return {name: value for name, value in fields.items() if value}


def encode_fields(fields: Mapping[str, str]) -> bytes:
    """An entry as a datagram: a value of several lines has its length before it."""
    parts = []
    for name, value in fields.items():
        octets = value.encode("utf-8", "backslashreplace")
        if b"\n" in octets:
            parts += [name.encode(), b"\n", struct.pack("<Q", len(octets)), octets, b"\n"]
        else:
            parts += [name.encode(), b"=", octets, b"\n"]
    return b"".join(parts)


class JournalSocket:
    """The way to the journal. It is opened again where the journal was started again."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path or SOCKET
        self._socket: BareSocket | None = None

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send one entry without waiting; whether the journal has taken it."""
        datagram = encode_fields(fields)
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = BareSocket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
                    self._socket.settimeout(0)
                    self._socket.connect(self._path)
                self._socket.send(datagram)
            except BlockingIOError:
                return False
            except OSError:
                self.close()
            else:
                return True
        return False

    def close(self) -> None:
        """Until something is sent again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
