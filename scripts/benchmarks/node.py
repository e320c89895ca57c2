"""What keeps workers of node 2.1-rust from their reward, by the rows of docs/node.md: how soon it is said.

The node is the tests' stand-in. `check` and `status` are asked in turn without a pause on the machine that is
named, and take some time themselves. What the agent corrects, or qmesh refuses, is timed until that is done.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from benchmarks.measuring import Figure

from tests.support.lab.cluster import invite, newcomer, qmesh
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.node_cluster import number_of, restart, wait_until
from tests.support.lab.programs.rust_node import new_key
from tests.support.lab.rust_node import CONFIG, earning_cores, install_node, start_core, start_node
from tests.support.waiting import Deadline, pause

MOST_S: Final = 10.0
MINUTE_S: Final = 75.0
"""What is said only after a minute: a worker may take half of one to call again by itself."""
LONGEST_S: Final = 120.0
FILES: Final = ("config.yml", "keys.yml")


class Cluster(NamedTuple):
    """A control node with core 1 and a member with cores 2 and 3, all of which run and earn."""

    control: Machine
    member: Machine


Deed = Callable[[Cluster], object]


class Fault(NamedTuple):
    """One way to earn nothing.

    row: of docs/node.md. where: 0 for the control node, 1 for the member, to ask there.
    code: of the finding that `check` has, and words: what `status` says; empty where it has nothing to say.
    ends: whether it was corrected, where it is; then neither has to say it.
    check_s, status_s: seconds that it may take until each says it.
    """

    row: int
    about: str
    do: Deed
    undo: Deed
    where: int = 1
    code: str = ""
    words: str = ""
    ends: Callable[[Cluster], bool] | None = None
    check_s: float = MOST_S
    status_s: float = MOST_S


def figures(rows: int) -> list[Figure]:
    """Seconds of the first so many faults."""
    found = []
    with Lab() as lab:
        cluster = _start_cluster(lab)
        for fault in FAULTS[:rows]:
            found += _measure(cluster, fault)
    return found


def _start_cluster(lab: Lab) -> Cluster:
    cluster = Cluster(lab.machine("machine-a", "192.168.0.200"), newcomer(lab))
    for machine in cluster:
        install_node(machine)
    start_core(cluster.control, 0).stop()
    cluster.control.run(["chmod", "600", *(f"{CONFIG}/{name}" for name in FILES)])
    where = ("--endpoint", "192.168.0.200", "--announce", "203.0.113.5")
    qmesh(cluster.control, "init", "--workers", "1", "--config", CONFIG, *where)
    invite(cluster.control, cluster.member, "--workers", "2", "--announce", "203.0.113.6", "--node-files")
    cluster.member.run(["mkdir", "-p", CONFIG])
    qmesh(cluster.member, "join", "invitation", "--node-files", "--config", CONFIG)
    qmesh(cluster.control, "render-config", "--write", "--config", CONFIG)
    start_node(cluster.control, 0, 1)
    start_node(cluster.member, 2, 3)
    _wait_until_well(cluster)
    return cluster


def _wait_until_well(cluster: Cluster) -> None:
    wait_until(lambda: earning_cores(cluster.control) == [1, 2, 3], LONGEST_S)
    for machine in cluster:
        wait_until(lambda: not _list_codes(machine), LONGEST_S)  # noqa: B023


def _list_codes(machine: Machine) -> list[str]:
    said = json.loads(machine.run(["qmesh", "check", "--json"], check=False).stdout)
    return [each["code"] for each in said["findings"] if each["severity"] != "info"]


def _measure(cluster: Cluster, fault: Fault) -> list[Figure]:
    machine = cluster[fault.where]
    kept = [(each, name, each.read(f"{CONFIG}/{name}")) for each in cluster for name in FILES]
    fault.do(cluster)
    began = time.monotonic()
    looks: dict[str, tuple[float, Callable[[], object]]] = {}
    if fault.code:
        looks["`check` names it"] = fault.check_s, lambda: fault.code in _list_codes(machine)
    if fault.words:
        says = lambda: fault.words in machine.run(["qmesh", "status"]).stdout  # noqa: E731
        looks["`status` says it"] = fault.status_s, says
    if fault.ends is not None:
        ends = fault.ends
        looks["it is corrected or refused"] = MOST_S, lambda: ends(cluster)
    seen: dict[str, float] = {}

    def is_all_seen() -> bool:
        for what, (_, look) in looks.items():
            if what not in seen and look():
                seen[what] = time.monotonic() - began
        return len(seen) == len(looks)

    deadline = Deadline(LONGEST_S)
    while not is_all_seen():  # without the pauses of `wait_until`, which are as long as a look
        assert not deadline.is_over(), f"{fault.about}: only {list(seen)} within {deadline}"
        pause()
    for each, name, text in kept:
        each.write(f"{CONFIG}/{name}", text, 0o600)
    fault.undo(cluster)
    _wait_until_well(cluster)
    return [
        Figure(
            f"row {fault.row}, {fault.about}: until {what}",
            "",
            seen[what],
            None,
            "s",
            f"< {most:.0f} s",
            seen[what] < most,
        )
        for what, (most, _) in looks.items()
    ]


def _edit(where: int, pattern: str, replacement: str) -> Deed:
    """Change config.yml by hand."""

    def edit(cluster: Cluster) -> None:
        path = f"{CONFIG}/config.yml"
        text, count = re.subn(pattern, replacement, cluster[where].read(path), count=1)
        assert count == 1, f"{pattern} is not in {path}"
        cluster[where].write(path, text, 0o600)

    return edit


def _is_right(where: int, pattern: str) -> Callable[[Cluster], bool]:
    """Whether config.yml has this again."""
    return lambda cluster: bool(re.search(pattern, cluster[where].read(f"{CONFIG}/config.yml")))


def _set(*options: str) -> Deed:
    return lambda cluster: qmesh(cluster.control, "set", *options)


def _refuses(*words: str) -> Callable[[Cluster], bool]:
    """Whether a command of the control node's is refused; whoever made the mesh has asked for that."""
    return lambda cluster: cluster.control.run(["qmesh", *words], check=False).returncode == 2


def _nothing(cluster: Cluster) -> None:
    """Once the files are as they were, all is well."""


def _have_other_keys(cluster: Cluster) -> None:
    key = "ce" * 32
    _edit(1, r'encryptionKey: "?[0-9a-f]+"?', f"encryptionKey: {key}")(cluster)
    cluster.member.write(f"{CONFIG}/keys.yml", new_key("default-proving-key", key), 0o600)


def _kill_control_process(cluster: Cluster) -> None:
    cluster.control.run(["kill", "-KILL", str(number_of(cluster.control, 0))])


def _start_worker_first(cluster: Cluster) -> None:
    """Start a member's worker while no control process runs."""
    _kill_control_process(cluster)
    restart(cluster.member, 2)


def _start_control(cluster: Cluster) -> None:
    start_core(cluster.control, 0)


def _restart_control(cluster: Cluster) -> None:
    restart(cluster.control, 0)


def _guard_closes_explorer(cluster: Cluster) -> bool:
    rules = cluster.control.run(["nft", "list", "table", "inet", "qmesh"]).stdout
    return bool(re.search(r"\b6600\b", rules))


def _open_explorer(cluster: Cluster) -> None:
    _edit(0, r"explorer:\n  enabled: false", "explorer:\n  enabled: true")(cluster)
    _restart_control(cluster)


FAULTS: Final = (
    Fault(
        3,
        "keys of another node",
        _have_other_keys,
        _nothing,
        where=0,
        code="node-keys",
        words="other keys: machine-b",
    ),
    Fault(
        1,
        "a program of another version than the mesh's",
        _set("--node", "2.1"),
        _set("--node", "2.1-rust"),
        where=0,
        code="node-program",
        words="node-program: ",
    ),
    Fault(
        2,
        "no address that others can call",
        _set("machine-b", "--announce", "none"),
        _set("machine-b", "--announce", "203.0.113.6"),
        code="announce-missing",
        words="no other node can call the workers of machine-b",
    ),
    Fault(
        4,
        "workers that were started before a change",
        _set("--p2p-base-port", "25100"),
        _set("--p2p-base-port", "25000"),
        code="worker-outdated",
        words="outdated, started before a file was changed: cores 2-3",
    ),
    Fault(
        5,
        "a worker that was started first, seen on its machine",
        _start_worker_first,
        _start_control,
        code="worker-cut-off",
        words="connecting to the control process: core",
        check_s=MINUTE_S,
    ),
    Fault(
        5,
        "no control process",
        _kill_control_process,
        _start_control,
        where=0,
        code="control-silent",
        words="control process: silent",
    ),
    Fault(
        7,
        "no keys.yml",
        lambda cluster: cluster.member.run(["rm", f"{CONFIG}/keys.yml"]),
        _nothing,
        code="node-keys",
        words="node-keys: ",
    ),
    Fault(
        7,
        "an empty peerPrivKey",
        _edit(1, r'peerPrivKey: "?[0-9a-f]+"?', "peerPrivKey: ''"),
        _nothing,
        code="node-keys",
        words="node-keys: ",
    ),
    Fault(
        8,
        "keys.yml readable for everyone",
        lambda cluster: cluster.member.run(["chmod", "644", f"{CONFIG}/keys.yml"]),
        _nothing,
        code="config-mode",
        words="config-mode: ",
    ),
    Fault(
        9,
        "a byte order mark",
        _edit(1, r"\A", "\ufeff"),
        _nothing,
        ends=_is_right(1, r"\A[^\ufeff]"),
    ),
    Fault(
        10,
        "a number in quotes",
        _edit(1, "dataWorkerBaseStreamPort: 32500", "dataWorkerBaseStreamPort: '32500'"),
        _nothing,
        code="config-lint",
        words="config-lint: ",
    ),
    Fault(
        11,
        "the explorer on every address",
        _open_explorer,
        _restart_control,
        where=0,
        ends=_guard_closes_explorer,
    ),
    Fault(
        12,
        "a control process that calls no worker",
        _restart_control,
        _nothing,
        where=0,
        words="the control process was not seen connected to the workers",
        status_s=MINUTE_S,
    ),
    Fault(
        13,
        "the master's proxy",
        _nothing,
        _nothing,
        where=0,
        ends=_refuses("set", "--master-proxy"),
    ),
    Fault(
        13,
        "the same in a file",
        _edit(1, "enableMasterProxy: false", "enableMasterProxy: true"),
        _nothing,
        ends=_is_right(1, "enableMasterProxy: false"),
    ),
    Fault(
        14,
        "a tunnel network of IPv6",
        _nothing,
        _nothing,
        where=0,
        ends=_refuses(
            *("init", "--state", "/root/other", "--node", "2.1-rust", "--network", "fd77:1::/64"),
            *("--workers", "1", "--endpoint", "192.168.0.200"),
        ),
    ),
    Fault(
        15,
        "an address that is read as every address",
        _edit(0, r"listenGrpcMultiaddr: \S+", "listenGrpcMultiaddr: /dns4/localhost/tcp/8337"),
        _nothing,
        where=0,
        ends=_is_right(0, "listenGrpcMultiaddr: ['\"]?/ip4/127.0.0.1/tcp/8337"),
    ),
)
"""Row 6 is about units alone, and no fault of a running node."""
