#!/usr/bin/python3
"""Takes the place of qmesh for tests of Ansible roles: machines are folders, the mesh is a file beside them.

It answers as qmesh does to the commands that the roles run, and writes down which these were.
"""

# ruff: noqa: T201  # a program: it prints

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(sys.argv[0]).parent
REGISTRY, STATE, RUN = HERE.parent / "registry.json", HERE / "state.json", HERE.parent / "commands"


def read(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def refuse(words: list[str], error: str) -> None:
    answer = json.dumps({"error": error, "hint": "", "exit_code": 2})
    print(answer if "--json" in words else f"error: {error}", file=sys.stderr)
    sys.exit(2)


def become(name: str, key: str) -> None:
    STATE.write_text(json.dumps({"name": name, "key": key}), "utf-8")
    REGISTRY.write_text(json.dumps({**read(REGISTRY), name: key}), "utf-8")


def list_findings() -> list[dict[str, str]]:
    texts = {
        "guard-missing": "qmesh apply",
        "foreign-drop": "nft delete rule",
        "control-silent": "systemctl start",
    }
    wrong = {
        "guard-missing": not (HERE / "applied").exists(),
        "foreign-drop": (HERE / "ill").exists(),
        "control-silent": (HERE / "not-started").exists(),
    }
    return [
        {"code": code, "severity": "error", "subject": "it", "seen": "something", "cure": texts[code]}
        for code, found in wrong.items()
        if found
    ]


def status(_: list[str]) -> None:
    mesh = read(REGISTRY)
    machines = [
        {"name": name, "public_key": key, "state": "active", "facts": {"qmesh": "0.1.0"}}
        for name, key in mesh.items()
    ]
    answer = {"mesh": "m", "control": next(iter(mesh)), "machine": read(STATE)["name"], "machines": machines}
    print(json.dumps(answer))


def export(_: list[str]) -> None:
    hosts = {name: {"qmesh_name": name, "qmesh_public_key": key} for name, key in read(REGISTRY).items()}
    first = next(iter(hosts))
    groups = {"qmesh_control": {"hosts": {first: hosts.pop(first)}}, "qmesh_workers": {"hosts": hosts}}
    print(json.dumps({"qmesh_machines": {"vars": {"qmesh_mesh": "m"}, "children": groups}}))


def init(words: list[str]) -> None:
    become(words[words.index("--name") + 1], "key of the control node")


def invite(words: list[str]) -> None:
    if words[0] in read(REGISTRY) and "--replace" not in words:
        refuse(words, "already in the mesh")
    print(f"qmesh1SECRET {words[0]}")


def join(words: list[str]) -> None:
    if (HERE / "killed").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    secret, _, name = sys.stdin.read().strip().partition(" ")
    if secret != "qmesh1SECRET":
        refuse(words, "no invitation")
    become(name, f"key {os.getpid()}")


def check(_: list[str]) -> None:
    found = list_findings()
    print(json.dumps({"machine": read(STATE)["name"], "revision": 1, "findings": found}))
    sys.exit(bool(found))


def remove(words: list[str]) -> None:
    mesh = read(REGISTRY)
    del mesh[words[0]]
    REGISTRY.write_text(json.dumps(mesh), "utf-8")


def node_files(words: list[str]) -> None:
    directory = Path(words[words.index("--config") + 1])
    if not directory.is_dir():
        refuse(words, f"there is no directory {directory}")
    if not (directory / "config.yml").exists():
        (directory / "config.yml").touch()
        print("wrote config.yml")


def render_config(words: list[str]) -> None:
    rendered = HERE / "rendered"
    if "--write" in words:
        rendered.touch()
    sys.exit("--diff" in words and not rendered.exists())


ANYWHERE: dict[str, Callable[[list[str]], None]] = {
    "--version": lambda _: print("qmesh", os.environ.get("PRETENDED_VERSION", "0.1.0")),
    "init": init,
    "join": join,
}
IN_A_MESH: dict[str, Callable[[list[str]], None]] = {
    "status": status,
    "export": export,
    "invite": invite,
    "check": check,
    "apply": lambda _: (HERE / "applied").touch(),
    "confirm": lambda _: None,
    "remove": remove,
    "node-files": node_files,
    "render-config": render_config,
    "restart": lambda _: None,
}


def main(command: str, words: list[str]) -> None:
    if command in ANYWHERE:
        ANYWHERE[command](words)
    elif not STATE.exists():
        refuse(words, "this machine is in no mesh")
    else:
        IN_A_MESH[command](words)


with RUN.open("a", encoding="utf-8") as file:
    file.write(f"{HERE.name}: {' '.join(sys.argv[1:])}\n")
main(sys.argv[1], sys.argv[2:])
