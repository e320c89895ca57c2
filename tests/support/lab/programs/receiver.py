"""A receiver of notifications: it prints the body of each request as a line.

    receiver.py PORT [--hang]

One that hangs takes the request, says so, and never answers.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

IS_HANGING = "--hang" in sys.argv


class Handler(BaseHTTPRequestHandler):
    """Takes what is sent."""

    def do_POST(self) -> None:
        """Print it, and answer."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(body.decode(), flush=True)  # noqa: T201 - what the test reads
        if IS_HANGING:
            self.rfile.read(1)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing of it."""


print("ready", flush=True)  # noqa: T201 - likewise
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
