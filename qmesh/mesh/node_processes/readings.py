"""What each of the node's processes reads of config.yml, and when that changed last.

A process reads its config when it starts. Whether it runs with what stands there now is so a question of
two times: when it was started, which the kernel knows, and when what it reads was changed. The file's own
times do not tell: they change with every byte of the file, and its owner may set one of them. So what each
process reads is kept as a digest, with the time at which that became another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.node_processes.expected import P2P_KEY
from qmesh.mesh.node_processes.reading_record import ConfigFacts, Digest, Reading, ReadingRecord, Stamp
from qmesh.mesh.nodeconfig import MASTER_PROXY, ParsedConfig, parse_config, profile_facts, read_settings
from qmesh.mesh.rollback import BootTimestamp
from qmesh.mesh.values import Profile

SLACK_S: Final = 0.1
"""Seconds by which the kernel's times of files and of processes may be apart: each counts in ticks."""

MOST_EARLIER: Final = 8
"""Earlier contents that are remembered of what a process reads: the latest ones, and the first."""
_FORGOTTEN: Final = "0" * 32
"""In place of the digests between those; it is none."""


class ConfigDigests(msgspec.Struct, frozen=True):
    """Of what each process reads: the control process, and the workers by core."""

    control: str
    cores: dict[int, str]


def digest_config(
    config: str | ParsedConfig, profile: Profile, cores: Iterable[int], *, more: object = None
) -> ConfigDigests:
    """Digests of what each process reads of a config.

    cores: of this machine. more: what every process reads besides, such as the node's keys.
    Raises BadInput when the text does not load, or has something else where a list should stand.
    """
    known, config = profile_facts(profile), parse_config(config)
    single = [
        key
        for key in (known.stream_key, MASTER_PROXY, known.base_port_key, known.p2p_base_port_key)
        if key is not None
    ]
    # What is announced is told to the network by the control process, which alone reads it.
    read = [known.list_key, *(() if known.p2p_key is None else (known.p2p_key,))]
    own = [P2P_KEY, *(() if known.grpc_key is None else (known.grpc_key,))]
    lists, shared, others = (
        read_settings(config, [(key, is_list) for key in keys])
        for keys, is_list in ((read, True), (single, False), (own, False))
    )
    announced = read_settings(config, [(key, True) for key in known.announce_keys])
    return ConfigDigests(
        control=_digest((profile, more, lists, shared, others, announced)),
        cores={
            core: _digest((profile, more, shared, [(each or ())[core - 1 : core] for each in lists]))
            for core in cores
        },
    )


def digest_keys(normal_form: bytes) -> str:
    """The digest of a keys.yml, from its normal form."""
    return _digest(normal_form)


def _digest(value: object) -> str:
    return hashlib.blake2b(ascii(value).encode("ascii"), digest_size=16).hexdigest()


def is_current(
    record: ReadingRecord, stamp: Stamp, keys_stamp: Stamp | None, profile: Profile, cores: Iterable[int]
) -> bool:
    """Whether a record is of the files with these stamps, so that they need not be read again."""
    known = record.stamp, record.keys_stamp, record.profile
    return known == (stamp, keys_stamp, profile) and set(record.cores) == set(cores)


def update_readings(
    before: ReadingRecord | None,
    digests: ConfigDigests,
    *,
    profile: Profile,
    facts: ConfigFacts,
    stamp: Stamp,
    now: BootTimestamp,
    wall_s: float,
    keys: tuple[str, Stamp] | None = None,
) -> ReadingRecord:
    """The record after a look at the file.

    wall_s: this moment as Unix time. When a change was made is told by the file's own times, where they lie
    between the last look and this one: by that of its writing, or, as its owner may set that, by that of its
    change, which only the kernel sets. Else it was made just now.
    keys: digest and stamp of a worker machine's keys.yml.
    """
    same_boot = before is not None and before.boot == now.boot

    def follow(old: Reading | None, digest: str, stamp: Stamp) -> Reading:
        made_s, written_s = (max(0.0, now.at_s - (wall_s - stamp[at] / 1e9)) for at in (1, 3))
        made_s = min(now.at_s, made_s)
        if before is None or old is None:
            return Reading(digest, made_s)
        if old.digest == digest:
            return old if same_boot else Reading(digest, 0.0)
        if not same_boot:
            return Reading(digest, made_s)
        known = _forget_middle(((old.digest, old.changed_s), *old.earlier))
        since_s = before.looked_s - SLACK_S
        if since_s <= written_s <= made_s:  # the mode was changed after that
            return Reading(digest, written_s, known)
        return Reading(digest, made_s if made_s >= since_s else now.at_s, known)

    old = {} if before is None else before.cores
    return ReadingRecord(
        boot=now.boot,
        looked_s=now.at_s,
        stamp=stamp,
        profile=profile,
        facts=facts,
        control=follow(None if before is None else before.control, digests.control, stamp),
        cores={core: follow(old.get(core), digest, stamp) for core, digest in digests.cores.items()},
        keys=None if keys is None else follow(None if before is None else before.keys, *keys),
        keys_stamp=None if keys is None else keys[1],
    )


def _forget_middle(earlier: tuple[tuple[Digest, float], ...]) -> tuple[tuple[Digest, float], ...]:
    """The latest, and the first: most processes were started with that, however often the file changed."""
    if len(earlier) <= MOST_EARLIER:
        return earlier
    return (*earlier[: MOST_EARLIER - 2], (_FORGOTTEN, earlier[-2][1]), earlier[-1])


def is_outdated(started_s: float, reading: Reading | None) -> bool:
    """Whether a process was started when something else stood where it reads."""
    if reading is None:
        return False
    for digest, since_s in ((reading.digest, reading.changed_s), *reading.earlier):
        if started_s >= since_s - SLACK_S:
            return digest != reading.digest
    return True
