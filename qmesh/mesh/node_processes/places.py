"""At which sockets a worker takes what comes to its address, and where else it may listen."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

Place = tuple[str, int]
"""An IP address and a port."""
_EVERYWHERE: Final = {4: ("0.0.0.0", "::"), 6: ("::",)}  # noqa: S104 - what is looked for


def list_accepting_places(place: Place) -> tuple[Place, ...]:
    """The places of which a socket at any takes what comes to this one: itself, and every address."""
    address, port = place
    return place, *((each, port) for each in _EVERYWHERE[ipaddress.ip_address(address).version])


def find_other_places(place: Place, listening: Iterable[Place]) -> tuple[str, ...]:
    """The addresses at whose port of that number something listens that takes nothing for this place."""
    accepting = list_accepting_places(place)
    return tuple(
        dict.fromkeys(
            address for address, port in listening if port == place[1] and (address, port) not in accepting
        )
    )
