"""Connections that are older than the guard: nothing of them arrives, nothing is answered, they are cut."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from qmesh.mesh.guard.render import render_held_table
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import HELD, TABLE
from qmesh.mesh.state import Guard
from tests.support.lab.cluster import CONFIG, invite, make_control, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.mesh import ip
from tests.support.lab.probe import QUIET_SECONDS, Place
from tests.support.waiting import patience

pytestmark = pytest.mark.lab

WORKER, NEIGHBOUR = 40003, 40010


def guard_of(role: str, table: str) -> str:
    guard = Guard(
        role="control" if role == "control" else "worker",
        interface="qmesh0",
        kind="tun",
        listen_port=51820,
        control_address="10.77.0.1",
        service_port=51820,
        ports=(WORKER,),
    )
    if table == TABLE:
        return render_load_script(guard)
    return render_held_table(guard).replace("\tflags owner\n", "")


class Conversation:
    """A TCP connection between two places, held open."""

    def __init__(self, asking: Place, answering: Place, host: str, port: int) -> None:
        server = answering.socket("tcp", socket.AF_INET)
        server.bind(("0.0.0.0", port))  # noqa: S104
        server.listen()
        server.settimeout(patience(5))
        self.asker = asking.socket("tcp", socket.AF_INET)
        self.asker.settimeout(patience(5))
        self.asker.connect((host, port))
        self.answerer, _ = server.accept()
        for end in (self.asker, self.answerer):
            end.settimeout(patience(5) if port == NEIGHBOUR else QUIET_SECONDS)
        self._server = server

    def says(self, speaker: socket.socket) -> bool:
        """Whether what one end says now arrives at the other."""
        speaker.send(b"word\n")
        with contextlib.suppress(OSError):
            return bool((self.answerer if speaker is self.asker else self.asker).recv(100))
        return False

    def close(self) -> None:
        for each in (self._server, self.asker, self.answerer):
            each.close()


@contextlib.contextmanager
def conversations(asking: Place, answering: Place, host: str) -> Iterator[tuple[Conversation, Conversation]]:
    """With the worker, and at a port of no worker."""
    with contextlib.ExitStack() as stack:
        made = []
        for port in (WORKER, NEIGHBOUR):
            made.append(Conversation(asking, answering, host, port))
            stack.callback(made[-1].close)
        yield made[0], made[1]


@contextlib.contextmanager
def place(machine: Machine, netns: str = "") -> Iterator[Place]:
    found = Place(machine, netns)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def worker(lab: Lab) -> Machine:
    return lab.machine("machine-b", "192.168.0.201")


@pytest.fixture
def attacker(lab: Lab) -> Machine:
    return lab.machine("machine-x", "192.168.0.240")


TRACKED = "table inet theirs { chain c { type filter hook input priority 0; ct state established accept; }; }"


@pytest.mark.parametrize("table", [TABLE, HELD])
@pytest.mark.parametrize("role", ["worker", "control"])
@pytest.mark.parametrize("theirs", [TRACKED, ""], ids=["tracked", "untracked"])
def test_g1_a_worker_says_nothing_more_to_whoever_was_there_before_the_guard(
    worker, attacker, role, table, theirs
):
    worker.run(["nft", "-f", "-"], input=theirs)
    with place(attacker) as there, place(worker) as here, conversations(there, here, worker.ipv4) as both:
        for each in both:
            assert each.says(each.answerer)
        worker.run(["nft", "-f", "-"], input=guard_of(role, table))
        assert [each.says(each.answerer) for each in both] == [False, True]
        assert [each.says(each.asker) for each in both] == [False, True]


@pytest.mark.parametrize("table", [TABLE, HELD])
def test_g1_a_container_does_not_take_up_a_connection_that_is_older_than_the_guard(worker, attacker, table):
    worker.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    worker.run(["ip", "netns", "add", "container"])
    ip(
        worker,
        "link add docker0 type bridge forward_delay 0",
        "addr add 172.17.0.1/16 dev docker0",
        "link set docker0 up",
        "link add veth1 type veth peer name eth0 netns container",
        "link set veth1 master docker0 up",
    )
    inside = "addr add 172.17.0.2/16 dev eth0\nlink set eth0 up\nroute add default via 172.17.0.1\n"
    worker.run(["ip", "-n", "container", "-batch", "-"], input=inside)
    ip(attacker, f"route add 172.17.0.0/16 via {worker.ipv4}")
    with (
        place(attacker) as there,
        place(worker, "container") as here,
        conversations(there, here, "172.17.0.2") as both,
    ):
        worker.run(["nft", "-f", "-"], input=guard_of("worker", table))
        for each in both:
            each.says(each.answerer)
        assert [each.says(each.asker) for each in both] == [False, True]


def test_g1_join_cuts_who_was_connected_to_a_worker_and_says_so(lab, worker, attacker):
    control = make_control(lab)
    invite(control, worker, "--workers", "4")
    worker.run(["mkdir", "-p", CONFIG])
    with place(attacker) as there, place(worker) as here, conversations(there, here, worker.ipv4) as both:
        said = qmesh(worker, "join", "invitation", "--config", CONFIG).stderr
        assert f"cut the connection of {attacker.ipv4} port" in said
        with pytest.raises(ConnectionAbortedError):
            both[0].answerer.recv(1)
        assert both[1].says(both[1].asker)
