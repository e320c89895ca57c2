"""A machine that is described, and the guard drilled there: as it is, and broken."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from qmesh.host.drill.conduct import fire_rows, run_nft
from qmesh.host.drill.firing_range import FiringRange
from qmesh.host.drill.namespaces import Namespaces, run_in_namespaces
from qmesh.host.drill.network_copy import copy_network
from qmesh.host.drill.rule_copy import remove_table
from qmesh.mesh.drill.battery import list_rows
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.shots import Fate
from qmesh.mesh.drill.target import DrillTarget
from qmesh.mesh.drill.verdict import DrillReport, FiredRow, judge_rows
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.state import Guard
from tests.support.kernel_range import JUDGEMENT_TIMEOUT_S, RangeInterface, RangeMachine, describe_network

SSH, WEB, PUBLISHED, REDIRECTED = 22, 80, 18080, 18081
THEIRS: Final = f"""
table inet theirs {{
	chain published {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local meta l4proto {{ tcp, udp }} th dport {PUBLISHED} dnat ip to 172.17.255.254:40000
		meta l4proto {{ tcp, udp }} th dport {REDIRECTED} redirect to :40001
		ip daddr 192.0.2.2 meta l4proto {{ tcp, udp }} th dport 40003 dnat ip to 172.17.255.254:8080
	}}

	chain to_own {{
		type nat hook output priority -100; policy accept;
		ip daddr 192.0.2.2 meta l4proto {{ tcp, udp }} th dport 40003 dnat ip to 172.17.255.254:8080
	}}
}}
"""
"""What a container runtime and an administrator have beside the guard: ports that lead to closed ones."""


def describe_machine(guard: Guard) -> RangeMachine:
    """A careless router with two networks, containers and a tunnel: nothing of it refuses a packet.

    Where an interface has no link-local address, the kernel asks for no neighbour over IPv6.
    """
    own = 1 if guard.role == "control" else 2
    settings = {f"{family}/conf/all/forwarding": "1" for family in ("ipv4", "ipv6")}
    settings |= {f"ipv4/conf/all/{name}": "1" for name in ("route_localnet", "accept_local")}
    return RangeMachine(
        {
            "eth0": RangeInterface(None, ("192.0.2.2/24", "2001:db8::2/64", "fe80::2/64")),
            "eth1": RangeInterface(None, ("10.50.0.1/24", "fd50::1/64", "fe80::3/64")),
            guard.interface: RangeInterface(guard.kind, (f"10.77.0.{own}/20", f"fd77::{own}/64")),
            f"{guard.interface}b": RangeInterface("tun", ("10.99.0.1/24",)),
            "docker0": RangeInterface("bridge", ("172.17.0.1/16", "fd17::1/64", "fe80::4/64")),
        },
        settings=settings,
        routes={"0.0.0.0/0": "192.0.2.1", "::/0": "2001:db8::1"},
    )


def build_target(guard: Guard) -> DrillTarget:
    """The same as the battery has it."""
    machine = describe_machine(guard)
    is_ipv6 = ":" in guard.control_address
    return DrillTarget(
        guard=guard,
        ways=tuple(machine.interfaces),
        bridges=("docker0",),
        addresses={name: each.addresses for name, each in machine.interfaces.items()},
        member="fd77::3" if is_ipv6 else "10.77.0.3",
        listened=(SSH, WEB, PUBLISHED, REDIRECTED),
    )


def drill_scripts(guard: Guard, scripts: Sequence[str]) -> list[DrillReport | None]:
    """What a drill says of each of these tables in place of the guard's first; None where nft refuses it."""
    rows = list_rows(build_target(guard))
    live = describe_network(describe_machine(guard))

    def work(namespaces: Namespaces) -> list[DrillReport | None]:
        copy = copy_network(namespaces, live)
        assert not copy.failures, copy.failures
        run_nft(namespaces, THEIRS)
        with FiringRange(namespaces, copy.ways) as place:
            place.listen({shot.target_port for row in rows for shot in row.shots})
            bare = fire_rows(namespaces, place, rows, lambda: None)
            return [_drill_script(namespaces, place, guard, rows, bare, script) for script in scripts]

    return run_in_namespaces(work, list[DrillReport | None], timeout_s=JUDGEMENT_TIMEOUT_S * 2)


def fire_shown(
    guard: Guard, scripts: Sequence[str], shown: Sequence[Sequence[DrillRow]]
) -> list[DrillReport | None]:
    """The same of rows that each of these tables has for itself: the packets that a proof shows of it."""
    live = describe_network(describe_machine(guard))

    def work(namespaces: Namespaces) -> list[DrillReport | None]:
        copy, found = copy_network(namespaces, live), list[DrillReport | None]()
        run_nft(namespaces, THEIRS)
        with FiringRange(namespaces, copy.ways) as place:
            for script, rows in zip(scripts, shown, strict=True):
                place.listen({shot.target_port for row in rows for shot in row.shots})
                bare = fire_rows(namespaces, place, rows, lambda: None)
                found.append(_drill_script(namespaces, place, guard, rows, bare, script))
        return found

    return run_in_namespaces(work, list[DrillReport | None], timeout_s=JUDGEMENT_TIMEOUT_S)


def _drill_script(
    namespaces: Namespaces,
    place: FiringRange,
    guard: Guard,
    rows: Sequence[DrillRow],
    bare: list[list[Fate]],
    script: str,
) -> DrillReport | None:
    try:
        run_nft(namespaces, script)
    except Exception:  # noqa: BLE001 - which error, is not asked
        return None
    _remove(namespaces)
    fates = fire_rows(namespaces, place, rows, partial(run_nft, namespaces, script))
    _remove(namespaces)
    fired = [
        FiredRow(row, {"without": before, "first": of_row})
        for row, before, of_row in zip(rows, bare, fates, strict=True)
    ]
    closed = frozenset(guard.closed_ports)
    report = judge_rows("range", guard.role, fired, closed=closed, unknown=(), counting=(), stand_ins=())
    return msgspec.structs.replace(report, counterexamples=report.counterexamples[:1])


def _remove(namespaces: Namespaces) -> None:
    for family in (1, 2):  # inet, and ip, of which one mutant is
        try:
            remove_table(namespaces, family, TABLE.encode())
        except Exception:  # noqa: BLE001, S112 - it is not there
            continue
