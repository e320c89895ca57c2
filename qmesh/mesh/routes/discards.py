"""Ways out of this machine that one of its own routes or rules discards, as a ban by a route does."""

from __future__ import annotations

import msgspec

from qmesh.mesh.routes.detours import RoutingTables
from qmesh.mesh.routes.lookup import RouteLookup, SentPacket
from qmesh.mesh.routes.tables import MAIN, describe_rule, describe_table_route, name_table


class DiscardedWay(msgspec.Struct, frozen=True):
    """What discards the packets to an address, in words; the cure is a command."""

    reason: str
    cure: str


def find_discard(address: str, tables: RoutingTables) -> DiscardedWay | None:
    """What of these discards the packets to an address; None where nothing does, or nothing leads there."""
    verdict = RouteLookup(tables.rules, tables.routes).find_verdict(SentPacket(address))
    rule, route = verdict.rule, verdict.route
    if verdict.is_sent or rule is None or (route is not None and route.is_kernels):
        return None  # the kernel's own stands for that there is none
    family = " -6" if ":" in address else ""
    if route is not None:
        words, table = describe_table_route(route), name_table(route.table)
        where = "" if route.table == MAIN else f" table {table}"
        return DiscardedWay(
            f"the route `{words}` of table {table} discards what is sent to {address}",
            f"ip{family} route delete {words}{where}",
        )
    said = f"rule {rule.priority} (`{describe_rule(rule)}`) discards what is sent to {address}"
    if rule.priority:
        return DiscardedWay(
            said, f"ip{family} rule add to {address} lookup main priority {rule.priority - 1}"
        )
    return DiscardedWay(said, f"ip{family} rule delete {describe_rule(rule)} priority 0")
