"""The hash of what `nft -j list ruleset` prints. docs/assurance.md has the same as a command for anybody."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

import msgspec

from qmesh.mesh.decode import decode_json

_PASSING: Final = frozenset({"handle", "packets", "bytes", "used", "used_unit", "expires"})
"""What changes by itself, wherever it stands."""


class NftHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """sha256: hexadecimal. version: of nft, which prints one thing in one way and another in another."""

    sha256: str
    version: str


def hash_nft_listing(octets: bytes) -> NftHash:
    """Of the JSON. Raises Malformed for what is none."""
    listed = decode_json(octets, dict[str, list[dict[str, dict[str, Any]]]]).get("nftables", [])
    version = [str(each["metainfo"].get("version", "")) for each in listed if "metainfo" in each]
    rules = sorted((_plain(each) for each in listed if "metainfo" not in each), key=_find_place)
    text = json.dumps(rules, sort_keys=True, separators=(",", ":"))
    return NftHash(hashlib.sha256(text.encode()).hexdigest(), "".join(version))


def _plain(value: Any) -> Any:
    """Without what changes by itself, and with sets in an order."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    kinds = json.dumps(value.get("flags", ""))
    passing = _PASSING | (
        {"elem"} if "timeout" in value or "dynamic" in kinds or "timeout" in kinds else set()
    )
    found = {key: _plain(each) for key, each in value.items() if key not in passing}
    for key in ("elem", "set"):
        if isinstance(found.get(key), list):
            found[key].sort(key=json.dumps)
    return found


def _find_place(entry: dict[str, dict[str, Any]]) -> list[str]:
    """By table, kind and chain; the rules of a chain stay in their order."""
    kind, body = next(iter(entry.items()), ("", {}))
    place = body.get("chain", body.get("name"))
    return [str(each) for each in (body.get("family"), body.get("table", place), kind, place)]
