"""libnftables, loaded."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import nftables

LIBRARY: Final = "libnftables.so.1"


def load() -> Any:
    """The library. Raises OSError when there is none."""
    ctypes.CDLL(LIBRARY)  # looked for first: an Nftables() without it complains once more when it goes
    library = nftables.Nftables(LIBRARY)
    library.set_stateless_output(True)
    return library
