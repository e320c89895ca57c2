"""The list as it stands, and lists that the node would ignore."""

from __future__ import annotations

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import IgnoredList, find_ignored_lists, read_workers

WORKERS = {
    "absent": ("p2p: {}\n", None),
    "no text": ("", None),
    "marked, but empty": ("---\n", None),
    "section null": ("engine:\n", None),
    "null": ("engine:\n  dataWorkerMultiaddrs: ~\n", None),
    "a word": ("engine:\n  dataWorkerMultiaddrs: x\n", None),
    "list absent": ("engine:\n  filter: x\n", None),
    "empty": ("engine:\n  dataWorkerMultiaddrs: []\n", ()),
    "as it is, also where it is wrong": (
        "engine:\n  dataWorkerMultiaddrs:\n  - /ip4/1.1.1.1/tcp/1\n  - 'two words'\n  -\n  - 40000\n",
        ("/ip4/1.1.1.1/tcp/1", "two words", "", "40000"),
    ),
    "entries of unusual looks": (
        "engine: {dataWorkerMultiaddrs: [&a x, !!str y]}\n",
        ("x", "y"),
    ),
    "the node's section only": (
        "x:\n  engine:\n    dataWorkerMultiaddrs: [a]\ndataWorkerMultiaddrs: [b]\n",
        None,
    ),
}

MISPLACED = {
    "nothing": ("", []),
    "right": ("engine:\n  dataWorkerMultiaddrs: [x]\n  dataWorkerBaseListenMultiaddr: y\n", []),
    "right in wrong places as well": (
        "dataWorkerMultiaddrs: [x]\nengine:\n  dataWorkerMultiaddrs: [x]\n  a:\n  - dataWorkerMultiaddrs:\n",
        [("dataWorkerMultiaddrs", 1, 1), ("dataWorkerMultiaddrs", 5, 5)],
    ),
    "misspelt": (
        "engine:\n  dataWorkersMultiaddrs:\n  'dataworkerMultiaddrs': x\n  dataWorkerMultiaddr: [y]\n",
        [("dataWorkersMultiaddrs", 2, 3), ("dataworkerMultiaddrs", 3, 3), ("dataWorkerMultiaddr", 4, 3)],
    ),
    "2.1's": (
        "engine: {dataWorkerStreamMultiaddrs: [], dataWorkerP2PMultiaddrs: []}\nx: &a [1]\ny: *a\n",
        [("dataWorkerStreamMultiaddrs", 1, 10), ("dataWorkerP2PMultiaddrs", 1, 42)],
    ),
    "section null": (
        "engine:\np2p:\n  dataWorkerAnnounceP2PMultiaddrs: []\n",
        [("dataWorkerAnnounceP2PMultiaddrs", 3, 3)],
    ),
    "the name as a value": ("- dataWorkersMultiaddrs\n- x: dataWorkersMultiaddrs\n", []),
}


@pytest.mark.parametrize(("text", "expected"), WORKERS.values(), ids=WORKERS)
def test_workers_in(text, expected):
    assert read_workers(text, "1.4") == expected


@pytest.mark.parametrize(
    "text",
    [
        "engine: x",
        "engine:\n  dataWorkerMultiaddrs: {x: y}",
        "engine:\n  dataWorkerMultiaddrs: [[x]]",
        "x: &x a\nengine:\n  dataWorkerMultiaddrs: [*x]",
        "x: &x {}\nengine:\n  <<: *x",
    ],
)
def test_workers_in_what_is_no_list(text):
    with pytest.raises(BadInput, match=r"line \d, column \d+: "):
        read_workers(text, "2.0")


@pytest.mark.parametrize(("text", "expected"), MISPLACED.values(), ids=MISPLACED)
def test_misplaced(text, expected):
    assert find_ignored_lists(text, "2.0") == tuple(IgnoredList(*each) for each in expected)


def test_lists_of_2_1_are_known_to_it():
    text = (
        "engine:\n  dataWorkerStreamMultiaddrs: [a]\n  dataWorkerP2PMultiaddrs: []\n"
        "  dataWorkerAnnounceP2pMultiaddrs: []\n  dataWorkerMultiaddrs: [b]\n"
    )
    assert read_workers(text, "2.1") == read_workers(text, "2.1-rust") == ("a",)
    assert [key.key for key in find_ignored_lists(text, "2.1")] == [
        "dataWorkerAnnounceP2pMultiaddrs",
        "dataWorkerMultiaddrs",
    ]
    assert [key.key for key in find_ignored_lists(text, "2.1-rust")] == ["dataWorkerMultiaddrs"]
