"""What a page of another site can do by the operator's own browser, tried in a real Chromium.

Its owner knows all ports. His names lead to this machine, as he answers for them by DNS at any moment.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from qmesh.host.metrics.http_server import MetricsServer
from qmesh.host.page import http_server
from qmesh.mesh.page.access import refuse_request
from qmesh.mesh.values import Endpoint
from tests.support.browser import Browser, find_browser, start_browser
from tests.support.page_server import ServedPage
from tests.support.skips import CANNOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not find_browser(), reason=f"{CANNOT}there is no Chromium; `scripts/install --browser` unpacks one"
)

NAMES = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebound.example 127.0.0.1"
TRY = """(async (url, events) => {
  const outcome = (promise) => promise.then((value) => value, () => "refused");
  const load = (kind, name) => outcome(new Promise((done, failed) => {
    const element = document.createElement(kind);
    element.onload = () => done("loaded");
    element.onerror = failed;
    element[kind === "link" ? "href" : "src"] = url + name;
    if (kind === "link") element.rel = "stylesheet";
    document.body.append(element);
  }));
  const follow = (source) => new Promise((done) => {
    source.onopen = source.onmessage = () => done("followed");
    source.onerror = () => done("refused");
  });
  return {
    read: await outcome(fetch(url).then((answer) => answer.text())),
    posted: await outcome(fetch(url, {method: "POST", body: "x"}).then((answer) => answer.text())),
    unread: await outcome(fetch(url, {mode: "no-cors"}).then((answer) => answer.type)),
    script: await load("script", "page.js"),
    style: await load("link", "page.css"),
    picture: await load("img", "icon.svg"),
    followed: events ? await follow(new EventSource(url + "events")) : "refused",
  };
})"""


class _EvilPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title><body>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start_browser(NAMES) as started:
        yield started


@pytest.fixture(scope="module")
def evil() -> Iterator[str]:
    """The other site's address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _EvilPage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://evil.example:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def forwarded() -> Iterator[ServedPage]:
    """As `ssh -L` leads a port of a laptop to the page's socket: there is no token to be guessed."""
    page = ServedPage(token="")
    yield page
    page.stop()


@pytest.fixture(scope="module")
def metrics() -> Iterator[int]:
    """The port of metrics at loopback."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        place = Endpoint("127.0.0.1", int(found.getsockname()[1]))
    server = MetricsServer(place, interface=None, render=lambda: b"qmesh_secret 1\n", may_read=lambda _: True)
    server.start()
    yield place.port
    server.stop()


def open_page(browser: Browser, url: str) -> str:
    """What is to be read there, shown or not."""
    browser.show(url)
    wait_until(lambda: browser.run(f"document.readyState === 'complete' && location.href === {url!r}"))
    return str(browser.run("document.documentElement.textContent"))


def test_another_site_reads_shows_and_follows_nothing_of_the_page(browser, evil, forwarded):
    open_page(browser, evil)
    own = browser.run(f"{TRY}({json.dumps(evil)}, false)")
    assert (own["unread"], own["read"][:15]) == ("basic", "<!doctype html>")  # what it may do, it can

    tried = browser.run(f"{TRY}({json.dumps(forwarded.url)}, true)")
    assert set(tried.values()) == {"refused"}, tried
    assert forwarded.server._followers == 0

    open_page(browser, forwarded.url)  # the operator himself does follow it
    wait_until(lambda: forwarded.server._followers == 1)
    open_page(browser, evil)
    wait_until(lambda: forwarded.server._followers == 0)


def test_a_frame_of_another_site_shows_nothing_of_the_page(browser, evil, forwarded, monkeypatch):
    """Where a user would press what he does not see. The header against frames: tests/host/test_page.py."""
    answered: list[int] = []

    def judge(*asked: Any) -> int:
        answered.append(refuse_request(*asked))
        return answered[-1]

    monkeypatch.setattr(http_server, "refuse_request", judge)
    open_page(browser, evil)
    frame = f"document.body.innerHTML = '<iframe id=f src=\"{forwarded.url}\"></iframe>'"
    browser.run(f"new Promise((done) => {{ {frame}; f.onload = f.onerror = done; }})")
    assert answered == [403]


@pytest.mark.parametrize("path", ["", "page.js", "events", "metrics"])
def test_a_name_that_was_led_here_by_dns_is_told_nothing(browser, forwarded, metrics, path):
    port = metrics if path == "metrics" else forwarded.port
    said = open_page(browser, f"http://rebound.example:{port}/{path}")
    assert "qmesh_secret" not in said
    assert forwarded.view.name not in said
    assert forwarded.server._followers == 0
    if path == "metrics":
        # One who takes its answer too slowly is hung up on, and asks again.
        wait_until(lambda: "qmesh_secret" in open_page(browser, f"http://127.0.0.1:{port}/{path}"))


def test_another_site_reads_no_metrics_nor_loads_them(browser, evil, metrics):
    open_page(browser, evil)
    tried = browser.run(f"{TRY}('http://127.0.0.1:{metrics}/metrics?', false)")
    assert set(tried.values()) == {"refused"}, tried
