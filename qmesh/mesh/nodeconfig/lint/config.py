"""Every problem of a config, in the order of the text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import BadConfig, Mapping, Mark, Node, ParsedConfig, parse_config
from qmesh.mesh.nodeconfig.lint.keys import find_key_problems
from qmesh.mesh.nodeconfig.lint.lists import find_list_problems
from qmesh.mesh.nodeconfig.lint.problems import ExpectedMesh, Problem, build_error
from qmesh.mesh.values import Profile


def lint_config(
    config: str | ParsedConfig,
    *,
    profile: Profile,
    mesh: ExpectedMesh | None = None,
    ephemeral: tuple[int, int] | None = None,
    reserved: Collection[int] = (),
) -> tuple[Problem, ...]:
    """Every problem of a config.yml, in the order of the text; nothing is raised.

    mesh: None for what can be said without one.
    ephemeral: first and last port that outgoing connections of this machine take; None to leave that out.
    reserved: ports that they do not take.
    """
    try:
        root = parse_config(config).root
    except BadConfig as refused:
        return (build_error(refused.mark, "unreadable", refused.problem, refused.hint),)
    except BadInput as refused:
        return (build_error(Mark(0, 0, 0), "unreadable", refused.message, refused.hint),)
    ports = () if ephemeral is None else set(range(ephemeral[0], ephemeral[1] + 1)) - set(reserved)
    return tuple(sorted(_find_problems(root, profile, mesh, ports)))


def _find_problems(
    root: Node | None, profile: Profile, mesh: ExpectedMesh | None, ephemeral: Collection[int]
) -> Iterator[Problem]:
    if root is not None and not isinstance(root, Mapping):
        message = "the file's top level is not a mapping of keys to values"
        hint = "check that this file is the node's config.yml"
        yield build_error(root.start, "unreadable", message, hint)
        return
    yield from find_key_problems(root, profile)
    yield from find_list_problems(root, profile, mesh, ephemeral)
