"""Metrics over HTTP, for Prometheus: one path, at one address, in a thread of its own.

Its connections are the membership service's, with bounds of its own: every user of the machine may ask, from
as many addresses of loopback as he likes, and must neither take all descriptors of the agent nor keep
Prometheus out: of the user who has most connections, the oldest gives way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

from qmesh.errors import QmeshError
from qmesh.host.api.connections import ConnectionLimits, Connections
from qmesh.host.api.exchange import HttpRequest, Response
from qmesh.host.metrics.caller_owner import CallerOwners
from qmesh.host.metrics.listen import open_listener
from qmesh.host.pulse import Pulse
from qmesh.host.system import heartbeat
from qmesh.mesh.metrics.outlets import is_wanted_host
from qmesh.mesh.metrics.text_format import MEDIA_TYPE
from qmesh.mesh.values import Endpoint

PATH: Final = "/metrics"
MOST_CONNECTIONS: Final = 32
MOST_A_SECOND: Final = 500
"""Connections: a user of the machine who asks without end has a fifth of a processor of the agent's."""
LIMITS: Final = ConnectionLimits(
    a_peer=MOST_CONNECTIONS,
    in_all=MOST_CONNECTIONS,
    request_s=5.0,
    taken_s=10.0,
    gives_way=True,
    a_second=MOST_A_SECOND,
)
_SHUT: Final = (("x-content-type-options", "nosniff"), ("cross-origin-resource-policy", "same-origin"))
"""So that no page of another site has a browser load them as a script, a picture or anything else."""
_STOP_S: Final = 5.0
_GRACE_S: Final = 1.0
_TICK_S: Final = 0.2


class MetricsServer:
    """Listens from the beginning, serves from `start` to `stop`.

    place: an address of this machine. interface: the only one by which it is reached; None for any.
    render: gives the text; may block. may_read: whether one who calls from an address may have it.
    Raises KernelRefused where it cannot listen there.
    """

    def __init__(
        self,
        place: Endpoint,
        *,
        interface: str | None,
        render: Callable[[], bytes],
        may_read: Callable[[str], bool],
    ) -> None:
        self._place = place
        self._render = render
        self._may_read = may_read
        self.pulse = Pulse()
        self.failure: BaseException | None = None
        """What ended it, where it was not `stop`."""
        self._is_over = False
        self._socket = open_listener(place, interface)
        self._thread = threading.Thread(target=self._run, name="metrics over HTTP", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it, and wait until it has ended. One that hangs is left to the end of this process."""
        self._is_over = True
        if self._thread.ident is not None:
            with heartbeat.allow_wait(_STOP_S):
                self._thread.join(_STOP_S)
        self._socket.close()

    def _run(self) -> None:
        self.pulse.attach_thread()
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - who keeps it asks what ended it
            self.failure = error
        finally:
            self.pulse.detach_thread()

    async def _serve(self) -> None:
        self._turn = asyncio.Semaphore()
        owners = CallerOwners()
        connections = Connections(self._socket, self._answer, _refuse, LIMITS, owners.find_owner)
        connections.start_accepting()
        try:
            while self.tick():  # noqa: ASYNC110 - another thread has it end
                await asyncio.sleep(_TICK_S)
        finally:
            await connections.shut_down(grace_s=_GRACE_S)
            owners.close()

    def tick(self) -> bool:
        """Show that it goes on; whether it is to."""
        self.pulse.beat()
        return not self._is_over

    async def _answer(self, question: HttpRequest) -> Response:
        if not is_wanted_host(question.host.decode("ascii", "replace"), self._place):
            return Response(421)
        if not self._may_read(question.peer.address):
            return Response(403)
        if question.path != PATH:
            return Response(404)
        if question.method != "GET":
            return Response(405, headers=(("allow", "GET"),))
        async with self._turn:
            text = await asyncio.to_thread(self._render)
        return Response(200, text, MEDIA_TYPE, headers=_SHUT) if text else Response(503)


def _refuse(_: QmeshError) -> Response:
    return Response(400)
