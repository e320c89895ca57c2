"""Files from which rules are loaded, looked through for tables of qmesh. Source: nft(8), include."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

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
LOADERS: Final = (
    "/etc/rc.local",
    "/etc/firewall.user",
    "/etc/crontab",
    "/etc/cron.d/*",
    "/etc/conf.d/nftables",
    "/etc/init.d/*",
    "/etc/local.d/*",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d/*",
    "/etc/network/if-*.d/*",
    "/etc/networkd-dispatcher/*.d/*",
    "/etc/NetworkManager/dispatcher.d/*",
    "/etc/ppp/ip-up.d/*",
    "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*.conf",
    "/usr/local/bin/*.sh",
    "/usr/local/sbin/*",
    "/var/spool/cron/crontabs/*",
    "/var/spool/cron/root",
    "/root/*.sh",
)
"""Scripts, units and crontabs that may load rules themselves: what they give to nft is looked through too."""
_INCLUDED_FROM: Final = "/etc"
_MOST_FILES: Final = 256
_MOST_OCTETS: Final = 64 << 20
"""Of all files together."""
_MOST_LOADERS: Final = 512
_MOST_LOADER_OCTETS: Final = 64 << 10
"""Of one script: what is longer is a program."""


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
                octets = _read_file(path, left)
            except OSError as error:
                unread.append(f"{path} cannot be read: {error.strerror or error}")
                continue
            left -= len(octets)
            saved = find_saved_rules(path, octets)
            found += [] if saved is None else [saved]
            waiting.extend(list_includes(octets))
    return tuple(found), tuple(unread)


def _list_loaded_files() -> Iterator[str]:
    """What scripts, units and crontabs give to nft; nothing is said of those that cannot be read."""
    scripts = (path for written in LOADERS for path in _list_files(written))
    for path in itertools.islice(scripts, _MOST_LOADERS):
        with contextlib.suppress(OSError):
            yield from list_loaded_files(_read_file(path, _MOST_LOADER_OCTETS))


def _list_files(written: str) -> Iterator[str]:
    """The files that a path leads to, without the links on the way, as nft would find them."""
    if not written.startswith(("/", "./", "../")):
        written = f"{_INCLUDED_FROM}/{written}"
    # A unit's directory is the root; there is no `**` in glob(3).
    below = Path(re.sub(r"\*+", "*", written).strip("/"))
    for path in sorted(Path("/").glob(str(below))) if below.parts else ():
        with contextlib.suppress(OSError, RuntimeError):  # links that lead to themselves
            real = path.resolve()
            if real.exists() and not real.is_dir():
                yield str(real)


def _read_file(path: str, limit: int) -> bytes:
    """A regular file's octets; of what is none, such as a FIFO, there are none. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise OSError(f"the files with rules have more than {_MOST_OCTETS >> 20} MiB")
    return octets
