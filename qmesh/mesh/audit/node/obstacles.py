"""Fixes of the node's files where one of them cannot be replaced as it is: what has to be done first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from qmesh.mesh.audit.findings import RENDER, Finding
from qmesh.mesh.audit.surroundings import NEW_CONFIG, AuditContext, FileObstacle

_REPLACING: Final = (RENDER, "qmesh node-files --write")
"""Commands that replace files of the node's."""
_COMMANDS: Final = ("qmesh ", "chmod ", "setpriv ", "(cd ")


def with_obstacles(findings: Iterable[Finding], around: AuditContext) -> Iterator[Finding]:
    """The same, each with a fix that can be carried out as it is printed."""
    files = [] if around.config is None else [(around.config.path, around.config.obstacle)]
    if around.key_store is not None:
        files.insert(0, (around.key_store.path, around.key_store.obstacle))
    for finding in findings:
        replaces = any(command in finding.cure for command in _REPLACING)
        found = (
            (path, obstacle)
            for path, obstacle in files
            if obstacle is not None and _is_in_the_way(finding, path, obstacle, replaces=replaces)
        )
        path, obstacle = next(found, ("", None))
        cure = finding.cure if obstacle is None else _prepend(finding.cure, path, obstacle)
        yield msgspec.structs.replace(finding, cure=cure)


def _is_in_the_way(finding: Finding, path: str, obstacle: FileObstacle, *, replaces: bool) -> bool:
    if replaces:  # `render-config` writes config.yml alone
        return RENDER not in finding.cure or path.endswith("/config.yml")
    return obstacle.forbids_change and finding.subject.startswith(path)


def _prepend(cure: str, path: str, obstacle: FileObstacle) -> str:
    then = f"`{cure}`" if cure.startswith(_COMMANDS) and "`" not in cure else cure
    if obstacle.fill and cure == RENDER:
        copy = f"qmesh render-config -o {NEW_CONFIG} && {obstacle.fill} && rm {NEW_CONFIG}"
        return f"{path} {obstacle.reason}, so write into it: `{copy}`; then {then}"
    return f"{obstacle.path} {obstacle.reason}: {obstacle.cure}; then {then}"
