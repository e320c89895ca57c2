"""The kernel's nftables, through libnftables: load our table, read it, in the words of nft(8)."""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from typing import Any, Final

import msgspec
import nftables

from qmesh.errors import KernelRefused, MissingProgram, NeedsRoot
from qmesh.mesh.decoding import Malformed, from_json


class _Said(msgspec.Struct):
    """What the library prints in JSON."""

    nftables: list[dict[str, Any]]


_LIBRARY: Final = "libnftables.so.1"
_ATTEMPTS: Final = 3
_turn: Final = threading.RLock()
"""The library's context is one thread's at a time."""


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
    if "\0" in script:  # the library would take what stands before it for all of it
        raise KernelRefused(
            "nftables was given a damaged script", hint="`qmesh apply` writes what qmesh keeps of it anew"
        )
    with _turn:
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
    with _turn:
        library = _library()
        library.set_handle_output(True)
        try:
            return _objects(library), run("list ruleset")
        finally:
            library.set_handle_output(False)


def _objects(library: Any) -> list[dict[str, Any]]:
    """The ruleset by chains: of a table printed whole, libnftables 1.0.6 reads the flag from freed memory."""
    tables = [line.split()[1:3] for line in run("list tables").splitlines()]
    named = [{"table": {"family": family, "name": name}} for family, name in tables]
    library.set_json_output(True)
    try:
        return named + _chains() + _printed("list sets") + _printed("list maps")
    finally:
        library.set_json_output(False)


def _chains(attempts: int = _ATTEMPTS) -> list[dict[str, Any]]:
    """Every chain and its rules. The names go in JSON: there they may be words of nft's language too."""
    chains = [each["chain"] for each in _printed("list chains")]
    names = [{key: chain[key] for key in ("family", "table", "name")} for chain in chains]
    asked = [msgspec.json.encode({"nftables": [{"list": {"chain": name}}]}).decode() for name in names]
    try:
        # One by one: of several in one run libnftables 1.0.6 looks only for the last.
        return [found for each in asked for found in _printed(each)]
    except KernelRefused:  # one went between the two looks, or truly can't be read
        if attempts == 1:
            raise
        return _chains(attempts - 1)


def _printed(command: str) -> list[dict[str, Any]]:
    """What the library prints in JSON, but for the head."""
    return printed_in(run(command))


def printed_in(text: str) -> list[dict[str, Any]]:
    """The objects of what was printed in JSON, but for the head. Raises KernelRefused."""
    try:
        return from_json(text, _Said).nftables[1:]
    except Malformed:
        raise KernelRefused(
            "what nftables printed is not understood", hint="see `nft -j list ruleset`, and report it"
        ) from None


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
