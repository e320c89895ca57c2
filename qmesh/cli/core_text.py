"""Core numbers in words."""

from __future__ import annotations


def format_core_range(first: int, count: int) -> str:
    """The numbers alone: `5`, or `5-7`."""
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def describe_cores(first: int, count: int) -> str:
    """A machine's cores in a sentence: `core 5`, or `cores 5-7`."""
    return f"core{'' if count == 1 else 's'} {format_core_range(first, count)}"
