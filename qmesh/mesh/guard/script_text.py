"""The guard's nftables commands as text: known for whole, compared with a table, renamed.

Nothing here parses a guard, or imports what does: the process that holds it has no use for that.
"""

from __future__ import annotations

from qmesh.mesh.guard.tables import HELD, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OPENINGS: Final = "limit rate over 10/second burst 20 packets"
"""Connections to the membership service that one member may open. One that asks after each change opens five
a second at most. Further ones wait until TCP tries again. After two seconds the count starts again."""
_ASKERS: Final = tuple(f"set askers {{ type {kind} size 65535" for kind in ("ipv4_addr", "ipv6_addr"))
_ASKERS_FLAGS: Final = " flags dynamic,timeout timeout 2s"
_ADDRESS: Final = frozenset("0123456789abcdef.:")


def render_unload_script() -> str:
    """Nftables commands that take the guard away, whether it is there or not."""
    return f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def render_release_script() -> str:
    """Nftables commands by which a process takes its held table away, whether it has one or not."""
    return f"add table inet {HELD} {{ flags owner; }}\ndelete table inet {HELD}\n"


def rename_held_table(script: str, name: str) -> str:
    """The same commands, of `render_held_script` or `render_release_script`, for a table of another name."""
    return script.replace(f"table inet {HELD}", f"table inet {name}")


def is_complete_script(script: str) -> bool:
    """Whether a script may be of `render_load_script`, whatever qmesh wrote it, and has its end."""
    return script.startswith(f"{render_unload_script()}table inet {TABLE} {{\n") and script.endswith("\n}\n")


def is_script_loaded(script: str, listing: str | None) -> bool:
    """Whether a table is as a `render_load_script` makes it. listing: None where there is no table."""
    return listing is not None and normalize_listing(
        script.removeprefix(render_unload_script())
    ) == normalize_listing(listing)


def normalize_listing(listing: str) -> str:
    """A listing with its line breaks and indentation folded, as nft versions wrap long sets unlike.

    And without those who asked lately: elements of that set come and go, and are no change of the guard.
    """
    words = " ".join(listing.split())
    for head in _ASKERS:
        before, found, rest = words.partition(head)
        if found:
            words = f"{before}{head}{_strip_askers(rest)}"
    return words


def _strip_askers(rest: str) -> str:
    """What follows the beginning of that set, without its elements; as it is where another made them."""
    count, flags, elements = rest.partition(_ASKERS_FLAGS)
    if not flags or (count and not count.removeprefix(" # count ").isdecimal()):
        return rest
    inner, end, after = elements.removeprefix(" elements = { ").partition(" }")
    if elements.startswith(" elements = { ") and end and all(map(_is_asker, inner.split(", "))):
        return f"{flags}{after}"
    return f"{flags}{elements}"


def _is_asker(element: str) -> bool:
    """Whether the guard's own rule made that element, as nft lists it."""
    address, _, rest = element.partition(" ")
    times = rest.removeprefix(OPENINGS)
    for word in (" timeout ", " expires "):
        if times.startswith(word):
            value, space, others = times.removeprefix(word).partition(" ")
            times = f"{space}{others}" if value.isalnum() else word
    return bool(address) and _ADDRESS.issuperset(address) and rest.startswith(OPENINGS) and not times
