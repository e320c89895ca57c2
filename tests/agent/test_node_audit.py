"""What is wrong with the node's files and program on a machine, as `status` has it."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent.audit import context
from qmesh.agent.commands.check import check
from qmesh.agent.commands.status import status
from qmesh.agent.local import load_local
from qmesh.agent.node.node_audit import list_node_errors
from qmesh.host.state.directory import State
from qmesh.mesh.nodeconfig import render_config
from tests.support.control_node import make_control_node
from tests.support.fuse import mount_fuse
from tests.support.node_identity import IDENTITY, KEY_STORE

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OWNER = 1001
HOME = Path("/run/alice")
CONFIG = HOME / ".config"


def make() -> State:
    """A control node of node 2.1-rust with all in order, whose node's directory is a user's."""
    Path("/run").chmod(0o755)
    CONFIG.mkdir(parents=True)
    state = State(Path("/run/state"), patience_s=1.0)
    (CONFIG / "config.yml").write_text(IDENTITY, encoding="utf-8")
    (CONFIG / "keys.yml").write_text(KEY_STORE, encoding="utf-8")
    for path in (HOME, CONFIG, CONFIG / "config.yml", CONFIG / "keys.yml"):
        os.chown(path, OWNER, OWNER)
        path.chmod(0o700 if path.is_dir() else 0o600)
    make_control_node(state, endpoint="203.0.113.5", node="2.1-rust", config=CONFIG)
    here = load_local(state)
    text = render_config(here.inventory, here.settings.name, IDENTITY).text
    (CONFIG / "config.yml").write_text(text, encoding="utf-8")
    return state


def codes(state: State) -> set[str]:
    return {each.code for each in status(state).errors}


def test_status_says_what_check_calls_an_error_of_the_nodes_files():
    state = make()
    assert codes(state) == set()
    config, keys = CONFIG / "config.yml", CONFIG / "keys.yml"
    good = config.read_text(encoding="utf-8")
    for wrong, code in (
        (f"\ufeff{good}", "config-lint"),
        (good.replace("tcp/32500", "tcp/32509"), "config-stale"),
        (good.replace("5ec4e7a1", "", 3), "node-keys"),
        ("engine: [\n", "config-lint"),
    ):
        assert wrong != good
        config.write_text(wrong, encoding="utf-8")
        said = status(state).errors
        assert code in {each.code for each in said}
        about = {"config-lint", "config-stale", "config-mode", "node-keys", "node-program"}
        assert said == tuple(
            each for each in check(state).findings if each.severity == "error" and each.code in about
        )
    config.write_text(good, encoding="utf-8")
    keys.chmod(0o644)
    assert codes(state) == {"config-mode"}
    keys.rename(CONFIG / "away")
    assert codes(state) == {"node-keys"}
    config.unlink()
    assert codes(state) == {"config-missing"}


def test_of_a_machine_whose_file_is_nowhere_or_hangs_status_says_the_rest():
    state = make()
    mount_fuse(CONFIG, user=0)
    found = status(state)
    assert {each.code for each in found.errors} == {"config-lint"}
    assert [each.name for each in found.machines] == [load_local(state).settings.name]
    here = load_local(state)
    nowhere = msgspec.structs.replace(here.settings, config_directory=None)
    assert list_node_errors(msgspec.structs.replace(here, settings=nowhere)) == ()


def test_check_looks_at_what_is_a_users_without_the_lock(monkeypatch):
    state = make()
    state.save_settings(msgspec.structs.replace(state.settings(), up=True))
    looks = ("read_config_file", "read_key_store_file", "look_at_node")
    free = []

    def look(original: Any, *given: Any, **named: Any) -> Any:
        with State(state.directory).try_lock(0.0) as locked:
            free.append(locked)
        return original(*given, **named)

    for name in looks:
        monkeypatch.setattr(context, name, partial(look, getattr(context, name)))
    check(state)
    assert free == [True] * len(looks)
