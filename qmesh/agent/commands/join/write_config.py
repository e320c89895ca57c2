"""The end of every join: the node's files on this machine.

It loads what reads a config.yml, a fifth of all that a join loads: what comes before need not wait for that.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from qmesh.agent.local import Local, load_local
from qmesh.agent.node import node_config
from qmesh.agent.node.node_files import (
    COMMAND,
    choose_directory,
    describe_restart,
    fetch_node_files,
    write_node_files,
)
from qmesh.agent.node.node_processes import note_readings
from qmesh.errors import QmeshError
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.state.directory import State
from qmesh.mesh import nodeconfig

log = logging.getLogger("qmesh")


def write_fetched_files(state: State) -> None:
    """Fetch the node's files, write them, and remember where they are. Takes the lock.

    The machine is a member whatever becomes of this. Raises as `fetch_node_files` and `write_node_files`.
    """
    here = load_local(state)
    try:
        fetched = fetch_node_files(state, here, choose_directory(state, here.settings, None))
        written = write_node_files(state, fetched, replace=False)
    except QmeshError:
        log.warning(
            "%s is a member, but does not have the node's files; to fetch them later, run `%s`",
            here.settings.name,
            COMMAND,
        )
        raise
    for path in fetched.paths:
        log.info("wrote %s" if path in written else "nothing to do, %s is up to date", path)
    if advice := describe_restart(fetched):
        log.info("%s", advice)


def write_config(state: State, here: Local) -> None:
    """Give this machine a config.yml with the mesh's worker list, and remember where it is. Takes the lock.

    The machine is a member whatever becomes of this: what stands in the way is said, and `check`
    goes on saying it.
    """
    try:
        path, changed = _write_config_file(state, here)
    except QmeshError as error:
        log.warning("the node's config.yml was not written: %s", error.message)
        log.warning("hint: %s", error.hint)
    else:
        log.info("%s %s", "wrote the worker list to" if changed else "the worker list is up to date in", path)


def _write_config_file(state: State, here: Local) -> tuple[Path, bool]:
    given = here.settings.node_directory
    directory = given or ConfigDirectory(state.worker_config_directory.absolute(), os.geteuid())
    text = node_config.read(directory).text
    if text is None:
        node_config.refuse_to_create(here, directory)
    if given is None:
        with state.lock():
            files.make_private_directory(directory.path)
            state.save_settings(state.settings().with_node_directory(directory))
    rendered = nodeconfig.render_config(here.inventory, here.settings.name, text)
    written = node_config.write(directory, text, rendered.text)
    note_readings(state)
    return written
