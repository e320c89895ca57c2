"""Each rule of lint on a file as people have it: place, severity and message."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.nodeconfig import ExpectedMesh, lint_config
from qmesh.mesh.values import PROFILES, Profile
from tests.support.config_files import corpus, random_edit

HEX = "0badc0de5ec12e7f"
MESH = ExpectedMesh(
    network="10.77.0.0/20",
    own="10.77.0.1",
    members={"control": "10.77.0.1", "machine-b": "10.77.0.2", "machine-c": "10.77.0.3"},
    workers=(
        *(f"/ip4/10.77.0.1/tcp/{port}" for port in (40000, 40001)),
        *(f"/ip4/10.77.0.2/tcp/{port}" for port in (40002, 40003, 40004)),
        "/ip4/10.77.0.3/tcp/40005",
    ),
)
RIGHT = "".join(f"  - {worker}\n" for worker in MESH.workers)


def found(text: str, profile: Profile = "2.0", mesh: ExpectedMesh | None = None, **ports: Any) -> list[str]:
    """Each problem as it is shown, with what cures it marked by a star."""
    problems = lint_config(text, profile=profile, mesh=mesh, **ports)
    for problem in problems:
        assert problem.hint
        assert problem.message.isprintable()
    return [
        f"{each.line}:{each.column} {each.severity}{'*' if each.cured else ''} {each.message}"
        for each in problems
    ]


KEYS = {
    "the tutorial's misspelling": (
        "2.0",
        """\
        p2p:
          listenMultiaddr: /ip4/0.0.0.0/udp/8336/quic-v1
        engine:
          # added as the guide says
          dataWorkersMultiaddrs:
          - /ip4/10.77.0.1/tcp/40000
        """,
        ["5:3 warning `dataWorkersMultiaddrs` is misspelt: node 2.0 ignores it silently"],
    ),
    "the wrong letter case": (
        "1.4",
        "engine:\n  filter: ffff\n  dataworkerMultiaddrs: []\n",
        ["3:3 warning `dataworkerMultiaddrs` is misspelt: node 1.4 ignores it silently"],
    ),
    "without its s": (
        "2.0",
        "engine:\n  dataWorkerMultiaddrs: []\n  dataWorkerMultiaddr: /ip4/127.0.0.1/tcp/40000\n",
        ["3:3 warning `dataWorkerMultiaddr` is misspelt: node 2.0 ignores it silently"],
    ),
    "other keys of the node in another letter case": (
        "2.1-rust",
        (
            "P2P: {}\np2p:\n  Network: 1\n  maxIHaveLength: 1\n  peer_priv_key: x\n  nosuch: 1\n"
            "engine: {syncMessageLimits: {maxrecvmsgsize: 1}, foo: {Network: 1}}\n"
        ),
        [
            "1:1 warning `P2P` is misspelt: node 2.1-rust ignores it silently",
            "3:3 warning `Network` is misspelt: node 2.1-rust ignores it silently",
            "5:3 warning `peer_priv_key` is misspelt: node 2.1-rust ignores it silently",
            "7:30 warning `maxrecvmsgsize` is misspelt: node 2.1-rust ignores it silently",
        ],
    ),
    "node 2.1's stream list misspelt": (
        "2.1",
        "engine:\n  dataWorkerStreamMultiaddr: []\n  dataWorkersP2PMultiaddrs: []\n",
        [
            "2:3 warning `dataWorkerStreamMultiaddr` is misspelt: node 2.1 ignores it silently",
            "3:3 warning `dataWorkersP2PMultiaddrs` is misspelt: node 2.1 ignores it silently",
        ],
    ),
    "node 2.1-rust's own spelling in a file of node 2.1": (
        "2.1",
        "engine: {dataWorkerP2pMultiaddrs: []}\n",
        [
            "1:10 error `dataWorkerP2pMultiaddrs` is a list of node 2.1-rust: node 2.1 ignores it silently",
        ],
    ),
    "at the top level": (
        "2.0",
        "engine:\n  filter: ffff\ndataWorkerMultiaddrs:\n  - /ip4/10.77.0.1/tcp/40000\n",
        [
            (
                "3:1 warning `dataWorkerMultiaddrs` is ignored here:"
                " the node reads it only below `engine:` at the top level"
            )
        ],
    ),
    "below the wrong section": (
        "2.0",
        "p2p:\n  d: 0\n  dataWorkerMultiaddrs: []\nengine: {}\n",
        [
            (
                "3:3 warning `dataWorkerMultiaddrs` is ignored below `p2p`:"
                " the node reads it only below `engine:` at the top level"
            )
        ],
    ),
    "one level too deep": (
        "2.0",
        f"engine:\n  {HEX}:\n  - dataWorkerMultiaddrs: []\n",
        [
            (
                "3:5 warning `dataWorkerMultiaddrs` is ignored here:"
                " the node reads it only below `engine:` at the top level"
            )
        ],
    ),
    "node 2.1's lists in a mesh of node 2.0": (
        "2.0",
        "engine:\n  dataWorkerStreamMultiaddrs: []\n  dataWorkerMultiaddrs: []\n",
        [
            (
                "2:3 error `dataWorkerStreamMultiaddrs` is a list of node 2.1 and 2.1-rust:"
                " node 2.0 ignores it silently"
            )
        ],
    ),
    "node 2.0's list that an upgrade left behind": (
        "2.1-rust",
        "engine:\n  dataWorkerMultiaddrs: []\n  dataWorkerStreamMultiaddrs: []\n",
        [
            (
                "2:3 warning `dataWorkerMultiaddrs` is a list of node 1.4 and 2.0:"
                " node 2.1-rust ignores it silently"
            )
        ],
    ),
    "both spellings of node 2.1-rust": (
        "2.1-rust",
        "engine:\n  dataWorkerP2pMultiaddrs: []\n  dataWorkerP2PMultiaddrs: []\n",
        [
            (
                "3:3 error `dataWorkerP2PMultiaddrs` and `dataWorkerP2pMultiaddrs` in line 2 are the"
                " same key: the node does not load this file"
            )
        ],
    ),
    "everything below engine commented out": (
        "2.0",
        "engine:\n#  dataWorkerMultiaddrs:\n#  - x\np2p:\n  d: 0\n",
        ["1:1 error* there is nothing below `engine:`, and the node panics at that"],
    ),
    "other sections that are null": (
        "2.1",
        "key: ~\np2p: null\nengine: {}\nx: &x\ndb: *x\nlogFile:\n",
        [
            "2:1 error there is nothing below `p2p:`, and the node panics at that",
            "5:1 error there is nothing below `db:`, and the node panics at that",
        ],
    ),
    "sections that are none": (
        "2.0",
        f"engine: {HEX}\np2p: []\nlogger: x\n",
        [
            "1:9 error `engine` is not a mapping of keys to values: the node does not load this file",
            "2:6 error `p2p` is not a mapping of keys to values: the node does not load this file",
        ],
    ),
    "a list that is null": (
        "2.1",
        "engine:\n  dataWorkerStreamMultiaddrs:\n  dataWorkerAnnounceP2PMultiaddrs:\n",
        [
            (
                "2:3 warning* there is nothing below `dataWorkerStreamMultiaddrs:`,"
                " so the node uses only its own cores"
            )
        ],
    ),
    "a list that is none": (
        "2.0",
        "engine:\n  dataWorkerMultiaddrs: /ip4/10.77.0.1/tcp/40000\n",
        ["2:25 error* `dataWorkerMultiaddrs` has to be a list of texts: the node does not load this file"],
    ),
    "a template without a place for the port": (
        "1.4",
        "engine:\n  dataWorkerBaseListenMultiaddr: /ip4/0.0.0.0/tcp/40000\n",
        [
            "2:34 warning `dataWorkerBaseListenMultiaddr` has no `%d` instead of one, for a core's port",
        ],
    ),
    "a template with two": (
        "2.1",
        "engine:\n  dataWorkerBaseListenMultiaddr: /ip4/10.0.0.%d/tcp/%d\n",
        [
            "2:34 warning `dataWorkerBaseListenMultiaddr` has 2 `%d` instead of one, for a core's port",
        ],
    ),
    "a template as it should be, or left to the node": (
        "2.0",
        (
            "engine:\n  dataWorkerBaseListenMultiaddr: /ip4/127.0.0.1/tcp/%d\n"
            "other:\n  dataWorkerBaseListenMultiaddr: ''\n"
        ),
        [],
    ),
    "template null, empty, or a list": (
        "2.0",
        "engine: {dataWorkerBaseListenMultiaddr: , dataWorkerBaseListenPort: }\n",
        [],
    ),
    "a base port above all ports": (
        "2.0",
        "engine:\n  dataWorkerBaseListenPort: 400000\n",
        [
            (
                "2:29 error `dataWorkerBaseListenPort` has to be a whole number from 0 to 65535:"
                " the node does not load this file"
            )
        ],
    ),
    "a base port in words": (
        "2.1-rust",
        "engine:\n  dataWorkerBaseStreamPort: 32500\n  dataWorkerBaseP2pPort: 25k\n",
        [
            (
                "3:26 error* `dataWorkerBaseP2pPort` has to be a whole number from 0 to 65535:"
                " the node does not load this file"
            )
        ],
    ),
    "what qmesh shows in a secret's place, used as a config": (
        "2.0",
        "p2p:\n  peerPrivKey: <not shown>\n  bootstrapPeers: [/ip4/<IP>/udp/8336/quic-v1/p2p]\nengine: {}\n",
        [
            (
                "2:16 warning there is a placeholder here, or what qmesh shows in place of a secret,"
                " and 1 more like it"
            )
        ],
    ),
}


@pytest.mark.parametrize(("profile", "text", "expected"), KEYS.values(), ids=KEYS)
def test_keys(profile, text, expected):
    assert found(dedent(text), profile) == expected


LISTS = {
    "placeholders of a guide": (
        "2.0",
        """\
        engine:
          dataWorkerMultiaddrs:
          - /ip4/10.77.0.1/tcp/40000
          - /ip4/<WORKER_IP>/tcp/40001
          - /ip4/x.x.x.x/tcp/40002
          - /ip4/YOUR_IP/tcp/40003
          - /ip4/${IP}/tcp/40004
        """,
        ["4:5 warning* entry 2 of `dataWorkerMultiaddrs` still has a placeholder in it, and 3 more like it"],
    ),
    "ports that are none": (
        "2.0",
        "engine:\n  dataWorkerMultiaddrs: [/ip4/10.77.0.1/tcp/65536, /ip4/10.77.0.1/tcp/0]\n",
        ["2:26 warning* entry 1 of `dataWorkerMultiaddrs` has no port from 1 to 65535, and 1 more like it"],
    ),
    "entries that are no address": (
        "1.4",
        (
            f"x: &x {HEX}\nengine:\n  dataWorkerMultiaddrs:\n  - 10.77.0.1:40000\n  - *x\n  - a\n"
            "  - /dns4/b.example.org/tcp/40000\n  - /ip4/10.77.0.1/udp/1/quic-v1\n  - /ip4/300.0.0.1/tcp/1\n"
        ),
        [
            (
                "4:5 warning* entry 1 of `dataWorkerMultiaddrs` is not an address with a"
                " TCP port, and 5 more like it"
            )
        ],
    ),
    "other transports in the other lists": (
        "2.1",
        (
            "engine:\n  dataWorkerP2PMultiaddrs: [/ip4/0.0.0.0/udp/25000/quic-v1, ~]\n"
            "  dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500, /ip4/10.77.0.1/tcp/32501]\n"
        ),
        [],
    ),
    "one address and port twice": (
        "2.0",
        """\
        engine:
          dataWorkerMultiaddrs:
          - /ip4/10.77.0.1/tcp/40000
          - /ip4/10.77.0.2/tcp/40000
          - '/ip4/10.77.0.1/tcp/40000' # copied
          - /ip4/10.77.0.1/tcp/40000
        """,
        ["5:5 warning* 10.77.0.1 port 40000 is already in line 3, and 1 more like it"],
    ),
    "one address in two spellings, in one line": (
        "2.0",
        "engine: {dataWorkerMultiaddrs: [/ip6/fd00::1/tcp/40000, /ip6/fd00:0:0::1/tcp/40000]}\n",
        ["1:57 warning* fd00::1 port 40000 is already in line 1"],
    ),
    "one port in both lists": (
        "2.1",
        (
            "engine:\n  dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500]\n"
            "  dataWorkerP2PMultiaddrs: [/ip4/10.77.0.1/tcp/32500]\n"
        ),
        ["3:29 warning* 10.77.0.1 port 32500 is already in line 2"],
    ),
    "wildcards are another machine's each": (
        "2.1",
        (
            "engine:\n  dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500, /ip4/10.77.0.2/tcp/32500]\n"
            "  dataWorkerP2PMultiaddrs: [/ip4/0.0.0.0/tcp/25000, /ip4/0.0.0.0/tcp/25000]\n"
        ),
        [],
    ),
    "lists of unequal length": (
        "2.1",
        """\
        engine:
          dataWorkerP2PMultiaddrs:
          - /ip4/0.0.0.0/tcp/25000
          dataWorkerStreamMultiaddrs:
          - /ip4/10.77.0.1/tcp/32500
          - /ip4/10.77.0.2/tcp/32501
        """,
        [
            (
                "2:3 warning* `dataWorkerStreamMultiaddrs` and `dataWorkerP2PMultiaddrs` have different"
                " lengths, 2 and 1: the node stops at that"
            )
        ],
    ),
    "one list of two": (
        "2.1-rust",
        "engine:\n  dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500]\n",
        [
            (
                "2:3 warning* `dataWorkerStreamMultiaddrs` and `dataWorkerP2PMultiaddrs` have different"
                " lengths, 1 and 0: the node stops at that"
            )
        ],
    ),
    "announced to nobody": (
        "2.1",
        """\
        engine:
          dataWorkerStreamMultiaddrs: [/ip4/10.77.0.1/tcp/32500, /ip4/10.77.0.2/tcp/32501]
          dataWorkerP2PMultiaddrs: [/ip4/0.0.0.0/tcp/25000, /ip4/0.0.0.0/tcp/25001]
          dataWorkerAnnounceP2PMultiaddrs:
          - /ip4/203.0.113.5/tcp/25000
          - /ip4/192.168.1.7/tcp/25001
          dataWorkerAnnounceStreamMultiaddrs: [/ip4/0.0.0.0/tcp/32500, /ip6/::1/tcp/32500, /dns4/x/tcp/1]
        """,
        [
            (
                "6:5 warning* entry 2 of `dataWorkerAnnounceP2PMultiaddrs` announces a LAN address,"
                " at which other nodes cannot reach the worker"
            ),
            (
                "7:3 warning* the length of `dataWorkerAnnounceStreamMultiaddrs` is 3,"
                " and there are 2 workers:"
                " the node ignores it"
            ),
            (
                "7:40 warning* entry 1 of `dataWorkerAnnounceStreamMultiaddrs` announces a wildcard"
                " address, at which other nodes cannot reach the worker, and 1 more like it"
            ),
        ],
    ),
    "announced twice, and it is not known how many workers there are": (
        "2.1-rust",
        "engine:\n  dataWorkerAnnounceP2pMultiaddrs: [/ip4/203.0.113.5/tcp/1, /ip4/203.0.113.5/tcp/1]\n",
        ["2:61 warning* 203.0.113.5 port 1 is already in line 2"],
    ),
}


SILENTLY_WIDE = "node 2.1 in Rust does not read this `{}`, and listens on every address instead"


@pytest.mark.parametrize(
    "address", ["/ip6/::1/tcp/8337", "/dns4/localhost/tcp/8337", "/ip4/127.0.0.300/tcp/1", "x"]
)
@pytest.mark.parametrize("name", ["listenGrpcMultiaddr", "listenGRPCMultiaddr"])
def test_an_address_that_the_program_replaces_by_a_wildcard_is_an_error(name, address):
    text = f"p2p: {{a: 1}}\n{name}: {address}\n"
    at = f"2:{len(name) + 3}"
    gos = "error" if address.startswith("/") else "warning"
    assert wide(text, "2.1", MESH) == [f"{at} {gos} {SILENTLY_WIDE.format(name)}"]
    assert wide(text, "2.1-rust", MESH) == [f"{at} error* {SILENTLY_WIDE.format(name)}"]
    assert wide(text, "2.1") == [f"{at} warning {SILENTLY_WIDE.format(name)}"]
    assert wide(text, "2.1-rust") == [f"{at} warning* {SILENTLY_WIDE.format(name)}"]
    assert found(text, "2.0") == []


def wide(text: str, profile: Profile, mesh: ExpectedMesh | None = None) -> list[str]:
    return [line for line in found(text, profile, mesh) if "listens on every address" in line]


@pytest.mark.parametrize("value", ["/ip4/127.0.0.1/tcp/8337", "''", "~", "[x]"])
def test_an_address_that_the_program_reads_or_has_none_of_is_none(value):
    assert wide(f"listenGrpcMultiaddr: {value}\np2p: {{other: x}}\n", "2.1-rust", MESH) == []


def test_the_stream_port_of_the_rust_node_is_on_ipv4_alone():
    text = "p2p:\n  streamListenMultiaddr: /ip6/fd77::1/tcp/8340\n"
    assert wide(text, "2.1-rust", MESH) == [f"2:26 error* {SILENTLY_WIDE.format('streamListenMultiaddr')}"]
    assert found(text, "2.1") == []


@pytest.mark.parametrize(("profile", "text", "expected"), LISTS.values(), ids=LISTS)
def test_lists(profile, text, expected):
    assert found(dedent(text), profile) == expected


AGAINST_THE_MESH = {
    "as the mesh has it": (RIGHT, []),
    "wildcard, loopback, LAN and public addresses": (
        (
            "  - /ip4/0.0.0.0/tcp/40000\n  - /ip4/127.0.0.1/tcp/40001\n  - /ip4/192.168.0.201/tcp/40002\n"
            "  - /ip4/192.168.0.201/tcp/40003\n  - /ip4/203.0.113.7/tcp/40004\n  - /ip6/fd00::3/tcp/40005\n"
        ),
        [
            "3:5 error* core 1 has a wildcard address instead of the tunnel address of control",
            "4:5 error* core 2 has a loopback address instead of the tunnel address of control",
            (
                "5:5 error* core 3 has a LAN address instead of the tunnel address of machine-b,"
                " and 2 more like it"
            ),
            "7:5 error* core 5 has a public address instead of the tunnel address of machine-b",
        ],
    ),
    "an entry of no member": (
        RIGHT.replace("10.77.0.3", "10.77.0.9"),
        ["8:5 error* core 6 is at 10.77.0.9, and no machine of the mesh has that address"],
    ),
    "a public address behind the mesh's cores": (
        f"{RIGHT}  - /ip4/203.0.113.7/tcp/40006\n",
        ["9:5 error* core 7 has a public address, and the mesh has no such core"],
    ),
    "a machine's cores missing": (
        "".join(f"  - {worker}\n" for worker in MESH.workers if "10.77.0.2" not in worker),
        ["2:3 error* there is no entry for cores 3-5 of machine-b"],
    ),
    "the list of one machine only": (
        "".join(f"  - {worker}\n" for worker in MESH.workers[:2]),
        ["2:3 error* there is no entry for cores 3-5 of machine-b, nor for those of 1 other machine"],
    ),
    "an entry of the wrong port": (
        RIGHT.replace("40005", "50005"),
        ["2:3 error* there is no entry for core 6 of machine-c"],
    ),
    "a placeholder is told once": (
        RIGHT.replace("10.77.0.3", "<MACHINE-C>").replace("/ip4/10.77.0.2/tcp/40004", "/ip4/YOUR_IP/tcp/1"),
        ["7:5 error* entry 5 of `dataWorkerMultiaddrs` still has a placeholder in it, and 1 more like it"],
    ),
}


@pytest.mark.parametrize(("entries", "expected"), AGAINST_THE_MESH.values(), ids=AGAINST_THE_MESH)
def test_against_the_mesh(entries, expected):
    text = f"engine:\n  dataWorkerMultiaddrs:\n{entries}"
    assert found(text, mesh=MESH) == expected


@pytest.mark.parametrize(("text", "place"), [("{}", "1:1"), ("p2p: {}\n\nengine:\n  filter: ffff\n", "3:1")])
def test_a_file_without_a_list_lacks_every_core(text, place):
    said = "there is no entry for cores 1-2 of control, nor for those of 2 other machines"
    assert found(text, mesh=MESH) == [f"{place} error* {said}"]


def test_a_machine_that_has_no_name_is_named_by_its_address():
    nameless = msgspec.structs.replace(MESH, members={"control": "10.77.0.1", "machine-b": "10.77.0.2"})
    text = f"engine:\n  dataWorkerMultiaddrs:\n{RIGHT}".replace("  - /ip4/10.77.0.3/tcp/40005\n", "")
    assert found(text, mesh=nameless) == ["2:3 error* there is no entry for core 6 of 10.77.0.3"]


def test_public_addresses_are_right_where_the_mesh_has_them():
    text = f"engine:\n  dataWorkerMultiaddrs:\n{RIGHT}".replace("10.77.0.3", "203.0.113.7")
    public = msgspec.structs.replace(MESH, workers=(*MESH.workers[:-1], "/ip4/203.0.113.7/tcp/40005"))
    assert found(text, mesh=public) == []
    assert found(text.replace("203.0.113.7", "192.168.0.7"), mesh=public) == [
        "8:5 error* core 6 has a LAN address instead of 203.0.113.7"
    ]


def test_the_mesh_counts_the_announced_workers():
    text = "engine:\n  dataWorkerAnnounceStreamMultiaddrs: [/ip4/203.0.113.5/tcp/1]\n"
    said = found(text, "2.1", MESH)
    assert said[1].endswith("is 1, and there are 6 workers: the node ignores it")
    said = found(text, "2.1-rust", MESH)
    assert said[1].endswith("and there are 6 workers: others are announced where they listen")


def test_every_worker_s_stream_may_be_announced_at_the_control_node():
    streams = "/ip4/203.0.113.5/tcp/8340, /ip4/203.0.113.5/tcp/8340"
    text = f"engine:\n  dataWorkerAnnounceStreamMultiaddrs: [{streams}]\n"
    assert found(text, "2.1") == []


EPHEMERAL = f"engine:\n  dataWorkerMultiaddrs:\n{RIGHT}  - /ip4/127.0.0.1/tcp/40009\n  - 'x'\n"


def test_ports_of_this_machine_that_an_outgoing_connection_may_take():
    may = "an outgoing connection may take port {}, and then the worker cannot listen there"
    told = found(EPHEMERAL, mesh=MESH, ephemeral=(32768, 60999))
    assert f"3:5 warning {may.format('40000-40001, 40009')}" in told
    told = found(EPHEMERAL, mesh=MESH, ephemeral=(32768, 60999), reserved={40000, 40001})
    assert f"9:5 warning {may.format('40009')}" in told
    told = found(EPHEMERAL, ephemeral=(32768, 40002), reserved=(40001,))
    assert f"3:5 warning {may.format('40000, 40002')}" in told
    assert not any("outgoing" in each for each in found(EPHEMERAL, ephemeral=(1024, 39999)))
    assert not any("outgoing" in each for each in found(EPHEMERAL, mesh=MESH))


UNREADABLE = {
    "a tab": (
        f"engine:\n\tdataWorkerMultiaddrs: []\np2p:\n  peerPrivKey: {HEX}\n",
        "2:1 error there is a tab where YAML needs spaces",
        "indent with spaces",
    ),
    "a tab among spaces": (
        "engine:\n  filter: x\n \tdataWorkerMultiaddrs: []\n",
        "3:2 error there is a tab where YAML needs spaces",
        "indent with spaces",
    ),
    "no space behind a colon": (
        f"p2p:\n  peerPrivKey:{HEX}\n  d: 0\n",
        "3:4 error this is not YAML: mapping values are not allowed in this context",
        "correct this line, or the one before it",
    ),
    "a character that is none": (
        f"p2p:\n  peerPrivKey: {HEX}\x00\n",
        "2:32 error the character U+0000 is not allowed in YAML",
        "delete it; if there are many, the file is damaged",
    ),
    "no mapping": (
        HEX,
        "1:1 error the file's top level is not a mapping of keys to values",
        "check that this file is the node's config.yml",
    ),
    "far too long": (
        "#" * (1024 * 1024 + 1),
        "1:1 error config.yml is longer than 1048576 characters",
        "check that this file is the node's config.yml",
    ),
}


@pytest.mark.parametrize(("text", "expected", "hint"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_does_not_load(text, expected, hint):
    assert found(text) == [expected]
    (problem,) = lint_config(text, profile="2.0")
    assert problem.hint == hint
    assert problem.blocks_worker_list


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("engine:\n  dataWorkersMultiaddrs: []\n", "rename it to `dataWorkerMultiaddrs`, below `engine:`"),
        (
            "dataWorkerMultiaddrs: []\n\nengine:\n  dataWorkerMultiaddrs: []\n",
            "delete it: `dataWorkerMultiaddrs` is in line 4",
        ),
        (
            "engine:\n  dataWorkerP2PMultiaddrs: []\n",
            (
                "if the node is of that version, run `qmesh set --node 2.1` on the control node;"
                " else delete the key"
            ),
        ),
    ],
)
def test_the_way_out_depends_on_what_is_there(text, hint):
    (problem,) = lint_config(text, profile="2.0")
    assert problem.hint == hint


def test_the_way_back_to_the_older_node():
    (problem,) = lint_config("engine:\n  dataWorkerMultiaddrs: []\n", profile="2.1")
    assert (
        problem.hint
        == "delete the key; or, if the node is still of that version, run `qmesh set --node 2.0` on the"
        " control node"
    )
    assert not problem.blocks_worker_list


def test_what_spoils_writing():
    for text in ("engine:\n  dataWorkerStreamMultiaddrs: []\n", "engine: [\n"):
        assert [problem.blocks_worker_list for problem in lint_config(text, profile="2.0")] == [True]
    cured = lint_config(
        "engine:\n  dataWorkerMultiaddrs: [x, /ip4/1.1.1.1/tcp/1, /ip4/1.1.1.1/tcp/1]\n", profile="2.0"
    )
    assert [problem.blocks_worker_list for problem in cured] == [False, False]


@pytest.mark.parametrize("name", [name for name in corpus() if "-full-" in name])
def test_a_node_file_as_it_should_be_has_no_problem(name):
    profile = next(each for each in reversed(PROFILES) if name.startswith(each))
    assert found(corpus()[name], profile) == []


@pytest.mark.parametrize("text", corpus().values(), ids=corpus())
@pytest.mark.parametrize("profile", PROFILES)
def test_every_file_of_the_corpus_is_judged_without_an_error_of_ours(text, profile):
    bounds = len(text.splitlines()) + 1
    for problem in lint_config(text, profile=profile, mesh=MESH, ephemeral=(32768, 60999)):
        assert 1 <= problem.line <= bounds
        assert HEX not in problem.message + problem.hint


@given(st.randoms(use_true_random=False), st.sampled_from(PROFILES), st.integers(0, 400))
def test_law_whatever_the_file_lint_answers_in_order_and_alike(random, profile, at):
    text, _ = random_edit(random)
    for each in (text, text[:at] + "\t- [" + text[at:]):
        problems = lint_config(each, profile=profile, mesh=MESH, ephemeral=(1, 65535))
        assert list(problems) == sorted(problems)
        assert problems == lint_config(each, profile=profile, mesh=MESH, ephemeral=(1, 65535))
