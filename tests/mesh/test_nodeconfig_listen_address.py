"""Where a core's worker is to listen, by its entry in the worker list."""

from __future__ import annotations

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import find_listen_address, list_wide_ports

ENTRIES = ("/ip4/10.77.0.1/tcp/40000", "/ip4/10.77.0.2/tcp/40001", "/ip6/fd00:77::3/tcp/40002")


def config(*entries: str, more: str = "") -> str:
    lines = "".join(f"    - {entry}\n" for entry in entries)
    return f"engine:\n  maxFrames: -1\n{more}  dataWorkerMultiaddrs:\n{lines}"


def refused(core: int, text: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        find_listen_address(core, text)
    return caught.value


@pytest.mark.parametrize("more", ["", "  autoMergeCoins: true\n"], ids=["1.4", "2.0"])
@pytest.mark.parametrize(
    ("core", "place"), [(1, ("10.77.0.1", 40000)), (2, ("10.77.0.2", 40001)), (3, ("fd00:77::3", 40002))]
)
def test_a_core_listens_at_the_entry_of_its_number(core: int, place: tuple[str, int], more: str) -> None:
    assert find_listen_address(core, config(*ENTRIES, more=more)) == place


def test_a_core_beyond_the_list_is_told_where_the_list_ends() -> None:
    error = refused(4, config(*ENTRIES))
    assert error.message == "core 4 is not in the worker list, which ends with core 3"
    assert "qmesh status" in error.hint


@pytest.mark.parametrize(
    "text",
    ["engine:\n  maxFrames: -1\n", "engine:\n  dataWorkerMultiaddrs: []\n", "p2p:\n  minPeers: 3\n", ""],
)
def test_without_a_list_there_is_no_worker(text: str) -> None:
    error = refused(1, text)
    assert error.message == "config.yml has no workers below engine.dataWorkerMultiaddrs"
    assert "qmesh render-config --write" in error.hint


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("/ip4/0.0.0.0/tcp/40000", "every address of this machine"),
        ("/ip6/::/tcp/40000", "every address of this machine"),
        ("/ip4/127.0.0.1/tcp/40000", "reachable only from this machine itself"),
        ("/ip6/::1/tcp/40000", "reachable only from this machine itself"),
        ("/ip4/224.0.0.1/tcp/40000", "not the address of one machine"),
    ],
)
def test_an_entry_that_no_other_machine_reaches_or_everybody_does_is_refused(entry: str, what: str) -> None:
    error = refused(1, config(entry))
    assert error.message.startswith("core 1 would listen on ")
    assert error.message.endswith(f", which is {what}")


@pytest.mark.parametrize("entry", ["<WORKER_IP>", "/dns4/machine-b/tcp/40000", "/ip4/10.77.0.1/udp/40000"])
def test_what_is_no_workers_address_is_refused(entry: str) -> None:
    assert "is not a data worker's multiaddr" in refused(1, config(entry)).message


def test_a_text_that_does_not_load_is_refused_with_its_place() -> None:
    assert "line 2" in refused(1, "engine:\n\t- x\n").message


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", ()),
        ("listenGrpcMultiaddr: ''\nlistenRESTMultiaddr:\n", ()),
        ("listenGrpcMultiaddr: /ip4/0.0.0.0/tcp/8447\n", (8447,)),
        ("listenGRPCMultiaddr: /ip4/0.0.0.0/tcp/8447\n", (8447,)),
        ("listenGrpcMultiaddr: /ip4/127.0.0.1/tcp/8447\n", ()),
        ("listenGrpcMultiaddr: /ip4/192.168.0.5/tcp/8447\n", ()),
        # The Rust node replaces these by every address.
        ("listenGrpcMultiaddr: /ip6/::1/tcp/8447\n", (8447,)),
        ("listenGrpcMultiaddr: /dns4/localhost/tcp/8447\n", (8447,)),
        ("listenGrpcMultiaddr: /ip4/0.0.0.0/tcp/8447/http\n", (8447,)),
        ("listenRESTMultiaddr: /ip6/::/tcp/8448\nlistenGrpcMultiaddr: /ip4/0.0.0.0/tcp/443\n", (443, 8448)),
        ("listenRestMultiaddr: '/ip4/0.0.0.0/tcp/8448'\n", (8448,)),
        ("listenRESTMultiaddr: [/ip4/0.0.0.0/tcp/8448]\n", ()),
        ("listenRESTMultiaddr: &x /ip4/0.0.0.0/tcp/8448\nlistenGrpcMultiaddr: *x\n", (8448,)),
        (
            "listenGrpcMultiaddr: /ip4/0.0.0.0/tcp/8447\nlistenGRPCMultiaddr: /ip4/0.0.0.0/tcp/8448\n",
            (8447, 8448),
        ),
        ("- listenRESTMultiaddr: /ip4/0.0.0.0/tcp/8448\n", ()),
        ("listenRESTMultiaddr: /ip4/0.0.0.0/tcp/0\n", ()),
        ("listenRESTMultiaddr: /ip4/0.0.0.0/tcp/65536\n", ()),
        ("listenRESTMultiaddr: /ip4/0.0.0.0/tcp/123456\n", ()),
        ("listenRESTMultiaddr: /ip4/0.0.0.0/udp/8448\n", ()),
        # To this one the node mostly dials.
        ("engine:\n  statsMultiaddr: /dns/stats.example.org/tcp/443\n", ()),
        ("engine:\n  statsMultiaddr: /ip4/203.0.113.5/tcp/443\n", ()),
        ("engine:\n  statsMultiaddr: /ip4/0.0.0.0/tcp/9100\n", (9100,)),
        ("engine:\n  statsMultiaddr: /ip6/::/tcp/9100\n", (9100,)),
        ("explorer:\n  enabled: true\n  listenAddr: 0.0.0.0:6601\n", (6601,)),
        ("explorer:\n  enabled: True\n  listenAddr: '[::]:6601'\n", (6601,)),
        ("explorer:\n  enabled: true\n  listenAddr: ':6601'\n", (6601,)),
        ("explorer:\n  enabled: true\n  listenAddr: 127.0.0.1:6601\n", ()),
        ("explorer:\n  enabled: true\n", ()),
        ("explorer:\n  enabled: false\n  listenAddr: 0.0.0.0:6601\n", ()),
        ("explorer:\n  listenAddr: 0.0.0.0:6601\n", ()),
        ("explorer: 0.0.0.0:6601\n", ()),
    ],
)
def test_the_ports_at_which_the_node_serves_anyone_are_found(text: str, ports: tuple[int, ...]) -> None:
    assert list_wide_ports(text) == ports


def test_of_a_file_that_does_not_load_no_port_is_guessed() -> None:
    with pytest.raises(BadInput):
        list_wide_ports("listenGrpcMultiaddr: [")
