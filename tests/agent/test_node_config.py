"""The node's config.yml on this machine: what is refused before anything is written."""

from __future__ import annotations

import pytest

from qmesh.agent.node import node_config
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
