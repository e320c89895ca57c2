"""`plan`, `apply` and `down`: the steps of this machine, shown, taken, and taken back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.control_endpoint import take_way
from qmesh.agent.converge import converge, steps_for, steps_without_names
from qmesh.agent.local import linux_for, load, refuse_removed, require_root, rise, risen
from qmesh.agent.node_restarts import render_in_hand
from qmesh.agent.rollback import arm, put_back_when_due, rearm, refuse_while_waiting
from qmesh.agent.ssh_lockout import refuse_cut, warn_of_cut
from qmesh.errors import BadInput, QmeshError
from qmesh.host.state.directory import State
from qmesh.mesh.inventory import ports_of
from qmesh.mesh.model import Endpoint
from qmesh.mesh.plan import Step
from qmesh.mesh.reaching import said_mtu
from qmesh.mesh.rollback import seconds_to_confirm

log = logging.getLogger("qmesh")


def plan(state: State) -> tuple[Step, ...]:
    """The steps that `apply` would take; none when the machine is as desired."""
    require_root("qmesh plan")
    remembered = load(state)
    refuse_removed(remembered)
    here = risen(remembered)
    linux = linux_for(state, here)
    steps = steps_for(here, linux)
    warn_of_cut(linux, steps)
    undoing = state.undoing()
    if undoing is not None and undoing.undone:
        log.warning("this machine was put back, as nobody confirmed: it is left so until `qmesh apply`")
    elif undoing is not None:
        log.warning("a change waits for `qmesh confirm`, and is undone without it")
    return steps


def apply(state: State, *, mtu: str | None = None, control_endpoint: str | None = None) -> tuple[Step, ...]:
    """Take the steps, guard first, and see that the agent runs; also ends what `down` began.

    mtu: most octets of a packet in the tunnel from now on; `auto` leaves it to the path again.
    control_endpoint: HOST:PORT at which a worker machine reaches the control node from now on.
    Returns the steps that were taken. Raises BadInput, with nothing changed, while another change
    waits to be confirmed, and where the steps would cut the SSH session that this is run from;
    EnrolmentRefused where the control node does not answer at the endpoint.
    """
    way = None if control_endpoint is None else Endpoint.parse(control_endpoint, default_port=None)
    require_root("qmesh apply")
    with state.lock():
        refuse_while_waiting(state)
        here = load(state)
        refuse_removed(here)
        if way is not None and here.settings.control:
            raise BadInput(
                f"{here.settings.name} is the control node",
                hint=f"say it of the others' way here: `qmesh set {here.settings.name} --endpoint {way}`",
            )
        if mtu is not None:
            settings = msgspec.structs.replace(here.settings, mtu=said_mtu(mtu, here.inventory.network))
            here = msgspec.structs.replace(here, settings=settings)
        linux = linux_for(state, here)
        refuse_cut(linux, steps_without_names(risen(here), linux))
        if mtu is not None:
            state.save_settings(here.settings)
        here = rise(state, here)
        steps = converge(here, linux)
        if way is not None:
            take_way(state, here, linux, way)
    ensure_agent(state)
    try:
        render_in_hand(state, load(state))
    except QmeshError as error:
        log.warning("config.yml stays as it is: %s (hint: %s)", error.message, error.hint)
    return steps


class Tried(msgspec.Struct, frozen=True):
    """What `apply --confirm` did. undone_in_s: None where there was nothing to do, and so to undo.

    opens: the worker ports that are open to everyone once it is undone.
    """

    steps: tuple[Step, ...]
    undone_in_s: int | None
    opens: tuple[int, ...]


def try_out(state: State, *, seconds: int) -> Tried:
    """As `apply`, but have all undone in that time unless `confirm` comes. Says so where it is cut off.

    Raises BadInput before anything is changed.
    """
    require_root("qmesh apply")
    seconds_to_confirm(seconds)
    with state.lock():
        put_back_when_due(state)
        here = load(state)
        refuse_removed(here)
        linux = linux_for(state, here)
        steps = steps_without_names(risen(here), linux) or steps_for(risen(here), linux)
        waiting = state.undoing()
        if not steps and (waiting is None or waiting.undone):
            rise(state, here)
            tried = Tried((), None, ())
        else:
            warn_of_cut(linux, steps)
            undoing = arm(state, here, linux, seconds=seconds)
            with _said_when_cut_off(seconds):
                steps = converge(rise(state, here, keep_undoing=True), linux)
            rearm(state, seconds=seconds)
            opens = (
                ()
                if undoing.before.guard.script is not None
                else ports_of(here.inventory, here.settings.name)
            )
            tried = Tried(steps, seconds, opens)
    with _said_when_cut_off(seconds) if tried.undone_in_s is not None else contextlib.nullcontext():
        ensure_agent(state)
    return tried


@contextlib.contextmanager
def _said_when_cut_off(seconds: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        log.warning("cut off: what was done is undone within %d s, unless you type `qmesh confirm`", seconds)
        log.warning("put it back at once with `qmesh undo --now`")
        raise


class Down(msgspec.Struct, frozen=True):
    """What `down` did. ports: this machine's worker ports; closed: whether the guard has them."""

    steps: tuple[Step, ...]
    ports: tuple[int, ...]
    closed: bool


def down(state: State, *, unguarded: bool) -> Down:
    """Take the tunnel down; the guard too when `unguarded`."""
    require_root("qmesh down")
    with state.lock():
        refuse_while_waiting(state)
        here = load(state)
        guarded = here.settings.guarded and not unguarded
        settings = msgspec.structs.replace(here.settings, up=False, guarded=guarded)
        # Remembered first, or the agent would put back what is taken away here.
        state.save_settings(settings)
        state.save_undoing(None)
        here = msgspec.structs.replace(here, settings=settings)
        linux = linux_for(state, here)
        warn_of_cut(linux, steps_without_names(here, linux))
        steps = converge(here, linux)
    return Down(steps, ports_of(here.inventory, settings.name), guarded)
