"""A cluster on LAN addresses becomes a mesh by the very commands that `qmesh import` prints."""

import json
import shlex
from collections.abc import Iterable, Mapping

import pytest

from tests.support.lab.cluster import CONFIG, dial, facts, qmesh, refusal, start_workers, what_is_there
from tests.support.lab.machines import Lab, Machine

pytestmark = pytest.mark.lab

CONTROL_FIRST = (("machine-a", 3), ("machine-b", 4), ("machine-c", 2))
CONTROL_LATER = (("machine-b", 4), ("machine-a", 2), ("machine-c", 2))
NUMBERS = {"machine-a": 200, "machine-b": 201, "machine-c": 202}


def lan_cluster(lab: Lab, counts: tuple[tuple[str, int], ...]) -> dict[str, Machine]:
    """Machines that have one config.yml, with their LAN addresses in it."""
    machines = {name: lab.machine(name, f"192.168.0.{number}") for name, number in NUMBERS.items()}
    on = [name for name, count in counts for _ in range(count)]
    entries = [f"    - /ip4/{machines[name].ipv4}/tcp/{40000 + at}\n" for at, name in enumerate(on)]
    text = "p2p:\n  peerPrivKey: 5ec4e7a11b1e\n  minPeers: 3\nengine:\n  dataWorkerMultiaddrs:\n"
    for machine in machines.values():
        machine.write(f"{CONFIG}/config.yml", text + "".join(entries), 0o600)
    return machines


def type_it(machines: dict[str, Machine], line: str) -> None:
    """Type a printed command on the control machine; what it says to ssh is typed there as a login would."""
    control = machines["machine-a"]
    words = shlex.split(line)
    if words[0] != "ssh":
        control.run(["sh", "-c", line], timeout=90)
        return
    _ssh, address, there, redirection, file = words
    assert redirection == "<"
    (machine,) = (each for each in machines.values() if each.ipv4 == address)
    machine.run(["sh", "-c", there], input=control.read(file), timeout=90)


@pytest.mark.parametrize(
    "counts",
    [CONTROL_FIRST, pytest.param(CONTROL_LATER, marks=pytest.mark.long)],
    ids=["control first", "control later"],
)
def test_a_lan_cluster_becomes_a_mesh_by_the_printed_commands(lab, counts):
    machines = lan_cluster(lab, counts)
    control = machines["machine-a"]
    cores = cores_of(counts)
    workers = [start_workers(machines[name], dots(numbers)) for name, numbers in cores.items()]
    assert dial(control) == answers_of(cores)

    before = what_is_there(control)
    asked = ("import", "--config", CONFIG)
    proposal = facts(control, *asked)
    assert "5ec4e7a11b1e" not in json.dumps(proposal) + qmesh(control, *asked).stdout
    assert what_is_there(control) == before
    commands = proposal["commands"]
    for line in commands[:4]:
        type_it(machines, line)
    # The first has joined: what is left to do is what was printed for later.
    assert facts(control, *asked)["commands"] == commands[4:]
    for line in commands[4:]:
        type_it(machines, line)
    assert facts(control, *asked)["commands"] == commands[-1:]
    assert "on the control machine" in refusal(machines["machine-b"], *asked, code=2)

    placed = {each["name"]: each["cores"] for each in proposal["machines"]}
    assert {each["name"]: each["cores"] for each in facts(control, "status")["machines"]} == placed
    by_address = {machine.ipv4: name for name, machine in machines.items()}
    now = cores_of([(by_address[each["address"]], each["workers"]) for each in proposal["machines"]])
    for each in workers:
        each.stop()
    for name, numbers in now.items():
        start_workers(machines[name], dots(numbers))
    assert dial(control) == answers_of(now)
    assert "192.168.0." not in control.read(f"{CONFIG}/config.yml")
    changes = [note for note in proposal["notes"] if "become" in note]
    if counts is CONTROL_FIRST:
        assert (now, changes) == (cores, [])
    else:
        assert any("machine-192-168-0-201: cores 1-4 become 3-6" in note for note in changes)
        assert now["machine-c"] == cores["machine-c"]


def test_a_join_that_fails_ends_the_script_and_is_proposed_again(lab):
    control = lan_cluster(lab, CONTROL_FIRST)["machine-a"]
    script = qmesh(control, "import", "--config", CONFIG).stdout
    control.write("/root/adopt.sh", script)
    control.write("/root/bin/ssh", "#!/bin/sh\necho called >> /root/calls\nexit 255\n", 0o755)
    run = 'PATH="/root/bin:$PATH"; . ./adopt.sh; echo "the login goes on after $?"'
    done = control.run(["sh", "-c", run], timeout=90)
    assert "the login goes on after 255" in done.stdout
    assert control.read("/root/calls") == "called\n"
    states = {each["name"]: each["state"] for each in facts(control, "status")["machines"]}
    assert states == {"control": "active", "machine-192-168-0-201": "invited"}
    assert control.run(["stat", "-c%a", "machine-192-168-0-201.invitation"]).stdout == "600\n"
    again = qmesh(control, "import", "--config", CONFIG).stdout
    assert [line for line in again.splitlines() if line.startswith("qmesh")] == [
        line for line in script.splitlines() if line.startswith("qmesh") and "init" not in line
    ]


def cores_of(counts: Iterable[tuple[str, int]]) -> dict[str, range]:
    """Each machine's cores, counted in that order."""
    found: dict[str, range] = {}
    first = 1
    for name, count in counts:
        found[name] = range(first, first + count)
        first += count
    return found


def dots(numbers: range) -> str:
    return f"{numbers[0]}..{numbers[-1]}"


def answers_of(cores: Mapping[str, range]) -> list[str]:
    """What a control process hears when each of these workers runs where it dials."""
    return [f"core {core} on {name}" for name, numbers in cores.items() for core in numbers]
