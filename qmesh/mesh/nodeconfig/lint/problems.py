"""What lint answers with, and what it is told of the mesh."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.nodeconfig.document import Mark

Kind: TypeAlias = Literal[
    "unreadable", "misspelt", "level", "profile", "empty", "length", "repeated",
    "wildcard", "loopback", "LAN", "public", "stranger", "missing", "announce", "placeholder",
    "entry", "template", "port", "ephemeral", "form", "character",
]  # fmt: skip


_SPOILERS: Final = frozenset({"unreadable", "profile", "repeated"})


class Problem(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """Something in a config that the node reads otherwise than its owner means. Never holds a secret.

    line, column: counted from 1.
    hint: what to do.
    severity: an error where the node does not load the file, or, held against the mesh, where it dials
        other workers than the mesh's.
    cured: whether writing the mesh's worker list removes it.
    refused: whether the node does not load the file for it.
    """

    line: int
    column: int
    kind: Kind
    message: str
    hint: str
    severity: Literal["error", "warning"]
    cured: bool = False
    refused: bool = False

    def as_warning(self) -> Problem:
        """The same, where some nodes tolerate it."""
        return msgspec.structs.replace(self, severity="warning", refused=False)

    @property
    def blocks_worker_list(self) -> bool:
        """Whether the node would still not read the mesh's worker list once it is written."""
        return not self.cured and (self.refused or (self.severity == "error" and self.kind in _SPOILERS))


class ExpectedMesh(msgspec.Struct, frozen=True, kw_only=True):
    """What of the mesh a config is held against.

    network: the tunnel network, such as `10.77.0.0/20`.
    own: this machine's tunnel address.
    members: tunnel addresses by machine name.
    workers: what the control process should dial, in core order.
    """

    network: str
    own: str
    members: Mapping[str, str]
    workers: tuple[str, ...]


def build_error(mark: Mark, kind: Kind, message: str, hint: str, *, cured: bool = False) -> Problem:
    """What keeps the workers from being reached."""
    return Problem(
        line=mark.line + 1,
        column=mark.column + 1,
        kind=kind,
        message=message,
        hint=hint,
        severity="error",
        cured=cured,
    )


def build_refusal(mark: Mark, kind: Kind, message: str, hint: str, *, cured: bool = False) -> Problem:
    """What the node does not load the file for."""
    return msgspec.structs.replace(build_error(mark, kind, message, hint, cured=cured), refused=True)


def build_warning(mark: Mark, kind: Kind, message: str, hint: str, *, cured: bool = False) -> Problem:
    """What the node tolerates, though hardly as it is meant."""
    return msgspec.structs.replace(build_error(mark, kind, message, hint, cured=cured), severity="warning")


def summarize_by_kind(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Of each kind the first, with how many more there are: a list may have thousands of entries."""
    found: dict[Kind, list[Problem]] = {}
    for problem in problems:
        found.setdefault(problem.kind, []).append(problem)
    for first, *more in found.values():
        count = f", and {len(more)} more like it" if more else ""
        yield msgspec.structs.replace(first, message=f"{first.message}{count}")
