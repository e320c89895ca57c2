"""The node's identity: what its node can't start with; on the control node, which machines have another."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from qmesh.errors import BadInput
from qmesh.mesh.audit.findings import Finding, error_finding
from qmesh.mesh.audit.surroundings import AuditContext, ConfigFile, KeyStoreFile
from qmesh.mesh.node_keys.differences import describe_fetch, describe_keys
from qmesh.mesh.node_keys.key_store import (
    KEY_STORE,
    KEY_STORE_PATH,
    find_key_problems,
    list_needed_keys,
    normalize_key_store,
)
from qmesh.mesh.values import quote_text


def node_key_findings(around: AuditContext) -> Iterator[Finding]:
    """Keys that are missing, cut short or not found here, and machines that have others."""
    config = around.config
    if config is not None and config.text is not None:
        yield from _config_findings(config, around)
        if around.key_store is not None and KEY_STORE in list_needed_keys(around.profile):
            yield from _key_store_findings(config, around.key_store, around)
    for each in around.other_keys:
        cure = describe_fetch(each.machine, around.own_name, may_fetch=each.may_fetch, is_here=False)
        seen = f"another {describe_keys(each.keys)}, since {each.since}: its workers earn nothing"
        yield error_finding("node-keys", each.machine, "the keys of the control node", seen, cure)


def _describe_cure(around: AuditContext, lost: str) -> str:
    if around.is_control:
        return f"restore {lost} from a backup of the node"
    return describe_fetch(around.own_name, around.control, may_fetch=around.may_fetch, is_here=True)


def _config_findings(config: ConfigFile, around: AuditContext) -> Iterator[Finding]:
    try:
        problems = list(find_key_problems(config.parse(), around.profile))
    except BadInput:  # which is a finding of config.yml
        return
    for each in problems:
        cure = _describe_cure(around, "config.yml")
        yield error_finding("node-keys", config.path, f"the node's {each.key}", each.message, cure)


def _key_store_findings(config: ConfigFile, store: KeyStoreFile, around: AuditContext) -> Iterator[Finding]:
    wanted, cure = f"the node's {KEY_STORE}", _describe_cure(around, KEY_STORE)
    if store.unreadable is not None:
        yield error_finding("node-keys", store.path, wanted, store.unreadable, store.cure)
    elif store.octets is not None:
        try:
            normalize_key_store(store.octets)
        except BadInput as error:
            yield error_finding("node-keys", store.path, wanted, error.message, cure)
    elif store.is_beside_config:
        beside = posixpath.join(posixpath.dirname(config.path), KEY_STORE)
        yield error_finding(
            "node-keys",
            config.path,
            f"a {KEY_STORE_PATH} that leads to {beside}",
            f"from the unit's working directory it leads to {quote_text(store.path, 200)}, where no file is",
            f"write {beside} as {KEY_STORE_PATH} into {config.path}",
        )
    else:
        yield error_finding("node-keys", store.path, wanted, "no such file", cure)
