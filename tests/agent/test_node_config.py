"""The node's config.yml on this machine: what is refused before anything is written."""

from __future__ import annotations

import pytest

from qmesh.agent import node_config
from qmesh.errors import BadInput
from qmesh.host.config_directory import ConfigDirectory

HEX = "0badc0de5ec12e7f"


@pytest.mark.parametrize(
    ("octets", "place"),
    [
        (b"# \xff\n", "line 1, column 3"),
        (f"p2p:\n  # K\u00f6ln\n  peerPrivKey: {HEX}".encode() + b"\xe9\n", "line 3, column 32"),
        (b"a: 1\r\nb: \xc3", "line 2, column 4"),
    ],
)
def test_what_is_not_utf_8_is_named_by_its_place(tmp_path, octets, place):
    (tmp_path / "config.yml").write_bytes(octets)
    with pytest.raises(BadInput, match=place) as refused:
        node_config.read(ConfigDirectory(tmp_path, None))
    assert "UTF-8" in refused.value.message
    assert HEX not in refused.value.message
    assert (tmp_path / "config.yml").read_bytes() == octets


def test_a_list_of_a_newer_node_is_refused_with_its_place_and_the_way_out():
    text = "engine:\n  dataWorkerStreamMultiaddrs: []\n"
    with pytest.raises(BadInput, match="line 2, column 3: `dataWorkerStreamMultiaddrs` is a list") as refused:
        node_config.refuse_broken_config(text, "2.0")
    assert "`qmesh set --node 2.1`" in refused.value.hint


def test_what_the_mesh_s_list_cures_or_the_node_bears_is_not_refused():
    node_config.refuse_broken_config("engine:\ndataWorkersMultiaddrs: []\n", "2.0")
    node_config.refuse_broken_config("engine:\n  dataWorkerMultiaddrs: [/ip4/0.0.0.0/tcp/1]\n", "1.4")
