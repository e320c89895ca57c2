"""What a member tells the control node of its machine, encrypted with the preshared key of the two.

It is an array, to whose end later versions add: what one does not know it passes over, what it is not told
it has a default for. So machines of different versions understand each other; it is how they are found.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Final

import msgspec

from qmesh.mesh.decode import convert_value, decode_msgpack, refuse_malformed
from qmesh.mesh.machine_facts.facts import MOST_WORKERS, MachineFacts, WorkerFacts, select_workers
from qmesh.mesh.protocol.aead import decrypt_message, encrypt_message
from qmesh.mesh.values import Secret

FACTS: Final = b"facts of a machine"
"""The kind of message, for `qmesh.mesh.protocol.aead`."""
MOST_SEALED: Final = 9 * 1024
"""Bytes of a report, encrypted: in base64 it is a header that leaves room for the others of a request."""


class _WorkerRow(WorkerFacts, frozen=True, array_like=True):
    """The same as it travels."""


class _MachineRow(MachineFacts, frozen=True, array_like=True):
    """The same as it travels."""

    workers: Annotated[tuple[_WorkerRow, ...], msgspec.Meta(max_length=MOST_WORKERS)] = ()


def encode_facts(facts: MachineFacts) -> bytes:
    """The facts in some 200 bytes, and 8 for each worker. Raises Malformed where they break their bounds."""
    chosen = msgspec.structs.replace(facts, workers=select_workers(facts.workers))
    return msgspec.msgpack.encode(convert_value(chosen, _MachineRow))


def decode_facts(octets: bytes) -> MachineFacts:
    """What `encode_facts` made, here or in a later version. Raises Malformed."""
    return convert_value(decode_msgpack(octets, _MachineRow), MachineFacts)


def encrypt_facts(facts: MachineFacts, shared: Secret, *, nonce: bytes) -> bytes:
    """A report as it travels. nonce: see `encrypt_message`."""
    return encrypt_message(encode_facts(facts), shared, about=FACTS, nonce=nonce)


def decrypt_facts(sealed: bytes, shared: Secret, *, cores: Container[int]) -> MachineFacts:
    """Read a report as it arrived. Raises EnrolmentRefused where it is not that member's, or not understood.

    cores: those of the member: of others it has nothing to tell. Its workers are put into their order.
    """
    octets = decrypt_message(sealed, shared, about=FACTS)
    with refuse_malformed("a member's report of its machine is not understood"):
        facts = decode_facts(octets)
    known = {each.core: each for each in facts.workers if each.core in cores}
    return msgspec.structs.replace(facts, workers=tuple(known[core] for core in sorted(known)))
