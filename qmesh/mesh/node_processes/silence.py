"""Why a worker does not answer, as far as the machine that asks can tell."""

from __future__ import annotations

import errno
from typing import Final, Literal, TypeAlias

SilenceReason: TypeAlias = Literal[
    "", "absent", "elsewhere", "refused", "dropped", "rejected", "unroutable", "down", "stopped"
]
"""Of a worker that does not answer; empty where nothing is known.

absent: nothing listens at its port, on the machine that looks at itself. elsewhere: something listens at its
port, but not at its address. refused: its machine says that nothing listens. dropped: nothing comes back.
rejected: a firewall says no. unroutable: nothing leaves the machine that asks. down: as its machine noted,
`qmesh down` removed its tunnel. stopped: it accepts calls, and is stopped or frozen, as its machine noted.
"""
SILENCE_WORDS: Final[dict[SilenceReason, str]] = {
    "": "no answer",
    "absent": "nothing listens",
    "elsewhere": "something listens at another address",
    "refused": "refused",
    "dropped": "dropped by a firewall, or hanging",
    "rejected": "rejected by a firewall",
    "unroutable": "no way from here",
    "down": "`qmesh down` was run there",
    "stopped": "stopped by a signal, or frozen",
}
_REASONS: Final[dict[int, SilenceReason]] = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "dropped",
    errno.EHOSTUNREACH: "rejected",
    errno.EACCES: "rejected",
    errno.ECONNRESET: "refused",
    errno.ENETUNREACH: "unroutable",
    errno.EPERM: "unroutable",
    errno.EADDRNOTAVAIL: "unroutable",
}


def explain_error(error: int) -> SilenceReason:
    """The reason behind a connection's error, as of errno(3)."""
    return _REASONS.get(error, "")
