"""What a config.yml says of the control process: where workers call it, and where it has its store."""

from __future__ import annotations

from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig.document import ParsedConfig
from qmesh.mesh.nodeconfig.edit.config import read_settings
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.multiaddr import parse_multiaddr
from qmesh.mesh.nodeconfig.parse import parse_config
from qmesh.mesh.nodeconfig.profiles import detect_profile, profile_facts

_STORE: Final = Key("db", "path")


def find_stream_address(config: str | ParsedConfig) -> tuple[str, int] | None:
    """The address and TCP port at which workers call the control process.

    None where they do not, before node 2.1, and where nothing that can be called stands there.
    Raises BadInput when the text does not load.
    """
    config = parse_config(config)
    key = profile_facts(detect_profile(config) or "2.0").stream_key
    if key is None:
        return None
    entry = _read_text(config, key)
    try:
        return None if entry is None else parse_multiaddr(entry)
    except BadInput:
        return None


def read_store_path(config: str | ParsedConfig) -> str | None:
    """The directory of the control process's store, from the node's working directory; None where none is.

    Raises BadInput when the text does not load.
    """
    return _read_text(parse_config(config), _STORE) or None


def _read_text(config: ParsedConfig, key: Key) -> str | None:
    try:
        (found,) = read_settings(config, [(key, False)])
    except BadInput:  # that is the lint's to say
        return None
    return found if isinstance(found, str) else None
