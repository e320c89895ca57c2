"""Which node a new mesh is for."""

from __future__ import annotations

import pytest

from qmesh.agent.node.node_program import choose_profile
from qmesh.host.config_directory import ConfigDirectory


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        (None, "2.1-rust"),
        ("", "2.1-rust"),
        ("key: {}\n", "2.1-rust"),
        ("engine:\n  dataWorkerCount: 3\n", "2.1-rust"),
        ("engine:\n  dataWorkerMultiaddrs: []\n", "2.0"),
        ("p2p:\n  minPeers: 3\n", "1.4"),
        ("explorer: {}\n", "2.1-rust"),
    ],
)
def test_the_newest_version_that_the_file_leaves_open(tmp_path, text, profile):
    if text is not None:
        (tmp_path / "config.yml").write_text(text)
    assert choose_profile(None, ConfigDirectory(tmp_path, None)).profile == profile
    assert choose_profile("2.1-rust", ConfigDirectory(tmp_path, None)).profile == "2.1-rust"


def test_without_a_directory_the_version_that_the_network_runs():
    assert choose_profile(None, None).profile == "2.1-rust"
    assert choose_profile("1.4", None).profile == "1.4"
