"""What the page's browsers are told: the newest picture, and to one that comes later what was before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from qmesh.errors import QmeshError
from qmesh.mesh.page.changes import Change, describe_events, list_changes
from qmesh.mesh.page.history import AnswerHistory
from qmesh.mesh.page.picture import PagePicture, build_page_picture
from qmesh.mesh.printable_json import render_json
from qmesh.mesh.view.cluster_view import ClusterView

MOST_CHANGES: Final = 200
"""That are kept for a browser that comes later."""
BEAT_S: Final = 10.0
"""Seconds after which a browser is told at least that the server is there."""
LEAST_S: Final = 1.0
"""Seconds between two pictures, at least; of large ones, the seconds that they take at `BYTES_A_S`."""
BYTES_A_S: Final = 100_000
_RETRY: Final = b"retry: 2000\n\n"
"""Milliseconds after which a browser calls again that has lost its connection."""


class PageNews:
    """Of one event loop. It keeps one picture, however many follow and however slowly."""

    def __init__(self) -> None:
        self._picture: PagePicture | None = None
        self._trouble: dict[str, str] | None = None
        self._events: tuple[Change, ...] = ()
        self._changes: deque[tuple[int, Change]] = deque(maxlen=MOST_CHANGES)
        self._change_count = 0
        self._history = AnswerHistory()
        self._version = 0
        self._is_newer = asyncio.Condition()
        self._encoded: tuple[int, bytes] = (0, b"")

    async def note_view(self, view: ClusterView) -> None:
        """Tell what the agent says now."""
        before, picture = self._picture, build_page_picture(view)
        events = self._events if view.events is None else describe_events(view.events)
        known = set(self._events)
        self._add_changes(each for each in events if each not in known)
        if before is not None:
            self._add_changes(list_changes(before, picture))
        self._history.note_picture(picture)
        self._picture, self._events, self._trouble = picture, events, None
        await self._tell()

    async def note_trouble(self, error: QmeshError) -> None:
        """Tell why the agent says nothing."""
        trouble = {"message": error.message, "hint": error.hint}
        if trouble != self._trouble:
            self._trouble = trouble
            await self._tell()

    async def follow(self) -> AsyncGenerator[bytes, None]:
        """What one browser is told, event after event, without end."""
        version = told = 0
        yield _RETRY
        while True:
            if not await self._wait_for_newer(version):
                yield encode_event("beat", None)
                continue
            is_first, version = version == 0, self._version
            octets = self._encode_picture()
            changes = [change for number, change in self._changes if number > told]
            told = self._change_count
            if changes or is_first:
                octets += encode_event("changes", changes)
            yield octets
            if is_first:
                yield encode_event("history", self._history.samples)
            await asyncio.sleep(max(LEAST_S, len(octets) / BYTES_A_S))

    async def _wait_for_newer(self, version: int) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S), self._is_newer:
                await self._is_newer.wait_for(lambda: self._version != version)
        return self._version != version

    async def _tell(self) -> None:
        async with self._is_newer:
            self._version += 1
            self._is_newer.notify_all()

    def _add_changes(self, changes: Iterable[Change]) -> None:
        for change in changes:
            self._change_count += 1
            self._changes.append((self._change_count, change))

    def _encode_picture(self) -> bytes:
        """The same for all who follow, once a version."""
        if self._encoded[0] != self._version:
            octets = b"" if self._picture is None else encode_event("view", self._picture)
            if self._trouble is not None:
                octets += encode_event("trouble", self._trouble)
            self._encoded = (self._version, octets)
        return self._encoded[1]


def encode_event(name: str, facts: object) -> bytes:
    """A server-sent event. facts: anything that msgspec encodes; its JSON has no line of its own."""
    return f"event: {name}\ndata: {render_json(facts)}\n\n".encode("ascii")
