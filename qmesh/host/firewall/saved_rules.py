"""Files from which rules are loaded, looked through for tables of qmesh. Source: nft(8), include."""

from __future__ import annotations

import errno
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from qmesh.host.start_scripts import list_regular_files, read_regular_file, read_start_scripts
from qmesh.mesh.foreign.saved_rules import SavedRules, find_saved_rules, list_includes, list_loaded_files

USUAL: Final = (
    "/etc/nftables.conf",
    "/etc/nftables.nft",
    "/etc/nftables.rules",
    "/etc/nftables/*",
    "/etc/nftables.d/*",
    "/etc/sysconfig/nftables.conf",
    "/etc/iptables/rules.v[46]",
    "/var/lib/nftables/*",
    "/etc/nft/*",
    "/usr/share/nftables.d/*/*",
    "/usr/share/nftables.d/*/*/*",
)
"""Where distributions, OpenWrt among them, and their administrators have them."""
_INCLUDED_FROM: Final = "/etc"
_MOST_FILES: Final = 256
_MOST_OCTETS: Final = 64 << 20
"""Of all files together."""
_TOO_MUCH: Final = f"the files with rules have more than {_MOST_OCTETS >> 20} MiB"


def read_saved_rules(named: Iterable[str], own: Path) -> tuple[tuple[SavedRules, ...], tuple[str, ...]]:
    """The files in which tables of qmesh are, each once, and why others could not be looked through.

    named: paths that some unit loads, besides the usual ones.
    own: the state directory; an include of its `guard.nft` is always that of today.
    """
    waiting = deque((*named, *USUAL, *_list_loaded_files()))
    found: list[SavedRules] = []
    unread: list[str] = []
    seen: set[str] = set()
    left = _MOST_OCTETS
    while waiting:
        for path in _list_files(waiting.popleft()):
            if path in seen or own in Path(path).parents:
                continue
            if len(seen) == _MOST_FILES:
                return tuple(found), (*unread, f"there are more files with rules than {_MOST_FILES}")
            seen.add(path)
            try:
                octets = read_regular_file(path, left)
            except OSError as error:
                is_too_much = error.errno == errno.EFBIG
                unread.append(f"{path} cannot be read: {_TOO_MUCH if is_too_much else error.strerror}")
                continue
            left -= len(octets)
            saved = find_saved_rules(path, octets)
            found += [] if saved is None else [saved]
            waiting.extend(list_includes(octets))
    return tuple(found), tuple(unread)


def _list_loaded_files() -> Iterator[str]:
    """What scripts, units and crontabs give to nft."""
    for _, octets in read_start_scripts():
        yield from list_loaded_files(octets)


def _list_files(written: str) -> Iterator[str]:
    """The files that a path leads to, without the links on the way, as nft would find them."""
    if not written.startswith(("/", "./", "../")):
        written = f"{_INCLUDED_FROM}/{written}"
    # A unit's directory is the root; there is no `**` in glob(3).
    below = Path(re.sub(r"\*+", "*", written).strip("/"))
    return list_regular_files(str(below)) if below.parts else iter(())
