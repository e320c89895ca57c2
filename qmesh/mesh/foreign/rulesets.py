"""All that was read of a machine's firewalls, and the tables in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from qmesh.mesh.foreign import native, xtables
from qmesh.mesh.foreign.rules import Program, Table


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What was read.

    objects, text: nftables' tables, as `native.parse_nft_ruleset` takes them.
    saved: what `iptables-save` and its like printed, by program and family.
    lasting: text of /etc/nftables.conf; None without one.
    unread: what of nftables could not be read, and why.
    """

    objects: list[dict[str, Any]]
    text: str
    saved: Mapping[tuple[Program, str], str]
    lasting: str | None
    unread: tuple[str, ...] = ()


def parse_foreign_tables(listing: Listing) -> tuple[Table, ...]:
    """Every foreign table once: those of iptables in its own words, which say more than nft's."""
    saved = tuple(
        table
        for (program, family), text in listing.saved.items()
        for table in xtables.parse_iptables_save(text, family=family, program=program)
    )
    told = {(table.family, table.name) for table in saved if table.program == "iptables"}
    others = native.parse_nft_ruleset(listing.objects, listing.text)
    return (*(table for table in others if (table.family, table.name) not in told), *saved)
