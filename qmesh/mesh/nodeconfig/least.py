"""The smallest config that a worker machine's node needs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.model import Profile
from qmesh.mesh.nodeconfig.layout import STEP, block_lines, indented
from qmesh.mesh.nodeconfig.multiaddr import listen_address
from qmesh.mesh.nodeconfig.profiles import facts

_COMMENT: Final = (
    "# Written by qmesh: the least that this machine's data workers need.",
    "# Keys that you add stay; qmesh changes only the worker list.",
)
_PRINTABLE = re.compile(r"[ -~]+")


def least(profile: Profile, multiaddrs: Sequence[str], *, secrets: Mapping[str, str]) -> str:
    """A whole config.yml with the worker list, in the order of the cores, and the profile's secrets.

    multiaddrs: `/ip4/ADDRESS/tcp/PORT` or `/ip6/...`.
    secrets: values by dotted key, just those of `facts(profile).secrets`; printable ASCII.

    Raises BadInput for a bad multiaddr, for a secret that is missing or not needed, and for
    2.1 profiles. No message holds a secret.
    """
    known = facts(profile)
    for multiaddr in multiaddrs:
        listen_address(multiaddr)
    _require(profile, known.secrets, secrets)
    lines = [*_COMMENT]
    for path in known.secrets:
        lines += _secret_lines(path, secrets[path])
    lines += block_lines((known.section, known.list_name), tuple(multiaddrs))
    return "\n".join([*lines, ""])


def _require(profile: Profile, needed: tuple[str, ...], given: Mapping[str, str]) -> None:
    for path in needed:
        if not _PRINTABLE.fullmatch(given.get(path, "")):
            raise BadInput(
                f"a data worker of node {profile} needs {path}, in printable characters",
                hint="copy it from the control node's config.yml",
            )
    if given.keys() - set(needed):
        raise BadInput(
            f"a data worker of node {profile} needs no secret but {', '.join(needed) or 'none'}",
            hint="leave every other secret on the control node",
        )


def _secret_lines(path: str, value: str) -> list[str]:
    section, name = path.split(".")
    # For printable ASCII, a JSON string is a double-quoted YAML scalar.
    return [f"{section}:", *indented([f"{name}: {json.dumps(value)}"], STEP)]
