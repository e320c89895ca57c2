"""Connections that are older than the guard, and those of a peer that is gone: cut, and no others."""

from __future__ import annotations

import functools
import logging
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes
from qmesh.host.network.sockets import tcp_connections
from tests.support import factories

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

WORKER, NEIGHBOUR = 40003, 40010
CONTROL, STRANGER, OWN = "10.77.0.1", "10.77.0.66", "10.77.0.2"


guard = functools.partial(factories.guard, kind="tun", service_port=51820, ports=(WORKER,))


class Open:
    """A connection from an address to a port of this machine, and both its ends."""

    def __init__(self, source: str, port: int, target: str = OWN) -> None:
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        with socket.create_server((target, port), family=family) as server:
            self._keep = server.dup()
            self.far = socket.create_connection((target, port), source_address=(source, 0))
            self.near, _ = server.accept()

    def lives(self) -> bool:
        """Whether a word still comes from one end to the other."""
        try:
            self.far.sendall(b"word")
            return self.near.recv(4) == b"word"
        except ConnectionError:
            return False

    def close(self) -> None:
        for each in (self.far, self.near, self._keep):
            each.close()


def furnish() -> None:
    for address in (CONTROL, STRANGER, OWN):
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)
    for address in ("fd77::1", "fd77::66"):
        subprocess.run(["ip", "address", "add", address, "dev", "lo", "nodad"], check=True)
    wait_for_local_routes("lo")


def opened(*ends: tuple[str, int]) -> Iterator[Open]:
    furnish()
    for source, port in ends:
        yield Open(source, port)


def test_g1_a_strangers_connection_to_a_worker_is_cut_and_the_control_nodes_is_not():
    strangers, controls, elsewhere = opened((STRANGER, WORKER), (CONTROL, WORKER + 1), (STRANGER, NEIGHBOUR))
    tcp_connections.close_disallowed_connections(guard(ports=(WORKER, WORKER + 1)))

    assert [each.lives() for each in (strangers, controls, elsewhere)] == [False, True, True]
    for each in (strangers, controls, elsewhere):
        each.close()


def test_g1_the_same_over_ipv6_and_on_a_socket_that_does_both():
    furnish()
    with socket.create_server(("::", WORKER), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        for source, target in (("fd77::66", "fd77::1"), (STRANGER, OWN)):
            far = socket.create_connection((target, WORKER), source_address=(source, 0))
            near, _ = server.accept()
            tcp_connections.close_disallowed_connections(guard())
            with pytest.raises(ConnectionAbortedError):
                near.recv(1)
            far.close()
            near.close()
        far = socket.create_connection((OWN, WORKER), source_address=(CONTROL, 0))
        near, _ = server.accept()
        tcp_connections.close_disallowed_connections(guard())
        far.sendall(b"x")
        assert near.recv(1) == b"x"
        far.close()
        near.close()


def test_g2_a_connection_that_began_here_at_a_workers_number_goes_on():
    furnish()
    with socket.create_server((STRANGER, 9000)) as server:
        here = socket.create_connection((STRANGER, 9000), source_address=(OWN, WORKER))
        there, _ = server.accept()
        tcp_connections.close_disallowed_connections(guard())
        here.sendall(b"x")
        assert there.recv(1) == b"x"
        here.close()
        there.close()


def test_g1_the_control_machines_own_processes_keep_their_connections():
    (own,) = opened((CONTROL, WORKER))
    tcp_connections.close_disallowed_connections(guard(role="control"))

    assert own.lives()
    own.close()


def test_e7_what_is_open_to_a_peer_that_is_gone_is_cut_and_nothing_else():
    gone, other = opened((STRANGER, NEIGHBOUR), (CONTROL, NEIGHBOUR + 1))
    tcp_connections.close_connections_from({STRANGER})

    assert [gone.lives(), other.lives()] == [False, True]
    gone.close()
    other.close()


def test_what_may_not_be_cut_is_told_of_and_no_error(caplog, monkeypatch):
    (strangers,) = opened((STRANGER, WORKER))
    monkeypatch.setattr(logging.getLogger("qmesh"), "propagate", True)
    os.seteuid(65534)
    tcp_connections.close_disallowed_connections(guard())
    os.seteuid(0)

    assert "could not cut a connection: Operation not permitted" in caplog.text
    assert strangers.lives()
    strangers.close()
