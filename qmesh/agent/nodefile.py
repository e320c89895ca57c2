"""The node's config.yml on this machine: find it, render it, write it."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.here import Here
from qmesh.errors import BadInput
from qmesh.host import files
from qmesh.mesh import nodeconfig
from qmesh.mesh.inventory import Inventory, workers_of
from qmesh.mesh.model import NOT_SHOWN, Profile, Unshown

FILE_NAME = "config.yml"
MAX_OCTETS = 8 * 1024 * 1024


class NodeFile(Unshown, frozen=True):
    """A node's config.yml. text: None when there is no such file; never to be printed as it is."""

    path: Path
    text: str | None
    mode: int | None


def find_directory(given: Path | None) -> Path | None:
    """The node's config directory: as given, or `.config` here when it holds a config.yml.

    Raises BadInput when a given one is no directory.
    """
    if given is None:
        here = Path(".config")
        return here.resolve() if (here / FILE_NAME).is_file() else None
    if given.is_dir():
        return given.resolve()
    if given.exists() or given.name == FILE_NAME:
        raise BadInput(
            f"{given} is not a directory", hint=f"name the directory that holds {FILE_NAME}, not the file"
        )
    raise BadInput(
        f"there is no directory {given}",
        hint=f"is that where the node has its config.yml? make it with `mkdir -p {given}` if it is to be",
    )


def read(directory: Path) -> NodeFile:
    """The config.yml in `directory`. Raises StateUnreadable, NeedsRoot, or BadInput when it is no text."""
    path = directory / FILE_NAME
    real = files.followed(path)
    octets = files.read(real, limit=MAX_OCTETS)
    if octets is None:
        return NodeFile(path, None, None)
    try:
        return NodeFile(path, octets.decode("utf-8"), files.mode_of(real))
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path} is not UTF-8: byte {error.start} is none", hint="save it as UTF-8; nothing was changed"
        ) from None


def profile_of(directory: Path | None) -> Profile | None:
    """The node's profile as its config.yml tells; None when it does not."""
    text = None if directory is None else read(directory).text
    return None if text is None else nodeconfig.detect(text)


def refuse_other_key(profile: Profile, found: Profile | None) -> None:
    """Raise BadInput where a file is of a node that would ignore this profile's worker list."""
    if found is not None and nodeconfig.facts(found).list_key != nodeconfig.facts(profile).list_key:
        raise BadInput(
            f"the mesh is for node {profile}, but this config.yml is of node {found}, which ignores its list",
            hint="name the right directory with --config",
        )


def multiaddrs(inventory: Inventory) -> tuple[str, ...]:
    """The worker list of the mesh, in core order."""
    return tuple(worker.multiaddr for worker in workers_of(inventory))


def render(here: Here, text: str | None) -> str:
    """The config.yml of this machine: `text` with the mesh's worker list.

    Without a text it is the least one, in which `NOT_SHOWN` stands for each secret: fit to be read,
    and to be written only where `refuse_to_create` has nothing against it.
    Raises BadInput when the text is damaged, or is of a node that would ignore the list.
    """
    wanted, profile = multiaddrs(here.inventory), here.inventory.node
    if text is None:
        secrets = dict.fromkeys(nodeconfig.facts(profile).secrets, NOT_SHOWN)
        return nodeconfig.least(profile, wanted, secrets=secrets)
    refuse_other_key(profile, nodeconfig.detect(text))
    return nodeconfig.with_workers(text, wanted, profile)


def refuse_to_create(here: Here, directory: Path | None) -> None:
    """Raise BadInput where a new config.yml would be a node without its identity or a worker's secret."""
    profile = here.inventory.node
    secrets = nodeconfig.facts(profile).secrets
    missing = (
        "it is not known where config.yml is"
        if directory is None
        else f"there is no config.yml in {directory}"
    )
    if here.settings.control:
        raise BadInput(
            f"{missing}, and a new one would be a node with a new identity",
            hint="name the directory of the node's own config.yml with --config, or start the node once",
        )
    if secrets:
        control, needed = here.inventory.control, " and ".join(secrets)
        raise BadInput(
            f"{missing}, and a worker of node {profile} needs {needed}",
            hint=f"`qmesh render-config --for {here.settings.name} -o config.yml` on {control} makes one;"
            " put it there, then `qmesh render-config --write --config DIR` here",
        )


def render_for(here: Here, name: str, own_text: str | None) -> str:
    """The least config.yml for another machine, with the secrets that its profile needs from ours.

    Raises BadInput when the machine is unknown, or our own file lacks a secret.
    """
    here.inventory.machine(name)
    profile = here.inventory.node
    secrets = {}
    for path in nodeconfig.facts(profile).secrets:
        value = None if own_text is None else nodeconfig.secret(own_text, path)
        if value is None:
            raise BadInput(
                f"a worker of node {profile} needs {path}, and this machine's config.yml has none",
                hint="run this on the control node, with --config naming the node's config directory",
            )
        secrets[path] = value
    return nodeconfig.least(profile, multiaddrs(here.inventory), secrets=secrets)


def write(directory: Path, text: str) -> tuple[Path, bool]:
    """Put a rendered config.yml in place; the file that was written, and whether it changed."""
    found = read(directory)
    if found.text == text:
        return found.path, False
    return files.write_in_place_of(found.path, text.encode("utf-8")), True
