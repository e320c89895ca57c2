"""The node's identity in its files: its normal form, what is wrong with it, and what fetched files become."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.node_keys.differences import (
    KeyDifference,
    KeyDifferences,
    describe_fetch,
    describe_keys,
)
from qmesh.mesh.node_keys.key_store import (
    find_key_problems,
    find_key_store,
    list_needed_keys,
    normalize_key_store,
    read_identity,
    refuse_incomplete_identity,
)
from qmesh.mesh.node_keys.planned_files import PlannedFile, plan_node_files, refuse_replacement
from qmesh.mesh.nodeconfig import read_secret, render_config_for
from qmesh.mesh.protocol.key_digests import NODE_KEYS
from qmesh.mesh.protocol.node_files import NodeFiles
from tests.support.factories import cluster
from tests.support.node_identity import ENCRYPTION_KEY, IDENTITY, KEY_STORE, PEER_KEY, SECRETS

PEER, ENCRYPTION, STORE = NODE_KEYS
DIRECTORY = "/root/node/.config"
MESH = cluster(3, 4, node="2.1", base_port=32500, p2p_base_port=25000)
STORED = KEY_STORE.encode()


def test_each_profile_needs_what_its_worker_needs():
    assert list_needed_keys("1.4") == ()
    assert list_needed_keys("2.0") == (PEER,)
    assert list_needed_keys("2.1") == list_needed_keys("2.1-rust") == (PEER, ENCRYPTION, STORE)


@pytest.mark.parametrize(
    "same",
    [
        "# by hand\n" + KEY_STORE,
        "\ufeff" + KEY_STORE,
        KEY_STORE.replace("\n", "\r\n"),
        KEY_STORE.replace("5ec4e7b05ec4e7b0", '"5ec4e7b05ec4e7b0"').replace("type: 3", "type: '3'"),
        yaml.safe_dump(yaml.safe_load(KEY_STORE), default_flow_style=True),
    ],
    ids=["comment", "BOM", "CRLF", "quotes", "flow, other order"],
)
def test_one_key_store_has_one_normal_form(same):
    assert normalize_key_store(same.encode()) == normalize_key_store(STORED)


@pytest.mark.parametrize(
    "other",
    [
        KEY_STORE.replace("aabb", "aabc"),
        KEY_STORE.replace("type: 3", "type: 4"),
        KEY_STORE.replace("  publicKey: aabb\n", ""),
        KEY_STORE.replace("q-prover-key:\n", "q-other-key:\n"),
        KEY_STORE.replace("aabb", "[aabb]"),
        KEY_STORE + "more: {}\n",
    ],
)
def test_another_key_store_has_another_normal_form(other):
    assert normalize_key_store(other.encode()) != normalize_key_store(STORED)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.from_regex(r"[a-f0-9]{1,20}", fullmatch=True),
        min_size=1,
    )
)
def test_law_the_normal_form_does_not_depend_on_the_order(keys):
    lines = [f"{name}: '{value}'\n" for name, value in keys.items()]
    assert normalize_key_store("".join(lines).encode()) == normalize_key_store("".join(lines[::-1]).encode())


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "is not a mapping of names to keys"),
        (b"{}\n", "is not a mapping"),
        (b"- 5ec4e7b0\n", "is not a mapping"),
        (b"5ec4e7b0", "is not a mapping"),
        (b"\xff\xfe5\x00", "is not UTF-8"),
        (b"a: [5ec4e7b0\n", "keys.yml, line 2, column 1"),
        (b"a: 1\na: 5ec4e7b0\n", "keys.yml, line 2, column 1"),
        (b"a: &x 5ec4e7b0\nb: *x\n", r"an anchor \(&\), alias \(\*\) or tag"),
        (b"a: !!binary 5ec4e7b0\n", "anchor"),
        (b"a: 1\n---\nb: 5ec4e7b0\n", "second document"),
        (b"a: 5ec4e7b0\n" + b"#" * (1024 * 1024), "is too long for a key store"),
        (b"a: [" * 60, "nested deeper"),
        (STORED[:-40] + b"\n  x: 'cut", "keys.yml, line"),
    ],
)
def test_what_is_no_key_store_is_refused_without_a_word_of_it(octets, words):
    with pytest.raises(BadInput, match=words) as refused:
        normalize_key_store(octets)
    said = refused.value.message + refused.value.hint
    assert "5ec4e7b0" not in said
    assert "config.yml" not in said
    assert read_identity(None, octets).key_store is None


def test_the_identity_is_read_whatever_its_spelling():
    found = read_identity(IDENTITY, STORED)
    upper = IDENTITY.replace(PEER_KEY, f"'{PEER_KEY.upper()}'").replace(ENCRYPTION_KEY, f'"{ENCRYPTION_KEY}"')
    assert read_identity(upper, STORED) == found
    assert found.values == (PEER_KEY.encode(), ENCRYPTION_KEY.encode(), normalize_key_store(STORED))
    assert read_identity(None, None).values == (None, None, None)
    assert read_identity("a: [", None).values == (None, None, None)
    assert read_identity("p2p:\n  peerPrivKey: ''\n", None).values == (None, None, None)
    assert not any(secret in repr(found) for secret in SECRETS)


@pytest.mark.parametrize(
    ("text", "profile", "found"),
    [
        (IDENTITY, "2.1-rust", []),
        (IDENTITY.replace(PEER_KEY, PEER_KEY.upper()), "2.1", []),
        ("a: 1\n", "1.4", []),
        ("a: 1\n", "2.0", [(PEER, "is missing or empty")]),
        ("a: 1\n", "2.1", [(PEER, "is missing or empty"), (ENCRYPTION, "is missing or empty")]),
        (IDENTITY.replace(PEER_KEY, "''"), "2.0", [(PEER, "is missing or empty")]),
        (IDENTITY.replace(PEER_KEY, PEER_KEY[:-2]), "2.0", [(PEER, "has 226 digits; a whole one has 228")]),
        (IDENTITY.replace(PEER_KEY, "x" * 228), "2.0", [(PEER, "is not a number in hexadecimal")]),
        (IDENTITY.replace(ENCRYPTION_KEY, "abcd"), "2.0", []),
        (IDENTITY.replace(ENCRYPTION_KEY, "abcd"), "2.1", [(ENCRYPTION, "has 4 digits; a whole one has 64")]),
    ],
)
def test_keys_with_which_no_worker_starts_are_found(text, profile, found):
    problems = list(find_key_problems(text, profile))
    assert [(each.key, each.message.removeprefix(f"{each.key} ")) for each in problems] == found


@pytest.mark.parametrize(
    ("path", "directory", "found"),
    [
        (".config/keys.yml", DIRECTORY, "/root/node/.config/keys.yml"),
        ("./.config/../.config/keys.yml", DIRECTORY, "/root/node/.config/keys.yml"),
        (".config/keys.yml", "/var/lib/qmesh/node", "/var/lib/qmesh/.config/keys.yml"),
        ("/srv/keys.yml", DIRECTORY, "/srv/keys.yml"),
        ("keys.yml", "/config", "/keys.yml"),
        ("", DIRECTORY, "/root/node/.config/keys.yml"),
    ],
)
def test_a_key_store_is_where_its_path_leads_from_the_units_directory(path, directory, found):
    assert find_key_store(f"key:\n  keyManagerFile:\n    path: '{path}'\n", directory) == found


def test_a_key_store_without_a_path_is_beside_config_yml_and_no_path_is_refused():
    assert find_key_store(None, DIRECTORY) == find_key_store("a: 1\n", DIRECTORY) == f"{DIRECTORY}/keys.yml"
    with pytest.raises(BadInput):
        find_key_store("key:\n  keyManagerFile:\n    path: [a]\n", DIRECTORY)
    with pytest.raises(BadInput, match="is not a path"):
        find_key_store('key:\n  keyManagerFile:\n    path: "a\\0b"\n', DIRECTORY)


@pytest.mark.parametrize(
    ("config", "keys", "profile", "words"),
    [
        ("a: 1\n", STORED, "2.0", r"in config.yml p2p\.peerPrivKey is missing"),
        (IDENTITY, None, "2.1", "there is no keys.yml"),
        (IDENTITY, b"", "2.1", "not a mapping"),
    ],
)
def test_an_incomplete_identity_is_refused(config, keys, profile, words):
    with pytest.raises(BadInput, match=words):
        refuse_incomplete_identity(config, keys, profile)


def test_a_whole_identity_is_not_refused():
    refuse_incomplete_identity(IDENTITY, STORED, "2.1")
    refuse_incomplete_identity(IDENTITY, None, "2.0")
    refuse_incomplete_identity("a: 1\n", None, "1.4")


def fetched(profile="2.1", keys: bytes | None = STORED) -> NodeFiles:
    mesh = cluster(3, 4) if profile == "2.0" else MESH
    config = render_config_for(mesh, "b", IDENTITY, key_store=f"{DIRECTORY}/keys.yml")
    return NodeFiles(config=config.text, keys=keys)


def plan(config: str | bytes | None, keys: bytes | None = None) -> dict[str, PlannedFile]:
    old = config.encode() if isinstance(config, str) else config
    planned = plan_node_files(MESH, "b", fetched(), directory=DIRECTORY, config=old, key_store=keys)
    assert [each.name for each in planned] == ["keys.yml", "config.yml"]
    for secret in SECRETS:
        assert secret not in repr(planned)
    return {each.name: each for each in planned}


def test_the_least_config_says_where_keys_yml_is():
    text = fetched().config
    assert read_secret(text, "key.keyManagerFile.path") == f"{DIRECTORY}/keys.yml"
    assert read_secret(text, PEER) == PEER_KEY
    assert read_secret(fetched("2.0").config, "key.keyManagerFile.path") is None


def test_where_nothing_is_both_files_are_new():
    planned = plan(None)
    assert [each.outcome for each in planned.values()] == ["new", "new"]
    assert planned["keys.yml"].octets == STORED
    assert planned["config.yml"].octets == fetched().config.encode()
    refuse_replacement(tuple(planned.values()), DIRECTORY)


def test_files_of_the_same_node_stay_with_all_that_their_owner_wrote():
    first = plan("# mine\nlogger:\n  maxAge: 5\n" + IDENTITY, b"# mine\n" + STORED)
    assert [each.outcome for each in first.values()] == ["unchanged", "updated"]
    assert first["keys.yml"].octets == b"# mine\n" + STORED
    text = first["config.yml"].octets.decode()
    assert text.startswith("# mine\nlogger:\n  maxAge: 5\n")
    assert "/ip4/10.77.0.2/tcp/32503" in text
    again = plan(text, STORED)
    assert [each.outcome for each in again.values()] == ["unchanged", "unchanged"]
    refuse_replacement(tuple(again.values()), DIRECTORY)


@pytest.mark.parametrize(
    ("config", "keys", "outcomes"),
    [
        ("engine:\n  filter: ff\n", None, ["new", "updated"]),
        (IDENTITY.replace(ENCRYPTION_KEY, "''"), None, ["new", "updated"]),
        (IDENTITY.replace(PEER_KEY, "ab" * 114), None, ["new", "replaced"]),
        (IDENTITY.replace(ENCRYPTION_KEY, "ab" * 32), STORED, ["unchanged", "replaced"]),
        (IDENTITY.replace(".config/keys.yml", "keys.yml"), STORED, ["unchanged", "replaced"]),
        (IDENTITY.replace(".config/keys.yml", "[keys.yml]"), STORED, ["unchanged", "replaced"]),
        ("a: [", None, ["new", "replaced"]),
        (b"\xff", None, ["new", "replaced"]),
        (IDENTITY, STORED.replace(b"aabb", b"aabc"), ["replaced", "updated"]),
        (IDENTITY, b"", ["replaced", "updated"]),
    ],
)
def test_what_is_of_another_identity_is_replaced_only_when_that_is_said(config, keys, outcomes):
    planned = plan(config, keys)
    assert [each.outcome for each in planned.values()] == outcomes
    others = [each.name for each in planned.values() if each.outcome == "replaced"]
    if others:
        with pytest.raises(BadInput, match=" and ".join(others)) as refused:
            refuse_replacement(tuple(planned.values()), DIRECTORY)
        assert "--replace" in refused.value.hint
        assert (
            planned[others[0]].octets
            == {"keys.yml": STORED, "config.yml": fetched().config.encode()}[others[0]]
        )
    else:
        refuse_replacement(tuple(planned.values()), DIRECTORY)


def test_of_2_0_only_config_yml_is_written():
    (planned,) = plan_node_files(
        cluster(3, 4), "b", fetched("2.0", None), directory=DIRECTORY, config=None, key_store=b"mine"
    )
    assert (planned.name, planned.outcome) == ("config.yml", "new")
    text = IDENTITY.replace(".config/keys.yml", "elsewhere")  # which that node does not ask for
    (planned,) = plan_node_files(
        cluster(3, 4), "b", fetched("2.0", None), directory=DIRECTORY, config=text.encode(), key_store=None
    )
    assert planned.outcome == "updated"


@pytest.mark.parametrize("keys", [None, b"", b"- x"])
def test_what_is_fetched_and_not_whole_is_refused(keys):
    with pytest.raises(BadInput):
        plan_node_files(MESH, "b", fetched(keys=keys), directory=DIRECTORY, config=None, key_store=None)


def test_a_machine_that_differs_is_known_since_it_was_seen_first_and_until_it_does_not():
    first = KeyDifferences().update({"b": (PEER,), "c": ()}, {"a", "b", "c"}, now=100)
    assert first.machines == {"b": KeyDifference((PEER,), 100)}
    more = first.update({"b": (PEER, STORE), "c": (STORE,)}, {"a", "b", "c"}, now=200)
    assert more.machines == {"b": KeyDifference((PEER, STORE), 100), "c": KeyDifference((STORE,), 200)}
    assert more.update({}, {"a", "b", "c"}, now=300) == more
    assert more.update({"b": ()}, {"a", "b", "c"}, now=300).machines == {"c": KeyDifference((STORE,), 200)}
    assert more.update({}, {"a", "c"}, now=300).machines == {"c": KeyDifference((STORE,), 200)}
    assert first.update({"c": (STORE,)}, {"b"}, now=300) == first


@pytest.mark.parametrize(
    ("may_fetch", "is_here", "words"),
    [
        (True, True, "qmesh node-files --write --replace, then restart its workers"),
        (True, False, "on b: qmesh node-files --write --replace, then restart its workers"),
        (False, True, "on a: qmesh set b --node-files on; then here: qmesh node-files --write --replace"),
        (False, False, "qmesh set b --node-files on; then on b: qmesh node-files --write --replace"),
    ],
)
def test_what_brings_the_keys_is_said_for_where_it_is_typed(may_fetch, is_here, words):
    assert describe_fetch("b", "a", may_fetch=may_fetch, is_here=is_here).startswith(words)


def test_keys_are_called_as_in_the_files():
    assert describe_keys((PEER, STORE)) == "p2p.peerPrivKey, keys.yml"
