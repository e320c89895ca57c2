"""libnftables, called as its header has it. Source: nftables/libnftables.h, libnftables(3)."""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LIBRARY: Final = "libnftables.so.1"
_STATELESS, _JSON = 1 << 2, 1 << 4  # NFT_CTX_OUTPUT_*
_CONTEXT, _TEXT, _NUMBER = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_FUNCTIONS: Final = {
    "nft_ctx_new": (_CONTEXT, ctypes.c_uint32),
    "nft_ctx_buffer_output": (_NUMBER, _CONTEXT),
    "nft_ctx_buffer_error": (_NUMBER, _CONTEXT),
    "nft_ctx_output_set_flags": (None, _CONTEXT, ctypes.c_uint),
    "nft_run_cmd_from_buffer": (_NUMBER, _CONTEXT, _TEXT),
    "nft_ctx_get_output_buffer": (_TEXT, _CONTEXT),
    "nft_ctx_get_error_buffer": (_TEXT, _CONTEXT),
}
"""What each gives, and what it takes."""


class NftContext:
    """The library with a context of its own, for one thread at a time. Raises OSError where there is none."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._has_run = False
        for name, (gives, *takes) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = gives, takes
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise MemoryError
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _STATELESS)

    def read_json(self) -> None:
        """Take commands as JSON from now on, and print it. Source: libnftables-json(5)."""
        self._library.nft_ctx_output_set_flags(self._context, _JSON)

    def run(self, script: bytes) -> tuple[bool, bytes, bytes]:
        """Run commands as one transaction: whether it was done, what was printed, and why it was not done."""
        code = self._library.nft_run_cmd_from_buffer(self._context, script)
        output = self._library.nft_ctx_get_output_buffer(self._context)
        self._has_run = True
        return not code, output, self._library.nft_ctx_get_error_buffer(self._context)

    def release_memory(self) -> None:
        """Give the system back what commands took: for thousands of ports that is a megabyte."""
        if self._has_run:
            self._has_run = False
            self._library.malloc_trim(0)


def ask_no_resolver() -> None:
    """From here on this process knows hosts by /etc/hosts alone: rules may have their names.

    A resolver that is a program of this machine sends questions from there, wherever it is asked.
    Source: nss.h.
    """
    configure = getattr(ctypes.CDLL(None), "__nss_configure_lookup", None)
    if configure is not None:  # glibc's
        configure(b"hosts", b"files")


def load() -> NftContext:
    """The library, with a context. Raises OSError when there is none."""
    return NftContext()
