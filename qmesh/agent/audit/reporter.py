"""A member's end: where the control node asks for it, this machine checks itself in a child and reports.

The child is the command `qmesh check --json`, with limits, so that whatever it meets is no concern of the
agent. There is one at a time, and one in some seconds at most, however often it is asked for.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import time
from typing import Annotated, Final

import msgspec

from qmesh.agent.control_client import build_client
from qmesh.agent.limited_command import COMMAND_S, run_limited_command
from qmesh.agent.local import Local, load_local
from qmesh.errors import EnrolmentRefused, QmeshError
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State
from qmesh.mesh.audit.findings import Finding, failed_check_finding
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.protocol.aead import NONCE_OCTETS
from qmesh.mesh.protocol.findings_report import FindingsReport, encrypt_report, is_request_id

MOST_OUTPUT: Final = 4 << 20
LEAST_S: Final = 3.0
"""Seconds between the beginnings of two checks, at least."""
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 10.0


class CheckAnswer(msgspec.Struct, frozen=True):
    """What `check --json` prints."""

    findings: tuple[Finding, ...]
    revision: Annotated[int, msgspec.Meta(ge=0)] = 0


class _CheckRefusal(msgspec.Struct, frozen=True):
    error: str
    hint: str


class FindingsReporter:
    """Answers the control node's requests, each in a thread that ends with it."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._request = ""
        self._is_running = False
        self._begun = -LEAST_S

    def answer_request(self, request: str) -> None:
        """Have this machine checked, and the findings reported. It returns at once. From any thread.

        request: which one it is, as the control node says; what is no request, or was one before, is ignored.
        """
        with self._lock:
            if not is_request_id(request) or request == self._request:
                return
            self._request = request
            if self._is_running:
                return  # which answers the newest one
            self._is_running = True
        threading.Thread(target=self._run, name="findings", daemon=True).start()

    def _run(self) -> None:
        answered = ""
        while True:
            with self._lock:
                request = self._request
                if request in {answered, ""}:
                    self._is_running = False
                    return
            time.sleep(max(0.0, self._begun + LEAST_S - time.monotonic()))
            self._begun = time.monotonic()
            answered = request
            try:
                self._report(request)
            except (QmeshError, ControlNodeUnavailable, OSError) as error:
                report_event(
                    "findings-not-reported",
                    "the findings could not be reported to the control node: %s",
                    error,
                )
                self._forget(request)
            except Exception as error:  # noqa: BLE001 - logged
                what = "the findings could not be reported to the control node"
                report_event("findings-not-reported", what, error=error)
                self._forget(request)

    def _forget(self, request: str) -> None:
        """Answer that request once more, where it is made again."""
        with self._lock:
            if self._request == request:
                self._request = ""

    def _report(self, request: str) -> None:
        report = run_check(self._state)
        here = load_local(self._state)
        _send_report(here, report, request)


def _send_report(here: Local, report: FindingsReport, request: str) -> None:
    shared = here.preshared.get(here.inventory.control_node.public_key)
    if shared is None or here.settings.control:
        return
    sealed = encrypt_report(report, request, shared, nonce=secrets.token_bytes(NONCE_OCTETS))
    with contextlib.suppress(EnrolmentRefused):  # it came too late, or the control node is another one
        build_client(here).report_findings(sealed, connect_s=_CONNECT_S, read_s=_ANSWER_S)


def run_check(state: State) -> FindingsReport:
    """What `qmesh check` says of this machine, by a child with limits. It always comes to an end."""
    said, code = run_limited_command(state, "check", "--json", most_octets=MOST_OUTPUT)
    return read_answer(said, code=code)


def read_answer(said: bytes, *, code: int) -> FindingsReport:
    """The report of what a child printed. code: with which it ended."""
    with contextlib.suppress(Malformed):
        answer = decode_json(said, CheckAnswer)
        return FindingsReport(revision=answer.revision, findings=answer.findings)
    why, cure = f"its check ended with code {code}, and without an answer", "run `qmesh check` there"
    if code == -signal.SIGKILL:
        why = f"its check was ended: it took longer than {COMMAND_S:.0f} s, or that machine's memory is short"
    with contextlib.suppress(Malformed):
        refusal = decode_json(said, _CheckRefusal)
        why, cure = refusal.error, refusal.hint
    return FindingsReport(revision=0, findings=(failed_check_finding("check", why, cure),))
