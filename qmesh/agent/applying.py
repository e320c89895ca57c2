"""`plan`, `apply` and `down`: the steps of this machine, shown, taken, and taken back."""

from __future__ import annotations

import logging

import msgspec

from qmesh.agent.converge import converge, steps_for
from qmesh.agent.here import linux_for, load, require_root, risen
from qmesh.host.state import State
from qmesh.mesh.plan import Step

log = logging.getLogger("qmesh")


def plan(state: State) -> tuple[Step, ...]:
    """The steps that `apply` would take; none when the machine is as desired."""
    require_root("qmesh plan")
    here = risen(load(state))
    return steps_for(here, linux_for(state, here))


def apply(state: State) -> tuple[Step, ...]:
    """Take the steps, guard first; also ends what `down` began. Returns those that were taken."""
    require_root("qmesh apply")
    with state.lock():
        here = load(state)
        wanted = risen(here)
        if wanted.settings != here.settings:
            state.save_settings(wanted.settings)
        return converge(wanted, linux_for(state, wanted))


def down(state: State, *, unguarded: bool) -> tuple[Step, ...]:
    """Take the tunnel down; the guard too when `unguarded`. Returns the steps that were taken."""
    require_root("qmesh down")
    with state.lock():
        here = load(state)
        guarded = here.settings.guarded and not unguarded
        settings = msgspec.structs.replace(here.settings, up=False, guarded=guarded)
        # Remembered first, or the agent would put back what is taken away here.
        state.save_settings(settings)
        here = msgspec.structs.replace(here, settings=settings)
        return converge(here, linux_for(state, here))
