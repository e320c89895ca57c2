"""Fields of JSON files that qmesh wrote, without a module for JSON, which takes half a megabyte."""

from __future__ import annotations


def find_field(octets: bytes, name: str) -> str:
    """What stands behind a field's name, of several the first; empty where it is nowhere."""
    return octets.decode("utf-8", "replace").partition(f'"{name}":')[2].lstrip()


def parse_text(field: str) -> str:
    """The text that a field begins with, as it is written; empty where that is none."""
    return field[1:].partition('"')[0] if field.startswith('"') else ""


def parse_numbers(field: str) -> list[int]:
    """The whole numbers of a list that a field begins with, of five digits at most; others are left out."""
    words = field[1:].partition("]")[0].split(",") if field.startswith("[") else []
    return [
        int(each) for each in map(str.strip, words) if each.isascii() and each.isdigit() and len(each) < 6
    ]
