"""The units that load other firewalls, as systemd has them. Source: systemctl(1), show."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

import msgspec

from qmesh.errors import MachineRefused
from qmesh.host import files
from qmesh.host.system import systemd

NFTABLES: Final = "nftables.service"
UNITS: Final = (
    NFTABLES,
    "netfilter-persistent.service",
    "iptables.service",
    "ip6tables.service",
    "firewalld.service",
    "ufw.service",
    "ferm.service",
    "shorewall.service",
    "shorewall6.service",
)
_SHOWN: Final = "--property=Id,ActiveState,UnitFileState,ExecStart,ExecReload,ExecStop"
_LOADED: Final = re.compile(r' -f (?P<file>/[^\s;"]+)|include "(?P<include>/[^"\n]+)"')


class FirewallUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One that there is. state: as systemd calls it, `active` or `failed` ...

    starts: whether it will be started at boot. rules: paths of the files that nft loads for it.
    is_flushing: whether it flushes all rules, as far as it and those files tell.
    """

    name: str
    state: str
    starts: bool
    rules: tuple[str, ...]
    is_flushing: bool


def read_firewall_units() -> tuple[FirewallUnit, ...]:
    """Those of them that run, have failed or will start at boot; none where systemd is not the init."""
    if not systemd.is_systemd_running():
        return ()
    blocks = systemd.run_systemctl("show", *UNITS, _SHOWN).split("\n\n")
    return tuple(found for found in map(parse_unit, blocks) if found.starts or found.state != "inactive")


def parse_unit(block: str) -> FirewallUnit:
    """One unit's part of what `systemctl show` prints."""
    shown = dict(line.partition("=")[::2] for line in block.splitlines())
    rules = tuple(dict.fromkeys(each["file"] or each["include"] for each in _LOADED.finditer(block)))
    return FirewallUnit(
        name=shown.get("Id", ""),
        state=shown.get("ActiveState", ""),
        starts=shown.get("UnitFileState") in {"enabled", "enabled-runtime"},
        rules=rules,
        is_flushing=_has_flush(block, rules),
    )


def _has_flush(block: str, rules: tuple[str, ...]) -> bool:
    texts = [block, *map(_read_rules, rules)]
    return any(re.search(r"^[^#]*\bflush ruleset\b", text, re.MULTILINE) for text in texts)


def _read_rules(path: str) -> str:
    """What nft would load, through links too; nothing where it cannot be read."""
    with contextlib.suppress(MachineRefused, OSError, RuntimeError):
        return (files.read(Path(path).resolve()) or b"").decode("utf-8", "replace")
    return ""
