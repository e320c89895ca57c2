"""Where the agent's metrics go by themselves: a file for node_exporter, and an address for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qmesh.agent.daemon.supervisor import (
    METRICS_FILE,
    METRICS_PORT,
    AgentPart,
    Retries,
    Troubles,
    describe_error,
)
from qmesh.agent.local import Local
from qmesh.agent.metrics.collector import MetricsCollector
from qmesh.agent.metrics.directory import find_metrics_directory
from qmesh.errors import MachineRefused, QmeshError
from qmesh.host.log.events import report_event
from qmesh.host.metrics.public_file import remove_public_file, replace_public_file
from qmesh.host.network import links
from qmesh.host.pulse import Pulse
from qmesh.mesh.metrics.outlets import (
    DEFAULT_DIRECTORY,
    FILE,
    is_loopback,
    may_read_metrics,
    refuse_metrics_address,
)
from qmesh.mesh.values import Endpoint

if TYPE_CHECKING:  # few machines are asked by Prometheus itself
    from qmesh.host.metrics.http_server import MetricsServer

FILE_S: Final = 15.0
"""Seconds between two times that the file is written."""
_TICK_S: Final = 1.0


class MetricsOutlets:
    """`run` is a part's.

    get_here: what the machine remembered at the agent's last look; None before the first.
    """

    def __init__(
        self, collector: MetricsCollector, get_here: Callable[[], Local | None], troubles: Troubles
    ) -> None:
        self._collector = collector
        self._get_here = get_here
        self._troubles = troubles
        self._server: tuple[object, MetricsServer] | None = None
        self._retries = Retries()
        self._judged: Local | None = None
        """What the address was found fine for."""
        self._file_due = 0.0
        self._directory: Path | None = None
        self._asked: str | None = None
        self._written_to: Path | None = Path(DEFAULT_DIRECTORY)
        """Where the file may be: one that an agent before this one wrote as well."""
        self._tidied: Path | None = None
        self._said = ""

    @property
    def pulse(self) -> Pulse | None:
        """Of the thread that serves the address, where there is one. From any thread."""
        server = self._server
        return None if server is None else server[1].pulse

    def run(self, part: AgentPart) -> None:
        """Keep both as the settings say, until the part should end."""
        try:
            while not part.stopped.wait(_TICK_S):
                part.pulse.beat()
                here = self._get_here()
                if here is not None:
                    self._update(here)
        finally:
            self._stop_server()

    def _update(self, here: Local) -> None:
        self._keep_server(here)
        asked = here.settings.metrics_directory
        is_due = asked != self._asked or time.monotonic() >= self._file_due
        if is_due:
            self._asked, self._directory = asked, find_metrics_directory(here.settings)
        if self._server is not None or self._directory is not None or self._collector.is_wanted:
            self._collector.refresh()
        if is_due:
            self._file_due = time.monotonic() + FILE_S
            self._write_file(self._directory, is_asked=bool(asked))

    # The file

    def _write_file(self, directory: Path | None, *, is_asked: bool) -> None:
        before, self._written_to = self._written_to, directory
        try:
            if before is not None and before != directory:
                remove_public_file(before, FILE)
            if directory is not None and (text := self._collector.render()):
                replace_public_file(directory, FILE, text, is_first=directory != self._tidied)
                self._tidied = directory
        except QmeshError as error:
            self._report_file_error(error, is_asked=is_asked)
        else:
            self._said = ""
            self._troubles.clear(METRICS_FILE)

    def _report_file_error(self, error: QmeshError, *, is_asked: bool) -> None:
        """A directory that was not asked for is no trouble of this machine's: it is said once in the log."""
        if is_asked:
            self._troubles.note_error(METRICS_FILE, error)
        elif error.message != self._said:
            self._said = error.message
            report_event(
                "metrics-file-missing",
                "no metrics for node_exporter: %s (hint: %s)",
                error.message,
                error.hint,
            )

    # The address

    def _keep_server(self, here: Local) -> None:
        try:
            wanted = self._find_place(here)
        except QmeshError as error:
            self._stop_server()
            self._troubles.note_error(METRICS_PORT, error)
            return
        if self._server is not None and not self._server[1].is_alive:
            self._report_end(self._server[1].failure)
            self._stop_server()
        elif self._server is not None and self._server[0] != wanted:
            self._stop_server()
        if wanted is None:
            self._troubles.clear(METRICS_PORT)
        elif self._server is None and not self._retries.wait_s:
            try:
                self._start_server(here, wanted)
            except QmeshError as error:
                self._troubles.note_error(METRICS_PORT, error)
            else:
                self._troubles.clear(METRICS_PORT)

    def _find_place(self, here: Local) -> tuple[Endpoint, int | None] | None:
        """Where to listen now, and the number of the only interface, if one: a new one needs a new socket.

        Raises BadInput where the place is somebody else's by now.
        """
        place, settings = here.settings.metrics, here.settings
        if place is None or settings.removed:
            return None
        if here is not self._judged:
            # The mesh may have changed since that was set: the port may be a worker's.
            refuse_metrics_address(here.inventory, settings.name, place, {})
            self._judged = here
        if is_loopback(place):
            return place, None
        link = links.read(settings.interface) if settings.up and settings.guarded else None
        if link is None:
            return None
        # On the control node itself Prometheus calls by loopback, whichever address it calls.
        return place, None if settings.control else link.index

    def _start_server(self, here: Local, wanted: tuple[Endpoint, int | None]) -> None:
        from qmesh.host.metrics.http_server import MetricsServer  # noqa: PLC0415 - see above

        place, index = wanted
        server = MetricsServer(
            place,
            interface=None if index is None else here.settings.interface,
            render=self._collector.render,
            may_read=lambda peer: self._may_read(peer, place),
        )
        server.start()
        self._retries.note_start()
        self._server = wanted, server
        report_event("metrics-served", "metrics are served at http://%s/metrics", place)

    def _may_read(self, peer: str, place: Endpoint) -> bool:
        here = self._get_here()
        hubs = () if here is None else tuple(each.address for each in here.inventory.hubs)
        return may_read_metrics(peer, place, hubs)

    def _report_end(self, failure: BaseException | None) -> None:
        """It has ended by itself."""
        error = failure or MachineRefused("it ended by itself", hint="")
        self._troubles.note_error(METRICS_PORT, error)
        self._troubles.note_restart(METRICS_PORT, describe_error(error))
        self._retries.note_failure()

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server[1].stop()
            self._server = None
