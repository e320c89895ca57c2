"""A real Chromium without a screen, driven by its DevTools protocol over two pipes: no library is needed.

`scripts/install --browser` unpacks one. Tests that need it are skipped where there is none.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.support.checkout import CHECKOUT
from tests.support.waiting import patience

UNPACKED: Final = CHECKOUT / ".cache/chromium"
PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chrome-headless-shell")
_PIECE: Final = 1 << 20
_OPTIONS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # root has none; the pages are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--force-color-profile=srgb",
)


class InstalledBrowser(NamedTuple):
    """A program, and the folders with libraries that it needs besides the machine's."""

    program: Path
    libraries: tuple[Path, ...] = ()


def find_browser() -> InstalledBrowser | None:
    """The unpacked one, or one of the machine's; None where there is neither."""
    program = UNPACKED / "usr/lib/chromium/chromium-headless-shell"
    if program.is_file():
        folders = sorted((UNPACKED / "usr/lib").glob("*-linux-gnu*"))
        return InstalledBrowser(program, (*folders, *(folder / "pulseaudio" for folder in folders)))
    return next((InstalledBrowser(Path(path)) for path in map(shutil.which, PROGRAMS) if path), None)


class BrowserFailed(Exception):
    """What the browser, or a script of the page, says that went wrong."""


class Browser:
    """One window. Sizes are in CSS pixels."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, answers: int) -> None:
        self._process = process
        self._commands = commands
        self._answers = answers
        self._numbers = itertools.count(1)
        self._octets = b""
        self._session = ""
        self.events: deque[dict[str, Any]] = deque(maxlen=10_000)

    def open_window(self) -> None:
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, /, *, wait_s: float = 30.0, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + patience(wait_s)
        while True:
            found = self._read(until)
            if found.get("id") != number:
                self.events.append(found)
            elif "error" in found:
                raise BrowserFailed(f"{method}: {found['error']}")
            else:
                result: dict[str, Any] = found["result"]
                return result

    def _read(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._octets:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            octets = os.read(self._answers, _PIECE) if ready else b""
            if not octets:
                raise BrowserFailed("it does not answer" if not ready else "it has ended")
            self._octets += octets
        line, _, self._octets = self._octets.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self, expression: str) -> Any:
        """The value of a script's expression, awaited where it is a promise."""
        found = self.ask(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            allowUnsafeEvalBlockedByCSP=False,
        )
        if "exceptionDetails" in found:
            raise BrowserFailed(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def set_size(self, width: int, height: int, *, is_phone: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )

    def set_media(self, **features: str) -> None:
        """Such as `prefers_color_scheme="dark"`."""
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.ask("Emulation.setEmulatedMedia", features=named)

    def show(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37, "End": 35, "Home": 36}
        words: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        text: dict[str, Any] = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **words, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **words)

    def take_picture(self, *, is_whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        return base64.b64decode(found["data"])

    def list_complaints(self) -> list[str]:
        """What the browser said of the page: refused by its policy, scripts that failed, errors."""
        self.run("0")  # all that was said before has arrived then
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Log.entryAdded" and parameters["entry"]["level"] in {"error", "warning"}:
                found.append(parameters["entry"]["text"])
            elif method == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"])[:500])
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "warning"}:
                found.append(str(parameters["args"]))
        return found


def _move_up(descriptor: int) -> int:
    """The same under a higher number: it is going to be 3 or 4, and must not be one of them before."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def start_browser(*options: str) -> Iterator[Browser]:
    """A browser of its own, with a profile that is gone afterwards. Raises BrowserFailed without one.

    options: of Chromium, besides `_OPTIONS`.
    """
    found = find_browser()
    if found is None:
        raise BrowserFailed("there is no Chromium here: `scripts/install --browser` unpacks one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, contextlib.ExitStack() as stack:
        take, commands = os.pipe()
        answers, give = os.pipe()
        take, give = _move_up(take), _move_up(give)
        stack.callback(os.close, commands)
        stack.callback(os.close, answers)
        libraries = ":".join(map(str, found.libraries))
        environment = {**os.environ, "HOME": profile, **({"LD_LIBRARY_PATH": libraries} if libraries else {})}
        program = [str(found.program), *_OPTIONS, *options, f"--user-data-dir={profile}", "about:blank"]
        # By their names: dash knows no number beyond 9.
        shell = ["sh", "-c", f'exec "$@" 3</dev/fd/{take} 4>/dev/fd/{give}', "sh", *program]
        process = subprocess.Popen(
            shell,
            pass_fds=(take, give),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(take)
        os.close(give)
        try:
            browser = Browser(process, commands, answers)
            browser.open_window()
            yield browser
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
