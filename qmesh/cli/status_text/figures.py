"""Figures of machines, short."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Such as `5 s`, `3 min`, `2 h`, `4 d`: rounded, and never 1 of a unit but of a second."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def format_bytes(number: float) -> str:
    """Such as `892 B`, `1.6 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
