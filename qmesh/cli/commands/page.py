"""`qmesh page`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, file_option, print_answer
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import BadInput
from qmesh.mesh.page.access import DEFAULT_PORT

if TYPE_CHECKING:
    from qmesh.agent.commands.page import PagePlace

EXAMPLES = (
    "qmesh page",
    "ssh -t -L 9587:127.0.0.1:9587 fra-1 sudo qmesh page",
    "qmesh page --socket /run/user/1000/qmesh.sock",
)


def command(
    port: Annotated[
        int | None,
        typer.Option(
            help="Serve it at this port of 127.0.0.1; 0 for any.",
            min=0,
            max=65535,
            show_default=str(DEFAULT_PORT),
        ),
    ] = None,
    socket: Annotated[
        Path | None,
        file_option("--socket", help="Serve it at this Unix socket instead, for its user alone."),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Serve a page for a browser: the cluster as a picture, live, until Ctrl-C.

    It shows machines, tunnels, workers and their answer times, findings with their fixes, and what changed.
    No command can be given by it. From your own computer it is reached via `ssh -L`.

    The address that it prints has a token: other users of this machine do not know it. Root can run it, and
    the members of the group that `qmesh set --readers` names.
    """
    from qmesh.agent.commands.page import serve_page
    from qmesh.host.state.directory import State

    if port is not None and socket is not None:
        raise BadInput("--port and --socket do not go together", hint="use one of the two")

    def tell(place: PagePlace) -> bool:
        print_answer(place, as_json=as_json, text=_render_text)
        return find_stdout_failure() is None

    serve_page(State(state), DEFAULT_PORT if port is None else port, socket, tell)


def _render_text(place: PagePlace) -> str:
    if place.url is None:
        forward = f"ssh -L {DEFAULT_PORT}:{place.socket} {place.machine}"
        where = f"the page is at the socket {place.socket}, until Ctrl-C"
        return f"{where}\non your computer: `{forward}`, then open http://localhost:{DEFAULT_PORT}/"
    forward = f"ssh -L {place.port}:127.0.0.1:{place.port} {place.machine}"
    return f"{place.url}\non your computer: `{forward}`, then open that address there; Ctrl-C ends the page"
