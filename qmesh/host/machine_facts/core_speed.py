"""How quick one core of this machine is now, while others are busy: by the processor time of a thread."""

from __future__ import annotations

import time
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MESSAGE: Final = bytes(64)
_AT_ONCE: Final = 16


def measure_core_speed(cpu_s: float) -> int:
    """Verifications of an Ed25519 signature in a second of one core, measured for so much processor time.

    They are multiplications of 64 bits, as proofs of the node have many, and nothing that some processors
    have an instruction for. It is the same work on all machines with one version of qmesh's libraries.
    """
    private_key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public_key, signature = private_key.public_key(), private_key.sign(_MESSAGE)
    count, begun = 0, time.thread_time()
    while True:
        for _ in range(_AT_ONCE):
            public_key.verify(signature, _MESSAGE)
        count += _AT_ONCE
        taken_s = time.thread_time() - begun
        if taken_s >= cpu_s:
            return round(count / taken_s)
