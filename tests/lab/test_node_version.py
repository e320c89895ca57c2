"""A node that was upgraded from Go to Rust keeps Go's keys: its program says what it is."""

from __future__ import annotations

import json

import pytest

from tests.support.lab.cluster import STATE, facts, qmesh, refusal, what_is_there
from tests.support.lab.machines import Machine
from tests.support.lab.node_cluster import make_node_cluster
from tests.support.lab.programs.rust_node import new_key
from tests.support.lab.rust_node import CONFIG, DIRECTORY, PROGRAM, install_node, start_core, start_node
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

KEY = "cd" * 32
LOG = f"{STATE}/agent.log"
GO_FILE = f"""\
key:
  keyManagerType: file
  keyManagerFile:
    path: .config/keys.yml
    createIfMissing: false
    encryptionKey: {KEY}
p2p:
  listenMultiaddr: /ip4/0.0.0.0/udp/8336/quic-v1
  streamListenMultiaddr: ""
  peerPrivKey: {"ab" * 114}
engine:
  provingKeyId: default-proving-key
  dataWorkerP2PMultiaddrs: []
  dataWorkerStreamMultiaddrs: []
  archiveMode: false
db:
  path: .config/store
"""
INIT = ("init", "--workers", "1", "--endpoint", "192.168.0.200", "--config", CONFIG)


def versions(machine: Machine) -> list[dict[str, str]]:
    done = machine.run(["qmesh", "check", "--json"], check=False)
    return [each for each in json.loads(done.stdout)["findings"] if each["code"] == "node-program"]


def test_init_asks_the_program_that_runs_and_check_says_when_it_is_another_than_the_meshs(lab):
    machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
    install_node(machine)
    machine.write(f"{CONFIG}/config.yml", GO_FILE, 0o600)
    keys = new_key("default-proving-key", KEY) + new_key("q-view-key", KEY) + new_key("q-spend-key", KEY)
    machine.write(f"{CONFIG}/keys.yml", keys, 0o600)

    # Nothing tells: both choices are explained, and nothing is made.
    before = what_is_there(machine)
    said = refusal(machine, *INIT, code=2)
    assert "both in Go and in Rust" in said
    assert "`--node 2.1-rust` (version 2.1.0.23 or newer" in said
    assert "`--node 2.1` (in Go, up to 2.1.0.22)" in said
    assert what_is_there(machine) == before

    # A stranger's process of that command line and name tells nothing.
    theirs = "/tmp/node-2.1.0.25-linux-amd64"
    machine.write(theirs, "#!/bin/sh\necho quil-node 2.1.0.25; echo ready\nread line\n", 0o755)
    machine.run(["chown", "1001:1001", theirs])
    as_stranger = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups"]
    stranger = machine.start([*as_stranger, theirs, "--config", CONFIG])
    stranger.wait_for("ready")
    refusal(machine, *INIT, code=2)

    control = start_core(machine, 0)
    assert facts(machine, *INIT)["node"] == "2.1-rust"
    qmesh(machine, "render-config", "--write")
    assert versions(machine) == []

    # The mesh is for Go now, as those are that were made before programs were asked.
    said = qmesh(machine, "set", "--node", "2.1").stderr
    assert (
        f"the mesh is for node 2.1, but here core 0 runs '{PROGRAM}', which is node 2.1-rust (2.1.0.25)"
        in said
    )
    (found,) = versions(machine)
    assert (found["severity"], found["subject"], found["wanted"]) == ("error", PROGRAM, "node 2.1")
    logged = f"the mesh is for node 2.1, but here {found['seen']} (hint: `qmesh check` says what to do)"
    wait_until(lambda: logged in machine.read(LOG), seconds=10)
    assert found["cure"] == "qmesh set --node 2.1-rust"
    qmesh(machine, *found["cure"].split()[1:])
    assert versions(machine) == []
    right = "the node's program here is of the mesh's version, 2.1-rust"
    wait_until(lambda: right in machine.read(LOG), seconds=10)

    # Of what does not run, the units tell.
    control.stop()
    qmesh(machine, "set", "--node", "2.1")
    assert versions(machine) == []
    qmesh(machine, "units", "--write", "/etc/systemd/system", "--program", PROGRAM)
    (found,) = versions(machine)
    assert found["seen"] == f"the units start '{PROGRAM}', which is node 2.1-rust (2.1.0.25)"


OLDER_PROGRAM = f"{DIRECTORY}/node-2.1.0.22-linux-amd64"


@pytest.mark.long  # what is found of a program: tests/mesh/test_audit.py
def test_a_member_with_the_program_of_another_version_is_named_on_both_sides(lab):
    """As where one machine was not upgraded: it has all keys, and its worker runs."""
    control, member = make_node_cluster(lab)
    member.write(
        OLDER_PROGRAM,
        '#!/bin/sh\ncase "$*" in *--version*) exit 0 ;; esac\necho ready\nsleep 600\n',
        0o755,
    )
    start_node(control, 0, 1)
    start_node(member, 3)
    start_core(member, 2, program=OLDER_PROGRAM)
    (found,) = versions(member)
    assert (found["severity"], found["subject"]) == ("error", OLDER_PROGRAM)
    assert (found["wanted"], found["seen"]) == (
        "node 2.1-rust",
        f"core 2 runs '{OLDER_PROGRAM}', which is node 2.1 (2.1.0.22)",
    )
    assert "`qmesh set --node 2.1` on the control node" in found["cure"]
    assert "else install the program of node 2.1-rust here" in found["cure"]
    assert versions(control) == []
    (told,) = facts(control, "check", "--all", code=1)["members"]
    assert found in told["findings"]


def test_without_a_file_the_version_is_a_guess_and_init_says_how_to_correct_it(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    words = ("init", "--workers", "1", "--endpoint", "192.168.0.200")
    said = qmesh(machine, *words).stderr
    assert (
        "node 2.1-rust is a guess: qmesh found no config.yml; if your node is of another version, run" in said
    )
    assert "`qmesh set --node VERSION` (1.4, 2.0, 2.1) before the first machine joins" in said
    assert "a guess" not in qmesh(machine, *words).stderr
    assert facts(machine, "set", "--node", "2.0")["revision"] == 2
    assert facts(machine, "status")["node"] == "2.0"
