"""A cluster becomes a mesh: nobody is lost, nobody comes twice, and who can keep its cores keeps them."""

import ipaddress
import shlex
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.imports.commands import ScriptOptions, command_lines, render_script
from qmesh.mesh.imports.lines import parse_machine_lines
from qmesh.mesh.imports.machine import ImportedMachines, ListedMachine
from qmesh.mesh.imports.proposal import (
    ExistingMachine,
    ExistingMesh,
    Proposal,
    ProposedMachine,
    build_proposal,
)
from qmesh.mesh.imports.worker_list import find_machines_in_list, list_config_notes, uses_master_proxy
from qmesh.mesh.machine import Cores
from qmesh.mesh.values import validate_machine_name
from tests.support.strategies import addresses

OWN = frozenset({"192.168.0.200", "fd00::200", "127.0.0.1", "::1"})
BASE = 40000
SECRET = "5ec4e7"


def at(number: int, port: int) -> str:
    return f"/ip4/192.168.0.{number}/tcp/{port}"


def config(entries: Sequence[str]) -> str:
    lines = "".join(f"    - {entry}\n" for entry in entries)
    return f"p2p:\n  peerPrivKey: {SECRET}\n  other: [x]\nengine:\n  dataWorkerMultiaddrs:\n{lines}"


def cluster(*counts: tuple[int, int], base: int = BASE) -> list[str]:
    """Entries of machines one behind the other: `(200, 3), (201, 4)`."""
    numbers = [number for number, count in counts for _ in range(count)]
    return [at(number, base + core) for core, number in enumerate(numbers)]


def read(entries: Sequence[str]) -> ImportedMachines:
    return find_machines_in_list(config(entries), entries, OWN)


def proposed(entries: Sequence[str], mesh: ExistingMesh | None = None) -> Proposal:
    return build_proposal(read(entries), "2.0", BASE, mesh)


def cores_of(proposal: Proposal) -> dict[str, Cores | None]:
    return {machine.name: machine.cores for machine in proposal.machines}


def numbers_of(machine: ProposedMachine) -> tuple[int, ...]:
    assert machine.cores is not None
    return tuple(machine.cores.numbers)


def ports_of(machine: ProposedMachine, base: int) -> tuple[int, ...]:
    return tuple(base + core - 1 for core in numbers_of(machine))


def refusal(call: Any, *arguments: Any) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert SECRET not in caught.value.message + caught.value.hint
    assert caught.value.message.isprintable()
    return caught.value.message


def said(notes: Sequence[str], *words: str) -> list[str]:
    return [note for note in notes if all(word in note for word in words)]


TUTORIAL = cluster((200, 3), (201, 4), (202, 10))
B, C = "machine-192-168-0-201", "machine-192-168-0-202"


def test_the_tutorials_cluster_keeps_every_core_and_port():
    proposal = proposed(TUTORIAL)
    assert cores_of(proposal) == {"control": Cores(1, 3), B: Cores(4, 4), C: Cores(8, 10)}
    assert [machine.address for machine in proposal.machines] == [f"192.168.0.{n}" for n in (200, 201, 202)]
    assert proposal.base_port == BASE
    assert len(proposal.notes) == 1
    assert "the cluster does not work until the last command" in proposal.notes[0]
    assert proposal.machines_to_join == proposal.machines[1:]


@pytest.mark.parametrize(
    ("entries", "cores", "base", "words"),
    [
        pytest.param(
            cluster((201, 4), (200, 3), (202, 8)),
            {"control": (1, 3), B: (4, 4), C: (8, 8)},
            BASE,
            [
                ("not the first in the list",),
                ("control: cores 5-7 become 1-3: start its workers",),
                (f"{B}: cores 1-4 become 4-7: ",),
                ("control: ports 40004-40006 become 40000-40002, since", "base port + core - 1"),
            ],
            id="the control machine is not the first",
        ),
        pytest.param(
            cluster((201, 3), (202, 5), (200, 3), (203, 1)),
            {"control": (1, 3), C: (4, 5), B: (9, 3), "machine-192-168-0-203": (12, 1)},
            BASE,
            [(f"{B}: cores 1-3 become 9-11",)],
            id="another order spares a machine",
        ),
        pytest.param(
            cluster((200, 1), (201, 2), (200, 1), (201, 1)),
            {"control": (1, 2), B: (3, 3)},
            BASE,
            [
                ("control: cores 1, 4 become 1-2, since core numbers of a mesh have no gap",),
                (f"{B}: cores 2-3, 5 become 3-5, since",),
                (f"{B}: ports 40001-40002, 40004 become 40002-40004, since",),
            ],
            id="interleaved",
        ),
        pytest.param(
            cluster((201, 2), (202, 1)),
            {"control": (1, 1), B: (2, 2), C: (4, 1)},
            BASE - 1,
            [
                ("no entry has an address of this machine", "--here", "at least one"),
                (f"{B}: cores 1-2 become 2-3",),
                (f"{C}: core 3 becomes 4",),
            ],
            id="the control machine has no worker, and the others keep their ports",
        ),
        pytest.param(
            [at(200, 40000), at(200, 40001), at(201, 40000), at(201, 40001), at(201, 40002)],
            {"control": (1, 2), B: (3, 3)},
            39998,
            [("control: ports 40000-40001 become 39998-39999",)],
            id="each machine counts its ports from 40000",
        ),
        pytest.param(
            cluster((200, 1), (201, 2), base=50000),
            {"control": (1, 1), B: (2, 2)},
            50000,
            [],
            id="another base port",
        ),
        pytest.param(
            [at(200, 40000), at(201, 50001)],
            {"control": (1, 1), B: (2, 1)},
            BASE,
            [(f"{B}: port 50001 becomes 40001",)],
            id="as many keep the usual base port",
        ),
        pytest.param(
            cluster((200, 3), (201, 1), base=51818),
            {"control": (1, 3), B: (4, 1)},
            BASE,
            [(f"{B}: port 51821 becomes 40003",)],
            id="a worker would have WireGuard's port",
        ),
        pytest.param(
            ["/ip4/127.0.0.1/tcp/40000", at(201, 40001), "/ip4/0.0.0.0/tcp/40002", at(201, 40003)],
            {"control": (1, 2), B: (3, 2)},
            BASE,
            [
                ("core 1: 127.0.0.1 counts as this machine",),
                ("core 3: 0.0.0.0 counts as this machine",),
                (f"{B}: cores 2, 4 become 3-4",),
            ],
            id="loopback, and a wildcard in the middle",
        ),
        pytest.param(
            [*cluster((200, 1), (201, 2)), at(201, 40002)],
            {"control": (1, 1), B: (2, 3)},
            BASE,
            [("cores 3-4: all have 192.168.0.201 port 40002", "if one of them is a mistake")],
            id="one place twice",
        ),
        pytest.param(
            ["/ip6/fd00::200/tcp/40000", "/ip6/FD00:0::0201/tcp/40001", "/ip6/fd00::201/tcp/40002"],
            {"control": (1, 1), "machine-fd00-0-0-0-0-0-0-201": (2, 2)},
            BASE,
            [],
            id="IPv6, written in two ways",
        ),
    ],
)
def test_what_changes_is_told(entries, cores, base, words):
    proposal = proposed(entries)
    assert cores_of(proposal) == {name: Cores(*pair) for name, pair in cores.items()}
    assert list(cores_of(proposal)) == list(cores)
    assert proposal.base_port == base
    for each in words:
        assert said(proposal.notes, *each), proposal.notes
    changes = [machine for machine in proposal.machines if machine.was]
    for machine in changes:
        new_cores = machine.was != numbers_of(machine)
        new_ports = machine.ports_were != ports_of(machine, base)
        assert bool(said(proposal.notes, f"{machine.name}: core")) == new_cores
        assert bool(said(proposal.notes, f"{machine.name}: port")) == new_ports


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("/dns4/b.example/tcp/40001", "core 2 has a DNS name"),
        ("/dns/b/tcp/1", "core 2 has a DNS name"),
        (f"/ip4/{SECRET}/tcp/1", "core 2 has no IP address"),
        ("/ip4/192.168.0.201/udp/1", "core 2 has no IP address"),
        ("/ip4/192.168.0.201/tcp/0", "core 2 has no IP address"),
        ("/ip4/192.168.0.201/tcp/65536", "core 2 has no IP address"),
        ("<WORKER_IP>", "core 2 has no IP address"),
        ('""', "core 2 has no IP address"),
    ],
)
def test_an_entry_that_tells_no_machine_is_refused_with_its_place(entry, message):
    text = config([at(200, 40000), entry])
    entries = [at(200, 40000), entry.strip('"')]
    told = refusal(find_machines_in_list, text, entries, OWN)
    assert told.startswith(f"config.yml, line 7, column 7: {message}")


def test_an_entry_whose_place_is_not_found_is_refused_all_the_same():
    assert "core 1 has no" in refusal(find_machines_in_list, "", ["x"], OWN)


def test_a_file_without_a_list_is_refused():
    assert "has no worker list" in refusal(find_machines_in_list, "", [], OWN)


def test_more_workers_than_ports_are_refused():
    reading = ImportedMachines((ListedMachine(control=True, addresses=(), workers=25537),))
    assert "25537 workers do not fit" in refusal(build_proposal, reading, "2.0", BASE)


counts = st.lists(st.integers(1, 6), min_size=1, max_size=12)


@given(counts, st.integers(1024, 50000))
def test_a_list_with_the_control_machine_first_and_no_gaps_stays_as_it_is(sizes, base):
    entries = cluster(*((200 + at, size) for at, size in enumerate(sizes)), base=base)
    proposal = proposed(entries)
    for machine in proposal.machines:
        assert numbers_of(machine) == machine.was
        assert ports_of(machine, proposal.base_port) == machine.ports_were
    assert [note for note in proposal.notes if "become" in note] == []


@given(st.lists(st.tuples(st.integers(199, 205), st.integers(1, 65535)), min_size=1, max_size=40))
def test_nobody_is_lost_or_comes_twice(listens):
    entries = [at(number, port) for number, port in listens]
    proposal = proposed(entries)
    machines = proposal.machines
    assert machines[0].name == "control"
    assert len({machine.name for machine in machines}) == len(machines)
    assert [validate_machine_name(machine.name) for machine in machines]
    numbers = [core for machine in machines for core in numbers_of(machine)]
    assert numbers == list(range(1, len(numbers) + 1))
    was = sorted(core for machine in machines for core in machine.was)
    assert was == list(range(1, len(entries) + 1))
    assert len(numbers) == len(entries) + (200 not in {number for number, _ in listens})
    for machine in machines:
        assert len(machine.was) in {len(numbers_of(machine)), 0}
        ports = [listens[core - 1][1] for core in machine.was]
        assert list(machine.ports_were) == ports
    assert 1 <= proposal.base_port <= 65536 - len(numbers)


@given(counts, st.randoms(use_true_random=False))
def test_whoever_is_behind_the_control_machine_keeps_its_cores(sizes, random):
    machines = [(200 + at, size) for at, size in enumerate(sizes)]
    random.shuffle(machines)
    numbers = [number for number, _ in machines]
    proposal = proposed(cluster(*machines))
    kept = {machine.address for machine in proposal.machines if numbers_of(machine) == machine.was}
    assert kept >= {f"192.168.0.{number}" for number in numbers[numbers.index(200) + 1 :]}
    assert ("192.168.0.200" in kept) == (numbers[0] == 200)


NO_MACHINE = "this is not a"
LINES = """\
# mine
192.168.0.200/3        # the control machine

root@192.168.0.201/4, bob@192.168.0.202:2222/10,
"""


def test_lines_are_machines_in_core_order():
    proposal = build_proposal(parse_machine_lines(LINES, OWN), "1.4", BASE)
    assert cores_of(proposal) == {"control": Cores(1, 3), B: Cores(4, 4), C: Cores(8, 10)}
    logins = [(machine.user, machine.ssh_port) for machine in proposal.machines]
    assert logins == [(None, None), ("root", None), ("bob", 2222)]
    assert [machine.was for machine in proposal.machines][1] == (4, 5, 6, 7)
    assert len(proposal.notes) == 1


@given(
    addresses,
    st.none() | st.integers(1, 65535),
    st.none() | st.integers(1, 99),
    st.sampled_from(["", "a-b.c@"]),
)
def test_every_form_of_a_line_is_read(address, port, workers, user):
    host = f"[{address}]" if ":" in address else address
    text = f"{user}{host}{'' if port is None else f':{port}'}{'' if workers is None else f'/{workers}'}"
    parsed = ipaddress.ip_address(address)
    if parsed.is_loopback or parsed.is_unspecified:
        assert "means a different machine on each machine" in refusal(parse_machine_lines, text, OWN)
        return
    (machine,) = parse_machine_lines("\ufeff" + text, OWN).machines
    assert machine.addresses == (address,)
    assert (machine.ssh_port, machine.workers) == (port, workers)
    assert machine.user == (user.rstrip("@") or None)


def test_ipv6_needs_no_brackets_without_a_port():
    (machine,) = parse_machine_lines("fd00::200/4", OWN).machines
    assert (machine.addresses, machine.workers) == (("fd00::200",), 4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        *((text, NO_MACHINE) for text in ("4", f"peerPrivKey: {SECRET}", "b.example/4", "@192.0.2.1")),
        *((text, NO_MACHINE) for text in ("192.0.2.1/", "192.0.2.1/x", "192.0.2.1:", "192.0.2.1:1:2")),
        *((text, NO_MACHINE) for text in ("-oProxyCommand=x@192.0.2.1", "a b@192.0.2.1", "ro;ot@192.0.2.1")),
        ("fe80::1%eth0/4", NO_MACHINE),
        ("192.0.2.256/4", NO_MACHINE),
        ("192.0.2.1:0/4", "ssh's port 0 is out of range"),
        ("192.0.2.1:65536/4", "ssh's port 65536 is out of range"),
        ("192.0.2.1/0", "0 is not a number of workers"),
        ("192.0.2.1/65536", "65536 is not a number of workers"),
        ("192.168.0.9", "192.168.0.9 is already in line 1"),
        ("::", ":: means a different machine on each machine"),
    ],
)
def test_a_wrong_line_is_refused_by_its_number(line, message):
    told = refusal(parse_machine_lines, f"192.168.0.9/1\n# x\n{line}\n", OWN)
    assert told.startswith("line 3: ")
    assert message in told


def test_a_file_without_machines_is_refused():
    assert refusal(parse_machine_lines, "# nothing\n , \n", OWN) == "there is no machine in any line"


def test_two_lines_that_are_this_machine_are_refused():
    assert "are both addresses of this machine" in refusal(
        parse_machine_lines, "192.168.0.200\nfd00::200", OWN
    )


def test_where_no_line_is_this_machine_the_first_is_the_control_machine():
    proposal = build_proposal(parse_machine_lines("192.168.0.9/2\n192.168.0.201/4", OWN), "2.0", BASE)
    assert cores_of(proposal) == {"control": Cores(1, 2), B: Cores(3, 4)}
    assert said(proposal.notes, "192.168.0.9, is used as the control machine", "--here")


def test_workers_that_only_the_machine_knows_leave_the_cores_open():
    proposal = build_proposal(
        parse_machine_lines("192.168.0.202/2\n192.168.0.201\n192.168.0.200/3", OWN), "2.0", BASE
    )
    assert cores_of(proposal) == {"control": Cores(1, 3), C: Cores(4, 2), B: None}
    lines = command_lines(proposal, ScriptOptions(init=True))
    assert f"qmesh invite {B} --endpoint 192.168.0.201:51820 --out {B}.invitation" in lines
    text = render_script(proposal, ScriptOptions(init=True))
    assert f"# {B}: its own cores" in text
    assert "to come" in text
    unknown = build_proposal(parse_machine_lines("192.168.0.200\n192.168.0.201/4", OWN), "2.0", BASE)
    assert cores_of(unknown) == {"control": None, B: None}
    assert command_lines(unknown, ScriptOptions(init=True))[0] == "qmesh init --name control --node 2.0"


def test_the_commands_are_in_the_order_of_the_cores():
    proposal = build_proposal(parse_machine_lines(LINES, OWN), "1.4", BASE)
    there = "'qmesh join - --config '\"'\"'/root/my node'\"'\"''"
    assert command_lines(proposal, ScriptOptions(init=True, master_proxy=True))[:2] == (
        command_lines(proposal, ScriptOptions(init=True))[0],
        "qmesh set --master-proxy",
    )
    assert "qmesh set" not in render_script(proposal, ScriptOptions(init=False, master_proxy=True))
    assert command_lines(proposal, ScriptOptions(init=True, config="/root/my node")) == (
        "qmesh init --name control --workers 3 --node 1.4 --config '/root/my node'",
        f"qmesh invite {B} --workers 4 --endpoint 192.168.0.201:51820 --out {B}.invitation",
        f"ssh root@192.168.0.201 {there} < {B}.invitation",
        f"rm {B}.invitation",
        f"qmesh invite {C} --workers 10 --endpoint 192.168.0.202:51820 --out {C}.invitation",
        f"ssh -p 2222 bob@192.168.0.202 {there.replace('qmesh', 'sudo qmesh', 1)} < {C}.invitation",
        f"rm {C}.invitation",
        "qmesh render-config --write --config '/root/my node'",
    )
    options = ScriptOptions(init=True, control_endpoints=("203.0.113.5",), base_port=True)
    first = command_lines(proposal, options)[0]
    assert first.endswith("--node 1.4 --worker-base-port 40000 --endpoint 203.0.113.5")


def test_the_script_is_the_commands_and_comments():
    proposal = proposed([*cluster((200, 3), (201, 4), (202, 1)), at(201, 40008)])
    options = ScriptOptions(init=True, config="/root/node/.config")
    lines = [
        line for line in render_script(proposal, options).splitlines() if line and not line.startswith("#")
    ]
    assert lines == ["(", "set -e", "cd ~root", *command_lines(proposal, options), ")"]
    text = render_script(proposal, options)
    assert all(len(line) <= 110 for line in text.splitlines() if line.startswith("#"))
    assert SECRET not in text
    row = next(line for line in text.splitlines() if B in line)
    assert shlex.split(row)[1:] == [B, "192.168.0.201", "5", "4-8", "4-7,", "9", "40003-40007"]


def joined(
    name: str, number: int, workers: int | None, *, active: bool = True, tunnel: int = 1
) -> ExistingMachine:
    found = frozenset({f"10.77.0.{tunnel}", f"192.168.0.{number}"})
    return ExistingMachine(name=name, active=active, workers=workers, addresses=found)


CONTROL = joined("hub", 200, 3)


def test_where_the_mesh_is_made_already_the_rest_is_proposed():
    mesh = ExistingMesh(control="hub", base_port=BASE, machines=(CONTROL, joined("other", 201, 4, tunnel=2)))
    proposal = proposed(TUTORIAL, mesh)
    assert cores_of(proposal) == {"hub": Cores(1, 3), "other": Cores(4, 4), C: Cores(8, 10)}
    assert [machine.member for machine in proposal.machines] == [True, True, False]
    assert [machine.name for machine in proposal.machines_to_join] == [C]
    lines = command_lines(proposal, ScriptOptions(init=False))
    assert [shlex.split(line)[:2] for line in lines] == [
        ["qmesh", "invite"],
        ["ssh", "192.168.0.202"],
        ["rm", f"{C}.invitation"],
        ["qmesh", "render-config"],
    ]
    assert "other (joined)" in render_script(proposal, ScriptOptions(init=False))


def test_a_machine_that_is_invited_keeps_its_name_and_is_invited_anew():
    invited = joined("second", 201, None, active=False, tunnel=2)
    proposal = proposed(TUTORIAL, ExistingMesh(control="hub", base_port=BASE, machines=(CONTROL, invited)))
    assert [machine.name for machine in proposal.machines_to_join] == ["second", C]
    assert cores_of(proposal)["second"] == Cores(4, 4)


def test_what_the_mesh_has_otherwise_than_the_list_is_told():
    machines = (CONTROL, joined("elsewhere", 99, 1, tunnel=2), joined(B, 98, 5, tunnel=3))
    proposal = proposed(TUTORIAL, ExistingMesh(control="hub", base_port=BASE, machines=machines))
    assert cores_of(proposal) == {
        "hub": Cores(1, 3),
        "elsewhere": Cores(4, 1),
        B: Cores(5, 5),
        C: Cores(10, 10),
    }
    assert said(proposal.notes, f"{B} has 5 workers in the mesh, and 4 in this list")
    assert said(proposal.notes, f"{B}: cores 4-7 become 5-9")


def test_a_list_that_is_the_meshs_already_leaves_nothing_to_do():
    own = OWN | {"10.77.0.1"}
    entries = [*(f"/ip4/10.77.0.1/tcp/{port}" for port in range(40000, 40003)), "/ip4/10.77.0.2/tcp/40003"]
    mesh = ExistingMesh(control="hub", base_port=BASE, machines=(CONTROL, joined("b", 201, 1, tunnel=2)))
    proposal = build_proposal(find_machines_in_list(config(entries), entries, own), "2.0", BASE, mesh)
    assert proposal.machines_to_join == ()
    assert proposal.notes == ()
    assert command_lines(proposal, ScriptOptions(init=False)) == ("qmesh render-config --write",)


def test_a_config_that_does_not_tell_its_node_or_has_lists_that_count_nothing_is_told_of():
    assert list_config_notes("engine:\n  fullProver: true\n", "2.0", is_sure=False) == ()
    unsure = "config.yml does not tell the node's version: 2.0 is assumed; otherwise pass --node"
    assert list_config_notes("p2p: {}\n", "2.0", is_sure=False) == (unsure,)
    assert list_config_notes("p2p: {}\n", "2.0", is_sure=True) == ()
    proxied = "engine:\n  enableMasterProxy: {}\n"
    (said,) = list_config_notes(proxied.format("true"), "2.1-rust", is_sure=True)
    assert "engine.enableMasterProxy: node 2.1-rust does not support that" in said
    for value in ("false", "[]", "&a true"):
        assert list_config_notes(proxied.format(value), "2.1-rust", is_sure=True) == ()
    assert list_config_notes(proxied.format("true"), "2.1", is_sure=True) == ()
    # In Go it works, and the mesh is told: else `render-config` would switch it off.
    assert uses_master_proxy(proxied.format("true"), "2.1")
    assert not any(uses_master_proxy(proxied.format(value), "2.1") for value in ("false", "[]"))
    assert not uses_master_proxy(proxied.format("true"), "2.1-rust")
    assert list_config_notes("dataWorkerMultiaddrs: []\n", "2.0", is_sure=True) == (
        "config.yml, line 1, column 1: the node ignores dataWorkerMultiaddrs silently",
    )
