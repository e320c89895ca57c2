"""Fixes of the node's files: each can be carried out as it is printed, whatever is in the way."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.audit.findings import RENDER, Finding, error_finding
from qmesh.mesh.audit.node.obstacles import with_obstacles
from qmesh.mesh.audit.surroundings import NEW_CONFIG, ConfigFile, FileObstacle, KeyStoreFile
from tests.support.factories import audit_context

replace = msgspec.structs.replace

PATH, KEYS = "/srv/the node/config.yml", "/srv/keys/keys.yml"
MOUNT = FileObstacle(
    path=PATH,
    reason="is a mount point",
    cure="run `umount '/srv/the node/config.yml'`",
    fill=f"cat {NEW_CONFIG} > '{PATH}'",
)
FIXED = FileObstacle(path=PATH, reason="is immutable", cure="run `chattr -i x`", forbids_change=True)
DIRECTORY = FileObstacle(path="/srv/the node", reason="takes no new files", cure="run `chmod u+wx x`")
KEYS_FIXED = FileObstacle(path=KEYS, reason="is immutable", cure="run `chattr -i k`", forbids_change=True)
FETCH = "qmesh node-files --write --replace"
STALE = error_finding("config-stale", PATH, "", "", RENDER)
MODE = error_finding("config-mode", PATH, "", "", "chmod 600 '/srv/the node/config.yml'")
HIS = error_finding("config-mode", PATH, "", "", "setpriv --reuid=1 --regid=1 --clear-groups chmod 600 x")
LINT = error_finding("config-lint", f"{PATH}:3:1", "", "", "indent with spaces")
KEY = error_finding("node-keys", KEYS, "", "", FETCH)
KEY_MODE = error_finding("config-mode", KEYS, "", "", f"chmod 600 {KEYS}")
NODE = error_finding("node-version", "node", "", "", "qmesh set --node 2.1")


def cure(finding: Finding, obstacle: FileObstacle | None, keys: FileObstacle | None = None) -> str:
    around = audit_context(
        config=ConfigFile(PATH, "", 0o600, obstacle=obstacle),
        key_store=KeyStoreFile(path=KEYS, octets=b"", is_beside_config=False, obstacle=keys),
    )
    (found,) = with_obstacles([finding], around)
    assert replace(found, cure="") == replace(finding, cure="")
    return found.cure


CURES = [
    (STALE, FIXED, None, f"{PATH} is immutable: run `chattr -i x`; then `{RENDER}`"),
    (STALE, DIRECTORY, None, f"/srv/the node takes no new files: run `chmod u+wx x`; then `{RENDER}`"),
    (
        STALE,
        MOUNT,
        None,
        (
            f"{PATH} is a mount point, so write into it: `qmesh render-config -o /run/config.yml.new && cat"
            f" /run/config.yml.new > '{PATH}' && rm /run/config.yml.new`; then `{RENDER}`"
        ),
    ),
    (MODE, FIXED, None, f"{PATH} is immutable: run `chattr -i x`; then `chmod 600 '{PATH}'`"),
    (HIS, FIXED, None, f"{PATH} is immutable: run `chattr -i x`; then `{HIS.cure}`"),
    (LINT, FIXED, None, f"{PATH} is immutable: run `chattr -i x`; then indent with spaces"),
    (KEY, MOUNT, None, f"{PATH} is a mount point: {MOUNT.cure}; then `{FETCH}`"),
    (KEY, FIXED, KEYS_FIXED, f"{KEYS} is immutable: run `chattr -i k`; then `{FETCH}`"),
    (KEY_MODE, FIXED, KEYS_FIXED, f"{KEYS} is immutable: run `chattr -i k`; then `chmod 600 {KEYS}`"),
]


@pytest.mark.parametrize(("finding", "obstacle", "keys", "expected"), CURES)
def test_what_is_in_the_way_comes_first(finding, obstacle, keys, expected):
    assert cure(finding, obstacle, keys) == expected


@pytest.mark.parametrize(
    ("finding", "obstacle", "keys"),
    [
        (STALE, None, KEYS_FIXED),  # which is not replaced for it
        (MODE, MOUNT, None),
        (MODE, DIRECTORY, KEYS_FIXED),
        (KEY_MODE, FIXED, None),
        (LINT, DIRECTORY, None),
        (NODE, FIXED, KEYS_FIXED),
        (KEY, None, None),
    ],
)
def test_what_is_in_nobodys_way_is_not_spoken_of(finding, obstacle, keys):
    assert cure(finding, obstacle, keys) == finding.cure


def test_a_file_whose_place_is_not_known_has_none():
    assert list(with_obstacles([STALE], audit_context())) == [STALE]
