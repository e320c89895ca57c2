"""The kernel's nftables, through libnftables: load our table, read it, in the words of nft(8)."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Any, Final

import msgspec
import nftables

from qmesh.errors import KernelRefused, MissingProgram, NeedsRoot

_LIBRARY: Final = "libnftables.so.1"
_ATTEMPTS: Final = 10


@cache
def _library() -> Any:
    try:
        ctypes.CDLL(_LIBRARY)  # looked for first: an Nftables() without it complains once more when it goes
        library = nftables.Nftables(_LIBRARY)
    except OSError:
        raise MissingProgram(
            "libnftables is not installed", hint="apt-get install nftables libnftables1"
        ) from None
    library.set_stateless_output(True)
    return library


def run(script: str) -> str:
    """Run nftables commands as one transaction and return what they print.

    Raises NeedsRoot, MissingProgram or KernelRefused; then nothing of the script was done.
    """
    code, output, error = _library().cmd(script)
    if code == 0:
        return str(output)
    if "Operation not permitted" in error:
        raise NeedsRoot("nftables may not be used by this user", hint="run the command as root")
    if "resolve protocol name" in error:
        raise MissingProgram(
            "/etc/protocols is missing, where nftables looks up icmp and the like",
            hint="apt-get install netbase",
        )
    reason = next((line for line in error.splitlines() if line.strip()), "no reason given")
    raise KernelRefused(
        f"nftables refused: {reason.strip()}",
        hint="the ruleset is as it was; qmesh needs nftables of 1.0.6 or newer and Linux 5.10 or newer",
    )


def read_ruleset() -> tuple[list[dict[str, Any]], str]:
    """Every table twice: as the objects of libnftables-json(5), and as `nft -a -s list ruleset` prints it.

    Raises as `run` does.
    """
    library = _library()
    library.set_handle_output(True)
    try:
        return _objects(library), run("list ruleset")
    finally:
        library.set_handle_output(False)


def _objects(library: Any) -> list[dict[str, Any]]:
    library.set_json_output(True)
    try:
        for _ in range(_ATTEMPTS):
            # libnftables 1.0.6 now and then breaks off at a table's flags, and says that all is well.
            with contextlib.suppress(msgspec.DecodeError):
                found: list[dict[str, Any]] = msgspec.json.decode(run("list ruleset"))["nftables"]
                return found
    finally:
        library.set_json_output(False)
    raise KernelRefused("nftables' list of all rules breaks off", hint="see `nft -j list ruleset`")


def read_table(name: str) -> str | None:
    """The table of this name and family inet, as `nft -s list table` prints it; None without one.

    Raises as `run` does: could not look is never nothing there.
    """
    there = f"table inet {name}"
    while there in run("list tables inet").splitlines():
        try:
            return run(f"list {there}")
        except KernelRefused:  # gone between the two looks, or truly unreadable: look once more
            if there in run("list tables inet").splitlines():
                raise
    return None
