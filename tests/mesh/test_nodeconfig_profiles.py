"""Which node version a config was written for."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.mesh.nodeconfig import Key, ProfileFacts, detect_profile, list_possible_profiles, profile_facts
from qmesh.mesh.nodeconfig.known_keys import list_profiles, walk_key_paths
from qmesh.mesh.nodeconfig.profiles import _TELLING_NOTHING
from qmesh.mesh.values import PROFILES, Profile

TABLE = {
    "empty": ("", None),
    "not a mapping": ("[p2p]", None),
    "keys of all versions": ("key: {}\np2p:\n  d: 1\n  peerPrivKey: x\nengine:\n  filter: x\n", None),
    "only of 1.4": ("p2p:\n  minPeers: 1\n", "1.4"),
    "of 1.4 and 2.0": ("engine:\n  dataWorkerMultiaddrs: []\n  dataWorkerBaseListenPort: 40000\n", None),
    "of 2.0 and later": ("engine:\n  dataWorkerCount: 3\np2p:\n  directPeers: []\n", None),
    "one until 2.0, one since 2.0": ("engine:\n  dataWorkerMultiaddrs: []\n  dataWorkerCount: 3\n", "2.0"),
    "only of 2.0": ("engine:\n  fullProver: false\n", "2.0"),
    "only of 2.0, without a value": ("engine:\n  autoMergeCoins:\n", "2.0"),
    "left from 1.4": ("p2p:\n  minPeers: 1\n  pingTimeout: 5s\n", "2.0"),
    "left from 2.0": ("engine:\n  fullProver: false\n  archiveMode: false\n", "2.1"),
    "of 2.1": ("engine:\n  dataWorkerStreamMultiaddrs: []\n", "2.1"),
    "of 2.1, at the root": ("logger:\n", "2.1"),
    "of 2.1, Go only": ("engine:\n  dataWorkerP2PMultiaddrs: []\n", "2.1"),
    "of 2.1-rust": ("engine:\n  dataWorkerP2pMultiaddrs: []\n  archiveMode: false\n", "2.1-rust"),
    "of 2.1-rust, at the root": ("explorer:\n  enabled: true\n", "2.1-rust"),
    "at another level": ("minPeers: 1\nengine:\n  p2p: {minPeers: 1}\nengine.fullProver: true\n", None),
    "in another section": ("p2p:\n  fullProver: false\n  archiveMode: true\n", None),
    "in another letter case": ("engine:\n  fullprover: false\n", None),
}


@pytest.mark.parametrize(("text", "profile"), TABLE.values(), ids=TABLE)
def test_detect(text, profile):
    assert detect_profile(text) == profile


POSSIBLE = {
    "empty": PROFILES,
    "keys of all versions": PROFILES,
    "only of 1.4": ("1.4",),
    "of 1.4 and 2.0": ("1.4", "2.0"),
    "of 2.0 and later": ("2.0", "2.1", "2.1-rust"),
    "left from 2.0": ("2.1", "2.1-rust"),
    "of 2.1, Go only": ("2.1", "2.1-rust"),
    "of 2.1-rust": ("2.1-rust",),
}


@pytest.mark.parametrize(("name", "profiles"), POSSIBLE.items(), ids=POSSIBLE)
def test_what_a_file_leaves_open(name, profiles):
    """Go and Rust share the keys of 2.1: none of them says which of the two reads the file."""
    text, detected = TABLE[name]
    assert list_possible_profiles(text) == profiles
    assert detected in {None, profiles[0]}


def text_with(section: str, name: str) -> str:
    return f"{section}:\n  {name}: 1\n" if section else f"{name}: 1\n"


@pytest.mark.parametrize("profile", PROFILES[1:])
def test_a_key_that_came_later_tells(profile):
    """Beside a key that 2.0 was the last to know, so that the keys of 2.0 tell as well."""
    last: dict[str, dict[str, object]] = {"engine": {"dataWorkerMultiaddrs": []}}
    found = keys_at(0, profile)
    assert len(found) > 10
    for section, name in found:
        keys = {name: 1} if not section else {section: {**last.get(section, {}), name: 1}}
        assert detect_profile(json.dumps({**last, **keys})) == profile


def keys_at(end: int, profile: Profile) -> list[tuple[str, str]]:
    """The keys that the profile was the first (0) or the last (-1) to know, of sections at the top level."""
    return [
        path
        for path in walk_key_paths()
        if list_profiles(*path)[end] == profile and path not in _TELLING_NOTHING and "." not in path[0]
    ]


@pytest.mark.parametrize("profile", ["1.4", "2.0"])
def test_no_newer_profile_is_named_for_a_key_that_went(profile):
    gone = keys_at(-1, profile)
    assert gone
    for section, name in gone:
        found = detect_profile(text_with(section, name))
        assert found is None or PROFILES.index(found) <= PROFILES.index(profile)


@given(
    st.permutations(["p2p:\n  minPeers: 1\n", "engine:\n  fullProver: 1\n", "alias:\n", "db:\n  path: x\n"])
)
def test_law_the_order_of_sections_does_not_matter(parts):
    assert detect_profile("".join(parts)) == "2.1"


def test_facts():
    assert profile_facts("1.4") == ProfileFacts(
        profile="1.4", list_key=Key("engine", "dataWorkerMultiaddrs"), base_port=40000, secrets=()
    )
    assert profile_facts("2.0").secrets == ("p2p.peerPrivKey",)
    assert str(profile_facts("2.0").list_key) == "engine.dataWorkerMultiaddrs"


@pytest.mark.parametrize("profile", ["2.1", "2.1-rust"])
def test_facts_of_2_1(profile):
    known = profile_facts(profile)
    assert (known.base_port, known.p2p_base_port) == (32500, 25000)
    assert known.secrets == ("p2p.peerPrivKey", "key.keyManagerFile.encryptionKey")
    assert known.key_store
    assert [key.name for key in known.lists] == [
        "dataWorkerStreamMultiaddrs",
        "dataWorkerP2PMultiaddrs",
        "dataWorkerAnnounceStreamMultiaddrs",
        "dataWorkerAnnounceP2PMultiaddrs",
    ]
    assert (known.grpc_key is None) == (profile == "2.1")
