"""Why the loaders of both languages refuse a file, in words."""

from __future__ import annotations

from typing import Final

from qmesh.mesh.nodeconfig.document import (
    Node,
    Scalar,
)
from qmesh.mesh.nodeconfig.known_keys import Form
from qmesh.mesh.nodeconfig.lint.problems import Problem, build_refusal
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.values import Profile

_WANTED: Final[dict[Form, tuple[str, str]]] = {
    "text": ("one text", "write one value behind it"),
    "texts": ("a list of texts", "write one `- VALUE` a line below it, or `[]`"),
    "texts by name": ("names with a text each", "write one `NAME: VALUE` a line below it, or delete it"),
    "flag": ("true or false", "write true or false, without quotes"),
    "float": ("a number", "write a number such as 0.25, without quotes"),
    "duration": ("a time", "write a number with a unit, such as 4s or 1m30s"),
    "manager": ("file or inMemory", "write file"),
    "int": ("a whole number", "write a number, without quotes"),
    "long": ("a whole number", "write a number, without quotes"),
    "u8": ("a whole number from 0 to 255", "write a number, without quotes"),
    "u16": ("a whole number from 0 to 65535", "write a number, without quotes"),
    "u32": ("a whole number from 0 on", "write a number, without quotes"),
    "u64": ("a whole number from 0 on", "write a number, without quotes"),
}
WRITTEN_SECTIONS: Final = frozenset({"engine"})
"""Those that `qmesh render-config` makes where they are missing."""
_RENDER: Final = "run `qmesh render-config --write`, which writes the mesh's value"
_CHECK_FILE: Final = "check that this file is the node's config.yml"


def build_root_refusal(root: Node) -> Problem:
    """Of a file whose root is a list or a single value."""
    message = "the file's top level is not a mapping of keys to values"
    return build_refusal(root.start, "unreadable", message, _CHECK_FILE)


def build_form_refusal(key: Scalar, form: Form, value: Node, *, is_written: bool) -> Problem:
    """Of a value that has another form than the loader asks for.

    is_written: whether qmesh writes that key, and so its right value, where one can be exchanged.
    """
    wanted, usual = _WANTED[form]
    message = f"`{key.value}` has to be {wanted}: the node does not load this file"
    is_plain = isinstance(value, Scalar) and not value.is_block and value.anchor is None and value.tag is None
    if is_written and is_plain:
        return build_refusal(value.start, "form", message, f"{_RENDER}; or {usual}", cured=True)
    return build_refusal(value.start, "form", message, usual)


def list_written_values(profile: Profile) -> frozenset[tuple[str, str]]:
    """Section and name of each value or list that qmesh writes, in every spelling."""
    known = profile_facts(profile)
    keys = (*known.single_keys, *known.lists)
    return frozenset((key.section, name) for key in keys for name in (key.name, key.alias) if name)


def build_section_refusal(key: Scalar, value: Node, *, is_written: bool = False) -> Problem:
    """Of a section in whose place another thing stands.

    is_written: whether qmesh writes into that section, and so makes one where nothing stands.
    """
    message = f"`{key.value}` is not a mapping of keys to values: the node does not load this file"
    if is_written and isinstance(value, Scalar) and value.is_null and value.anchor is None:
        usual = "or write the worker list there, or delete the line"
        return build_refusal(value.start, "form", message, f"{_RENDER}; {usual}", cured=True)
    return build_refusal(value.start, "form", message, "check the indent of the lines below it")
