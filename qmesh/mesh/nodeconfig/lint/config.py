"""Every problem of a config, in the order of the text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import BadConfig, Mark, ParsedConfig
from qmesh.mesh.nodeconfig.lint.characters import find_character_problems
from qmesh.mesh.nodeconfig.lint.keys import find_key_problems
from qmesh.mesh.nodeconfig.lint.listeners import find_listener_problems
from qmesh.mesh.nodeconfig.lint.lists import find_list_problems
from qmesh.mesh.nodeconfig.lint.problems import ExpectedMesh, Problem, build_refusal
from qmesh.mesh.nodeconfig.lint.refusals import find_refusals
from qmesh.mesh.nodeconfig.parse import scan_config
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

    mesh: None for what can be said without one: then nothing is an error but what the node does not load,
        and a list of another version.
    ephemeral: first and last port that outgoing connections of this machine take; None to leave that out.
    reserved: ports that they do not take.
    """
    try:
        parsed = scan_config(config)
    except BadConfig as refused:
        return (build_refusal(refused.mark, "unreadable", refused.problem, refused.hint),)
    except BadInput as refused:
        return (build_refusal(Mark(0, 0, 0), "unreadable", refused.message, refused.hint),)
    ports = () if ephemeral is None else set(range(ephemeral[0], ephemeral[1] + 1)) - set(reserved)
    problems = _find_problems(parsed, profile, mesh, ports)
    if mesh is None:
        problems = (
            each if each.refused or each.kind == "profile" else each.as_warning() for each in problems
        )
    return tuple(sorted(problems))


def _find_problems(
    config: ParsedConfig, profile: Profile, mesh: ExpectedMesh | None, ephemeral: Collection[int]
) -> Iterator[Problem]:
    yield from find_refusals(config, profile)
    yield from find_character_problems(config, profile)
    yield from find_key_problems(config.root, profile)
    yield from find_list_problems(config.root, profile, mesh, ephemeral)
    yield from find_listener_problems(config.root, profile)
