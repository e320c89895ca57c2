"""What each of the node's processes reads of config.yml, as it is remembered between two looks."""

from __future__ import annotations

from typing import Annotated

import msgspec

from qmesh.mesh.node_processes.observed import Protocol
from qmesh.mesh.values import CoreNumber, Port, Profile

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Stamp = tuple[int, int, int, int]
"""Inode, time of the last change, bytes, and time of the last writing of a file; times in nanoseconds."""


class ConfigFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a config.yml tells of the node's processes at large.

    is_managed: whether its worker list is one that qmesh wrote: before that, no process should run.
    is_private: whether only its owner can read it.
    control_ports: as of `list_control_ports`.
    """

    is_managed: bool
    is_private: bool
    control_ports: tuple[tuple[Protocol, Port], ...]


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one process reads.

    changed_s: when that changed last, in seconds from the machine's start on; 0 where that was before.
    earlier: what it was before, and since when, the latest first: a file may be put back as it was.
    """

    digest: Digest
    changed_s: float
    earlier: tuple[tuple[Digest, float], ...] = ()


class ReadingRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all processes of a machine read, as it was seen last.

    boot: the machine's start that the times are of. looked_s: when it was looked at.
    stamp: of the config.yml that was read; as long as that is the file's, nothing has changed.
    cores: by core, of this machine's workers.
    keys, keys_stamp: of a worker machine's keys.yml, which all its workers read; the control process writes
        its own. None where there is none.
    """

    boot: str
    looked_s: float
    stamp: Stamp
    profile: Profile
    facts: ConfigFacts
    control: Reading
    cores: dict[CoreNumber, Reading]
    keys: Reading | None = None
    keys_stamp: Stamp | None = None
