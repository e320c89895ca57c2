"""The smallest config of a worker machine."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import (
    Key,
    Setting,
    build_minimal_config,
    find_ignored_lists,
    read_secret,
    read_workers,
)
from tests.support.config_files import edit_worker_list

A, B = "/ip4/10.77.0.2/tcp/40003", "/ip6/fd00::2/tcp/40004"
HEX = "0badc0de5ec12e7f"


def old_list(*workers: str) -> tuple[Setting, ...]:
    return (Setting(Key("engine", "dataWorkerMultiaddrs"), workers),)


def test_of_1_4():
    assert build_minimal_config("1.4", old_list(A, B), secrets={}).text == (
        "# Written by qmesh: the least that this machine's data workers need.\n"
        "# Keys that you add stay; qmesh changes only its own.\n"
        "engine:\n"
        "  dataWorkerMultiaddrs:\n"
        f"    - {A}\n"
        f"    - {B}\n"
    )


def test_of_2_0():
    text = build_minimal_config("2.0", old_list(A), secrets={"p2p.peerPrivKey": HEX}).text
    assert f'p2p:\n  peerPrivKey: "{HEX}"\nengine:\n' in text
    assert yaml.safe_load(text) == {"p2p": {"peerPrivKey": HEX}, "engine": {"dataWorkerMultiaddrs": [A]}}


def test_of_2_1_a_section_that_has_a_secret_gets_its_settings_too():
    secrets = {"p2p.peerPrivKey": HEX, "key.keyManagerFile.encryptionKey": HEX}
    text = build_minimal_config(
        "2.1", (Setting(Key("p2p", "streamListenMultiaddr"), A),), secrets=secrets
    ).text
    assert yaml.safe_load(text) == {
        "p2p": {"peerPrivKey": HEX, "streamListenMultiaddr": A},
        "key": {"keyManagerFile": {"encryptionKey": HEX}},
    }


@pytest.mark.parametrize(
    ("profile", "secrets"),
    [
        ("2.0", {}),
        ("2.0", {"p2p.peerPrivKey": ""}),
        ("2.0", {"p2p.peerPrivKey": f"{HEX}\n"}),
        ("2.0", {"p2p.peerPrivKey": f"{HEX}\x7f"}),
        ("2.0", {"p2p.peerPrivKey": f"{HEX}ä"}),
        ("2.0", {"p2p.peerPrivKey": HEX, "key.keyManagerFile.encryptionKey": HEX}),
        ("1.4", {"p2p.peerPrivKey": HEX}),
        ("2.1", {}),
    ],
)
def test_secrets_have_to_be_those_that_are_needed(profile, secrets):
    with pytest.raises(BadInput) as caught:
        build_minimal_config(profile, old_list(A), secrets=secrets)
    assert HEX not in caught.value.message + caught.value.hint


@given(
    st.lists(st.sampled_from([A, B])), st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)
)
def test_law_what_is_written_is_read(workers, value):
    text = build_minimal_config("2.0", old_list(*workers), secrets={"p2p.peerPrivKey": value}).text
    assert read_workers(text, "2.0") == tuple(workers)
    assert read_secret(text, "p2p.peerPrivKey") == value
    assert yaml.safe_load(text)["p2p"]["peerPrivKey"] == value
    assert find_ignored_lists(text, "2.0") == ()
    assert edit_worker_list(text, workers, "2.0") == text
