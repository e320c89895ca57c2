"""Bytes of which each bit is known or not: a packet's headers, and the registers of the kernel's rules."""

from __future__ import annotations

from typing import Final

import msgspec

from qmesh.mesh.foreign.values import Truth

MOST_OCTETS: Final = 64
"""Of all registers together."""


class Bits(msgspec.Struct, frozen=True):
    """Bytes, and a mask of the same length that has 1 where a bit is known, or None where all are.

    A bit that is not known is 0.
    """

    value: bytes
    mask: bytes | None = None

    def take(self, start: int, length: int) -> Bits:
        """Some of the bytes. Raises ValueError where they are not all there."""
        end = start + length
        if end > len(self.value):
            raise ValueError(f"{len(self.value)} bytes have none at {end}")
        return Bits(self.value[start:end], self._drop_full_mask(start, end))

    def reverse(self) -> Bits:
        """The bytes the other way round."""
        return Bits(self.value[::-1], None if self.mask is None else self.mask[::-1])

    def _drop_full_mask(self, start: int, end: int) -> bytes | None:
        mask = None if self.mask is None else self.mask[start:end]
        return None if mask is None or mask.count(0xFF) == len(mask) else mask


def make_unknown(length: int) -> Bits:
    """Bytes of which nothing is known. Raises ValueError for more than all registers have."""
    if length > MOST_OCTETS:
        raise ValueError(f"no register has {length} bytes")
    return Bits(bytes(length), bytes(length))


def join_bits(*parts: Bits) -> Bits:
    """One after the other."""
    value = b"".join(part.value for part in parts)
    if all(part.mask is None for part in parts):
        return Bits(value)
    return Bits(value, b"".join(part.mask or b"\xff" * len(part.value) for part in parts))


def compare_equal(found: Bits, wanted: bytes) -> Truth:
    """Whether the bytes are these: no where a known bit differs, else unknown where one is unknown."""
    if found.mask is None:
        return found.value == wanted
    differs = any((a ^ b) & known for a, b, known in zip(found.value, wanted, found.mask, strict=True))
    return False if differs else None


def compare_order(found: Bits, wanted: bytes) -> tuple[Truth, Truth]:
    """Whether the bytes, as one number, are less than these; and whether they are greater."""
    least = most = int.from_bytes(found.value, "big")
    if found.mask is not None:
        most |= int.from_bytes(found.mask, "big") ^ ((1 << 8 * len(wanted)) - 1)
    other = int.from_bytes(wanted, "big")
    less = True if most < other else False if least >= other else None
    greater = True if least > other else False if most <= other else None
    return less, greater


def mask_bits(found: Bits, mask: bytes, xor: bytes) -> Bits:
    """Bitwise `and`, then `xor`: what is masked out is known."""
    pairs = zip(found.value, mask, xor, strict=True)
    if found.mask is None:
        return Bits(bytes((a & m) ^ x for a, m, x in pairs))
    known = bytes(a | (m ^ 0xFF) for a, m in zip(found.mask, mask, strict=True))
    value = bytes(((a & m) ^ x) & k for (a, m, x), k in zip(pairs, known, strict=True))
    return Bits(value, known).take(0, len(value))


class RegisterFile:
    """The registers of one rule. Source: linux/netfilter/nf_tables.h, NFT_REG_1 to 4, NFT_REG32_00 to 15."""

    def __init__(self) -> None:
        self._cells: dict[int, Bits] = {}

    def load(self, register: int, bits: Bits) -> None:
        """Set a register, and those behind it as far as the bytes go."""
        start = _locate_register(register)
        end = start + len(bits.value)
        for there in [each for each in self._cells if start < each < end]:
            del self._cells[there]
        self._cells[start] = bits

    def read(self, register: int, length: int) -> Bits:
        """So many bytes from a register on. What was never loaded is unknown.

        Raises ValueError for more than all registers have.
        """
        if length > MOST_OCTETS:
            raise ValueError(f"no register has {length} bytes")
        start = _locate_register(register)
        found = self._cells.get(start, Bits(b""))
        if len(found.value) >= length:
            return found if len(found.value) == length else found.take(0, length)
        parts = []
        while length > 0:
            found = self._cells.get(start, make_unknown(4))
            # What a value leaves of the last of its four bytes is 0.
            padded = join_bits(found, Bits(bytes(-len(found.value) % 4)))
            parts.append(padded if len(padded.value) <= length else padded.take(0, length))
            start += len(padded.value)
            length -= len(padded.value)
        return join_bits(*parts)


def _locate_register(register: int) -> int:
    return (register - 8) * 4 if register >= 8 else (register - 1) * 16
