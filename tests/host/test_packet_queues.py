"""Programs that rules give packets to, as the kernel has them."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator

import pytest

from qmesh.host.firewall.foreign_rulesets import answer_questions, read_rulesets
from qmesh.host.firewall.packet_programs import find_queue_programs, read_packet_queues
from qmesh.host.network.netlink import open_socket
from qmesh.host.network.netlink_messages import build_request, send_request
from qmesh.mesh.foreign.lookups import Element, Lookups
from qmesh.mesh.foreign.other_hooks.packet_programs import PacketProgram
from qmesh.mesh.foreign.rulesets import build_tables
from qmesh.mesh.foreign.walk import find_drops
from tests.support.foreign_cases import DATAGRAM, find_fate

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

_NETFILTER, _QUEUE_CONFIG, _ACK = 12, 0x302, 4  # NETLINK_NETFILTER, NFNL_SUBSYS_QUEUE with NFQNL_MSG_CONFIG


@contextlib.contextmanager
def wait_at(number: int) -> Iterator[socket.socket]:
    """A program that waits at a queue. Source: linux/netfilter/nfnetlink_queue.h."""
    with open_socket(_NETFILTER) as netlink:
        bind = struct.pack("=HHBxH", 8, 1, 1, 0)  # NFQA_CFG_CMD, NFQNL_CFG_CMD_BIND
        send_request(netlink, build_request(_QUEUE_CONFIG, _ACK, struct.pack("!BBH", 0, 0, number) + bind))
        yield netlink


def test_a_program_that_waits_is_found_while_it_waits():
    assert read_packet_queues() == {}
    with wait_at(7) as netlink:
        assert read_packet_queues() == {7: netlink.getsockname()[0]}
        assert find_queue_programs() == (
            PacketProgram("7", "packet queue", (str(netlink.getsockname()[0]),)),
        )
    assert read_packet_queues() == {}


def judge() -> str:
    """What becomes of a datagram by the rules that are loaded."""
    tables, lookups = build_tables(read_rulesets()), Lookups()
    find_drops(tables, DATAGRAM, lookups=lookups)
    answers, failed = answer_questions(lookups.open)
    assert failed == ()
    assert set(answers.values()) <= {None, Element()}
    return find_fate(find_drops(tables, DATAGRAM, lookups=Lookups(answers)))


@pytest.mark.parametrize("rule", ["--queue-num 7", "--queue-num 7 --queue-bypass", "--queue-balance 7:8"])
def test_a_rule_that_gives_packets_to_a_program_is_judged_by_whether_one_waits(rule):
    words = ["iptables", "-I", "INPUT", "-j", "NFQUEUE", *rule.split()]
    subprocess.run(words, check=True, capture_output=True)
    assert judge() == ("passes" if "bypass" in rule else "drops")
    with wait_at(7):
        assert judge() == ("unclear" if "8" in rule else "passes")
