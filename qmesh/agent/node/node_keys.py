"""Whether all machines of a mesh have one node's keys: members report, and the control node compares.

For the thread that follows config.yml: the files are read as their directory's owner, who may let that take
some seconds. What was read is kept no longer than it takes to make digests of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from qmesh.agent.control_client import build_client
from qmesh.agent.local import Local
from qmesh.agent.node import node_config
from qmesh.agent.node.identity_files import Stamp, is_settled, locate_file, read_stamp
from qmesh.errors import EnrolmentRefused, QmeshError
from qmesh.host import config_directory
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.log.events import report_event
from qmesh.host.registry_access import open_registry
from qmesh.host.state.directory import State
from qmesh.mesh.audit.surroundings import OtherKeys
from qmesh.mesh.node_keys.differences import KeyDifferences, describe_fetch, describe_keys
from qmesh.mesh.node_keys.key_store import KEY_STORE, find_key_store, list_needed_keys, read_identity
from qmesh.mesh.protocol.key_digests import (
    KeyDigests,
    NodeIdentity,
    NodeKey,
    compute_digests,
    decrypt_digests,
    encrypt_digests,
    find_different_keys,
)
from qmesh.mesh.values import Profile, Secret

LOOK_S: Final = 1.0
"""Seconds between two looks of a member at its files, at least."""
COMPARE_S: Final = 0.2
"""The same of the control node, which looks when a member has something new to say."""
REST: Final = 20
"""Times of the processor time that a look took, until the next: a user may change his files without end."""
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 3.0


class KeyFilesLook:
    """This machine's files, looked at where they may have changed. look_s: seconds between two looks."""

    def __init__(self, *, look_s: float) -> None:
        self._look_s = look_s
        self.is_unsettled = False
        """Whether something wrote to them just now, so that another look has to come soon."""
        self._due = 0.0
        self._path: Path | None = None

    def read_stamp(self, directory: ConfigDirectory) -> Stamp | None:
        """Which files they are; None before it is time, while they are being written, or where that fails."""
        now = time.monotonic()
        if now < self._due:
            return None
        begun = time.thread_time()
        try:
            stamp = read_stamp(directory, self._path)
        except QmeshError:  # `check` says what it is
            return None
        finally:
            self._due = now + max(self._look_s, REST * (time.thread_time() - begun))
        self.is_unsettled = not is_settled(stamp)
        return None if self.is_unsettled else stamp

    def read_identity(self, directory: ConfigDirectory, profile: Profile) -> NodeIdentity | None:
        """The identity in them; None where there is no config.yml, or none that can be read."""
        begun = time.thread_time()
        try:
            text = node_config.read(directory).text
            if text is None:
                return None
            self._path = Path(find_key_store(text, str(directory.path)))
        except QmeshError:
            return None
        octets = None
        if KEY_STORE in list_needed_keys(profile):
            with contextlib.suppress(QmeshError):  # then it is as if there was none
                found = config_directory.read(locate_file(directory, self._path), self._path.name)
                octets = None if found is None else found.octets
        identity = read_identity(text, octets)
        self._due = max(self._due, time.monotonic() + REST * (time.thread_time() - begun))
        return identity


class KeyReporter:
    """A member's: it reports digests of its node's keys with each question, and at once where they change."""

    def __init__(self) -> None:
        self._files = KeyFilesLook(look_s=LOOK_S)
        self._seen: object = None
        self._sealed: dict[str, bytes] = {}
        self._reported: tuple[str, bytes] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether another look should come within a second or so."""
        return self._files.is_unsettled

    @property
    def reports(self) -> Mapping[str, bytes]:
        """For each machine that may be the control node, by its key, encrypted. From any thread."""
        return self._sealed

    def look(self, here: Local) -> None:
        """Look, where it is time for that; report what is new. What can't be reported is tried again."""
        directory = here.settings.node_directory
        if here.settings.control or directory is None or not list_needed_keys(here.inventory.node):
            self._seen, self._sealed = None, {}
            return
        stamp = self._files.read_stamp(directory)
        if stamp is None:
            return
        hubs = {hub.public_key for hub in here.inventory.hubs}
        shared = {key: value for key, value in here.preshared.items() if key in hubs}
        seen = directory, stamp, here.inventory.node, shared
        if seen != self._seen:
            identity = self._files.read_identity(directory, here.inventory.node)
            self._sealed = {} if identity is None else _encrypt_reports(identity, shared)
            self._seen = seen
        self._report(here)

    def _report(self, here: Local) -> None:
        hub = here.inventory.control_node
        sealed = self._sealed.get(hub.public_key)
        if sealed is None or not here.settings.up or (hub.public_key, sealed) == self._reported:
            return
        with contextlib.suppress(ControlNodeUnavailable):  # then it is tried again
            with contextlib.suppress(EnrolmentRefused):  # as of an older qmesh: the next question has it too
                build_client(here).report_keys(sealed, connect_s=_CONNECT_S, read_s=_ANSWER_S)
            self._reported = hub.public_key, sealed


def _encrypt_reports(identity: NodeIdentity, shared: Mapping[str, Secret]) -> dict[str, bytes]:
    return {hub: encrypt_digests(compute_digests(identity, key), key) for hub, key in shared.items()}


class KeyComparer:
    """A control node's: it compares what members have reported with its own files.

    take_reports: gives what came since it was called last, encrypted, by tunnel address.
    """

    def __init__(self, state: State, *, take_reports: Callable[[], Mapping[str, bytes]]) -> None:
        self._state = state
        self._take_reports = take_reports
        self._files = KeyFilesLook(look_s=COMPARE_S)
        self._sealed: dict[str, bytes] = {}
        # With the key that they were encrypted with: an address may be another machine's by now.
        self._digests: dict[str, tuple[Secret, KeyDigests]] = {}
        self._new: set[str] = set()
        self._seen: object = None

    @property
    def is_waiting(self) -> bool:
        """Whether another look should come within a second or so."""
        return bool(self._new) or self._files.is_unsettled

    def look(self, here: Local) -> None:
        """Compare what is new, and remember which machines differ. Raises Busy, and what writing raises."""
        if not here.settings.control:
            self._sealed, self._digests, self._seen = {}, {}, None
            return
        self._read_reports()
        directory = here.settings.node_directory
        if directory is None:
            self._new.clear()  # once there is one, all are compared
            return
        stamp = self._files.read_stamp(directory)
        if stamp is None:
            return
        seen = directory, stamp, here.inventory.revision
        is_same = seen == self._seen
        if is_same and not self._new:
            return
        identity = self._files.read_identity(directory, here.inventory.node)
        if identity is not None:  # else what is wrong is wrong here
            self._compare(identity, list(self._new if is_same else self._digests))
        self._seen = seen
        self._new.clear()

    def _read_reports(self) -> None:
        """Note what members say that is new. Any program of a machine can speak from its tunnel address."""
        came = {
            address: sealed
            for address, sealed in self._take_reports().items()
            if self._sealed.get(address) != sealed
        }
        if not came:
            return
        with open_registry(self._state.registry_file) as registry:
            shared = registry.find_preshared_keys(came)
        for address, key in shared.items():
            with contextlib.suppress(EnrolmentRefused):
                said = key, decrypt_digests(came[address], key)
                self._sealed[address] = came[address]
                if self._digests.get(address) != said:
                    self._digests[address] = said
                    self._new.add(address)

    def _compare(self, identity: NodeIdentity, addresses: list[str]) -> None:
        with open_registry(self._state.registry_file) as registry:
            inventory = registry.inventory()
            shared = registry.find_preshared_keys(addresses)
        needed = list_needed_keys(inventory.node)
        names = {inventory.machine(name).address: name for name in inventory.cores}
        found: dict[str, tuple[NodeKey, ...]] = {}
        for address in shared.keys() & names.keys():
            key, digests = self._digests[address]
            is_its_own = key == shared[address]
            found[names[address]] = (
                find_different_keys(digests, identity, key, needed=needed) if is_its_own else ()
            )
        with self._state.lock():
            before = self._state.key_differences.read() or KeyDifferences()
            after = before.update(found, names.values(), now=int(time.time()))
            if after != before:
                self._state.key_differences.write(after if after.machines else None)
        for name, each in after.machines.items():
            if name not in before.machines:
                fetch = describe_fetch(
                    name, inventory.control, may_fetch=inventory.machine(name).node_files, is_here=False
                )
                report_event(
                    "node-keys",
                    "%s has another %s than this machine: its workers earn nothing (hint: %s)",
                    name,
                    describe_keys(each.keys),
                    fetch,
                    machine=name,
                )
        for name in before.machines.keys() - after.machines.keys():
            said = "the node of %s has the keys of this machine's, or runs no workers"
            report_event("node-keys-agree", said, name, machine=name)


def list_other_keys(state: State, here: Local) -> tuple[OtherKeys, ...]:
    """On a control node the machines whose nodes have other keys. Raises StateUnreadable."""
    known = state.key_differences.read() if here.settings.control else None
    cores = here.inventory.cores
    return tuple(
        OtherKeys(
            machine=name,
            keys=each.keys,
            since=time.strftime("%Y-%m-%d %H:%M", time.localtime(each.since)),
            may_fetch=here.inventory.machine(name).node_files,
        )
        for name, each in (known or KeyDifferences()).machines.items()
        if name in cores
    )
