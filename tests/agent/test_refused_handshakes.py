"""Which silent machines' peers are made anew: those that call, and of which WireGuard counts nothing."""

from __future__ import annotations

import base64
import logging
import socket
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from qmesh.agent.daemon import refused_handshakes
from qmesh.agent.daemon.refused_handshakes import RefusedHandshakes
from qmesh.mesh.links.activity import LinkReport, SilentLink
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.state import Counters, Peer
from qmesh.mesh.values import Secret
from tests.support.initiation import build_initiation

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWN, OTHER, STRANGER = (Secret(base64.b64encode(bytes([number]) * 32).decode()) for number in (7, 9, 11))
KEY = derive_public_key(OTHER)
PEER = Peer(public_key=KEY, allowed_ips=("10.77.0.2/32",))
PORT = 51820
SILENT = LinkReport(watched=1, silent=(SilentLink(KEY, 200.0, was_heard=True),))


class Steps:
    """In the place of `Linux`: whose session is reset, and what WireGuard would count."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.counters = {KEY: Counters(None, 0, 0, None)}
        self.backend = SimpleNamespace(
            read=lambda _: SimpleNamespace(peers=(PEER,)),
            reset_session=lambda interface, peer: self.taken.append((interface, peer)),
        )

    def has_key(self, public_key: str) -> bool:
        return public_key == derive_public_key(OWN)

    def private_key(self, _: str) -> Secret:
        return OWN


@pytest.fixture
def own() -> Any:
    machine = SimpleNamespace(public_key=derive_public_key(OWN), name="control")
    settings = SimpleNamespace(up=True, listen_port=PORT, interface="qmesh0")
    other = SimpleNamespace(public_key=KEY, name="machine-b")
    inventory = SimpleNamespace(machines=(machine, other))
    return SimpleNamespace(machine=machine, settings=settings, inventory=inventory)


def call(*keys: Secret, at: float = 2e9, port: int = PORT) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        for key in keys:
            sending.sendto(build_initiation(key.reveal(), derive_public_key(OWN), at), ("127.0.0.1", port))


def test_a_machine_whose_calls_are_not_counted_is_let_in_again_and_not_too_often(own, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    linux: Any = Steps()
    refused = RefusedHandshakes()

    def look(report: LinkReport = SILENT) -> None:
        refused.renew_refused_peers(own, linux, report)

    call(OTHER)
    look()  # from here on it is heard
    look()
    assert linux.taken == []
    call(STRANGER)
    look()
    assert linux.taken == []
    call(OTHER)
    linux.counters = {KEY: Counters(None, 148, 0, None)}  # which WireGuard has taken
    look()
    assert linux.taken == []
    call(STRANGER, OTHER, at=1e30)
    look()
    assert linux.taken == [("qmesh0", PEER)]
    assert "handshakes of machine-b, which are dated 9999-12-31" in caplog.text
    call(OTHER)
    look()
    assert len(linux.taken) == 1
    later = [time.monotonic() + refused_handshakes.AGAIN_S]
    monkeypatch.setattr(time, "monotonic", lambda: later[-1])
    call(OTHER)
    look()
    assert len(linux.taken) == 2
    later.append(later[-1] + refused_handshakes.AGAIN_S)
    call(OTHER)
    look(LinkReport(watched=1))  # none is silent: nothing is heard any more
    assert refused._receiver is None
    look()
    look()
    assert len(linux.taken) == 2
    refused.close()


def test_it_hears_the_port_that_is_the_machines_now_and_needs_no_peer_that_is_gone(own):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    linux: Any = Steps()
    refused = RefusedHandshakes()
    refused.renew_refused_peers(own, linux, SILENT)
    own.settings.listen_port = PORT + 1
    refused.renew_refused_peers(own, linux, SILENT)
    read = linux.backend.read
    linux.backend.read = lambda _: SimpleNamespace(peers=())
    call(OTHER, port=PORT + 1)
    refused.renew_refused_peers(own, linux, SILENT)
    assert linux.taken == []
    linux.backend.read = read
    call(OTHER, port=PORT + 1)
    refused.renew_refused_peers(own, linux, SILENT)
    assert linux.taken == [("qmesh0", PEER)]
    refused.close()


def test_without_the_own_key_nothing_can_be_told(own):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    linux: Any = Steps()
    refused = RefusedHandshakes()
    own.machine.public_key = KEY
    for _ in range(3):
        refused.renew_refused_peers(own, linux, SILENT)
        call(OTHER)
    assert linux.taken == []
    refused.close()
