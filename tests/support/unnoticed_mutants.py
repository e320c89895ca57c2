"""Mistakes in the guard that neither a drill nor a proof notices, and why that is so."""

from __future__ import annotations

import re
from typing import Final

_WHY: Final = {
    r"priority .*, in (arrived_at|passed_on)": "equivalent: no target is translated there, and"
    " connections are known at every priority",
    r"WireGuard's port another, in (asked_for|arrived_at|sent)": "equivalent: a short cut, as no later rule"
    " is about that port",
    r"goto made jump, in .*": "equivalent: the chain that it leads to ends every packet",
}  # fmt: skip


def explain_mutant(kind: str) -> str:
    """Why nobody notices it; empty where that is not known."""
    return next((why for words, why in _WHY.items() if re.fullmatch(words, kind)), "")
