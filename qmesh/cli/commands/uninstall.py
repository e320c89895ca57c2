"""`qmesh uninstall`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer

from qmesh.agent.removing import Removed, uninstall
from qmesh.cli.answers import STATE, JsonOption, StateOption, answer
from qmesh.cli.steps import Steps, StepShown
from qmesh.host.ports import Listener
from qmesh.host.state import State
from qmesh.mesh.model import ranges_text

log = logging.getLogger("qmesh")

EXAMPLES = ("qmesh uninstall", "qmesh uninstall --delete-state")


class Answer(msgspec.Struct, frozen=True):
    """What is answered: what was done, and what is open now."""

    steps: tuple[StepShown, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    open_ports: tuple[int, ...]
    listeners: tuple[Listener, ...]


def command(
    delete_state: Annotated[
        bool,
        typer.Option(
            "--delete-state",
            help="Delete the state directory too: this machine's keys, on the control node the mesh.",
        ),
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take qmesh off this machine, and tell what is open then.

    Ends the node's units and the agent, removes tunnel, guard, reserved ports and units. Units that
    were edited are stopped and kept, and config.yml stays as it is. Cut off, run it again.
    """
    where = State(state)
    done = uninstall(where, delete_state=delete_state)
    _tell(done)
    if str(where.directory) in done.kept:
        log.info("the state is kept: `qmesh apply` takes this machine up again, `--delete-state` deletes it")
    facts = Answer(Steps.of(done.steps).steps, done.deleted, done.kept, done.ports, done.listeners)
    answer(facts, as_json=as_json, text=lambda _: "\n".join(_in_words(done)))


def _tell(done: Removed) -> None:
    if done.ports:
        log.warning(
            "worker ports %s are OPEN to whoever reaches this machine; %s",
            ranges_text(done.ports),
            "there listen:" if done.listeners else "nothing listens there now",
        )
    for each in done.listeners:
        program = f"{each.program} (process {each.process})" if each.process else "a process unknown"
        log.warning("  %s port %d at %s: %s", each.protocol, each.port, each.address, program)


def _in_words(done: Removed) -> Iterator[str]:
    if done.steps:
        yield Steps.of(done.steps).in_words()
    yield from (f"{'deleted':<16} {path}" for path in done.deleted)
    yield from (f"{'kept':<16} {path}" for path in done.kept)
    if not (done.steps or done.deleted or done.kept):
        yield "nothing of qmesh is on this machine"
