"""What makes the node of a profile refuse the whole file: each loader's rules, over the one table of keys.

The loaders differ in more than their values. Of a key that is there twice Go takes the last, and Rust
refuses it; Go reads merge keys and one document of several; Rust takes a byte order mark for a character.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from qmesh.mesh.nodeconfig.document import (
    ParsedConfig,
)
from qmesh.mesh.nodeconfig.lint.go_refusals import find_go_refusals
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_warning, summarize_by_kind
from qmesh.mesh.nodeconfig.lint.rust_refusals import find_rust_refusals
from qmesh.mesh.values import Profile

_MOST_TOLD: Final = 20
"""Of what one file is refused for."""


def find_refusals(config: ParsedConfig, profile: Profile) -> Iterator[Problem]:
    """What the node does not load the file for, and warnings of what it reads in its own way."""
    is_rust = profile == "2.1-rust"
    refusals = list(find_rust_refusals(config) if is_rust else find_go_refusals(config, profile))
    refusals, more = refusals[:_MOST_TOLD], len(refusals) - _MOST_TOLD
    if more > 0:
        last = refusals.pop()
        refusals.append(msgspec.structs.replace(last, message=f"{last.message}; and {more} more errors"))
    told = {(each.line, each.column) for each in refusals}
    yield from refusals
    yield from summarize_by_kind(
        build_warning(oddity.mark, "unreadable", oddity.problem, oddity.hint)
        for oddity in config.oddities
        if (oddity.mark.line + 1, oddity.mark.column + 1) not in told
    )
