"""A user-mode Linux: a kernel that is an ordinary program, built once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cache
from errors import NoMachine
from initramfs import archive
from lifetime import tied
from machine import Share, Start

MEMORY_MIB: Final = 1024
HERE: Final = Path(__file__).parent

# It insists on a folder for its control socket: one in memory that only it sees, and that goes with
# it. It lies where the machine has mounted something of its own over the host's.
_FOLDER: Final = "/sys"
_WITH_A_FOLDER: Final = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs uml {_FOLDER} && exec "$0" "$@"')


class UserMode:
    """A user-mode Linux."""

    settings: Final = {"SHARED_BY": "hostfs", "PORTS": "/dev/tty"}
    archive: Final = archive({"modules/order": b""})
    shares: Final[Sequence[Share]] = ()
    variables: Final[Mapping[str, str]] = {}

    def __init__(self) -> None:
        folder = cache.made("uml", [HERE / "build-uml", HERE / "uml.config"], _build)
        self._linux = folder / "linux"

    def command(self, start: Start) -> list[str]:
        """The kernel's own command line; it sees the host's files as any program does, without shares."""
        return [
            *_WITH_A_FOLDER,
            str(self._linux),
            f"mem={MEMORY_MIB}M",
            f"initrd={start.initramfs}",
            "seccomp=auto",
            "ncpus=1",
            f"uml_dir={_FOLDER}/",
            "con=null",
            *(f"con{number}=null,fd:{start.ports[name]}" for number, name in enumerate(start.ports)),
            *start.kernel_arguments,
        ]


def _build(folder: Path) -> None:
    with tied([HERE / "build-uml", folder], output=sys.stderr.fileno()) as build:
        if build.wait() != 0:
            raise NoMachine("user-mode Linux could not be built", hint="see above, or leave out --uml")
