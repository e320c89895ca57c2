"""What a config says of the control process: where workers call it, and where its store is."""

from __future__ import annotations

import pytest

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import find_stream_address, read_store_path

NEWER = "engine:\n  dataWorkerStreamMultiaddrs: []\np2p:\n  streamListenMultiaddr: {}\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (NEWER.format("/ip4/10.77.0.1/tcp/8340"), ("10.77.0.1", 8340)),
        (NEWER.format("/ip4/0.0.0.0/tcp/9000"), ("0.0.0.0", 9000)),  # noqa: S104 - it is in the file
        (NEWER.format('""'), None),
        (NEWER.format("[]"), None),
        (NEWER.format("/dns4/localhost/tcp/8340"), None),
        ("engine:\n  dataWorkerStreamMultiaddrs: []\n", None),
        # Before node 2.1 no worker calls it.
        ("engine:\n  dataWorkerMultiaddrs: []\n  dataWorkerBaseListenPort: 40000\n", None),
    ],
)
def test_workers_call_the_control_process_where_the_file_of_2_1_says(text, place):
    assert find_stream_address(text) == place


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("db:\n  path: .config/store\n", ".config/store"),
        ("db:\n  path: ''\n", None),
        ("db:\n  path: []\n", None),
        ("db: {}\n", None),
        ("", None),
    ],
)
def test_the_store_is_where_the_file_says(text, path):
    assert read_store_path(text) == path


def test_what_does_not_load_is_refused():
    for read in (find_stream_address, read_store_path):
        with pytest.raises(BadInput):
            read("a: [")
