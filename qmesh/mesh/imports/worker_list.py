"""The machines of a config.yml's worker list."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from qmesh.errors import BadInput
from qmesh.mesh.imports.machine import ImportedMachines, ListedMachine, is_loopback_or_unspecified
from qmesh.mesh.nodeconfig import (
    MASTER_PROXY,
    detect_profile,
    find_ignored_lists,
    parse_multiaddr,
    read_settings,
)
from qmesh.mesh.nodeconfig.document import Mark, Node, ParsedConfig, Scalar, bad_config_at, walk_nodes
from qmesh.mesh.nodeconfig.document import Sequence as Items
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.values import Profile, name_cores

_BY_NAME = ("/dns/", "/dns4/", "/dns6/", "/dnsaddr/")
_SLIP = "if one of them is a mistake, correct the list first"


def find_machines_in_list(
    config: str | ParsedConfig, entries: Sequence[str], own_addresses: Collection[str]
) -> ImportedMachines:
    """The machines that the entries of a worker list are on; entry N is core N + 1's.

    config: the whole config.yml, to name places in it. entries: its worker list.
    own_addresses: canonical; a machine with one of them, or with an address that is every machine's
        own, is the control machine.

    Raises BadInput, with core, line and column, for an entry that is no IP address and TCP port, and
    when there is none at all. No message repeats an entry: a damaged list may hold anything.
    """
    if not entries:
        raise BadInput(
            "this config.yml has no worker list, so the machines are unknown",
            hint="use the control machine's config.yml, or list the machines in a file for `--csv`",
        )
    root = parse_config(config).root
    listens = [_parse_entry(root, entries, number) for number in range(1, len(entries) + 1)]
    found: dict[str | None, list[int]] = {}
    for core, (address, _) in enumerate(listens, 1):
        is_here = address in own_addresses or is_loopback_or_unspecified(address)
        found.setdefault(None if is_here else address, []).append(core)
    notes = [*_note_local_addresses(listens), *_note_duplicate_entries(listens)]
    if None not in found:
        notes.append(
            "no entry has an address of this machine; if one of them is this machine, as behind NAT, pass its"
            " address with --here; otherwise this machine gets one worker, since a control node has at least"
            " one"
        )
    machines = [_build_machine(listens, cores, control=who is None) for who, cores in found.items()]
    if None not in found:
        machines.insert(0, ListedMachine(control=True, addresses=(), workers=1))
    return ImportedMachines(tuple(machines), tuple(notes))


def _build_machine(
    listens: Sequence[tuple[str, int]], cores: Sequence[int], *, control: bool
) -> ListedMachine:
    addresses = dict.fromkeys(listens[core - 1][0] for core in cores)
    return ListedMachine(
        control=control,
        addresses=tuple(address for address in addresses if not is_loopback_or_unspecified(address)),
        was=tuple(cores),
        ports=tuple(listens[core - 1][1] for core in cores),
        workers=len(cores),
    )


def _parse_entry(root: Node | None, entries: Sequence[str], core: int) -> tuple[str, int]:
    entry = entries[core - 1]
    if entry.startswith(_BY_NAME):
        problem = f"core {core} has a DNS name, and qmesh needs an IP address to know the machine"
        hint = "write its address, as in /ip4/192.168.0.201/tcp/40000; `getent ahosts NAME` prints it"
        raise bad_config_at(_find_entry_mark(root, entries, core), problem, hint)
    try:
        return parse_multiaddr(entry)
    except BadInput:
        problem = f"core {core} has no IP address and TCP port"
        hint = "write the entry as /ip4/192.168.0.201/tcp/40000 or /ip6/fd00::201/tcp/40000"
        raise bad_config_at(_find_entry_mark(root, entries, core), problem, hint) from None


def _find_entry_mark(root: Node | None, entries: Sequence[str], core: int) -> Mark:
    """Where a core's entry stands: in the list that has all the entries, whichever key it is under."""
    wanted = list(entries)
    lists = (
        node.items
        for node, _ in walk_nodes(root)
        if isinstance(node, Items)
        and [item.value for item in node.items if isinstance(item, Scalar)] == wanted
    )
    found = next(lists, ())
    return found[core - 1].start if found else Mark(0, 0, 0)


def _note_local_addresses(listens: Sequence[tuple[str, int]]) -> Iterator[str]:
    by_address: dict[str, list[int]] = {}
    for core, (address, _) in enumerate(listens, 1):
        if is_loopback_or_unspecified(address):
            by_address.setdefault(address, []).append(core)
    for address, cores in by_address.items():
        yield (
            f"{name_cores(cores)}: {address} counts as this machine,"
            " because this machine's control process would connect to itself there"
        )


def _note_duplicate_entries(listens: Sequence[tuple[str, int]]) -> Iterator[str]:
    by_place: dict[tuple[str, int], list[int]] = {}
    for core, place in enumerate(listens, 1):
        by_place.setdefault(place, []).append(core)
    for (address, port), cores in by_place.items():
        if len(cores) > 1:
            yield (
                f"{name_cores(cores)}: all have {address} port {port}, where only one worker can listen;"
                f" each counts as a worker and gets a port of its own: {_SLIP}"
            )


def list_config_notes(config: str | ParsedConfig, profile: Profile, *, is_sure: bool) -> tuple[str, ...]:
    """What to say of a config as such. is_sure: whether its user said the profile."""
    unsure = (
        ()
        if is_sure or detect_profile(config)
        else (f"config.yml does not tell the node's version: {profile} is assumed; otherwise pass --node",)
    )
    ignored = (
        f"config.yml, line {key.line}, column {key.column}: the node ignores {key.key} silently"
        for key in find_ignored_lists(config, profile)
    )
    return (*unsure, *ignored, *_note_master_proxy(config, profile))


def _note_master_proxy(config: str | ParsedConfig, profile: Profile) -> Iterator[str]:
    """What a mesh of 2.1-rust does not take over: its program would publish nothing of its workers."""
    if profile == "2.1-rust" and _has_master_proxy(config):
        yield (
            f"config.yml has {MASTER_PROXY}: node 2.1-rust does not support that, nothing that its workers"
            " publish would arrive; the mesh sets it to false"
        )


def uses_master_proxy(config: str | ParsedConfig, profile: Profile) -> bool:
    """Whether other provers reach the workers via the control process, as only node 2.1 in Go has it."""
    return profile == "2.1" and _has_master_proxy(config)


def _has_master_proxy(config: str | ParsedConfig) -> bool:
    value = None
    with contextlib.suppress(BadInput):  # `render-config` refuses what cannot be changed there
        (value,) = read_settings(config, [(MASTER_PROXY, False)])
    return value == "true"
