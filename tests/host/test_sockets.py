"""The TCP sockets of a machine: the same by sock_diag and by /proc, which a kernel without that has still."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from qmesh.host.network.sockets import sock_diag, socket_lists
from qmesh.host.network.sockets.socket_lists import ESTABLISHED, LISTENING

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

BOTH = {LISTENING, ESTABLISHED}


@contextlib.contextmanager
def furnished() -> Iterator[set[tuple[str, str]]]:
    """Sockets of each kind; what has to be seen of them: state and own address."""
    with (
        socket.create_server(("127.0.0.1", 40000)) as server,
        socket.create_server(("::1", 40001), family=socket.AF_INET6),
        socket.create_server(("::", 40002), family=socket.AF_INET6, dualstack_ipv6=True) as both,
        socket.create_server(("0.0.0.0", 40003)),  # noqa: S104
        socket.create_connection(("127.0.0.1", 40000)),
        socket.create_connection(("127.0.0.1", 40002)),
        server.accept()[0],
        both.accept()[0],
    ):
        yield {
            *((LISTENING, address) for address in ("127.0.0.1", "::1", "::", "0.0.0.0")),  # noqa: S104
            (ESTABLISHED, "127.0.0.1"),
        }


@pytest.mark.parametrize("states", [{LISTENING}, {ESTABLISHED}, BOTH], ids=["listen", "established", "both"])
def test_sock_diag_and_proc_tell_the_same_of_each_socket(states):
    with furnished() as there:
        found = list(socket_lists.select_tcp_sockets(states))
        listed = list(socket_lists._select_listed("tcp", lambda state, *_: state in states))
    assert {(each.state, each.local) for each in found} == {each for each in there if each[0] in states}
    assert sorted(found, key=repr) == sorted(listed, key=repr)


def test_only_what_is_wanted_is_told():
    with (
        socket.create_server(("127.0.0.1", 40000)) as server,
        socket.create_connection(("127.0.0.1", 40000)) as call,
    ):
        port = call.getsockname()[1]
        wanted = socket_lists.select_tcp_sockets(
            BOTH, lambda state, at, to: (state, at, to) == (ESTABLISHED, port, 40000)
        )
        assert [(each.port, each.remote, each.remote_port) for each in wanted] == [(port, "127.0.0.1", 40000)]
        server.accept()[0].close()


def test_a_kernel_without_sock_diag_tells_the_same_by_proc(monkeypatch):
    with furnished() as there:
        found = list(socket_lists.select_tcp_sockets(BOTH))
        monkeypatch.setattr(sock_diag, "SOCK_DIAG", 99)  # a protocol of netlink that there is not
        with pytest.raises(OSError, match="not supported"):
            sock_diag.request_tcp_sockets([1])
        assert sorted(socket_lists.select_tcp_sockets(BOTH), key=repr) == sorted(found, key=repr)
        listening = {(each.state, each.local) for each in socket_lists.list_listening_sockets()}
    assert listening == {each for each in there if each[0] == LISTENING}


def test_an_answer_of_sock_diag_that_breaks_off_is_asked_of_proc(monkeypatch):
    def cut_off(states):
        return [message[:40] for message in request(states)]

    request = sock_diag.request_tcp_sockets
    with furnished():
        found = list(socket_lists.select_tcp_sockets(BOTH))
        monkeypatch.setattr(sock_diag, "request_tcp_sockets", cut_off)
        assert sorted(socket_lists.select_tcp_sockets(BOTH), key=repr) == sorted(found, key=repr)
