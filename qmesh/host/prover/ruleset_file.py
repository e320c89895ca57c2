"""All rules of this machine; or of a file, as the kernel has them once they are loaded elsewhere."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host.firewall.foreign_rulesets import read_rulesets
from qmesh.host.given_rules import GivenRules, load_given_rules
from qmesh.host.lean.nftables_messages import read_generation
from qmesh.host.network.kernel_routes.tables import read_all_tables
from qmesh.host.prover.set_elements import read_sets
from qmesh.mesh.foreign.kernel_rules import KernelRule
from qmesh.mesh.foreign.rulesets import Listing
from qmesh.mesh.prover.set_contents import SetContents
from qmesh.mesh.prover.traveller import Family
from qmesh.mesh.prover.way_back import asks_routes
from qmesh.mesh.routes.detours import RoutingTables

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_ATTEMPTS: Final = 10


class ReadRules(msgspec.Struct, frozen=True):
    """All rules of a machine, or of a file, and what their sets have in them."""

    listing: Listing
    sets: SetContents


def read_routes(rules: Iterable[KernelRule]) -> dict[Family, RoutingTables]:
    """This machine's routes by family, where one of these rules asks for them and there are not too many.

    Raises MachineRefused.
    """
    if not any(map(asks_routes, rules)):
        return {}
    read: tuple[tuple[Family, int], ...] = (("ip", 4), ("ip6", 6))
    tables = ((family, read_all_tables(version)) for family, version in read)
    return {family: found for family, found in tables if found is not None}


def read_live_rules() -> ReadRules:
    """This machine's, as they are at one moment. Raises MachineRefused."""
    for _ in range(_ATTEMPTS):
        before = read_generation()
        listing = read_rulesets()
        found = ReadRules(listing, read_sets(listing.sets))
        if read_generation() == before:
            return found
    raise KernelRefused(
        "the rules change faster than they can be read",
        hint="find the program that changes them: `nft monitor`",
    )


def read_rules(given: GivenRules) -> ReadRules:
    """Those of a file, by a thread in a network namespace of its own, which ends with it.

    Raises BadInput for what is no ruleset, and MachineRefused.
    """
    found: list[ReadRules] = []
    failed: list[Exception] = []

    def load() -> None:
        try:
            found.append(_load(given))
        except Exception as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    worker = threading.Thread(target=load, daemon=True)  # nobody waits for what it includes
    worker.start()
    worker.join()
    if failed:
        raise failed[0]
    return found[0]


def _load(given: GivenRules) -> ReadRules:
    if _libc.unshare(_CLONE_NEWNET) != 0:  # of this thread alone
        code = ctypes.get_errno()
        raise MachineRefused(
            f"no network namespace can be made: {os.strerror(code)}",
            hint="without --ruleset, `qmesh prove` needs none",
        )
    load_given_rules(given)
    listing = msgspec.structs.replace(read_rulesets(), legacy=())  # those are this machine's
    return ReadRules(listing, read_sets(listing.sets))
