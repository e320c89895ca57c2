"""All that is read is a value of its type, or malformed, whatever the decoder trips over."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from qmesh.mesh.decode import Malformed, convert_value, decode_json, decode_msgpack

Small = Annotated[int, msgspec.Meta(ge=0, le=9)]


def test_what_fits_is_a_value_of_its_type() -> None:
    assert decode_json(b"[1, 2]", list[Small]) == [1, 2]
    assert decode_msgpack(b"\x92\x01\x02", list[Small]) == [1, 2]
    assert convert_value([(1, "a")], list[tuple[Small, str]]) == [(1, "a")]


@pytest.mark.parametrize("value", [[10], [-1], ["1"], [None], 1, [b"\xff"], [2**70]])
def test_what_does_not_is_malformed_and_not_repeated(value: object) -> None:
    with pytest.raises(Malformed, match="what was read is not understood"):
        convert_value(value, list[Small])


@pytest.mark.parametrize("octets", [b"", b"[", b"[" * 100_000, b'"\xff"', b"1e999", b"[10]"])
def test_no_octets_do_anything_else(octets: bytes) -> None:
    with pytest.raises(Malformed):
        decode_json(octets, list[Small])
    with pytest.raises(Malformed):
        decode_msgpack(octets, list[Small])
