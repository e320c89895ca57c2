"""What begins a handshake with this machine's WireGuard is heard, by both IP versions, and nothing else."""

from __future__ import annotations

import socket
import subprocess

import pytest

from qmesh.host.wireguard.initiations import InitiationReceiver
from tests.support.waiting import comes_true

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

PORT = 51820


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_only_what_begins_a_handshake_at_that_port_is_heard(family, address):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    begins, second = (b"\x01" + bytes([number]) * 147 for number in (1, 2))
    with InitiationReceiver(PORT) as hearing, socket.socket(family, socket.SOCK_DGRAM) as sending:
        for message, port in (
            (begins, PORT + 1),
            (begins[:-1], PORT),
            (begins + b"x", PORT),
            (b"\x04" + begins[1:], PORT),
            (begins, PORT),
            (second, PORT),
        ):
            sending.sendto(message, (address, port))
        heard: list[bytes] = []

        def all_are_heard():
            heard.extend(hearing.receive_messages())
            return len(heard) >= 2

        assert comes_true(all_are_heard, 5)
        assert heard == [begins, second]
        assert list(hearing.receive_messages()) == []


def test_a_header_with_options_is_as_long_as_it_says():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    begins = b"\x01" + b"x" * 147
    with InitiationReceiver(PORT) as hearing, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 8)  # No Operation
        sending.sendto(begins, ("127.0.0.1", PORT))
        assert comes_true(lambda: list(hearing.receive_messages()) == [begins], 5)


def test_once_closed_it_hears_nothing():
    hearing = InitiationReceiver(PORT)
    hearing.close()
    assert list(hearing.receive_messages()) == []
