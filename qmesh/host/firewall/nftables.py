"""The kernel's nftables, through libnftables: load qmesh's table, and read it, in the syntax of nft(8)."""

from __future__ import annotations

import _thread

from qmesh.errors import KernelRefused, MissingProgram, NeedsRoot
from qmesh.host.firewall import nft_library
from qmesh.host.lean import nftables_messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from qmesh.host.firewall.nft_library import NftContext

_turn: Final = _thread.allocate_lock()
"""The library's context is one thread's at a time."""
_loaded: list[NftContext] = []
"""The library, once it was needed."""
_HASH: Final = "\n\t\tflags timeout\n"
_MOST_READINGS: Final = 5


def open_library() -> NftContext:
    """The library, with a context of its own. Raises MissingProgram."""
    try:
        return nft_library.load()
    except OSError:
        raise MissingProgram(
            "libnftables is not installed",
            hint="run `apt-get install nftables libnftables1`, then the same command again",
        ) from None


def _load_library() -> NftContext:
    with _turn:
        if not _loaded:
            _loaded.append(open_library())
    return _loaded[0]


def forget_library() -> None:
    """In a copy of this process, forget the library that was loaded: it speaks to the namespace of before.

    It is loaded anew for the next command, in the namespace of then.
    """
    _loaded.clear()


def require_nftables() -> None:
    """Raise what `run` would where nftables can't be used.

    libnftables 1.0.6 reads every set of every table to list tables, which may take a minute: it is not asked.
    """
    _load_library()
    nftables_messages.dump_messages(nftables_messages.GET_TABLE)


def run(script: str) -> str:
    """Run nftables commands as one transaction and return what they print.

    Raises NeedsRoot, MissingProgram or KernelRefused; then nothing of the script was done.
    """
    if "\0" in script:  # the library would take what stands before it for all of it
        raise KernelRefused(
            "the guard's nftables script is damaged", hint="run `qmesh apply`, which writes its files again"
        )
    library = _load_library()
    with _turn:
        is_done, output, error = library.run(script.encode())
    if is_done:
        return decode_output(output)
    raise build_nft_error(decode_output(error))


def release_memory() -> None:
    """Keep nothing for commands to come: for a process that rests until something happens."""
    for library in _loaded:
        library.release_memory()


def decode_output(octets: bytes) -> str:
    """What libnftables printed; octets that are no text, as another program may name a chain, escaped."""
    return octets.decode("utf-8", "backslashreplace")


def build_nft_error(error: str) -> NeedsRoot | MissingProgram | KernelRefused:
    """What libnftables says of a command that it did not do, as one of ours."""
    if "Operation not permitted" in error:
        return NeedsRoot("nftables may not be used by this user", hint="run the command as root")
    if "resolve protocol name" in error:
        return MissingProgram(
            "/etc/protocols is missing, in which nftables looks up protocol names such as icmp",
            hint="run `apt-get install netbase`, then the same command again",
        )
    reason = next((line for line in error.split("\n") if line.strip()), "no reason given")
    return KernelRefused(
        f"nftables refused: {reason.strip()}",
        hint="no rule was changed; qmesh needs nftables 1.0.6 or newer and Linux 5.10 or newer",
    )


def read_table(name: str) -> str | None:
    """The table of this name and family inet, as `nft -s list table` prints it; None without one.

    Raises as `run` does: could not look is never nothing there.
    """
    _load_library()  # where there is none, that is said although no table is there
    while nftables_messages.has_table("inet", name):
        try:
            return _list_table(name)
        except KernelRefused:  # gone between the two looks, or truly unreadable: look once more
            if nftables_messages.has_table("inet", name):
                raise
    return None


def _list_table(name: str) -> str:
    """The table's text. While the kernel enlarges a hash, it lists some elements twice and others never."""
    listing = run(f"list table inet {name}")
    for _ in range(_MOST_READINGS if _HASH in listing else 0):
        before, listing = listing, run(f"list table inet {name}")
        if listing == before:
            break
    return listing
