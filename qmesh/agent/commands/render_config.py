"""`render-config` and `units`: what the node on this machine is to be started with."""

from __future__ import annotations

import logging
from pathlib import Path

from qmesh.agent import node_config
from qmesh.agent.local import Here, load, require_control, require_root
from qmesh.agent.membership import latest
from qmesh.errors import BadInput
from qmesh.host import files
from qmesh.host.config_directory import ConfigDirectory
from qmesh.host.state.directory import State
from qmesh.host.system import node_user, systemd
from qmesh.mesh import nodeconfig
from qmesh.mesh.model import Unshown, quoted
from qmesh.mesh.units import WORKERS, qmesh_units, unit_files, worker_unit, workers_target

log = logging.getLogger("qmesh")


class Rendered(Unshown, frozen=True, kw_only=True):
    """A config.yml as it is and as it should be. Never to be printed but by `shown`.

    is_for_another: whether it is another machine's, with all that that one needs.
    directory: where the node has it; None when that is not known, or for another machine's.
    old: None when there is none.
    """

    here: Here
    is_for_another: bool
    directory: ConfigDirectory | None
    old: str | None
    new: str

    @property
    def shown(self) -> tuple[str, str]:
        """Old and new without their secrets."""
        return nodeconfig.redacted(self.old or ""), nodeconfig.redacted(self.new)

    @property
    def workers(self) -> tuple[str, ...]:
        """The worker list."""
        return node_config.multiaddrs(self.here.inventory)


def render(state: State, *, config: Path | None, for_name: str | None) -> Rendered:
    """Render this machine's config.yml, or with `for_name` the least one for another machine.

    Raises BadInput when a file is damaged, of another node, or lacks what is needed.
    """
    require_root("qmesh render-config")
    here = latest(state)
    directory = _directory(here, config)
    old = None if directory is None else node_config.read(directory).text
    if for_name is not None:
        require_control(here, "qmesh render-config --for")
        new = node_config.render_for(here, for_name, old)
        return Rendered(here=here, is_for_another=True, directory=None, old=None, new=new)
    if old is not None:
        _say_what_is_wrong(directory, old, here)
    new = node_config.render(here, old)
    return Rendered(here=here, is_for_another=False, directory=directory, old=old, new=new)


def _directory(here: Here, given: Path | None) -> ConfigDirectory | None:
    found, remembered = node_config.find_directory(given), here.settings.node
    if found is None:
        return remembered
    if given is None and remembered is not None:
        if remembered.path == found.path:  # that it was looked for is no word about whose it is now
            return remembered
        log.info("the config.yml found here, in %s, is not the one remembered, in %s", found, remembered)
    return found


def _say_what_is_wrong(directory: ConfigDirectory | None, text: str, here: Here) -> None:
    """What the mesh's list does not cure. What spoils it as well is refused, so not said here."""
    for problem in nodeconfig.lint(text, profile=here.inventory.node, mesh=node_config.mesh_of(here)):
        if not problem.cured and not problem.spoils_writing:
            log.warning(
                "%s/%s line %d column %d: %s; %s",
                directory,
                node_config.FILE_NAME,
                problem.line,
                problem.column,
                problem.message,
                problem.hint,
            )


def restart_advice(rendered: Rendered) -> str:
    """What has to be started anew on this machine for the new list to count."""
    here = rendered.here
    old = () if rendered.old is None else nodeconfig.workers_in(rendered.old, here.inventory.node) or ()
    numbers = here.inventory.numbers(here.settings.name)
    moved = any(old[core - 1 : core] != rendered.workers[core - 1 : core] for core in numbers)
    control = (
        "the control process" if here.settings.control else f"the control process on {here.inventory.control}"
    )
    if moved:
        return f"restart this machine's workers, then {control}: they read the list only when they start"
    return f"no worker of this machine has moved; restart {control}, which reads the list only when it starts"


def write(state: State, rendered: Rendered) -> tuple[Path, bool]:
    """Put the rendered config.yml in its place and remember where; the file, and whether it changed."""
    here, directory = rendered.here, rendered.directory
    if directory is None:
        raise BadInput(
            "it is not known where this machine's node has its config.yml",
            hint="name its directory with --config",
        )
    if rendered.old is None:
        node_config.refuse_to_create(here, directory)
    # Without the lock: the agent's loop waits for that, and a user's directory for whoever it likes.
    done = node_config.write(directory, rendered.old, rendered.new)
    with state.lock():
        settings = state.settings()
        if settings.node != directory:
            state.save_settings(settings.with_node(directory))
        if systemd.worker_units_are_installed():
            list_cores(here)
    return done


def write_elsewhere(rendered: Rendered, path: Path) -> None:
    """Write the rendered config.yml, secrets and all, to a new file, 0600. Raises BadInput."""
    if rendered.old is None and not rendered.is_for_another:
        node_config.refuse_to_create(rendered.here, rendered.directory)
    files.write_new(path, rendered.new.encode("utf-8"))


def units(state: State, *, program: str) -> dict[str, str]:
    """The systemd units for this machine, by file name."""
    require_root("qmesh units")
    here = load(state)
    directory = here.settings.config_directory
    if directory is None:
        log.warning(
            "no units for the node: it is not known where it has its config.yml;"
            " `qmesh render-config --write --config DIR` says it once for all"
        )
        return qmesh_units(systemd.paths(state, config_directory="/", program=program))
    where = systemd.paths(state, config_directory=directory, program=program)
    _tell_of_others(Path(directory))
    cores = here.inventory.numbers(here.settings.name)
    return unit_files(where, is_control=here.settings.control, cores=cores)


def _tell_of_others(directory: Path) -> None:
    """Say what the node's user will not be able to use, where that is another user's."""
    user = node_user.owner(directory)
    if user and (found := node_user.first_of_others(directory, user)) is not None:
        name = node_user.name(user)
        log.warning(
            "the node will run as %s, and %s is another user's: `chown -R %s %s`, before it is restarted",
            *(name, quoted(str(found)), name, directory),
        )


def removed_workers(state: State) -> tuple[int, ...]:
    """The cores whose workers systemd runs here, and that are another machine's now, or nobody's.

    Says what stops them.
    """
    here = load(state)
    own = here.inventory.numbers(here.settings.name)
    removed = tuple(core for core in systemd.running_workers() if core not in own)
    if removed:
        log.warning(
            "no cores of this machine any more, and still run: `systemctl stop %s`",
            " ".join(map(worker_unit, removed)),
        )
    return removed


def list_cores(here: Here) -> None:
    """Have the target of all workers name this machine's cores, unless somebody edited it."""
    cores = tuple(here.inventory.numbers(here.settings.name))
    if systemd.update_units({WORKERS: workers_target(cores)}, systemd.UNIT_DIRECTORY).written:
        systemd.systemctl("daemon-reload")
