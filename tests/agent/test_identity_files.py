"""The node's files as of one moment, whatever is done to them meanwhile, and what is given of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qmesh.agent.node import identity_files, node_config
from qmesh.agent.node.identity_files import read_files_for, read_settled_files
from qmesh.agent.node.node_config import NodeFile
from qmesh.errors import BadInput, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.config_directory import MAX_OCTETS, ConfigDirectory
from qmesh.mesh.nodeconfig import read_secret
from tests.support.factories import cluster
from tests.support.node_identity import IDENTITY, KEY_STORE, PEER_KEY, SECRETS

MESH = cluster(3, 4, node="2.1", base_port=32500, p2p_base_port=25000)
OTHER_KEY = "ab" * 114
OTHER_STORE = KEY_STORE.replace("aabb", "aabc")


@pytest.fixture(autouse=True)
def _settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_files, "SETTLED_S", 0.0)
    monkeypatch.setattr(identity_files, "_PAUSE_S", 0.01)


@pytest.fixture
def directory(tmp_path: Path) -> ConfigDirectory:
    (tmp_path / ".config").mkdir()
    write(tmp_path / ".config", PEER_KEY, KEY_STORE)
    return ConfigDirectory(tmp_path / ".config", os.geteuid())


def write(path: Path, peer_key: str, store: str) -> None:
    (path / "keys.yml").write_text(store)
    (path / "config.yml").write_text(IDENTITY.replace(PEER_KEY, peer_key))


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def after_reading(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Have something happen each time that config.yml was read, and before keys.yml is."""
    read, times = node_config.read, [0]

    def read_and_act(directory: ConfigDirectory) -> NodeFile:
        found = read(directory)
        times[0] += 1
        act(times[0])
        return found

    monkeypatch.setattr(node_config, "read", read_and_act)


def test_n1_files_that_change_between_the_two_are_read_again_until_they_are_of_one_moment(
    directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the node's keys change between a report of their digests and the transfer."""
    after_reading(
        monkeypatch, lambda time: write(directory.path, OTHER_KEY, OTHER_STORE) if time == 1 else None
    )
    files = read_files_for(directory, MESH, "b", key_store="/root/.config/keys.yml")
    assert read_secret(files.config, "p2p.peerPrivKey") == OTHER_KEY
    assert files.keys == OTHER_STORE.encode()


def test_n1_files_that_never_rest_are_not_sent(
    directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_files, "_PATIENCE_S", 0.2)
    after_reading(monkeypatch, lambda time: write(directory.path, f"{time:0228x}", f"a: {time}\n"))
    with pytest.raises(MachineRefused, match="is being written all the time"):
        read_settled_files(directory, "2.1")


def test_n1_what_was_written_a_moment_ago_is_waited_for(
    directory: ConfigDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut short it may be a key store still, or no YAML."""
    for text in ("a: 1\n", "a: [", ""):
        (directory.path / "keys.yml").write_text(text)
        (directory.path / "config.yml").write_text(text)
        monkeypatch.setattr(identity_files, "SETTLED_S", 3600.0)
        monkeypatch.setattr(identity_files, "_PATIENCE_S", 0.05)
        with pytest.raises(MachineRefused, match="is being written"):
            read_settled_files(directory, "2.1")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda path: (path / "keys.yml").write_text("x" * (MAX_OCTETS + 1)), StateUnreadable, "is larger"),
        (lambda path: (path / "keys.yml").write_text("- 5ec4e7b0\n"), BadInput, "not a mapping"),
        (lambda path: (path / "keys.yml").unlink(), BadInput, "there is no keys.yml"),
        (lambda path: (path / "config.yml").unlink(), BadInput, "has no config.yml"),
        (lambda path: (path / "config.yml").write_bytes(b"\xff\xfe"), BadInput, "UTF-8|not"),
        (lambda path: write(path, "5ec4e7a1", KEY_STORE), BadInput, "has 8 digits"),
        (lambda path: replace_by_directory(path / "keys.yml"), StateUnreadable, "not a regular file"),
        (lambda path: path.rename(path.with_name("away")), BadInput, "has no config.yml"),
    ],
)  # fmt: skip
def test_n1_files_that_are_not_whole_are_not_sent_and_nothing_of_them_is_said(
    directory: ConfigDirectory,
    spoil: Callable[[Path], object],
    error: type[QmeshError],
    words: str,
) -> None:
    spoil(directory.path)
    with pytest.raises(error, match=words) as refused:
        read_files_for(directory, MESH, "b", key_store="/root/.config/keys.yml")
    assert not any(secret in refused.value.message + refused.value.hint for secret in SECRETS)


def test_a_control_node_that_does_not_know_its_nodes_directory_says_so() -> None:
    with pytest.raises(BadInput, match=r"does not know where its node's config\.yml is"):
        read_files_for(None, MESH, "b", key_store="/root/.config/keys.yml")
