"""`page`: the cluster in a browser. It asks this machine's agent, as any reader does, and no other thing."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from qmesh.agent.preconditions import load_checked
from qmesh.agent.readers.ask import is_reader, read_answer
from qmesh.errors import MachineRefused
from qmesh.host.page.http_server import PageServer
from qmesh.host.page.listen import HOST, open_page_port, open_page_socket
from qmesh.host.page.page_files import read_page_files
from qmesh.host.page.question_process import become_nobody
from qmesh.host.readers.client import ask_agent
from qmesh.host.state.directory import State
from qmesh.mesh.page.access import refuse_page_port
from qmesh.mesh.view.cluster_view import ClusterView

ASK_S: Final = 20.0
"""Seconds that the agent has for an answer."""
_TOKEN_BYTES: Final = 16


class PagePlace(msgspec.Struct, frozen=True):
    """Where the page is. machine: the one that serves it. url and port, or socket: one of them is None."""

    machine: str
    url: str | None
    port: int | None
    socket: str | None


def serve_page(state: State, port: int, path: Path | None, tell: Callable[[PagePlace], bool]) -> None:
    """Serve it until a signal ends it. path: of a Unix socket, in place of a port of loopback.

    state: where root asks the agent.
    tell: is called once it can be reached, and says whether to go on.
    Raises NeedsRoot where this user may not ask the agent; MachineRefused, BadInput.
    """
    is_root = not is_reader(state)
    ask_view = partial(_ask_view, state.directory if is_root else None)
    try:
        view = read_answer(ask_view(), ClusterView)
    except MachineRefused:
        if is_root:
            load_checked(state, "page")  # a machine that is in no mesh has no agent to ask
        raise
    files = read_page_files()
    if path is None:
        refuse_page_port(view, port)
        listening, clean_up = open_page_port(port), _do_nothing
        token, number = secrets.token_urlsafe(_TOKEN_BYTES), int(listening.getsockname()[1])
        place = PagePlace(view.name, f"http://{HOST}:{number}/{token}/", number, None)
    else:
        listening, clean_up = open_page_socket(path)
        token, place = "", PagePlace(view.name, None, None, str(path.absolute()))
    with listening, _ask_without_root(ask_view, clean_up, is_root=is_root) as ask:
        if tell(place):
            PageServer(listening, files, token, lambda: read_answer(ask(), ClusterView)).run()


@contextlib.contextmanager
def _ask_without_root(
    ask_view: Callable[[], bytes], clean_up: Callable[[], None], *, is_root: bool
) -> Iterator[Callable[[], bytes]]:
    """A way to ask the agent, in a process that has not root's rights from here on."""
    if is_root:
        with become_nobody(ask_view, clean_up) as ask:
            yield ask
        return
    try:
        yield ask_view
    finally:
        clean_up()


def _ask_view(directory: Path | None) -> bytes:
    return ask_agent("view", wait_s=ASK_S, directory=directory).octets


def _do_nothing() -> None:
    """A port leaves nothing behind."""
