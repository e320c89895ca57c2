"""The page's own server in a thread, with views that a test chooses."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from qmesh.errors import MachineRefused
from qmesh.host.page.http_server import PageServer
from qmesh.host.page.listen import HOST, open_page_port
from qmesh.host.page.page_files import read_page_files
from qmesh.mesh.view.cluster_view import ClusterView
from tests.support.page_views import build_view
from tests.support.waiting import patience

TOKEN: Final = "t0ken"


class ServedPage:
    """At a free port of loopback. view, error: what it is told when it asks the next time.

    It asks at its start as well, and is answered when somebody has looked at `port`, or at `url`: what a test
    sets before that is all that it shows.
    token: empty for what `ssh -L` forwards to a port from a socket.
    """

    def __init__(self, view: ClusterView | None = None, *, token: str = TOKEN) -> None:
        self.view = view or build_view()
        self.error: MachineRefused | None = None
        self.listening = open_page_port(0)
        self._token = token
        self._is_wanted = threading.Event()
        self.server = PageServer(self.listening, read_page_files(), token, self._find_view)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    @property
    def port(self) -> int:
        self._is_wanted.set()
        return int(self.listening.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/{f'{self._token}/' if self._token else ''}"

    def _find_view(self) -> ClusterView:
        self._is_wanted.wait()
        if self.error is not None:
            raise self.error
        return self.view

    def tell(self, view: ClusterView) -> None:
        """Have who follows be told it now."""
        self.view = view
        telling = self.server.news.note_view(view)
        asyncio.run_coroutine_threadsafe(telling, self.server.loop).result(patience(30))

    def stop(self) -> None:
        self._is_wanted.set()
        self.server.stop()
        self._thread.join(patience(30))
        assert not self._thread.is_alive()
        self.listening.close()
