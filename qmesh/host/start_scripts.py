"""Scripts, units and crontabs in which an administrator sets up a machine: they are read, and never run."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

START_SCRIPTS: Final = (
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
"""Where distributions and their administrators have them."""
_MOST_SCRIPTS: Final = 512
_MOST_OCTETS: Final = 64 << 10
"""Of one of them: what is longer is a program."""


def read_start_scripts() -> Iterator[tuple[str, bytes]]:
    """Each of them, by its path. Those that cannot be read are left out."""
    scripts = (path for written in START_SCRIPTS for path in list_regular_files(written.strip("/")))
    for path in itertools.islice(scripts, _MOST_SCRIPTS):
        with contextlib.suppress(OSError):
            yield path, read_regular_file(path, _MOST_OCTETS)


def list_regular_files(below: str) -> Iterator[str]:
    """The files that a pattern below the root leads to, without the links on the way."""
    for path in sorted(Path("/").glob(below)):
        with contextlib.suppress(OSError, RuntimeError):  # links that lead to themselves
            real = path.resolve()
            if real.exists() and not real.is_dir():
                yield str(real)


def read_regular_file(path: str, limit: int) -> bytes:
    """A regular file's octets; of what is none, such as a FIFO, there are none.

    Raises OSError, with EFBIG where it has more than the limit.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return octets
