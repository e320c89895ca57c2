"""The node's config.yml on this machine: what is refused before anything is written."""

from __future__ import annotations

import stat

import pytest

from qmesh.agent.node import node_config
from qmesh.agent.node.node_audit import read_config_file
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


def test_utf_16_is_read_for_a_check_and_refused_for_a_change(tmp_path):
    directory = ConfigDirectory(tmp_path, None)
    octets = "\ufeffp2p: {}\n".encode("utf-16-le")
    (tmp_path / "config.yml").write_bytes(octets)
    found = node_config.read_in_any_encoding(directory)
    assert (found.text, found.is_utf16) == ("p2p: {}\n", True)
    with pytest.raises(BadInput, match="is UTF-16") as refused:
        node_config.read(directory)
    assert "iconv" in refused.value.hint
    (tmp_path / "config.yml").write_bytes(octets[:-1])
    with pytest.raises(BadInput, match="line 1, column 8: this is not UTF-16"):
        node_config.read_in_any_encoding(directory)


@pytest.mark.parametrize("path", ["", "elsewhere/keys.yml"])
def test_a_check_looks_at_the_mode_of_keys_yml_where_config_yml_says_it_is(tmp_path, path):
    node = tmp_path / "node"
    keys = tmp_path / path if path else node / "keys.yml"
    for folder in (node, keys.parent):
        folder.mkdir(exist_ok=True)
    (node / "config.yml").write_text(f"key: {{keyManagerFile: {{path: '{path}'}}}}\n", encoding="utf-8")
    directory = ConfigDirectory(node, None)
    for mode in (None, 0o644, 0o600):
        if mode is not None:
            keys.touch()
            keys.chmod(mode)
        _, config = read_config_file(directory)
        assert config is not None
        assert config.keys is not None
        assert (config.keys.path, config.keys.mode) == (str(keys), mode)
    (node / "config.yml").write_text("key: [\n", encoding="utf-8")
    _, config = read_config_file(directory)
    assert config is not None
    assert config.keys is None


def test_what_is_written_is_its_owners_alone_also_where_the_node_made_it_readable(tmp_path):
    directory, path, keys = ConfigDirectory(tmp_path, None), tmp_path / "config.yml", tmp_path / "keys.yml"
    path.write_bytes(b"old: 1\n")
    keys.write_bytes(b"keys")
    for old, new in (("old: 1\n", "new: 1\n"), ("new: 1\n", "new: 1\n")):
        path.chmod(0o644)
        keys.chmod(0o644)
        assert node_config.write(directory, old, new) == (path, old != new)
        assert path.read_bytes() == b"new: 1\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "config.yml.bak").stat().st_mode) == 0o600
        assert (keys.read_bytes(), stat.S_IMODE(keys.stat().st_mode)) == (b"keys", 0o600)
    keys.unlink()
    assert node_config.write(directory, "new: 1\n", "newer: 1\n") == (path, True)
