"""Messages on their way: each receiver has one at a time, in a thread of its own that ends with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

from qmesh.host.notifications.delivery import run_program, send_by_http
from qmesh.host.notifications.delivery_result import DeliveryResult
from qmesh.mesh.notifications.formats import build_request, encode_message
from qmesh.mesh.notifications.outbox import Batch
from qmesh.mesh.notifications.targets import NotifySettings
from qmesh.mesh.notifications.text import Sender
from qmesh.mesh.notifications.url import parse_web_url


class DeliveryEnd(NamedTuple):
    """What came of a message. last: the number of its last change."""

    receiver: str
    last: int
    result: DeliveryResult


class Courier:
    """Takes messages to receivers. Of one thread; what comes of them is taken by that too."""

    def __init__(self) -> None:
        self._under_way: set[str] = set()
        self._ended: queue.SimpleQueue[DeliveryEnd] = queue.SimpleQueue()

    @property
    def is_under_way(self) -> bool:
        """Whether any message is."""
        return bool(self._under_way)

    def is_busy(self, receiver: str) -> bool:
        """Whether a message to it is under way."""
        return receiver in self._under_way

    def start(self, settings: NotifySettings, receiver: str, sender: Sender, batch: Batch) -> None:
        """Send a message. It returns at once."""
        self._under_way.add(receiver)

        def run() -> None:
            result = DeliveryResult(is_delivered=False, text="qmesh itself failed")
            try:
                result = deliver(settings, receiver, sender, batch)
            finally:
                self._ended.put(DeliveryEnd(receiver, batch.last, result))

        threading.Thread(target=run, name="notification", daemon=True).start()

    def take_ended(self) -> Iterator[DeliveryEnd]:
        """What has come of messages since the last time."""
        while not self._ended.empty():
            yield self.wait_for_end()

    def wait_for_end(self) -> DeliveryEnd:
        """Wait for what comes of one of the messages that are under way."""
        ended = self._ended.get()
        self._under_way.discard(ended.receiver)
        return ended


def deliver(settings: NotifySettings, receiver: str, sender: Sender, batch: Batch) -> DeliveryResult:
    """Send one message to one receiver; it takes half a minute at most."""
    if receiver == settings.program_identifier and settings.program is not None:
        return run_program(settings.program, encode_message(sender, batch))
    target = next(each for each in settings.targets if each.identifier == receiver)
    return send_by_http(build_request(target, sender, batch), parse_web_url(target.url.reveal()))


def describe_receiver(settings: NotifySettings, receiver: str) -> str:
    """A receiver as it is shown: the origin of its URL, or the program."""
    for each in settings.targets:
        if each.identifier == receiver:
            return parse_web_url(each.url.reveal()).origin
    return (settings.program or "") if receiver == settings.program_identifier else "a receiver that is gone"
