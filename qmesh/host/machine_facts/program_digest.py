"""The digest of the node's program, which has hundreds of megabytes: read in small steps, and once."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host.disk_timeout import run_in_time
from qmesh.host.node_program.program_file import ProgramFile, open_program

STEP: Final = 4 * 1024 * 1024
"""Bytes of a step: some 10 ms of one processor."""
_PIECE: Final = 256 * 1024


class ProgramDigest:
    """SHA3-256 of a program's file, from one step to the next. A file that was changed is read again."""

    def __init__(self) -> None:
        self._is_there = False
        self._value = ""
        self._of: object = None
        self._hash = hashlib.sha3_256()
        self._read = 0

    @property
    def value(self) -> str:
        """Hexadecimal; empty until all of it was read, and while there is no such program."""
        return self._value if self._is_there else ""

    @property
    def is_partial(self) -> bool:
        """Whether another step has to come."""
        return self._is_there and not self._value

    def take_step(self, path: Path, owner: int) -> None:
        """Read on. Only a program that root or the owner alone can have made what it is, is read.

        path: may be that of another process with the same program. owner: the number of the user whose node
            it is.
        """
        self._is_there = False
        # It may not be there, or its disk may not answer.
        with contextlib.suppress(OSError, MachineRefused), open_program(path) as program:
            if program.may_be_run(owner):
                self._take_step(path, program)
                self._is_there = True

    def _take_step(self, path: Path, program: ProgramFile) -> None:
        of = program.identity, program.status.st_size
        if of != self._of:
            self._value, self._of, self._hash, self._read = "", of, hashlib.sha3_256(), 0
        if self._value:
            return
        # Of a step that was given up, the thread may go on: nothing of this object is its business.
        digest, begin = self._hash.copy(), self._read
        octets = run_in_time(path, lambda: _read_step(program, digest, begin))
        self._hash = digest
        self._read += octets
        if octets < STEP:
            self._value = self._hash.hexdigest()


def _read_step(program: ProgramFile, digest: hashlib._Hash, begin: int) -> int:
    """Bytes that were read; fewer than a step's at the end of the file."""
    # By its descriptor: the name may be another file's by now.
    descriptor = os.open(f"/proc/self/fd/{program.descriptor}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        octets = 0
        while piece := os.pread(descriptor, min(_PIECE, STEP - octets), begin + octets):
            digest.update(piece)
            octets += len(piece)
        return octets
    finally:
        os.close(descriptor)
