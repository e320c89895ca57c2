"""The worker lists, each by itself and against each other."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import Mark, Node, Scalar, Sequence
from qmesh.mesh.nodeconfig.lint.entries import (
    WRITTEN,
    Entry,
    ListedEntries,
    classify_address,
    parse_list_entries,
)
from qmesh.mesh.nodeconfig.lint.list_names import (
    SECTION,
    FoundList,
    Role,
    find_lists,
    find_spelling,
    mapping_pairs,
)
from qmesh.mesh.nodeconfig.lint.mesh import find_mesh_problems
from qmesh.mesh.nodeconfig.lint.problems import (
    ExpectedMesh,
    Problem,
    build_error,
    build_warning,
    summarize_by_kind,
)
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.values import IPAddress, Profile, parse_ip_address


def find_list_problems(
    root: Node | None, profile: Profile, mesh: ExpectedMesh | None, ephemeral: Collection[int]
) -> Iterator[Problem]:
    """What is wrong with the lists. ephemeral: ports that an outgoing connection may take."""
    found = find_lists(root, profile)
    last = {each.role: each for each in found}  # of one that is there twice
    lists = {
        role: parse_list_entries(each) for role, each in last.items() if isinstance(each.value, Sequence)
    }
    for each in found:
        yield from _check_list_value(each)
    for one in lists.values():
        yield from summarize_by_kind(_check_entries(one))
        if not one.is_written:
            yield from summarize_by_kind(_check_announced_addresses(one))
    yield from _check_duplicates(lists)
    yield from _check_lengths(lists, profile, mesh)
    yield from _check_ephemeral_ports(lists, mesh, ephemeral)
    if mesh is not None:
        yield from find_mesh_problems(mesh, lists.get("dialled"), _find_list_mark(root, found))


def _find_list_mark(root: Node | None, found: tuple[FoundList, ...]) -> Mark:
    """Where to say what the list that is dialled lacks: at its key, its section's, or the start."""
    keys = [each.key for each in found if each.role == "dialled"]
    keys += [key for key, _ in mapping_pairs(root) if key.value == SECTION]
    return keys[0].start if keys else Mark(0, 0, 0)


def _check_list_value(found: FoundList) -> Iterator[Problem]:
    name, value = found.key.value, found.value
    if isinstance(value, Scalar) and value.is_null and found.role in WRITTEN:
        message = f"there is nothing below `{name}:`, so the node uses only its own cores"
        usual = "write the list there, or delete the line"
        yield build_warning(found.key.start, "empty", message, usual, cured=True)


def _check_entries(one: ListedEntries) -> Iterator[Problem]:
    """What is wrong with an entry by itself."""
    for entry in one.entries:
        what = f"entry {entry.core} of `{one.key.value}`"
        if entry.is_placeholder:
            yield build_error(
                entry.mark,
                "placeholder",
                f"{what} still has a placeholder in it",
                "write the machine's address there",
                cured=True,
            )
        elif entry.text is not None and entry.address is not None and not 1 <= entry.port <= 65535:
            yield build_error(
                entry.mark,
                "port",
                f"{what} has no port from 1 to 65535",
                "write a port from 1 to 65535",
                cured=True,
            )
        elif not _is_usable(one, entry):
            usual = "write it as /ip4/10.77.0.2/tcp/40000 or /ip6/fd00::2/tcp/40000"
            yield build_error(
                entry.mark, "entry", f"{what} is not an address with a TCP port", usual, cured=True
            )


def _is_usable(one: ListedEntries, entry: Entry) -> bool:
    """Whether the node can take it. Of the other lists' transports qmesh knows too little to say no."""
    if entry.text is None:
        return False
    if one.role != "dialled":
        return True
    try:
        parse_multiaddr(entry.text)
    except BadInput:
        return False
    return True


def _check_announced_addresses(one: ListedEntries) -> Iterator[Problem]:
    for entry in one.entries:
        kind = None if entry.address is None else classify_address(entry.address)
        if kind not in {None, "public"}:
            message = f"entry {entry.core} of `{one.key.value}` announces a {kind} address"
            yield build_warning(
                entry.mark,
                "announce",
                f"{message}, at which other nodes cannot reach the worker",
                "write the address at which other nodes reach the worker",
                cured=True,
            )


def _check_duplicates(lists: dict[Role, ListedEntries]) -> Iterator[Problem]:
    """One address and port twice, in lists of which workers listen at each entry, or that name them.

    What is announced of streams is the control process's address for every worker.
    """
    for written in (True, False):
        group = [one for one in lists.values() if one.is_written is written and one.role != "announced"]
        yield from summarize_by_kind(_check_group_duplicates(group))


def _check_group_duplicates(group: list[ListedEntries]) -> Iterator[Problem]:
    first: dict[tuple[IPAddress, str, int], Entry] = {}
    for one in group:
        for entry in one.entries:
            # The wildcard is another machine's each time, as far as can be told.
            if entry.address is None or entry.address.is_unspecified:
                continue
            before = first.setdefault((entry.address, entry.protocol, entry.port), entry)
            if before is not entry:
                line = before.mark.line + 1
                message = f"{entry.address} port {entry.port} is already in line {line}"
                say = build_error if one.is_written else build_warning
                usual = "give each worker an address and port of its own"
                yield say(entry.mark, "repeated", message, usual, cured=True)


def _check_lengths(
    lists: dict[Role, ListedEntries], profile: Profile, mesh: ExpectedMesh | None
) -> Iterator[Problem]:
    dialled, p2p = lists.get("dialled"), lists.get("p2p")
    counts = [len(one.entries) if one else 0 for one in (dialled, p2p)]
    names = [find_spelling(role, profile) for role in ("dialled", "p2p")]
    last = p2p or dialled
    if last is not None and names[0] != names[1] and counts[0] != counts[1]:
        both = f"`{names[0]}` and `{names[1]}` have different lengths, {counts[0]} and {counts[1]}"
        yield build_error(
            last.key.start,
            "length",
            f"{both}: the node stops at that",
            "give both one entry for each worker",
            cured=True,
        )
    count = len(mesh.workers) if mesh else counts[0]
    for one in lists.values():
        if not one.is_written and one.entries and len(one.entries) != count != 0:
            message = f"the length of `{one.key.value}` is {len(one.entries)}, and there are {count} workers"
            so = "others are announced where they listen" if profile == "2.1-rust" else "the node ignores it"
            way_out = "write one entry for each worker, in their order"
            yield build_warning(one.key.start, "length", f"{message}: {so}", way_out, cured=True)


def _check_ephemeral_ports(
    lists: dict[Role, ListedEntries], mesh: ExpectedMesh | None, ephemeral: Collection[int]
) -> Iterator[Problem]:
    """Ports of this machine that an outgoing connection may take before the worker starts."""
    own = None if mesh is None else parse_ip_address(mesh.own)
    risky = [
        entry
        for one in lists.values()
        for entry in one.entries
        if one.is_written and entry.port in ephemeral and _is_own_address(entry.address, own)
    ]
    if risky:
        ports = format_port_ranges(tuple(sorted({entry.port for entry in risky})))
        yield build_warning(
            min(entry.mark for entry in risky),
            "ephemeral",
            f"an outgoing connection may take port {ports}, and then the worker cannot listen there",
            "use the mesh's ports, which `qmesh apply` reserves, or reserve these in /etc/sysctl.d",
        )


def _is_own_address(address: IPAddress | None, own: IPAddress | None) -> bool:
    """Whether this machine's workers listen there. Without a mesh, every address may be this machine's."""
    if address is None:
        return False
    return own is None or address == own or address.is_loopback or address.is_unspecified
