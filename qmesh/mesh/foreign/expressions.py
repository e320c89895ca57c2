"""What a rule is made of, as the kernel has it: expressions, and how they are built and run.

Source: linux/netfilter/nf_tables.h for numbers, net/netfilter/nft_*.c for what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from qmesh.mesh.foreign.attributes import parse_attributes
from qmesh.mesh.foreign.registers import Bits, RegisterFile
from qmesh.mesh.foreign.rules import Ending, Evaluation
from qmesh.mesh.foreign.values import Truth

Attributes: TypeAlias = Mapping[int, bytes]


class Expression(msgspec.Struct, frozen=True):
    """One expression of a rule. attributes: by number, as the kernel sends them."""

    name: str
    attributes: dict[int, bytes]


class Run(msgspec.Struct):
    """One rule over one packet. truth: whether it came so far; verdict: what it said."""

    at: Evaluation
    registers: RegisterFile
    truth: Truth = True
    verdict: Ending = "continue"
    target: str = ""


Step: TypeAlias = Callable[[Run], Truth]
"""What an expression does: whether the rule goes on."""


def read_number(attributes: Attributes, kind: int) -> int:
    """A number; 0 where there is none."""
    return int.from_bytes(attributes.get(kind, b""), "big")


def read_data(attributes: Attributes, kind: int) -> bytes:
    """A value that is compared or loaded. Raises LookupError or ValueError without one."""
    return dict(parse_attributes(attributes[kind]))[1]


def read_verdict(attributes: Attributes, kind: int) -> dict[int, bytes]:
    """A verdict, 1: its code, 2: the chain that it names. Raises as `read_data`."""
    return dict(parse_attributes(dict(parse_attributes(attributes[kind]))[2]))


def go_on(_: Run) -> Truth:
    """Nothing that matters here."""
    return True


def load_bits(run: Run, register: int, bits: Bits) -> Truth:
    """Set a register, and go on."""
    run.registers.load(register, bits)
    return True
