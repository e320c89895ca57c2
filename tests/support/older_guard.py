"""What the guard of an older qmesh lacks."""

from __future__ import annotations

import re

_NEW = re.compile(
    r"\n\tset askers \{.*?\n\t\}\n"
    r"|\n\tchain asks_service \{.*?\n\t\}\n"
    r"|\t\t[^\n]*(?:goto asks_service|@askers|meta skuid)[^\n]*\n",
    re.DOTALL,
)


def as_of_format_1(text: str) -> str:
    """The guard's table, or commands with it, as qmesh wrote it before it knew users."""
    older = _NEW.sub("", text).replace('comment "qmesh guard 2:', 'comment "qmesh guard 1:')
    assert "skuid" not in older
    assert older != text
    return older
