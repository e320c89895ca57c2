"""Other programs' firewalls as they are: nftables' tables, iptables' as iptables prints them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qmesh.errors import KernelRefused, MissingProgram
from qmesh.host.firewall import foreign_rules, tables_and_chains
from qmesh.host.system import programs
from qmesh.mesh.foreign import xtables
from qmesh.mesh.foreign.rules import Program
from qmesh.mesh.foreign.rulesets import Listing

_COMMANDS: Final = {"ip": "iptables", "ip6": "ip6tables"}
_TIMEOUT_S: Final = 20.0
_LASTING: Final = Path("/etc/nftables.conf")


def read_rulesets() -> Listing:
    """Everything, without making a table or loading a module by looking.

    Raises NeedsRoot, MissingProgram or KernelRefused where something could not be looked at.
    """
    names = {name.encode() for name in xtables.TABLES}
    there = {table.family for table in tables_and_chains.list_tables() if table.name in names}
    by_nft = dict(_read_nft_tables(there))
    # What iptables tells in its own words, libnftables is not asked: it may die of it.
    told = {
        (family, table.name.encode())
        for (program, family), text in by_nft.items()
        for table in xtables.parse_iptables_save(text, family=family, program=program)
    }
    others = foreign_rules.read_rules(told)
    return Listing(
        objects=others.objects,
        text=others.text,
        saved={**by_nft, **dict(_read_legacy_tables())},
        lasting=_LASTING.read_text(encoding="utf-8", errors="replace") if _LASTING.exists() else None,
        unread=others.unread,
    )


def _read_nft_tables(families: set[str]) -> Iterator[tuple[tuple[Program, str], str]]:
    """Without the program the tables are still seen as nft sees them."""
    for family in sorted(families & _COMMANDS.keys()):
        program = f"{_COMMANDS[family]}-nft-save"
        if programs.find_program(program) is not None:
            yield ("iptables", family), _run_program(program)


def _read_legacy_tables() -> Iterator[tuple[tuple[Program, str], str]]:
    """Only what is loaded: the program would load a table that it is asked for."""
    for family, command in _COMMANDS.items():
        names = Path(f"/proc/net/{family}_tables_names")
        loaded = names.read_text(encoding="ascii").split() if names.exists() else []
        program = f"{command}-legacy-save"
        if loaded and programs.find_program(program) is None:
            raise MissingProgram(
                f"{names} lists tables that only {program} can read",
                hint="run `apt-get install iptables`, then the same command again",
            )
        texts = [_run_program(program, "-t", name) for name in loaded]
        if texts:
            yield ("iptables-legacy", family), "".join(texts)


def _run_program(*argv: str) -> str:
    words = [programs.find_program(argv[0]) or argv[0], *argv[1:]]
    hint = f"run `{' '.join(argv)}` and fix what it reports"
    try:
        done = subprocess.run(
            words, capture_output=True, cwd=programs.DIRECTORY, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise KernelRefused(
            f"could not list rules: {argv[0]} did not end within {_TIMEOUT_S:.0f} s", hint=hint
        ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "backslashreplace").strip()
        reason = (said or f"it ended with {done.returncode}").split("\n")[-1]
        raise KernelRefused(f"could not list rules: {argv[0]}: {reason}", hint=hint)
    return done.stdout.decode("utf-8", "backslashreplace")
