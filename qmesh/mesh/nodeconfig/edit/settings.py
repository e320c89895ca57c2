"""A key and what it should hold."""

from __future__ import annotations

import re

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import bad_config_at
from qmesh.mesh.nodeconfig.key_location import Key, KeyLocation, Value

_PLAIN = re.compile(r"(?:[A-Za-z0-9/.:][A-Za-z0-9/.:-]*)?[A-Za-z0-9]")
"""What YAML takes as it is, wherever it stands: addresses, multiaddrs, numbers, `true`."""
_NUMBER_OR_FLAG = re.compile(r"[0-9]+|true|false")


class Setting(msgspec.Struct, frozen=True):
    """A key and what it is to hold: a list's entries, or one value, as plain as a multiaddr or number."""

    key: Key
    value: Value

    def __post_init__(self) -> None:
        for text in self.values:
            if not _PLAIN.fullmatch(text):
                raise BadInput(f"{self.key} cannot hold this value", hint="use a multiaddr or a number")

    @property
    def values(self) -> tuple[str, ...]:
        """The value, or the entries."""
        return (self.value,) if isinstance(self.value, str) else self.value

    @property
    def is_unquoted(self) -> bool:
        """Whether it is a number or a flag, which must have no quotes."""
        return isinstance(self.value, str) and bool(_NUMBER_OR_FLAG.fullmatch(self.value))

    @property
    def is_list(self) -> bool:
        """Whether it is a list."""
        return not isinstance(self.value, str)


def build_layout_error(place: KeyLocation, setting: Setting) -> BadInput:
    """What is said where a value has no span of its own."""
    name = setting.key.name
    below = "with one `- /ip4/ADDRESS/tcp/PORT` a line below it"
    return bad_config_at(
        place.mark,
        f"qmesh cannot change `{name}` here without changing more",
        f"edit the file: write `{name}:` {below if setting.is_list else 'with its value behind it'}",
    )
