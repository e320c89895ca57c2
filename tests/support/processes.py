"""What the kernel tells of all processes that are here, of which any may end meanwhile. Source: proc(5)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


def read_of_each(name: str) -> Iterator[tuple[int, str]]:
    """The numbers of the processes, and what such a file of theirs has: `comm`, `stat`, `cmdline`."""
    for path in Path("/proc").glob(f"[0-9]*/{name}"):
        # One that ended before it was opened has no such file, and one that ended after it cannot be read.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield int(path.parent.name), path.read_text("utf-8", "replace")
