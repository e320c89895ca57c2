"""A program that sends one request by HTTP: the agent does without what TLS takes of memory.

It reads the request from its standard input, and prints what came of it, both as JSON. The URL is in no
argument and in no environment. It follows no redirect, uses no proxy, reads a bounded part of the answer, and
accepts certificates by the system's store alone. It ends by itself where the agent no longer waits.
What reads from strangers has none of root's rights: it is user 65534 by then.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import sys
from typing import Final, TypedDict
from urllib.parse import urlsplit

from qmesh.host.notifications.tcp_race import open_first_connection
from qmesh.host.unprivileged import become_nobody

MOST_ANSWER: Final = 300
"""Bytes that are read of an answer's body; as JSON, each may be six."""
WAIT_S: Final = 20
"""Seconds for all of it."""
STEP_S: Final = 10.0
"""Seconds that the other side may take for each step of it."""
_USER_AGENT: Final = "qmesh"


class Asked(TypedDict):
    """A request, as it is read: `qmesh.mesh.notifications.formats.Request`."""

    scheme: str
    host: str
    port: int
    target: str
    headers: dict[str, str]
    body: str


def send_request(asked: Asked, *, trust: ssl.SSLContext | None = None) -> dict[str, object]:
    """POST it once: `status`, `reason`, `body` and perhaps `location` of the answer, or the `error`.

    trust: which certificates are accepted; the system's store where it is None.
    """
    said: dict[str, object] = {}
    connection, context = _build_connection(asked, trust)
    try:
        connection.sock = _connect(asked, context)
        headers = {"User-Agent": _USER_AGENT, **asked["headers"]}
        connection.request("POST", asked["target"], asked["body"].encode(), headers)
        answer = connection.getresponse()
        said |= {"status": answer.status, "reason": answer.reason[:100]}
        if 300 <= answer.status < 400:
            said["location"] = _find_host(answer.getheader("Location") or "")
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):  # the status says enough
            said["body"] = answer.read1(MOST_ANSWER).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException, ValueError) as error:
        said["error"] = describe_failure(error)
    finally:
        connection.close()
    return said


def _build_connection(
    asked: Asked, trust: ssl.SSLContext | None
) -> tuple[http.client.HTTPConnection, ssl.SSLContext | None]:
    host, port = asked["host"], asked["port"]
    if asked["scheme"] == "http":
        return http.client.HTTPConnection(host, port), None
    context = ssl.create_default_context() if trust is None else trust
    return http.client.HTTPSConnection(host, port, context=context), context


def _connect(asked: Asked, context: ssl.SSLContext | None) -> socket.socket:
    connected = open_first_connection(asked["host"], asked["port"], STEP_S)
    connected.settimeout(STEP_S)
    return connected if context is None else context.wrap_socket(connected, server_hostname=asked["host"])


def _find_host(location: str) -> str:
    """Where a redirect leads: its host only, as the rest may hold the secret."""
    try:
        return (urlsplit(location).hostname or "")[:253]
    except ValueError:
        return ""


def describe_failure(error: Exception) -> str:
    """Why no answer came, without what may be of the URL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or 'the connection was cut'}"
    if isinstance(error, socket.gaierror):
        return f"its name is not resolved: {error.strerror}"
    if isinstance(error, TimeoutError):
        return f"no answer within {STEP_S:.0f} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"its answer is not HTTP ({type(error).__name__})"


def main() -> None:
    """Read a request, send it, and print what came of it."""
    signal.alarm(WAIT_S + 5)  # whoever began it may be gone
    asked = json.load(sys.stdin)
    try:
        become_nobody()
        said = send_request(asked)
    except OSError as error:
        said = {"error": f"the sending process cannot give up root's rights: {error.strerror}"}
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
