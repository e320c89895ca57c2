"""Joining by files, as far as files go: a control node and machines without tunnel and guard."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent.commands import invite as invite_command
from qmesh.agent.commands import remove
from qmesh.agent.commands.admit import AdmitResult, admit
from qmesh.agent.commands.invite import invite
from qmesh.agent.commands.join.offline import accept_answer, make_request
from qmesh.agent.commands.join.online import join
from qmesh.agent.commands.join.steps import JoinOptions
from qmesh.agent.commands.set import set_machine
from qmesh.agent.local import load_local
from qmesh.agent.node.node_files import FetchedFiles, choose_directory, write_node_files
from qmesh.errors import BadInput, EnrolmentRefused, QmeshError, StateUnreadable
from qmesh.host import files
from qmesh.host.registry import Registry, sqlite
from qmesh.host.state.directory import State
from qmesh.host.state.documents import PortReservations
from qmesh.mesh.node_keys.planned_files import plan_node_files
from qmesh.mesh.node_processes.reading_record import ReadingRecord
from qmesh.mesh.nodeconfig import render_config_for
from qmesh.mesh.protocol.enrolment import Invitation, derive_permanent_preshared_key, derive_public_key
from qmesh.mesh.protocol.file_exchange import parse_request
from qmesh.mesh.protocol.node_files import NodeFiles
from qmesh.mesh.values import Profile
from tests.support.control_node import make_control_node
from tests.support.lab.programs.cut_off import cut_offs
from tests.support.node_identity import IDENTITY, KEY_STORE

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

WISH = JoinOptions(endpoint=None, config=None, listen_port=None, interface=None)


class Cluster:
    """A control node, and other machines by name; nothing of them but their state directories."""

    def __init__(self, directory: Path, node: Profile = "1.4") -> None:
        self._directory = directory
        self.control = State(directory / "control")
        make_control_node(self.control, endpoint="192.168.0.200", network=None, node=node)

    def machine(self, name: str = "machine-b") -> State:
        return State(self._directory / name)

    def invite(self, name: str = "machine-b") -> Invitation:
        return invite(
            self.control, invite_command.InviteOptions(name=name, workers=4, endpoint=None, expires="24h")
        )

    def ask(self, invitation: Invitation, name: str = "machine-b", wish: JoinOptions = WISH) -> str:
        return make_request(self.machine(name), invitation.text(), wish).request

    def admit(self, request: str) -> AdmitResult:
        return admit(self.control, request)

    def has_one_member(self) -> bool:
        with Registry(self.control.registry_file) as registry:
            machines, events = registry.inventory().machines, registry.events()
        assert [(each.name, each.address, each.state) for each in machines] == [
            ("control", "10.77.0.1", "active"),
            ("machine-b", "10.77.0.2", "active"),
        ]
        assert [(event.what, event.command) for event in events[1:]] == [
            ("invited", "invite"),
            ("joined", "admit"),
        ]
        return True


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def refused(call: Callable[[], object], kind: type[QmeshError], because: str) -> None:
    with pytest.raises(kind, match=because) as error:
        call()
    assert type(error.value) is kind
    assert error.value.message.isprintable()
    assert error.value.hint.isprintable()


def altered(request: str, **changed: Any) -> str:
    """A request that says something else, under a checksum that is right."""
    asked = parse_request(request)
    message = msgspec.json.encode(json.loads(asked.redemption) | changed)
    return msgspec.structs.replace(asked, redemption=message).text()


def contents(state: State) -> dict[str, bytes]:
    found = (path for path in state.directory.rglob("*") if path.is_file())
    return {str(path.relative_to(state.directory)): path.read_bytes() for path in found}


def test_three_lines_make_a_member(directory):
    cluster = Cluster(directory)
    invitation = cluster.invite()
    request = cluster.ask(invitation)
    assert set(contents(cluster.machine())) == {"private.key", "request.json"}
    standing = accept_answer(cluster.machine(), cluster.admit(request).answer, apply=False)
    assert (standing.name, standing.address, standing.ports) == (
        "machine-b",
        "10.77.0.2",
        (40003, 40004, 40005, 40006),
    )
    assert cluster.has_one_member()
    member = load_local(cluster.machine())
    assert member.settings.control_endpoints == invitation.endpoints
    shared = load_local(cluster.control).preshared[standing.public_key]
    assert member.preshared == {invitation.control_key: shared}
    assert shared == derive_permanent_preshared_key(
        invitation.secret, invitation.control_key, standing.public_key
    )


def notes(state: State) -> ReadingRecord:
    """What is remembered of what the node's processes read."""
    record = state.process_record.read_valid()
    assert record is not None
    assert record.readings is not None
    assert record.readings.facts.is_managed
    assert set(record.readings.cores) == {4, 5, 6, 7}
    return record.readings


def test_join_and_node_files_note_what_they_wrote_for_the_node(directory):
    """The agent looks every few seconds: a worker may have been started by then."""
    cluster = Cluster(directory)
    accept_answer(cluster.machine(), cluster.admit(cluster.ask(cluster.invite())).answer, apply=False)
    assert notes(cluster.machine()).keys is None

    cluster = Cluster(directory / "2.1-rust", node="2.1-rust")
    state = cluster.machine()
    accept_answer(state, cluster.admit(cluster.ask(cluster.invite())).answer, apply=False)
    assert state.process_record.read_valid() is None, (
        "it has no file yet, and makes none without the node's keys"
    )
    here = load_local(state)
    where = choose_directory(state, here.settings, None)
    path, store = str(where.path), f"{where.path}/keys.yml"
    config = render_config_for(here.inventory, "machine-b", IDENTITY, key_store=store).text
    planned = plan_node_files(
        here.inventory,
        "machine-b",
        NodeFiles(config=config, keys=KEY_STORE.encode()),
        directory=path,
        config=None,
        key_store=None,
    )
    fetched = FetchedFiles(here=here, directory=where, files=planned)
    assert len(write_node_files(state, fetched, replace=False)) == 2
    noted = notes(state)
    assert noted.keys is not None
    others = [
        msgspec.structs.replace(each, octets=each.octets.replace(b"5ec4e7b0", b"5ec4e7b1"), old=each.octets)
        for each in planned
    ]
    write_node_files(state, msgspec.structs.replace(fetched, files=tuple(others)), replace=True)
    after = notes(state)
    assert after.keys is not None
    assert after.keys.earlier[0][0] == noted.keys.digest
    assert after.cores[4] == noted.cores[4]


def test_a_request_is_the_same_again(directory):
    cluster = Cluster(directory)
    invitation = cluster.invite()
    request = cluster.ask(invitation)
    before = contents(cluster.machine())
    assert cluster.ask(invitation) == request
    assert contents(cluster.machine()) == before
    moved = msgspec.structs.replace(WISH, endpoint="198.51.100.9:51820")
    assert json.loads(parse_request(cluster.ask(invitation, wish=moved)).redemption)["endpoint"]
    told = msgspec.structs.replace(WISH, announce="203.0.113.7")
    assert (
        json.loads(parse_request(cluster.ask(invitation, wish=told)).redemption)["announce"] == "203.0.113.7"
    )
    assert cluster.ask(invitation) == request


def test_where_a_machine_is_announced_is_what_it_says_else_what_its_invitation_said(directory):
    cluster = Cluster(directory)
    wish = invite_command.InviteOptions(
        name="machine-b", workers=4, endpoint=None, expires="24h", announce="b.example.org"
    )
    invitation = invite(cluster.control, wish)
    cluster.admit(cluster.ask(invitation))
    told = msgspec.structs.replace(WISH, announce="203.0.113.7")
    cluster.admit(cluster.ask(cluster.invite("machine-c"), "third", told))
    found = {each.name: each.announce for each in load_local(cluster.control).inventory.machines}
    assert found == {"control": None, "machine-b": "b.example.org", "machine-c": "203.0.113.7"}
    for wrong in ("10.77.0.7", "192.168.0.7"):
        bad = msgspec.structs.replace(WISH, announce=wrong)
        refused(partial(cluster.ask, invitation, "fourth", bad), BadInput, "cannot be announced")
        bad_invitation = msgspec.structs.replace(wish, name="machine-d", announce=wrong)
        refused(partial(invite, cluster.control, bad_invitation), BadInput, "cannot be announced")


def test_e2_what_is_carried_and_kept_has_no_secret_of_the_invitation(directory):
    cluster = Cluster(directory)
    invitation = cluster.invite()
    cluster.ask(invitation)
    kept = b"".join(contents(cluster.machine()).values())
    for secret in (invitation.secret, invitation.derived_keys.proof_key):
        for spelling in (msgspec.json.encode(secret).strip(b'"'), secret.hex().encode(), secret):
            assert spelling not in kept


def test_e2_an_altered_request_is_refused(directory):
    cluster = Cluster(directory)
    request = cluster.ask(cluster.invite())
    before = contents(cluster.control)["mesh.db"]
    changes: tuple[dict[str, Any], ...] = (
        {"workers": 64},
        {"public_key": load_local(cluster.control).machine.public_key},
        {"endpoint": "192.168.0.66:51820"},
        {"announce": "198.51.100.66"},
        {"proof": "0" * 64},
    )
    for changed in changes:
        forged = altered(request, **changed)
        refused(partial(cluster.admit, forged), EnrolmentRefused, "the proof of the redemption is wrong")
    unknown = altered(request, identifier="0" * 32)
    refused(lambda: cluster.admit(unknown), EnrolmentRefused, "not known to this control node")
    zeros = altered(request, public_key="A" * 43 + "=")
    refused(lambda: cluster.admit(zeros), EnrolmentRefused, "cannot be used")
    foreign = msgspec.structs.replace(parse_request(request), mesh="0" * 16).text()
    refused(lambda: cluster.admit(foreign), EnrolmentRefused, "is for mesh 0000000000000000")
    refused(lambda: cluster.admit(request[:-5]), BadInput, "damaged")
    assert contents(cluster.control)["mesh.db"] == before


def test_e3_an_invitation_that_is_spent_is_refused(directory):
    cluster = Cluster(directory)
    invitation = cluster.invite()
    request = cluster.ask(invitation)
    late = cluster.ask(invitation, "second")
    cluster.admit(request)
    refused(lambda: cluster.admit(late), EnrolmentRefused, "used already, with another key")
    withdrawn = cluster.ask(cluster.invite("machine-c"), "third")
    expired = cluster.ask(cluster.invite("machine-c"), "third")
    refused(lambda: cluster.admit(withdrawn), EnrolmentRefused, "withdrawn")
    connection = sqlite.connect(cluster.control.registry_file)
    connection.execute("UPDATE invitations SET expires_at = 1")
    connection.close()
    refused(lambda: cluster.admit(expired), EnrolmentRefused, "expired")
    cluster.admit(request)  # that one was redeemed in time
    remove.remove(cluster.control, "machine-b")
    refused(
        lambda: cluster.admit(request),
        EnrolmentRefused,
        "used already, and its machine is no longer a member",
    )
    assert [machine.name for machine in load_local(cluster.control).inventory.machines] == ["control"]


def test_e7_who_was_away_when_it_was_removed_can_be_told_though_no_agent_ran(directory):
    cluster = Cluster(directory)
    admitted = cluster.admit(cluster.ask(cluster.invite()))
    shared = load_local(cluster.control).preshared[admitted.public_key]
    assert load_local(cluster.control).retired == ()
    replacing = invite_command.InviteOptions(
        name="machine-b", workers=None, endpoint=None, expires="24h", replace=True
    )
    again = cluster.admit(cluster.ask(invite(cluster.control, replacing), "its-new-disk"))
    remove.remove(cluster.control, "machine-b")
    remembered = load_local(cluster.control).retired
    assert [(each.public_key, each.reason) for each in remembered] == [
        (admitted.public_key, "replaced"),
        (again.public_key, "removed"),
    ]
    assert remembered[0].preshared_key == shared


def test_e4_cut_off_at_any_write_a_request_is_made_with_the_same_key(directory):
    cluster = Cluster(directory)
    invitation = cluster.invite()
    machine = cluster.machine()

    def afresh() -> None:
        shutil.rmtree(machine.directory, ignore_errors=True)

    cut = []
    for at in cut_offs(lambda: cluster.ask(invitation), afresh=afresh):
        cut.append(at.split()[0])
        key = machine.keys.read_private_key()
        request = json.loads(parse_request(cluster.ask(invitation)).redemption)
        assert key in {None, machine.keys.read_private_key()}
        own = machine.keys.read_private_key()
        assert own is not None
        assert request["public_key"] == derive_public_key(own)
    assert cut.count("replace") == 2
    assert cut.count("fsync") == 4


def test_e4_cut_off_at_any_write_admitting_makes_one_member(directory):
    cluster = Cluster(directory)
    request = cluster.ask(cluster.invite())
    kept = directory / "kept"
    shutil.copytree(cluster.control.directory, kept)

    def afresh() -> None:
        shutil.rmtree(cluster.control.directory)
        shutil.copytree(kept, cluster.control.directory)

    cut = []
    for at in cut_offs(lambda: cluster.admit(request), afresh=afresh):
        cut.append(at)
        cluster.admit(request)
        assert cluster.has_one_member()
    assert cut.count("commit") > 2
    accept_answer(cluster.machine(), cluster.admit(request).answer, apply=False)


def test_e4_cut_off_at_any_write_the_answer_makes_a_member(directory):
    cluster = Cluster(directory)
    answer = cluster.admit(cluster.ask(cluster.invite())).answer
    machine, kept = cluster.machine(), directory / "kept"
    shutil.copytree(machine.directory, kept)

    def afresh() -> None:
        shutil.rmtree(machine.directory)
        shutil.copytree(kept, machine.directory)

    cut = []
    for at in cut_offs(lambda: accept_answer(machine, answer, apply=False), afresh=afresh):
        cut.append(at.split()[0])
        accept_answer(machine, answer, apply=False)
        assert load_local(machine).machine.address == "10.77.0.2"
        assert {"machine.json", "membership.json", "preshared.key", "node/config.yml"} <= set(
            contents(machine)
        )
        assert "request.json" not in contents(machine)
    assert cut.count("replace") > 3
    assert cluster.has_one_member()


def test_e6_no_answer_but_the_own_one_is_believed(directory):
    cluster = Cluster(directory)
    machine = cluster.machine()
    machine.create_directory()
    foreign = cluster.admit(cluster.ask(cluster.invite("machine-c"), "machine-c")).answer
    refused(
        lambda: accept_answer(machine, foreign, apply=False), BadInput, "no request of this machine waits"
    )
    invitation = cluster.invite()
    request = cluster.ask(invitation)
    thief = cluster.ask(invitation, "thief")
    own = cluster.admit(request).answer
    before = contents(machine)
    refused(lambda: load_local(machine), BadInput, "in no mesh yet: it waits for the answer")
    refused(lambda: accept_answer(machine, foreign, apply=False), EnrolmentRefused, "to another request")
    refused(lambda: accept_answer(machine, own[:-5], apply=False), BadInput, "damaged")
    refused(lambda: accept_answer(machine, request, apply=False), BadInput, "not a qmesh answer")
    assert contents(machine) == before
    held = contents(cluster.machine("thief"))
    assert thief != request
    refused(
        lambda: accept_answer(cluster.machine("thief"), own, apply=False),
        EnrolmentRefused,
        "not for this machine",
    )
    assert contents(cluster.machine("thief")) == held
    refused(lambda: accept_answer(cluster.control, own, apply=False), BadInput, "is the control node")

    machine.keys.private_file.unlink()
    refused(lambda: accept_answer(machine, own, apply=False), StateUnreadable, "not the key that the request")
    files.write(machine.keys.private_file, before["private.key"])
    accept_answer(machine, own, apply=False)


def test_e6_an_older_membership_is_never_taken(directory):
    cluster = Cluster(directory)
    machine = cluster.machine()
    invitation = cluster.invite()
    request = cluster.ask(invitation)
    old = cluster.admit(request).answer
    accept_answer(machine, old, apply=False)
    set_machine(cluster.control, "machine-b", workers=2, endpoints=None)
    newer = cluster.admit(request).answer
    accept_answer(machine, newer, apply=False)
    assert load_local(machine).inventory.revision == 3
    before = contents(machine)
    for answer in (old, newer):
        accept_answer(machine, answer, apply=False)
        assert contents(machine) == before
    refused(lambda: cluster.ask(invitation), BadInput, "already")
    foreign = cluster.admit(cluster.ask(cluster.invite("machine-c"), "machine-c")).answer
    refused(lambda: accept_answer(machine, foreign, apply=False), EnrolmentRefused, "not for this machine")
    assert contents(machine) == before

    (machine.directory / "machine.json").unlink()
    cluster.ask(invitation)
    before = contents(machine)
    refused(
        lambda: accept_answer(machine, old, apply=False),
        EnrolmentRefused,
        "this machine has revision 3 already",
    )
    assert contents(machine) == before
    accept_answer(machine, newer, apply=False)
    machine.membership_file.write_bytes(b"{")
    cluster.ask(invitation)
    accept_answer(machine, old, apply=False)
    assert load_local(machine).inventory.revision == 2


@pytest.mark.parametrize("ports", [(), (40003, 40004)])
def test_e4_ports_that_were_closed_stay_so_without_apply(directory, ports):
    cluster = Cluster(directory)
    machine = cluster.machine()
    request = cluster.ask(cluster.invite())
    machine.save_port_reservations(PortReservations(ours=ports))
    accept_answer(machine, cluster.admit(request).answer, apply=False)
    assert machine.settings().guarded is bool(ports)


def test_what_collides_is_refused_when_asking_and_when_entering(directory):
    cluster = Cluster(directory)
    machine = cluster.machine()
    invitation = cluster.invite()
    subprocess.run(["ip", "link", "add", "lan", "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", "lan", "up"], check=True)
    # A part of the network in which no machine of the mesh is, and a wider one, are in nobody's way.
    for harmless in ("10.77.3.1/24", "10.0.0.1/8"):
        subprocess.run(["ip", "address", "add", "dev", "lan", harmless], check=True)
    collide = ["dev", "lan", "10.77.0.9/28"]
    subprocess.run(["ip", "address", "add", *collide], check=True)
    in_the_way = "by the route `10.77.0.0/28 dev lan` of table main"
    refused(lambda: cluster.ask(invitation), BadInput, in_the_way)
    assert contents(machine) == {}
    subprocess.run(["ip", "address", "del", *collide], check=True)
    answer = cluster.admit(cluster.ask(invitation)).answer
    before = contents(machine)
    subprocess.run(["ip", "address", "add", *collide], check=True)
    refused(lambda: accept_answer(machine, answer, apply=False), BadInput, in_the_way)
    assert contents(machine) == before


def test_a_member_by_files_may_say_its_invitation_again(directory):
    cluster = Cluster(directory)
    machine = cluster.machine()
    invitation = cluster.invite()
    accept_answer(machine, cluster.admit(cluster.ask(invitation)).answer, apply=False)
    before = contents(machine)
    join(machine, invitation.text(), WISH, apply=False)
    assert contents(machine) == before
