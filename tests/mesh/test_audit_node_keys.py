"""What `check` finds of the node's identity: keys that are missing, cut short or another node's."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.mesh.audit.node.node_keys import node_key_findings
from qmesh.mesh.audit.parts import list_audit_parts
from qmesh.mesh.audit.surroundings import AuditContext, ConfigFile, KeyStoreFile, OtherKeys
from qmesh.mesh.state import NodeState
from tests.support.factories import audit_context, key
from tests.support.node_identity import ENCRYPTION_KEY, IDENTITY, KEY_STORE, PEER_KEY, SECRETS

replace = msgspec.structs.replace

NOTHING = NodeState(guard=None, tunnel=None)

AROUND = audit_context("control", "machine-b", "machine-c", public_key=key(2), is_control=False)


def with_node(text: str = IDENTITY, store: KeyStoreFile | None = None, **fields: object) -> AuditContext:
    """Node 2.1 on machine-b, whose config.yml says nothing that the lint could find."""
    return replace(
        AROUND,
        profile="2.1",
        config=ConfigFile("/root/node/.config/config.yml", text, 0o600),
        key_store=STORE_FILE if store is None else store,
        own_name="machine-b",
        control="control",
        **fields,
    )


STORE_FILE = KeyStoreFile(
    path="/root/node/.config/keys.yml", octets=KEY_STORE.encode(), is_beside_config=True
)


def keys_found(around: AuditContext) -> list[tuple[str, str]]:
    found = list(node_key_findings(around))
    assert all((each.code, each.severity) == ("node-keys", "error") for each in found)
    for each in found:
        assert not any(secret in f"{each}" for secret in SECRETS)
    return [(each.subject, each.seen) for each in found]


def test_a_node_with_whole_keys_has_no_finding_and_of_what_it_does_not_need_nothing_is_said():
    assert keys_found(with_node()) == []
    assert keys_found(replace(with_node("a: 1\n"), profile="1.4", key_store=None)) == []
    without = replace(STORE_FILE, octets=None, is_beside_config=False)
    assert keys_found(replace(with_node(store=without), profile="2.0")) == []
    assert keys_found(replace(with_node(), config=None)) == []
    assert keys_found(replace(with_node(), config=ConfigFile("/c/config.yml", None, None))) == []
    assert keys_found(with_node("a: [")) == keys_found(replace(with_node(), key_store=None)) == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (IDENTITY.replace(PEER_KEY, "''"), "p2p.peerPrivKey is missing or empty"),
        (IDENTITY.replace(PEER_KEY, PEER_KEY[:12]), "p2p.peerPrivKey has 12 digits; a whole one has 228"),
        (
            IDENTITY.replace(ENCRYPTION_KEY, ENCRYPTION_KEY[:10]),
            "key.keyManagerFile.encryptionKey has 10 digits; a whole one has 64",
        ),
    ],
)
def test_a_key_with_which_no_worker_starts_is_an_error_where_it_is(text, seen):
    assert keys_found(with_node(text)) == [("/root/node/.config/config.yml", seen)]


@pytest.mark.parametrize(
    ("store", "subject", "seen"),
    [
        (
            replace(STORE_FILE, octets=None, is_beside_config=False),
            "/root/node/.config/keys.yml",
            "no such file",
        ),
        (
            KeyStoreFile(path="/root/keys.yml", octets=None, is_beside_config=True),
            "/root/node/.config/config.yml",
            "from the unit's working directory it leads to '/root/keys.yml', where no file is",
        ),
        (replace(STORE_FILE, octets=b"- x"), "/root/node/.config/keys.yml", "keys.yml is not a mapping"),
        (
            replace(STORE_FILE, octets=None, unreadable="it is larger than 5 bytes", cure="look"),
            "/root/node/.config/keys.yml",
            "it is larger than 5 bytes",
        ),
    ],
)
def test_a_key_store_that_the_node_does_not_find_is_an_error_where_it_is(store, subject, seen):
    ((where, said),) = keys_found(with_node(store=store))
    assert where == subject
    assert said.startswith(seen)


def test_the_cure_of_missing_keys_is_the_command_that_fetches_them_or_a_backup():
    around = with_node(store=replace(STORE_FILE, octets=None, is_beside_config=False))
    (finding,) = node_key_findings(around)
    assert finding.cure.startswith(
        "on control: qmesh set machine-b --node-files on; then here: qmesh node-files"
    )
    (finding,) = node_key_findings(replace(around, may_fetch=True))
    assert finding.cure == "qmesh node-files --write --replace, then restart its workers"
    (finding,) = node_key_findings(replace(around, is_control=True))
    assert finding.cure == "restore keys.yml from a backup of the node"


def test_machines_with_other_keys_are_named_with_what_differs_since_when_and_the_command():
    other = OtherKeys(
        machine="machine-c",
        keys=("p2p.peerPrivKey", "keys.yml"),
        since="2026-11-28 10:00",
        may_fetch=True,
    )
    (finding,) = node_key_findings(with_node(other_keys=(other,), is_control=True))
    assert (finding.subject, finding.cure) == (
        "machine-c",
        "on machine-c: qmesh node-files --write --replace, then restart its workers",
    )
    assert (
        finding.seen == "another p2p.peerPrivKey, keys.yml, since 2026-11-28 10:00: its workers earn nothing"
    )
    looks = dict(list_audit_parts(NOTHING, NOTHING, replace(AROUND, other_keys=(other,))))
    assert [each.subject for each in looks["node keys"]()] == ["machine-c"]
