"""The copyright file of a Debian package that has libraries in it, as machines read it (DEP-5)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from parts import Compiled, Part

PLACE: Final = "usr/lib/qmesh/lib/python*/site-packages"
"""Where the package has them."""
HOLDERS: Final = {
    "backports-zstd": ["Rogdham", "2001 Python Software Foundation", "Meta Platforms, Inc. and affiliates"],
    "typing-extensions": ["2001 Python Software Foundation"],
}
"""Of those whose licence is a text that names nobody, or others."""
_NAMES: Final = {"MIT": "Expat"}
"""Debian's names for what has another one in SPDX."""
_COMMON: Final = {"Apache-2.0"}
"""Licences that every Debian has, in files with these names: a copyright file refers to them."""
_HOLDER: Final = re.compile(r"^\W*Copyright:?\s+(?:\(c\)\s*|©\s*)?(.+)$", re.IGNORECASE | re.MULTILINE)
_OF_THE_TEXT: Final = re.compile(r"owner|notice|holder|license", re.IGNORECASE)
"""What stands beside the word in the text of a licence."""


def render_copyright(parts: Iterable[Part]) -> str:
    """The whole file. parts: all that is in the package, qmesh among them."""
    own, others = [], []
    for part in parts:
        (own if part.name == "qmesh" else others).append(part)
    (qmesh,) = own
    head = _render_fields(
        {
            "Format": "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/",
            "Upstream-Name": "qmesh",
            "Comment": qmesh.texts[0].partition("licence of qmesh itself. ")[2],
        }
    )
    stanzas = [head, _render_own(qmesh), *map(_render_part, others)]
    names = {name for part in others for name in _list_names(part.licence) if name in _COMMON}
    stanzas += [_render_common(name) for name in sorted(names)]
    return "\n\n".join(stanzas) + "\n"


def _render_own(part: Part) -> str:
    text = part.texts[0].partition("\n---")[0]
    return _render_fields(
        {"Files": "*", "Copyright": "\n".join(_list_holders(part)), "License": f"Expat\n{_cut_title(text)}"}
    )


def _render_part(part: Part) -> str:
    fields = {
        "Files": "\n".join(f"{PLACE}/{place}" for place in part.places),
        "Copyright": "\n".join(_list_holders(part)),
        "License": _name_licence(part.licence),
    }
    # One of several licences may be a common one: of that, this file has no text.
    own = [text for text in part.texts if not _is_common(text)]
    if any(name not in _COMMON for name in _list_names(part.licence)):
        fields["License"] += "\n" + "\n\n".join(text.strip() for text in own)
    if part.compiled:
        fields["Comment"] = "\n".join(["Compiled in:", *map(_describe_compiled, part.compiled)])
    return _render_fields(fields)


def _describe_compiled(each: Compiled) -> str:
    words = (each.name, each.version, f"({each.licence or 'no licence is named'})", each.copyright)
    return " ".join(filter(None, words))


def _render_common(name: str) -> str:
    said = f"On Debian systems, the text of this licence is in /usr/share/common-licenses/{name}."
    return _render_fields({"License": f"{name}\n{said}"})


def _list_holders(part: Part) -> list[str]:
    if part.name in HOLDERS:
        return HOLDERS[part.name]
    found = (each.strip() for text in part.texts for each in _HOLDER.findall(text))
    return list(dict.fromkeys(each for each in found if not _OF_THE_TEXT.search(each))) or [part.authors]


def _list_names(expression: str) -> list[str]:
    words = re.findall(r"[^\s()]+", expression)
    return [_NAMES.get(word, word) for word in words if word not in {"AND", "OR"}]


def _name_licence(expression: str) -> str:
    words = re.findall(r"[()]|[^\s()]+", expression)
    joined = " ".join({"AND": "and", "OR": "or"}.get(word, _NAMES.get(word, word)) for word in words)
    return joined.replace("( ", "(").replace(" )", ")")


def _is_common(text: str) -> bool:
    return bool(re.search(r"Apache License\s+Version 2\.0, January", text))


def _cut_title(text: str) -> str:
    return re.sub(r"\A.*?(?=Permission is)", "", text, flags=re.DOTALL)


def _render_fields(fields: dict[str, str]) -> str:
    return "\n".join(f"{name}: {_fold(text)}" for name, text in fields.items())


def _fold(text: str) -> str:
    """As a field of several lines: each begins with a space, and an empty one is a dot."""
    first, *others = text.rstrip().expandtabs().splitlines()
    return "\n".join([first, *(f" {line.rstrip()}" if line.strip() else " ." for line in others)])
