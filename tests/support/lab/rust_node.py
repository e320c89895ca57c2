"""Node 2.1 in Rust on lab machines: a stand-in as its program, started as the real one is.

install_node(machine)
start_node(machine, 0)         # its first start makes config.yml and keys.yml
start_node(machine, 1, 2, 3)   # a process for each core
ask_node(control)["workers"]   # whom the control process serves, and whether each earns
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from tests.support.lab.machines import TOOLS, Machine, Running

DIRECTORY: Final = "/root/node"
CONFIG: Final = f"{DIRECTORY}/.config"
PROGRAM: Final = f"{DIRECTORY}/node-2.1.0.25-linux-amd64"


def install_node(machine: Machine, *, program: str = PROGRAM, **build: str | float) -> None:
    """Put the node's program on a machine. build: what differs from that of June, as BUILD there has it."""
    text = (TOOLS / "rust_node.py").read_text(encoding="utf-8")
    line = "BUILD: Final[dict[str, Any]] = "
    assert f"\n{line}{{}}\n" in text
    text = text.replace(f"\n{line}{{}}\n", f"\n{line}{build!r}\n")
    machine.write(program, f"#!{sys.executable} -IS\n{text}", 0o755)


def start_core(
    machine: Machine, core: int, *, program: str = PROGRAM, config: str = CONFIG, ready: bool = True
) -> Running:
    """Start the control process (core 0) or a worker as its unit does: beside its config directory.

    ready: wait until its sockets are there; where it is to refuse its files it never is.
    """
    cores = ["--core", str(core)] if core else []
    beside = config.rpartition("/")[0]
    process = machine.start(["env", f"--chdir={beside}", program, "--config", config, *cores])
    if ready:
        process.wait_for("ready", timeout=15)
    return process


def start_node(machine: Machine, *cores: int, config: str = CONFIG) -> list[Running]:
    """Start these cores, each a process of its own, and wait until all have their sockets."""
    processes = [start_core(machine, core, config=config, ready=False) for core in cores]
    for process in processes:
        process.wait_for("ready", timeout=15)
    return processes


def ask_node(machine: Machine, *, config: str = CONFIG) -> dict[str, Any]:
    """What the control process that runs there knows, of its workers above all."""
    words = ["env", f"--chdir={config.rpartition('/')[0]}", PROGRAM, "--config", config, "--node-info"]
    known: dict[str, Any] = json.loads(machine.run(words).stdout)
    return known


def earning_cores(machine: Machine, *, config: str = CONFIG) -> list[int]:
    """The cores that work for the control process of that machine, and earn."""
    return [worker["core"] for worker in ask_node(machine, config=config)["workers"] if worker["earns"]]


def carry_identity(source: Machine, target: Machine, *, config: str = CONFIG) -> None:
    """Copy config.yml and keys.yml as they are, for tests that are not about how they get there."""
    for name in ("config.yml", "keys.yml"):
        target.write(f"{config}/{name}", source.read(f"{config}/{name}"), 0o600)
