"""Keys that were members' until now: the control node remembers them, to tell who calls with one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TypeAlias

from qmesh.agent.local import Local
from qmesh.host.state.directory import State
from qmesh.mesh.links.retirement import RetiredKeys, retire_keys, sign_retirement
from qmesh.mesh.machine import Machine
from qmesh.mesh.values import Secret

MemberKeys: TypeAlias = Mapping[str, tuple[str, Secret]]
"""Names and preshared keys of members, by public key."""


def list_member_keys(here: Local) -> MemberKeys:
    """Those of the mesh as it is."""
    return {
        each.public_key: (each.name, here.preshared[each.public_key])
        for each in here.inventory.machines
        if each.state != "invited" and each.public_key in here.preshared
    }


def remember_retired_keys(state: State, before: MemberKeys, machines: tuple[Machine, ...]) -> None:
    """Remember which of these keys no machine has any more. Holds the lock."""
    if before.keys() - {each.public_key for each in machines}:
        known = state.retired_keys.read() or RetiredKeys()
        state.retired_keys.write(retire_keys(known, dict(before), machines, at=int(time.time())))


def sign_retired_keys(state: State, mesh: str) -> None:
    """Have notices of them ready, for when this machine has no signing key any more. Holds the lock."""
    known = state.retired_keys.read()
    if known is not None:
        signing_key = state.signing_key()
        signed = tuple(sign_retirement(each, mesh, signing_key) for each in known.keys)
        state.retired_keys.write(RetiredKeys(signed))
