"""The smallest config that a worker machine's node needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import ParsedConfig
from qmesh.mesh.nodeconfig.edit.config import edit_config
from qmesh.mesh.nodeconfig.edit.layout import STEP, indent_lines
from qmesh.mesh.nodeconfig.edit.settings import Setting
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import Profile

COMMENTS: Final = (
    "# Written by qmesh: the least that this machine's data workers need.",
    "# Keys that you add stay; qmesh changes only its own.",
)
_PRINTABLE = re.compile(r"[ -~]+")


def build_minimal_config(
    profile: Profile,
    settings: Iterable[Setting],
    *,
    secrets: Mapping[str, str],
    key_store: str | None = None,
) -> ParsedConfig:
    """A whole config.yml with these settings and the profile's secrets.

    secrets: values by dotted key, just those of `facts(profile).secrets`; printable ASCII.
    key_store: where keys.yml will be, in printable ASCII; None leaves that to the node.

    Raises BadInput for a secret that is missing or not needed. No message holds a secret.
    """
    needed = profile_facts(profile).secrets
    _check_secrets(profile, needed, secrets)
    values = {path: secrets[path] for path in needed}
    if key_store is not None:
        values["key.keyManagerFile.path"] = key_store
    text = "\n".join([*COMMENTS, *_render_nested(values), ""])
    return edit_config(text, settings)


def _check_secrets(profile: Profile, needed: tuple[str, ...], given: Mapping[str, str]) -> None:
    for path in needed:
        if not _PRINTABLE.fullmatch(given.get(path, "")):
            raise BadInput(
                f"a data worker of node {profile} needs {path}, in printable characters",
                hint="copy it from the control node's config.yml",
            )
    if given.keys() - set(needed):
        raise BadInput(
            f"a data worker of node {profile} needs no other secret than {', '.join(needed) or 'none'}",
            hint="do not copy other secrets from the control node",
        )


def _render_nested(values: Mapping[str, str]) -> list[str]:
    """Values by dotted key as a block of YAML, those of one section together."""
    lines = []
    sections = dict.fromkeys(path.partition(".")[0] for path in values)
    for section in sections:
        below = {path: value for path, value in values.items() if path.startswith(f"{section}.")}
        if below:
            inner = {path.partition(".")[2]: value for path, value in below.items()}
            lines += [f"{section}:", *indent_lines(_render_nested(inner), STEP)]
        else:
            # For printable ASCII, a JSON string is a double-quoted YAML scalar.
            lines.append(f"{section}: {json.dumps(values[section])}")
    return lines
