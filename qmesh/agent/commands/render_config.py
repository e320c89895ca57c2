"""`render-config`: put the worker list into the node's config.yml."""

from __future__ import annotations

import logging
from pathlib import Path

from qmesh.agent.local import Local
from qmesh.agent.membership import load_latest
from qmesh.agent.node import node_config, node_directory
from qmesh.agent.node.node_processes import note_readings
from qmesh.agent.node.node_restarts import update_workers_target
from qmesh.agent.preconditions import check_local, check_user
from qmesh.errors import BadInput
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.output_file import write_new_output
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh import nodeconfig
from qmesh.mesh.nodeconfig import ParsedConfig
from qmesh.mesh.systemd.node_restarts import explain_restarts
from qmesh.mesh.values import SecretStruct

log = logging.getLogger("qmesh")


class RenderedConfig(SecretStruct, frozen=True, kw_only=True):
    """A config.yml as it is and as it should be. Never to be printed but by `shown`.

    is_for_another: whether it is another machine's, with all that that one needs.
    directory: where the node has it; None when that is not known, or for another machine's.
    old: None when there is none.
    """

    here: Local
    is_for_another: bool
    directory: ConfigDirectory | None
    old: ParsedConfig | None
    new: ParsedConfig

    @property
    def is_changed(self) -> bool:
        """Whether it is not there as it should be."""
        return self.old is None or self.old.text != self.new.text

    @property
    def restart_advice(self) -> str:
        """What has to be restarted for the new list to count, and why."""
        return explain_restarts(self.old, self.new, self.here.inventory, self.here.settings.name)

    @property
    def redacted_texts(self) -> tuple[str, str]:
        """Old and new without their secrets."""
        return nodeconfig.redact_config(self.old or ""), nodeconfig.redact_config(self.new)

    @property
    def workers(self) -> tuple[str, ...]:
        """The worker list."""
        return nodeconfig.list_worker_multiaddrs(self.here.inventory)


def render_node_config(state: State, *, config: Path | None, for_name: str | None) -> RenderedConfig:
    """Render this machine's config.yml, or with `for_name` the least one for another machine.

    Raises BadInput when a file is damaged, of another node, or lacks what is needed.
    """
    check_user("render-config")
    here = load_latest(state)
    directory = _find_directory(here, config)
    text = None if directory is None else node_config.read(directory).text
    if for_name is not None:
        check_local(here, "render-config --for")
        new = nodeconfig.render_config_for(here.inventory, for_name, text)
        return RenderedConfig(here=here, is_for_another=True, directory=None, old=None, new=new)
    old = None if text is None else nodeconfig.parse_config(text)
    if old is not None:
        _warn_of_problems(directory, old, here)
    new = nodeconfig.render_config(here.inventory, here.settings.name, old)
    return RenderedConfig(here=here, is_for_another=False, directory=directory, old=old, new=new)


def _find_directory(here: Local, given: Path | None) -> ConfigDirectory | None:
    found, remembered = node_directory.find_directory(given), here.settings.node_directory
    if found is None:
        return remembered
    if given is None and remembered is not None:
        if remembered.path == found.path:  # that it was looked for is no word about whose it is now
            return remembered
        log.info(
            "using the config.yml found here, in %s, and not the one used before, in %s", found, remembered
        )
    return found


def _warn_of_problems(directory: ConfigDirectory | None, config: ParsedConfig, here: Local) -> None:
    """What the mesh's list does not cure. What spoils it as well is refused, so not said here."""
    for problem in nodeconfig.lint_config(
        config,
        profile=here.inventory.node,
        mesh=nodeconfig.build_expected_mesh(here.inventory, here.settings.name),
    ):
        if not problem.cured and not problem.blocks_worker_list:
            log.warning(
                "%s/%s line %d column %d: %s; %s",
                directory,
                node_directory.FILE_NAME,
                problem.line,
                problem.column,
                problem.message,
                problem.hint,
            )


def write_node_config(state: State, rendered: RenderedConfig) -> tuple[Path, bool]:
    """Put the rendered config.yml in its place and remember where; the file, and whether it changed."""
    here, directory = rendered.here, rendered.directory
    if directory is None:
        raise BadInput(
            "qmesh does not know where this machine's node has its config.yml",
            hint="pass its directory with --config",
        )
    if rendered.old is None:
        node_config.refuse_to_create(here, directory)
    # Without the lock: the agent's loop waits for that, and a user's directory for whoever it likes.
    old = None if rendered.old is None else rendered.old.text
    done = node_config.write(directory, old, rendered.new.text)
    with state.lock():
        settings = state.settings()
        if settings.node_directory != directory:
            state.save_settings(settings.with_node_directory(directory))
        if systemd.has_worker_units():
            update_workers_target(here)
    note_readings(state)
    return done


def write_config_copy(rendered: RenderedConfig, path: Path) -> None:
    """Write the rendered config.yml, secrets and all, to a new file, 0600. Raises BadInput."""
    if rendered.old is None and not rendered.is_for_another:
        node_config.refuse_to_create(rendered.here, rendered.directory)
    write_new_output(path, rendered.new.text.encode("utf-8"))
