"""What other firewalls load, and would do to the guard by it."""

from __future__ import annotations

from collections.abc import Iterable

from qmesh.host.firewall import saved_rules
from qmesh.host.firewall.firewall_units import NFTABLES, FirewallUnit
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh.audit.surroundings import FlushingUnit
from qmesh.mesh.foreign.saved_rules import SavedRules
from qmesh.mesh.systemd.units import AFTER_FLUSH, render_qmesh_units
from qmesh.mesh.values import DEFAULT_PROGRAM


def find_saved_rules(
    state: State, units: Iterable[FirewallUnit] = ()
) -> tuple[tuple[SavedRules, ...], tuple[str, ...]]:
    """Files of those units, and the usual ones, in which tables of qmesh are; and what was not read."""
    return saved_rules.read_saved_rules((path for unit in units for path in unit.rules), state.directory)


def find_flushing_unit(state: State, units: Iterable[FirewallUnit]) -> FlushingUnit | None:
    """nftables.service, where it runs, or will at boot, and flushes all rules when it starts or stops."""
    service = next((each for each in units if each.name == NFTABLES), None)
    if service is None or not (service.is_flushing and (service.starts or service.state == "active")):
        return None
    wanted = render_qmesh_units(
        systemd.build_unit_paths(state, config_directory="/", program=DEFAULT_PROGRAM)
    )
    return FlushingUnit(NFTABLES, systemd.has_installed_units({AFTER_FLUSH: wanted[AFTER_FLUSH]}))
