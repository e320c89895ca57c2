from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sized
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.agent.bring_up import enable_tunnel_and_guard
from qmesh.agent.converge import converge, plan_local_steps
from qmesh.agent.daemon import observe
from qmesh.agent.daemon.observe import MachineWatch
from qmesh.agent.local import Local, linux_for, load_local
from qmesh.errors import StateUnreadable
from qmesh.host import wireguard
from qmesh.host.network import dns, links
from qmesh.host.registry import IssuedInvitation, Registry
from qmesh.host.state.directory import State
from qmesh.mesh.changes import remove_machine
from qmesh.mesh.desired import host_network
from qmesh.mesh.links.retirement import compute_retired_address
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.protocol.enrolment import build_redemption, derive_invitation_keys, derive_public_key
from qmesh.mesh.state import Guard
from qmesh.mesh.values import Endpoint, Secret
from tests.support.control_node import make_control_node
from tests.support.keeping import let_fall

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

NAME = "qmesh0"
KEY = base64.b64encode(bytes(range(32))).decode()


class Control:
    """A control node whose agent looks when it is told to, and what its looks asked of WireGuard."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if not Path("/dev/net/tun").exists() and wireguard.detect_tunnel_kind() == "tun":
            pytest.skip("this machine cannot: it has no /dev/net/tun")
        self.state = State(directory)
        make_control_node(self.state, node="2.0")
        enable_tunnel_and_guard(self.state, load_local(self.state))
        self.watch = MachineWatch(self.state, audit_s=lambda _: 1e6)
        self.asked: list[str] = []
        backend = type(wireguard.find_backend(NAME))
        for name in ("read", "set_peers", "remove_peers"):
            monkeypatch.setattr(backend, name, self._counting(name, getattr(backend, name)))

    def _counting(self, name: str, method: Any) -> Callable[..., Any]:
        def counted(backend: wireguard.Backend, interface: str, *rest: Sized) -> Any:
            self.asked.append(" ".join([name, *(str(len(each)) for each in rest)]))
            return method(backend, interface, *rest)

        return counted

    def watch_anew(
        self,
        audit_s: Callable[[int], float] = observe.audit_interval_s,
        unanswered: Collection[str] = (),
    ) -> None:
        """With other intervals between audits, which are long otherwise, or such as have no answer yet."""
        self.watch.notices.close()
        self.watch = MachineWatch(self.state, audit_s=audit_s, list_unanswered=lambda: unanswered)

    def look(self) -> list[str]:
        """The kinds of the steps that one look took."""
        self.asked.clear()
        with self.state.lock():
            _, steps = self.watch.converge_machine()
        return [step.kind for step in steps]

    def settle(self) -> None:
        """Look until there is nothing to do."""
        while self.look():
            pass

    def left(self) -> tuple[Step, ...]:
        """What a look at everything, from the beginning, would do."""
        here = load_local(self.state)
        return plan_local_steps(here, linux_for(self.state, here.settings), follow_roaming=True)

    def invite(self, name: str, *, endpoint: str | None = None) -> IssuedInvitation:
        now = int(time.time())
        where = None if endpoint is None else Endpoint.parse(endpoint)
        with Registry(self.state.registry_file) as registry:
            return registry.invite(name, workers=2, endpoint=where, expires_at=now + 3600, now=now)

    def set_workers(self, count: int) -> None:
        """Give the control node so many, in the registry alone."""
        with Registry(self.state.registry_file) as registry, registry._open_transaction() as connection:
            connection.execute("UPDATE machines SET workers = ? WHERE name = 'control'", (count,))
            connection.execute(
                "INSERT INTO events (at, command, what, machine, revision)"
                " VALUES (1, 'set', 'changed', 'control', 2)"
            )

    def redeem(self, issued: IssuedInvitation, endpoint: str | None = None) -> str:
        """Let a machine join; its public key."""
        public_key = derive_public_key(Secret(base64.b64encode(os.urandom(32)).decode()))
        where = None if endpoint is None else Endpoint.parse(endpoint)
        message = build_redemption(
            derive_invitation_keys(issued.secret), public_key=public_key, workers=2, endpoint=where
        )
        with Registry(self.state.registry_file) as registry:
            registry.redeem(message, sender=issued.machine.address, now=int(time.time()))
        return public_key


def remove_machine_b(control: Control) -> None:
    with Registry(control.state.registry_file) as registry:
        registry.change_mesh(
            lambda mesh: remove_machine(mesh, "machine-b"),
            command="remove",
            what="removed",
            machine="machine-b",
            now=int(time.time()),
        )


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state"


def test_the_first_look_makes_the_machine_as_desired_and_the_next_has_nothing_to_do(directory, monkeypatch):
    control = Control(directory, monkeypatch)

    assert control.look()[0] == "load-guard"
    assert control.left() == ()
    assert control.look() == []
    assert control.asked == ["read"]
    assert control.look() == []
    assert control.asked == []


def test_what_another_program_did_is_said_with_its_name(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    let_fall(control.state)
    subprocess.run(["nft", "flush ruleset"], check=True)

    assert control.look() == ["load-guard"]
    assert control.watch.noticed is not None
    assert re.fullmatch(r"nft \(process \d+\)", control.watch.noticed.changed_by)


def test_what_no_notice_tells_of_is_found_in_time(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.state.guard_file.unlink()
    audited(control).outlined -= observe.OUTLINE_S

    assert control.look() == ["load-guard"]


def test_a_change_of_one_member_is_one_message_of_one_peer(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    for number in range(40):
        control.invite(f"machine-{number}")
    control.settle()

    issued = control.invite("machine-b")

    assert (control.look(), control.asked) == (["set-peer"], ["set_peers 1"])
    control.redeem(issued)
    assert control.look() == ["remove-peer", "set-peer"]
    assert control.asked == ["remove_peers 1", "set_peers 1"]
    assert control.left() == ()


def test_who_has_not_taken_its_answer_keeps_its_peer_until_then(directory, monkeypatch):
    """Of many that join at once, a look for the first must not cut off the answers to the others."""
    control = Control(directory, monkeypatch)
    unanswered: set[str] = set()
    control.watch_anew(lambda _: 1e6, unanswered)
    control.settle()
    first, second = control.invite("machine-b"), control.invite("machine-c")
    control.settle()
    unanswered.add(second.machine.address)
    keys = {control.redeem(first), control.redeem(second)}

    assert control.look() == ["remove-peer", "set-peer"]
    assert control.watch.event == last_event(control)
    throwaway = derive_invitation_keys(second.secret).public_key
    assert throwaway in peers()
    assert len(keys & peers()) == 1
    assert control.look() == []

    control.invite("machine-d")
    assert control.look() == ["set-peer"]
    unanswered.clear()
    assert control.look() == ["remove-peer", "set-peer"]
    assert keys < peers()
    assert throwaway not in peers()
    assert control.left() == ()


def test_one_that_is_removed_while_its_answer_is_under_way_has_no_peer(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    issued = control.invite("machine-b")
    control.watch_anew(lambda _: 1e6, {issued.machine.address})
    control.settle()
    control.redeem(issued)
    assert control.look() == []
    remove_machine_b(control)
    control.settle()
    found = wireguard.find_backend(NAME).read(NAME).peers
    assert not [peer for peer in found if host_network(issued.machine.address) in peer.allowed_ips]
    assert control.left() == ()


def peers() -> set[str]:
    return {peer.public_key for peer in wireguard.find_backend(NAME).read(NAME).peers}


def last_event(control: Control) -> int | None:
    with Registry(control.state.registry_file) as registry:
        return registry.last_event_number()


def test_who_joins_is_reached_where_it_says(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    issued = control.invite("machine-b", endpoint="192.0.2.8:51820")
    control.settle()
    public_key = control.redeem(issued, "192.0.2.9:51821")
    control.settle()
    (peer,) = wireguard.find_backend(NAME).read(NAME).peers

    assert (peer.public_key, peer.endpoint) == (public_key, Endpoint("192.0.2.9", 51821))
    assert peer.preshared_key is not None


def test_who_is_invited_by_a_command_and_joins_before_the_next_look_leaves_no_peer_behind(
    directory, monkeypatch
):
    control = Control(directory, monkeypatch)
    control.settle()
    issued = control.invite("machine-b")
    here = load_local(control.state)
    converge(here, linux_for(control.state, here.settings))  # as `qmesh invite` does, to let it in
    public_key = control.redeem(issued)
    control.settle()
    assert [peer.public_key for peer in wireguard.find_backend(NAME).read(NAME).peers] == [public_key]


def test_an_event_that_was_done_already_leaves_the_peer_as_it_is(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    public_key = control.redeem(control.invite("machine-b"), "192.0.2.9:51821")
    control.settle()
    control.invite("machine-c")
    wg("peer", public_key, "endpoint", "198.51.100.1:4000")  # it roamed
    audited(control).event -= 1

    assert control.look() == ["set-peer"]
    assert Endpoint("198.51.100.1", 4000) in {
        peer.endpoint for peer in wireguard.find_backend(NAME).read(NAME).peers
    }


def test_an_invitation_that_expires_takes_its_peer_along(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.invite("machine-b")
    control.settle()
    with Registry(control.state.registry_file) as registry, registry._open_transaction() as connection:
        connection.execute("UPDATE invitations SET expires_at = 1")

    assert control.look() == ["remove-peer"]
    assert control.left() == ()


def test_what_others_did_to_a_peer_is_found_by_an_audit(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.redeem(control.invite("machine-b"))
    control.settle()
    (peer,) = wireguard.find_backend(NAME).read(NAME).peers
    wg("peer", peer.public_key, "remove")

    assert control.look() == []

    audited(control).until = 0.0

    assert control.look() == ["set-peer"]
    assert control.left() == ()


def audited(control: Control) -> observe._AuditedPeers:
    assert control.watch._held is not None
    assert control.watch._held.audited is not None
    return control.watch._held.audited


def test_an_audit_comes_the_later_the_more_machines_there_are(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.watch_anew()
    for number in range(20):
        control.invite(f"machine-{number}")
    begun = time.monotonic()
    control.settle()
    ended = time.monotonic()

    interval = observe.AUDIT_S + 21 * observe.AUDIT_S_A_MACHINE
    assert begun + interval <= audited(control).until <= ended + interval


def test_audits_follow_one_another(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.watch_anew(lambda _: 0)
    control.settle()
    control.look()

    assert "read" in control.asked


def test_an_audit_reads_the_registry_where_something_was_written_into_it(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.watch_anew(lambda _: 0.0)
    read: list[State] = []

    def count(state: State) -> Local:
        read.append(state)
        return load_local(state)

    monkeypatch.setattr(observe, "load_local", count)
    for _ in range(3):
        assert control.look() == []
        assert control.asked == ["read"]
    assert len(read) == 1

    issued = control.invite("hel-2")
    assert control.look() == ["set-peer"]
    assert control.look() == []
    assert len(read) == 2
    # Without an event, which no command does.
    with contextlib.closing(sqlite3.connect(control.state.registry_file)) as connection, connection:
        connection.execute("UPDATE machines SET preshared_key = ? WHERE name = 'hel-2'", (KEY,))
    assert control.look() == ["set-peer"]
    assert (control.left(), len(read)) == ((), 3)
    control.redeem(issued)
    control.settle()
    assert control.left() == ()


@pytest.mark.parametrize(
    ("harm", "cure"),
    [
        ("nft delete table inet qmesh", ["load-guard"]),
        ("nft insert rule inet qmesh closed_port accept", ["load-guard"]),
        (f"ip link set {NAME} down", ["set-up"]),
        (f"ip link set {NAME} mtu 1280", ["set-mtu"]),
        (f"ip address delete 10.77.0.1/20 dev {NAME}", ["add-address"]),
    ],
)
def test_other_harm_is_found_by_the_next_look(directory, monkeypatch, harm, cure):
    control = Control(directory, monkeypatch)
    control.settle()
    if cure == ["load-guard"]:
        let_fall(control.state)
    subprocess.run(harm.split(), check=True)

    assert control.look() == cure
    assert control.look() == []


def test_an_interface_that_was_deleted_comes_back_with_all_its_peers(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    for number in range(3):
        control.invite(f"machine-{number}")
    control.settle()
    subprocess.run(["ip", "link", "delete", NAME], check=True)

    assert control.look().count("set-peer") == 3
    assert control.left() == ()


def test_an_interface_that_was_made_anew_by_others_is_not_taken_for_ours(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.invite("machine-b")
    control.settle()
    # Like a program that restarts WireGuard with its own idea of it; all that an outline shows is alike.
    backend = wireguard.find_backend(NAME)
    backend.delete(NAME)
    backend.create(NAME)
    links.set_mtu(NAME, 1420)
    links.add_address(NAME, "10.77.0.1/20")
    links.set_link_state(NAME, up=True)

    assert "set-peer" in control.look()


def test_settings_that_were_changed_are_followed(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.invite("machine-b")
    control.settle()
    settings = control.state.settings()
    control.state.save_settings(msgspec.structs.replace(settings, up=False))

    assert control.look() == ["delete-tunnel"]
    control.invite("machine-c")
    assert control.look() == []

    control.state.save_settings(settings)

    assert control.look().count("set-peer") == 2
    assert control.left() == ()


def test_a_registry_that_was_put_in_place_of_another_is_read_anew(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    backup = control.state.registry_file.read_bytes()
    control.redeem(control.invite("machine-b"))
    control.settle()
    replace_with(control.state.registry_file, backup)

    assert control.look() == ["remove-peer"]
    assert control.left() == ()


def test_who_is_removed_stays_a_peer_without_an_address_of_the_mesh(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    public_key = control.redeem(control.invite("machine-b"))
    control.settle()
    remove_machine_b(control)

    assert control.look() == ["set-peer"]  # it will be told, also by an agent that begins only now
    (peer,) = wireguard.find_backend(NAME).read(NAME).peers
    own = compute_retired_address(public_key, is_ipv6=False)
    assert (peer.public_key, peer.allowed_ips) == (public_key, (f"{own}/32",))
    assert control.left() == ()


def replace_with(path: Path, octets: bytes) -> None:
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    new = path.with_name("restored")
    new.write_bytes(octets)
    new.replace(path)


def test_after_a_look_that_failed_nothing_is_believed(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    hidden = control.state.registry_file.rename(directory / "hidden")
    with pytest.raises(StateUnreadable):
        control.look()
    hidden.rename(control.state.registry_file)

    assert control.look() == []
    assert "read" in control.asked


def test_a_step_that_failed_is_tried_again(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.invite("machine-b")
    subprocess.run(["ip", "link", "delete", NAME], check=True)

    assert "set-peer" in control.look()
    assert control.left() == ()


def test_what_a_command_has_loaded_is_not_taken_back_for_a_moment(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.set_workers(4)
    here = load_local(control.state)
    linux = linux_for(control.state, here.settings)
    converge(here, linux)
    assert isinstance(guard := linux.observe_guard().guard, Guard)
    assert len(guard.ports) == 4
    assert "load-guard" not in control.look()
    assert linux.observe_guard().guard == guard


def test_notices_that_are_opened_again_show_that_some_may_be_missing(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    before = control.watch.notices.count_changes()
    control.watch.reopen_notices()
    assert control.watch.notices.count_changes() == (before.rules + 1, before.elements)


def test_events_of_other_kinds_are_an_audits_to_follow(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.set_workers(5)

    assert control.look() == ["load-guard", "reserve-ports"]
    guard = linux_for(control.state, control.state.settings()).observe().guard
    assert isinstance(guard, Guard)
    assert len(guard.ports) == 5


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_a_mesh_what_is_followed_is_what_an_audit_would_do(directory, monkeypatch, seed):
    control = Control(directory, monkeypatch)
    control.settle()
    chance = random.Random(seed)  # noqa: S311 - no secret
    issued: dict[str, IssuedInvitation] = {}
    for _ in range(30):
        name = f"machine-{chance.randrange(8)}"
        what = chance.choice(["invite", "redeem", "withdraw", "look"])
        if what == "redeem" and name in issued:
            control.redeem(issued.pop(name), chance.choice([None, "192.0.2.9:51821"]))
        elif what == "look":
            control.look()
        elif all(machine.name != name or machine.state == "invited" for machine in machines(control)):
            issued[name] = control.invite(name)
    control.settle()

    assert control.left() == ()


def machines(control: Control):
    return load_local(control.state).inventory.machines


def wg(*words: str) -> None:
    subprocess.run(["wg", "set", NAME, *words], check=True)


def test_the_peers_of_a_first_apply_go_to_wireguard_together(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    for number in range(3):
        control.invite(f"machine-{number}")

    assert control.look().count("set-peer") == 3
    assert "set_peers 3" in control.asked


def test_the_name_of_a_machine_that_is_not_heard_is_looked_up_again(directory, monkeypatch):
    monkeypatch.setattr(dns, "LATELY_S", 0.0)
    know_names("192.0.2.9 machine-b.example")
    control = Control(directory, monkeypatch)
    control.watch_anew(lambda _: 0)
    control.redeem(control.invite("machine-b"), "machine-b.example:51821")
    control.settle()
    know_names("192.0.2.10 machine-b.example")
    assert control.look() == ["set-peer"]
    know_names()
    assert control.look() == []  # a name that is unknown now changes nothing
    (peer,) = wireguard.find_backend(NAME).read(NAME).peers
    assert (peer.endpoint, peer.keepalive_s) == (Endpoint("192.0.2.10", 51821), 25)


@contextlib.contextmanager
def written_by_another(control: Control) -> Iterator[None]:
    """Another program has begun to write to the registry, and does not end that."""
    with contextlib.closing(sqlite3.connect(control.state.registry_file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def test_another_program_that_writes_to_the_registry_delays_no_look(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.settle()
    control.invite("machine-b")
    control.settle()
    with written_by_another(control):
        subprocess.run(["ip", "link", "delete", NAME], check=True)
        assert control.look().count("set-peer") == 1
        assert control.look() == []
        control.watch_anew(lambda _: 0)
        assert control.look() == []
    assert control.left() == ()


def test_what_a_look_has_to_write_it_writes_when_nobody_else_does(directory, monkeypatch):
    control = Control(directory, monkeypatch)
    control.invite("machine-b")
    control.settle()
    with Registry(control.state.registry_file) as registry, registry._open_transaction() as connection:
        connection.execute("UPDATE invitations SET expires_at = 1")
    with written_by_another(control):
        assert control.look() == []

    assert control.look() == ["remove-peer"]


def know_names(*lines: str) -> None:
    """What the test's machine knows of names: it has no network, and so no DNS."""
    Path("/run/hosts").write_text("".join(f"{line}\n" for line in lines))
    if "/etc/hosts" not in Path("/proc/self/mountinfo").read_text():
        subprocess.run(["mount", "--bind", "/run/hosts", "/etc/hosts"], check=True)
