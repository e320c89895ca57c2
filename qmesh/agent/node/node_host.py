"""How a machine runs the node's processes, as far as this machine knows."""

from __future__ import annotations

from collections.abc import Iterable

from qmesh.host.state.documents import Settings
from qmesh.host.system import systemd
from qmesh.mesh.systemd.change_steps import NodeStep, StepText, describe_step
from qmesh.mesh.systemd.instructions import NodeHost


def find_node_host(settings: Settings, name: str | None = None) -> NodeHost:
    """That of machine `name`; of this one, whose settings these are, where none is named."""
    has_units = systemd.has_node_units()
    if name is not None and name != settings.name:
        return NodeHost(has_units=has_units, is_other=True)
    return NodeHost(
        has_units=has_units,
        directory=settings.config_directory,
        has_control_unit=systemd.has_control_unit(),
    )


def describe_steps(settings: Settings, steps: Iterable[NodeStep]) -> tuple[StepText, ...]:
    """Steps in words for the machines that they are for."""
    units = str(systemd.UNIT_DIRECTORY)
    return tuple(describe_step(step, find_node_host(settings, step.machine), units=units) for step in steps)
