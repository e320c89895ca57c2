"""What is heard of each peer, look by look: who is silent, and whose key two machines use.

WireGuard's counters say what has come in all; only who watches them knows when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec

from qmesh.mesh.endpoints import INITIATION
from qmesh.mesh.state import Counters
from qmesh.mesh.values import Endpoint

SILENT_S: Final = 180.0
"""Seconds without a packet after which a link is silent. Whoever keeps it open sends one every 25 s, and with
WireGuard's new handshake every 2 minutes at least one comes back."""
QUIET_S: Final = 45.0
"""The same after which it is not said any more that nothing but a worker can be wrong there."""
MOST_GAP_S: Final = 60.0
"""Seconds between two looks that count as silence, at most: beyond them the machine itself was stopped."""
TURNS_S: Final = 600.0
MOST_PLACES: Final = 8
LEAST_RETURNS: Final = 4
"""A peer that comes back so often to an address that it had left, within `TURNS_S`, is two machines. One that
moves, or whose NAT forgets it, has a new address each time."""


class SilentLink(msgspec.Struct, frozen=True, array_like=True):
    """A peer of which nothing comes. was_heard: whether anything did since it is watched."""

    public_key: str
    silent_s: float
    was_heard: bool


class SharedKey(msgspec.Struct, frozen=True, array_like=True):
    """A key with which two machines call. endpoints: between which it changes; returns: how often lately."""

    public_key: str
    endpoints: tuple[Endpoint, ...]
    returns: int


class LinkReport(msgspec.Struct, frozen=True, kw_only=True):
    """The links of one machine, as its agent saw them at its last look.

    watched: how many there are. silent: longest first. quiet: those that are not heard now, and may be soon.
    waiting: those that were never heard, and are not awaited for long yet.
    """

    watched: int = 0
    silent: tuple[SilentLink, ...] = ()
    quiet: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    shared: tuple[SharedKey, ...] = ()

    @property
    def unheard_keys(self) -> frozenset[str]:
        """The public keys of all machines of which nothing comes now."""
        return frozenset((*(link.public_key for link in self.silent), *self.quiet, *self.waiting))


class _Link:
    """received: octets, as WireGuard counts; heard_at: when that grew; places: where it was, since when.

    came: whether it grew since it is watched.
    """

    __slots__ = ("came", "heard_at", "places", "received", "was_heard")

    def __init__(self, counters: Counters, now_s: float) -> None:
        self.received = counters.rx_bytes
        self.heard_at = now_s
        self.was_heard = counters.last_handshake_s is not None
        self.came = False
        self.places: tuple[
            tuple[Endpoint, float], ...
        ] = ()  # a deque takes 760 octets, and most have one place

    def note(self, counters: Counters, now_s: float) -> None:
        """A peer that only begins handshakes receives nothing: that is no answer."""
        octets = counters.rx_bytes
        more = octets - self.received if octets >= self.received else octets
        self.received = octets
        if more % INITIATION:
            self.heard_at, self.was_heard, self.came = now_s, True, True
        if more:  # or it is this machine that sends somewhere else now
            self._note_place(counters.endpoint, now_s)

    def _note_place(self, endpoint: Endpoint | None, now_s: float) -> None:
        if endpoint is not None and not (self.places and self.places[-1][0] == endpoint):
            self.places = (*self.places, (endpoint, now_s))[-MOST_PLACES:]

    def find_returns(self, now_s: float) -> tuple[tuple[Endpoint, ...], int]:
        """The places that it came back to lately, and how often it did."""
        lately = [endpoint for endpoint, since in self.places if now_s - since <= TURNS_S]
        again = [endpoint for number, endpoint in enumerate(lately) if endpoint in lately[:number]]
        return tuple(dict.fromkeys(again)), len(again)


class LinkWatch:
    """The links of one machine, over the looks of one agent.

    Its clock stands still while nobody looks: a machine that slept has not missed what it could not hear.
    """

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}
        self._looked_at: float | None = None
        self._now = 0.0
        self.report = LinkReport()

    def clear(self) -> None:
        """Forget all: these peers are none now, or nobody sees to them."""
        self._links, self._looked_at, self.report = {}, None, LinkReport()

    def note_counters(self, counters: Mapping[str, Counters], keys: Iterable[str], *, at_s: float) -> None:
        """Take what a look has seen. keys: of the peers that should be heard; at_s: on the monotonic clock.

        A peer that is new here counts as heard now.
        """
        if self._looked_at is not None:
            self._now += min(max(0.0, at_s - self._looked_at), MOST_GAP_S)
        self._looked_at = at_s
        before, links = self._links, {}
        for key in keys:
            if key not in counters:
                continue
            link = before.get(key)
            if link is None:
                link = _Link(counters[key], self._now)
            else:
                link.note(counters[key], self._now)
            links[key] = link
        self._links = links  # whole at once, for other threads
        self.report = self._build_report()

    def list_heard(self) -> frozenset[str]:
        """The public keys of peers of which something came lately, while watched. From any thread."""
        now_s = self._now
        return frozenset(
            key for key, link in self._links.items() if link.came and now_s - link.heard_at < QUIET_S
        )

    def _build_report(self) -> LinkReport:
        silent = sorted(self._list_silent(), key=lambda link: -link.silent_s)
        return LinkReport(
            watched=len(self._links),
            silent=tuple(link for link in silent if link.silent_s >= SILENT_S),
            quiet=tuple(link.public_key for link in silent if link.silent_s < SILENT_S),
            waiting=tuple(
                key
                for key, link in self._links.items()
                if not link.was_heard and self._now - link.heard_at < SILENT_S
            ),
            shared=tuple(self._list_shared()),
        )

    def _list_silent(self) -> Iterator[SilentLink]:
        for key, link in self._links.items():
            silent_s = self._now - link.heard_at
            if silent_s >= min(QUIET_S, SILENT_S):
                yield SilentLink(key, silent_s, link.was_heard)

    def _list_shared(self) -> Iterator[SharedKey]:
        for key, link in self._links.items():
            if len(link.places) > LEAST_RETURNS:
                endpoints, returns = link.find_returns(self._now)
                if returns >= LEAST_RETURNS:
                    yield SharedKey(key, endpoints, returns)
