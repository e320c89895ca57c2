"""Other programs' firewalls as they are: nftables' tables, iptables' as iptables prints them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused, MissingProgram
from qmesh.host import nftables, programs
from qmesh.mesh.foreign import xtables
from qmesh.mesh.foreign.listing import Listing
from qmesh.mesh.foreign.rules import Program

_COMMANDS: Final = {"ip": "iptables", "ip6": "ip6tables"}
_LASTING: Final = Path("/etc/nftables.conf")


def read() -> Listing:
    """Everything, without making a table or loading a module by looking.

    Raises NeedsRoot, MissingProgram or KernelRefused where something could not be looked at.
    """
    objects, text = nftables.read_ruleset()
    tables = [found["table"] for found in objects if "table" in found]
    there = {table["family"] for table in tables if table["name"] in xtables.TABLES}
    return Listing(
        objects=objects,
        text=text,
        saved={**dict(_saved_by_nft(there)), **dict(_saved_by_legacy())},
        lasting=_LASTING.read_text(encoding="utf-8", errors="replace") if _LASTING.exists() else None,
    )


def _saved_by_nft(families: set[str]) -> Iterator[tuple[tuple[Program, str], str]]:
    """Without the program the tables are still seen as nft sees them."""
    for family in sorted(families & _COMMANDS.keys()):
        program = f"{_COMMANDS[family]}-nft-save"
        if programs.find(program) is not None:
            yield ("iptables", family), _run(program)


def _saved_by_legacy() -> Iterator[tuple[tuple[Program, str], str]]:
    """Only what is loaded: the program would load a table that it is asked for."""
    for family, command in _COMMANDS.items():
        names = Path(f"/proc/net/{family}_tables_names")
        loaded = names.read_text(encoding="ascii").split() if names.exists() else []
        program = f"{command}-legacy-save"
        if loaded and programs.find(program) is None:
            raise MissingProgram(
                f"{names} names tables that only {program} can read", hint="apt-get install iptables"
            )
        texts = [_run(program, "-t", name) for name in loaded]
        if texts:
            yield ("iptables-legacy", family), "".join(texts)


def _run(*argv: str) -> str:
    words = [programs.find(argv[0]) or argv[0], *argv[1:]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=programs.DIRECTORY, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
        raise KernelRefused(f"could not list rules: {argv[0]}: {reason}", hint=f"run `{argv[0]}` and see")
    return done.stdout
