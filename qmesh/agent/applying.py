"""`plan`, `apply` and `down`: the steps of this machine, shown, taken, and taken back."""

from __future__ import annotations

import logging

import msgspec

from qmesh.agent.converge import converge, steps_for
from qmesh.agent.here import linux_for, load, require_root, rise, risen
from qmesh.agent.service import ensure_agent
from qmesh.host.state import State
from qmesh.mesh.inventory import ports_of
from qmesh.mesh.plan import Step

log = logging.getLogger("qmesh")


def plan(state: State) -> tuple[Step, ...]:
    """The steps that `apply` would take; none when the machine is as desired."""
    require_root("qmesh plan")
    here = risen(load(state))
    return steps_for(here, linux_for(state, here))


def apply(state: State) -> tuple[Step, ...]:
    """Take the steps, guard first, and see that the agent runs; also ends what `down` began.

    Returns the steps that were taken.
    """
    require_root("qmesh apply")
    with state.lock():
        here = rise(state, load(state))
        steps = converge(here, linux_for(state, here))
    ensure_agent(state)
    return steps


class Down(msgspec.Struct, frozen=True):
    """What `down` did. ports: this machine's worker ports; closed: whether the guard has them."""

    steps: tuple[Step, ...]
    ports: tuple[int, ...]
    closed: bool


def down(state: State, *, unguarded: bool) -> Down:
    """Take the tunnel down; the guard too when `unguarded`."""
    require_root("qmesh down")
    with state.lock():
        here = load(state)
        guarded = here.settings.guarded and not unguarded
        settings = msgspec.structs.replace(here.settings, up=False, guarded=guarded)
        # Remembered first, or the agent would put back what is taken away here.
        state.save_settings(settings)
        here = msgspec.structs.replace(here, settings=settings)
        steps = converge(here, linux_for(state, here))
    return Down(steps, ports_of(here.inventory, settings.name), guarded)
