"""What is known of one machine. Of another machine it is that machine's word, and no proof."""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

MOST_WORKERS: Final = 512
"""Workers of one machine that are told."""
MOST_TEXT: Final = 80
_OTHERS: Final = re.compile(r"[^A-Za-z0-9()@._+~:/,%#*=-]+", re.ASCII)

FactText = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9 ()@._+~:/,%#*=-]{0,80}\Z")]
"""Nothing that a terminal, a page or a shell would take for more than text. Empty: not known."""
Digest = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
ProtocolNumber = Annotated[int, msgspec.Meta(ge=1, le=9999)]


class WorkerFacts(msgspec.Struct, frozen=True):
    """A data worker of the machine.

    memory_bytes: that it has alone, without what it shares with others or can be read from a file again.
    restarts: how often another process has taken its place, since that machine's agent started.
    """

    core: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    memory_bytes: Amount | None = None
    restarts: Amount = 0


class MachineFacts(msgspec.Struct, frozen=True):
    """A machine. Empty, or None: not known. What is new here comes last, with a default, and none goes.

    qmesh: the version that its agent runs; node: of the node's program, as that says; node_digest: SHA3-256
        of that program's file, hexadecimal; kernel, architecture: as `uname -r` and `uname -m` print them;
        nft: of nftables; cpu: the model.
    cores: logical processors. memory_available_bytes: without swapping; disk: the one with config.yml.
    load: processes that run or wait to, on average of a minute.
    core_speed: verifications of an Ed25519 signature in a second of one core, at the last measurement.
    protocol, oldest_protocol: the newest and the oldest that its agent speaks, as of
        `qmesh.mesh.protocol.versions`; one that says nothing speaks the first.
    report_key: the fingerprint of the key with which it signs reports of `qmesh prove`.
    """

    qmesh: FactText = ""
    node: FactText = ""
    node_digest: Digest = ""
    kernel: FactText = ""
    architecture: FactText = ""
    nft: FactText = ""
    cpu: FactText = ""
    cores: Amount | None = None
    memory_bytes: Amount | None = None
    memory_available_bytes: Amount | None = None
    disk_bytes: Amount | None = None
    disk_free_bytes: Amount | None = None
    load: Annotated[float, msgspec.Meta(ge=0, le=1e6)] | None = None
    core_speed: Amount | None = None
    workers: Annotated[tuple[WorkerFacts, ...], msgspec.Meta(max_length=MOST_WORKERS)] = ()
    protocol: ProtocolNumber = 1
    oldest_protocol: ProtocolNumber = 1
    report_key: FactText = ""


class ToldFacts(msgspec.Struct, frozen=True):
    """Facts of the machine with that tunnel address. at: when they were told or seen, in Unix seconds."""

    address: str
    at: float
    facts: MachineFacts


LABELS: Final = ("qmesh", "node", "kernel", "cpu", "cores")
"""Facts that are labels of a metric: each other value is a series more, which a collector keeps for long."""
MOST_RELABELLED: Final = 6
"""How often in an hour they may be others: an upgrade, or an agent that begins, changes some twice."""
RELABELLED_S: Final = 3600.0


class HeldFacts(msgspec.Struct, frozen=True):
    """Facts as they are kept of a member. relabelled: when `LABELS` became others lately, of any clock."""

    facts: MachineFacts
    relabelled: tuple[float, ...] = ()


def hold_labels(before: HeldFacts | None, facts: MachineFacts, *, now_s: float) -> HeldFacts:
    """What is kept of a member that tells these facts: the old labels, where they change again and again."""
    if before is None:
        return HeldFacts(facts)
    lately = tuple(at for at in before.relabelled if 0 <= now_s - at < RELABELLED_S)
    old = {name: getattr(before.facts, name) for name in LABELS}
    if all(getattr(facts, name) == value for name, value in old.items()):
        return HeldFacts(facts, lately)
    if len(lately) >= MOST_RELABELLED:
        return HeldFacts(msgspec.structs.replace(facts, **old), lately)
    return HeldFacts(facts, (*lately, now_s))


def clean_text(text: str) -> str:
    """What of a text may be a FactText: the rest becomes a blank, blanks one."""
    return _OTHERS.sub(" ", text).strip()[:MOST_TEXT]


def select_workers(workers: tuple[WorkerFacts, ...]) -> tuple[WorkerFacts, ...]:
    """As many workers as are told, in core order: where there are more, those with most memory."""
    by_memory = sorted(workers, key=lambda each: each.memory_bytes or 0, reverse=True)
    return tuple(sorted(by_memory[:MOST_WORKERS], key=lambda each: each.core))
