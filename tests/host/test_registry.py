from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import stat
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmesh.errors import BadInput, Busy, EnrolmentRefused, MachineRefused, NeedsRoot, StateUnreadable
from qmesh.host.registry import (
    Event,
    EventKind,
    IssuedInvitation,
    OpenInvitation,
    Registry,
    RegistryImage,
    retired_keys,
    rows,
    schema,
    sqlite,
)
from qmesh.mesh.changes import (
    MeshOptions,
    pause_machine,
    remove_machine,
    resume_machine,
    set_endpoints,
    set_machine_fields,
    set_mesh_options,
    set_worker_count,
)
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.links.retirement import MOST_RETIRED
from qmesh.mesh.machine import GuardedPort, Machine, PendingKey
from qmesh.mesh.protocol.enrolment import (
    derive_invitation_keys,
    derive_permanent_preshared_key,
)
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.lab.programs.cut_off import cut_offs
from tests.support.registries import CONTROL, DAY_S, MESH, NOW, invite, message, path, redeem, registry
from tests.support.waiting import idle, some_time

__all__ = ["path", "registry"]

NOBODY = 65534


def told(registry: Registry) -> list[tuple[str, str | None, int]]:
    return [(event.what, event.machine, event.revision) for event in registry.events()]


def children(*works: Callable[[], object]) -> list[int]:
    """One process for each work; 0 for each that ended well, in order."""
    identifiers = []
    for work in works:
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                work()
                os._exit(0)
            os._exit(1)
        identifiers.append(identifier)
    return [os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1]) for identifier in identifiers]


def sql(path: Path, *statements: str) -> None:
    """What another program, or a mistake of ours, would do to the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for statement in statements:
            connection.execute(statement)


def is_sound(path: Path) -> Inventory:
    """The inventory of a registry of which SQLite and the rules of the mesh find nothing to say."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        names = {
            name for (name,) in connection.execute("SELECT machine FROM invitations WHERE outcome = 'open'")
        }
        invited = {
            name for (name,) in connection.execute("SELECT name FROM machines WHERE state = 'invited'")
        }
        found = connection.execute("SELECT machine FROM stand_ins WHERE invitation IS NOT NULL")
        replacing = {name for (name,) in found}
        happened = Counter(what for (what,) in connection.execute("SELECT what FROM events"))
    with Registry(path) as registry:
        inventory = registry.inventory()
    assert names == invited | replacing
    joined, removed = happened["joined"], happened["removed"]
    changes = joined + removed + happened["replaced"] + happened["key-rotated"]
    assert inventory.revision == MESH.revision + changes
    active = [machine for machine in inventory.machines if machine.state == "active"]
    assert len(active) == 1 + joined - removed
    return inventory


def test_a_mesh_is_read_as_it_was_created(registry):
    assert registry.inventory() == MESH
    assert registry.preshared_keys() == {}
    assert registry.events() == (Event(NOW, "init", "mesh-made", "control", 1),)


@pytest.mark.parametrize("node", ["1.4", "2.1-rust"])
def test_a_mesh_over_ipv6_is_read_as_it_was_created(tmp_path, node):
    mesh = msgspec.structs.replace(
        MESH,
        network="fd12:3456:789a::/64",
        node=node,
        p2p_base_port=None if node == "1.4" else 25000,
        machines=(msgspec.structs.replace(CONTROL, address="fd12:3456:789a::1", endpoints=()),),
    )
    Registry.create(tmp_path / "mesh.db", mesh, now=NOW)
    with Registry(tmp_path / "mesh.db") as registry:
        assert registry.inventory() == mesh
        assert invite(registry).machine.address == "fd12:3456:789a::2"


def test_all_its_files_are_0600_whatever_the_umask(tmp_path):
    path = tmp_path / "mesh.db"
    before = os.umask(0)
    try:
        Registry.create(path, MESH, now=NOW)
        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
        with Registry(path) as registry:
            invite(registry)
            modes |= {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"mesh.db": 0o600, "mesh.db-wal": 0o600, "mesh.db-shm": 0o600}


def test_an_invited_machine_has_its_future_address_and_no_cores(registry):
    first, second = invite(registry, "machine-b"), invite(registry, "machine-c", workers=None)
    inventory = registry.inventory()

    assert inventory.machines == (CONTROL, first.machine, second.machine)
    assert first.machine == Machine(
        name="machine-b",
        public_key=derive_invitation_keys(first.secret).public_key,
        address="10.77.0.2",
        workers=2,
        state="invited",
    )
    assert (second.machine.address, second.machine.workers) == ("10.77.0.3", None)
    assert inventory.cores.keys() == {"control"}
    assert inventory.revision == 1
    assert registry.preshared_keys() == {
        issued.machine.public_key: derive_invitation_keys(issued.secret).preshared_key
        for issued in (first, second)
    }


def test_a_redeemed_invitation_makes_a_member(registry):
    issued = invite(registry, workers=None)
    endpoint = Endpoint("198.51.100.7", 51820)
    after = registry.redeem(message(issued, key(1), endpoint=endpoint), sender="10.77.0.2", now=NOW + 5)
    member = Machine(
        name="machine-b", public_key=key(1), address="10.77.0.2", workers=7, endpoints=(endpoint,)
    )

    assert (
        after == registry.inventory() == msgspec.structs.replace(MESH, revision=2, machines=(CONTROL, member))
    )
    assert registry.preshared_keys() == {
        key(1): derive_permanent_preshared_key(issued.secret, CONTROL.public_key, key(1))
    }
    assert [(worker.core, worker.port) for worker in list_workers(after)][3:5] == [(4, 40003), (5, 40004)]


def test_the_invitations_worker_count_goes_before_the_machines_own(registry):
    assert redeem(registry, invite(registry, workers=2), key(1)).machine("machine-b").workers == 2


def test_the_invitations_endpoint_stays_where_the_machine_names_none(registry):
    endpoint = Endpoint("node.example.org", 51820)
    issued = registry.invite("machine-b", workers=1, endpoint=endpoint, expires_at=NOW + DAY_S, now=NOW)

    assert redeem(registry, issued, key(1)).machine("machine-b").endpoints == (endpoint,)


def test_cores_are_numbered_in_the_order_of_joining_and_not_of_inviting_or_of_names(registry):
    names = ["machine-a", "machine-z", "machine-m", "machine-b"]
    issued = {name: invite(registry, name) for name in names}
    for number, name in enumerate(reversed(names)):
        redeem(registry, issued[name], key(number + 1))

    assert list(registry.inventory().cores) == ["control", *reversed(names)]


def test_the_secret_is_gone_when_it_is_used(path, registry):
    issued = invite(registry)
    shared = derive_invitation_keys(issued.secret).preshared_key.reveal()
    redeem(registry, issued, key(1))
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT secret FROM invitations").fetchall()
        keys = [text for (text,) in connection.execute("SELECT preshared_key FROM machines") if text]

    assert rows == [(None,)]
    assert shared not in keys


def test_e3_an_invitation_works_once(registry):
    issued = invite(registry)
    after = redeem(registry, issued, key(1))
    for now in (NOW + 6, NOW + 2 * DAY_S, NOW - DAY_S):
        with pytest.raises(EnrolmentRefused, match="used already, with another key") as refused:
            redeem(registry, issued, key(2), now=now)

        assert refused.value.hint
    assert registry.inventory() == after


def test_e3_an_unknown_invitation_is_refused(registry):
    issued = invite(registry)
    stranger = IssuedInvitation(bytes(32), issued.machine, None, issued.expires_at)

    with pytest.raises(EnrolmentRefused, match="not known to this control node"):
        redeem(registry, stranger, key(1))


def test_e3_an_invitation_expires_by_the_control_nodes_clock(path, registry):
    early, late = invite(registry, "machine-b"), invite(registry, "machine-c")
    redeem(registry, early, key(1), now=NOW + DAY_S - 1)
    with pytest.raises(EnrolmentRefused, match="this invitation has expired"):
        redeem(registry, late, key(2), now=NOW + DAY_S)

    assert registry.expire_invitations(now=NOW + DAY_S)
    assert not registry.expire_invitations(now=NOW + DAY_S)
    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-b"]
    assert derive_invitation_keys(late.secret).public_key not in registry.preshared_keys()
    assert told(registry)[-1] == ("invitation-expired", "machine-c", 2)

    # Setting the clock back helps nobody.
    with pytest.raises(EnrolmentRefused, match="this invitation has expired"):
        redeem(registry, late, key(2), now=NOW)
    is_sound(path)


def test_expiring_nothing_says_so_and_tells_nothing(registry):
    invite(registry)

    assert not registry.expire_invitations(now=NOW + DAY_S - 1)
    assert [what for what, _, _ in told(registry)] == ["mesh-made", "invited"]


def test_inviting_again_expires_what_is_over(registry):
    invite(registry, "machine-b")
    again = invite(registry, "machine-c", now=NOW + 2 * DAY_S)

    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-c"]
    assert again.machine.address == "10.77.0.2"


def test_e3_inviting_again_withdraws(path, registry):
    first, second = invite(registry), invite(registry)

    assert first.secret != second.secret
    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-b"]
    with pytest.raises(EnrolmentRefused, match="this invitation was withdrawn"):
        redeem(registry, first, key(1))

    assert redeem(registry, second, key(1)).machine("machine-b").public_key == key(1)
    with pytest.raises(EnrolmentRefused, match="this invitation was withdrawn"):
        redeem(registry, first, key(1))
    assert told(registry) == [
        ("mesh-made", "control", 1),
        ("invited", "machine-b", 1),
        ("invitation-withdrawn", "machine-b", 1),
        ("invited", "machine-b", 1),
        ("joined", "machine-b", 2),
    ]
    is_sound(path)


def test_e3_spent_invitations_are_remembered_when_the_registry_is_opened_again_and_copied(path, tmp_path):
    with Registry(path) as registry:
        used, withdrawn, expired = invite(registry, "b"), invite(registry, "c"), invite(registry, "d")
        redeem(registry, used, key(1))
        invite(registry, "c", now=NOW + 1)
        registry.expire_invitations(now=NOW + DAY_S)
    shutil.copyfile(path, tmp_path / "backup.db")
    for place in (path, tmp_path / "backup.db"):
        with Registry(place) as registry:
            for issued in (used, withdrawn, expired):
                with pytest.raises(EnrolmentRefused, match=r"used|withdrawn|expired"):
                    redeem(registry, issued, key(2), now=NOW)


def test_e3_an_invitation_is_remembered_although_its_machine_is_gone(path, registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    sql(path, "DELETE FROM machines WHERE name = 'machine-b'")

    with pytest.raises(EnrolmentRefused, match="used already"):
        redeem(registry, issued, key(2))


def test_e3_who_was_removed_is_told_nothing_for_its_old_invitation(registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    remove = lambda mesh: remove_machine(mesh, "machine-b")  # noqa: E731
    registry.change_mesh(remove, command="remove", what="removed", machine="machine-b", now=NOW)
    with pytest.raises(EnrolmentRefused, match="no longer a member"):
        redeem(registry, issued, key(1))

    redeem(registry, invite(registry), key(2))
    with pytest.raises(EnrolmentRefused, match="no longer a member"):
        redeem(registry, issued, key(1))


def test_e4_the_same_redemption_again_is_the_same_membership(path, registry):
    issued = invite(registry)
    first = redeem(registry, issued, key(1))
    keys, events = registry.preshared_keys(), registry.events()
    for now in (NOW + 6, NOW + 2 * DAY_S):
        assert redeem(registry, issued, key(1), now=now) == first

    with Registry(path) as another:
        assert redeem(another, issued, key(1)) == first
    assert (registry.preshared_keys(), registry.events()) == (keys, events)
    assert len(first.machines) == 2


def test_e4_the_same_redemption_at_once_is_one_membership(path):
    with Registry(path) as registry:
        issued = invite(registry)

    def again(_: int) -> Inventory:
        with Registry(path) as registry:
            return redeem(registry, issued, key(1))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(again, range(24)))

    assert found == [is_sound(path)] * 24
    assert found[0].revision == 2


def test_e4_others_that_join_in_between_change_neither_name_nor_address_nor_cores(registry):
    issued = invite(registry)
    before = redeem(registry, issued, key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    after = redeem(registry, issued, key(1))

    assert after.machine("machine-b") == before.machine("machine-b")
    assert after.cores["machine-b"] == before.cores["machine-b"]
    assert after.revision == 3


def test_an_unproven_redemption_is_refused(path, registry):
    issued = invite(registry)
    whole = message(issued, key(1), endpoint=Endpoint("198.51.100.7", 51820))
    forged = [
        msgspec.structs.replace(whole, public_key=key(2)),
        msgspec.structs.replace(whole, workers=8),
        msgspec.structs.replace(whole, endpoint="203.0.113.66:51820"),
        msgspec.structs.replace(whole, endpoint=None),
        msgspec.structs.replace(whole, proof="0" * 64),
    ]
    for each in forged:
        with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
            registry.redeem(each, sender="10.77.0.2", now=NOW)

    assert registry.inventory().machine("machine-b") == issued.machine
    registry.redeem(whole, sender="10.77.0.2", now=NOW)
    is_sound(path)


def test_a_redemption_that_came_as_a_file_is_vouched_for_by_its_proof(path, registry):
    issued = invite(registry)
    whole = message(issued, key(1))
    for altered in (
        msgspec.structs.replace(whole, workers=whole.workers + 1),
        msgspec.structs.replace(whole, public_key=key(2)),
        msgspec.structs.replace(whole, endpoint="203.0.113.66:51820"),
    ):
        with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
            registry.redeem(altered, sender=None, now=NOW)
    after = registry.redeem(whole, sender=None, now=NOW)
    assert registry.redeem(whole, sender=None, now=NOW) == after
    assert after.machine("machine-b").public_key == key(1)
    assert [(event.command, event.what) for event in registry.events()][-1] == ("admit", "joined")
    assert after.revision == 2
    is_sound(path)


@pytest.mark.parametrize(
    "sender", ["10.77.0.1", "10.77.0.3", "127.0.0.1", "", "10.77.0.22", "::ffff:10.77.0.2"]
)
def test_a_redemption_from_another_address_is_refused_and_burns_nothing(path, registry, sender):
    issued = invite(registry)
    with pytest.raises(EnrolmentRefused, match="did not come from the invitation's tunnel address"):
        registry.redeem(message(issued, key(1)), sender=sender, now=NOW)

    assert registry.inventory().machine("machine-b").state == "invited"
    redeem(registry, issued, key(1))
    is_sound(path)


@pytest.mark.parametrize(
    ("own_key", "workers", "endpoint", "why"),
    [
        (CONTROL.public_key, 2, None, "public key"),
        (key(1), 65000, None, "do not fit into the ports"),
        (key(1), 2, "10.77.0.9:51820", "is an address of the tunnel network"),
    ],
)
def test_a_machine_that_does_not_fit_in_is_refused_and_burns_nothing(
    path, registry, own_key, workers, endpoint, why
):
    issued = invite(registry, workers=None)
    where = None if endpoint is None else Endpoint.parse(endpoint)
    with pytest.raises(EnrolmentRefused, match=f"the control node refused: .*{why}") as refused:
        registry.redeem(
            message(issued, own_key, workers=workers, endpoint=where), sender="10.77.0.2", now=NOW
        )

    assert refused.value.hint
    assert registry.inventory().machine("machine-b") == issued.machine
    redeem(registry, issued, key(1))
    is_sound(path)


def test_two_invitations_with_one_key_make_one_member(path, registry):
    first, second = invite(registry, "machine-b"), invite(registry, "machine-c")
    redeem(registry, first, key(1))

    with pytest.raises(EnrolmentRefused, match="public key"):
        redeem(registry, second, key(1))
    assert redeem(registry, second, key(2)).revision == 3
    is_sound(path)


@pytest.mark.parametrize("name", ["control", "machine-b"])
def test_a_member_is_not_invited_again(registry, name):
    redeem(registry, invite(registry), key(1))
    before = (registry.inventory(), registry.events())

    with pytest.raises(BadInput, match="already in the mesh"):
        invite(registry, name)
    assert (registry.inventory(), registry.events()) == before


@pytest.mark.parametrize(
    ("name", "workers", "why"),
    [
        ("Machine_B", 2, "not a machine name"),
        ("machine-b", 65000, "do not fit into the ports"),
        ("machine-b", 0, "not a number of workers"),
    ],
)
def test_what_cannot_be_invited_withdraws_nothing(registry, name, workers, why):
    issued = invite(registry)
    before = (registry.inventory(), registry.events(), registry.preshared_keys())

    with pytest.raises(BadInput, match=why):
        invite(registry, name, workers=workers)
    assert (registry.inventory(), registry.events(), registry.preshared_keys()) == before
    redeem(registry, issued, key(1))


def test_a_full_network_invites_nobody(tmp_path):
    Registry.create(tmp_path / "mesh.db", msgspec.structs.replace(MESH, network="10.77.0.0/30"), now=NOW)
    with Registry(tmp_path / "mesh.db") as registry:
        invite(registry, "machine-b")
        with pytest.raises(BadInput, match="every address of the tunnel network"):
            invite(registry, "machine-c")
        # The one that is invited anew takes its own place.
        assert invite(registry, "machine-b").machine.address == "10.77.0.2"


def test_a_join_raises_the_revision_by_one_and_an_invitation_does_not(registry):
    revisions = [registry.inventory().revision]
    for number in range(5):
        issued = invite(registry, f"machine-{number}")
        revisions.append(registry.inventory().revision)
        revisions.append(redeem(registry, issued, key(number + 1)).revision)

    assert revisions == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_events_are_told_in_order_with_their_times_and_commands(registry):
    issued = invite(registry)
    invite(registry, "machine-c", now=NOW + 1)
    redeem(registry, issued, key(1), now=NOW + 2)
    registry.expire_invitations(now=NOW + 2 * DAY_S)

    assert registry.events() == (
        Event(NOW, "init", "mesh-made", "control", 1),
        Event(NOW, "invite", "invited", "machine-b", 1),
        Event(NOW + 1, "invite", "invited", "machine-c", 1),
        Event(NOW + 2, "join", "joined", "machine-b", 2, None, "10.77.0.2", None, key(1)),
        Event(NOW + 2 * DAY_S, "agent", "invitation-expired", "machine-c", 2),
    )


def test_no_event_holds_a_secret(path, registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        text = repr(connection.execute("SELECT * FROM events").fetchall())

    assert issued.secret.hex() not in text
    assert derive_invitation_keys(issued.secret).preshared_key.reveal() not in text


def distinct(inventory: Inventory, count: int) -> bool:
    """Whether no two of so many machines share name, address, key or core: E5."""
    machines, workers = inventory.machines, list(list_workers(inventory))
    return (
        len(machines)
        == len({machine.name for machine in machines})
        == len({machine.address for machine in machines})
        == len({machine.public_key for machine in machines})
        == count
    ) and len({worker.core for worker in workers}) == len({worker.port for worker in workers}) == len(workers)


def test_e5_machines_that_join_at_once_from_many_threads_share_nothing(path):
    def join(number: int) -> int:
        with Registry(path) as registry:
            issued = invite(registry, f"machine-{number}", workers=1 + number % 3)
            return redeem(registry, issued, key(number + 1)).revision

    with ThreadPoolExecutor(12) as pool:
        revisions = list(pool.map(join, range(36)))
    inventory = is_sound(path)

    assert sorted(revisions) == list(range(2, 38))
    assert distinct(inventory, 37)
    assert {machine.address for machine in inventory.machines} == {f"10.77.0.{n}" for n in range(1, 38)}
    with Registry(path) as registry:
        told_revisions = [event.revision for event in registry.events()]
    assert all(later - earlier in {0, 1} for earlier, later in pairwise(told_revisions))


def test_e5_machines_that_join_at_once_from_many_processes_share_nothing(path):
    def join(first: int) -> None:
        for number in range(first, first + 5):
            with Registry(path) as registry:
                redeem(registry, invite(registry, f"machine-{number}"), key(number + 1))

    ends = children(*(lambda first=first: join(first) for first in range(0, 30, 5)))

    assert ends == [0] * 6
    assert distinct(is_sound(path), 31)


def of_twenty(work: Callable[[int], object]) -> int:
    """How many of twenty that do something at once are not refused."""

    def is_done(number: int) -> bool:
        try:
            work(number)
        except (BadInput, EnrolmentRefused):
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        return sum(pool.map(is_done, range(20)))


def test_e5_twenty_that_want_ten_addresses_are_ten(tmp_path):
    mesh = msgspec.structs.replace(MESH, network="10.77.0.0/28")
    Registry.create(tmp_path / "mesh.db", mesh, now=NOW)

    def invite_one(number: int) -> None:
        with Registry(tmp_path / "mesh.db") as registry:
            invite(registry, f"machine-{number}")

    with Registry(tmp_path / "mesh.db") as registry:
        for name in ("x", "y", "z"):  # of thirteen that are free
            invite(registry, name)
    assert of_twenty(invite_one) == 10
    with Registry(tmp_path / "mesh.db") as registry:
        assert distinct(registry.inventory(), 14)


def test_e5_twenty_that_want_ten_ports_are_ten_and_the_others_burn_nothing(tmp_path):
    mesh = msgspec.structs.replace(MESH, base_port=65535 - 12)  # three of the control node's, and ten
    path = tmp_path / "mesh.db"
    Registry.create(path, mesh, now=NOW)
    with Registry(path) as registry:
        issued = [invite(registry, f"machine-{number}", workers=None) for number in range(20)]

    def redeem_one(number: int) -> None:
        with Registry(path) as registry:
            told = message(issued[number], key(number + 1), workers=1)
            registry.redeem(told, sender=issued[number].machine.address, now=NOW)

    assert of_twenty(redeem_one) == 10
    with Registry(path) as registry:
        assert len(list(list_workers(registry.inventory()))) == 13
        left = [machine.name for machine in registry.inventory().machines if machine.state == "invited"]
        assert len(left) == 10
        gone = next(
            machine.name
            for machine in registry.inventory().machines
            if machine.state == "active" and machine.name != "control"
        )
        registry.change_mesh(
            lambda mesh: remove_machine(mesh, gone), command="remove", what="removed", machine=gone, now=NOW
        )
    redeem_one(int(left[0].removeprefix("machine-")))


def test_e5_one_name_that_is_invited_by_many_at_once_is_one_machine(path):
    with ThreadPoolExecutor(8) as pool:

        def again(_: int) -> IssuedInvitation:
            with Registry(path) as registry:
                return invite(registry)

        issued = list(pool.map(again, range(16)))
    refused = 0
    with Registry(path) as registry:
        for number, each in enumerate(issued):
            try:
                redeem(registry, each, key(number + 1))
            except EnrolmentRefused as error:
                assert "withdrawn" in error.message  # noqa: PT017 - one of them is not refused
                refused += 1

    assert refused == 15
    assert distinct(is_sound(path), 2)


def test_e5_one_invitation_that_is_redeemed_at_once_with_many_keys_makes_one_member(path):
    with Registry(path) as registry:
        issued = invite(registry)

    def grab(number: int) -> str | None:
        with Registry(path) as registry:
            try:
                return redeem(registry, issued, key(number + 1)).machine("machine-b").public_key
            except EnrolmentRefused:
                return None

    with ThreadPoolExecutor(8) as pool:
        won = [own_key for own_key in pool.map(grab, range(16)) if own_key]

    assert len(won) == 1
    assert is_sound(path).machine("machine-b").public_key == won[0]


A_MACHINE = "INSERT INTO machines (name, public_key, address, place, workers, state, endpoints) VALUES "


@pytest.mark.parametrize(
    "statement",
    [
        f"{A_MACHINE} ('machine-b', 'k', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', '{key(1)}', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.2', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 2, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', NULL, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 1, 'invited', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 0, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 65536, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 'many', 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 1, 'removed', '[]')",
        f"{A_MACHINE} (NULL, 'k', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', NULL, '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', NULL, 9, 1, 'active', '[]')",
        "UPDATE machines SET address = '10.77.0.1' WHERE name = 'machine-b'",
        "UPDATE machines SET place = 1 WHERE name = 'machine-b'",
        "UPDATE machines SET public_key = (SELECT public_key FROM machines WHERE name = 'control')",
        "DELETE FROM machines WHERE name = 'control'",
        "INSERT INTO mesh SELECT 2, mesh, '', control, node, 1, 1, 1, NULL, stream, 0, 0 FROM mesh",
        "INSERT INTO invitations SELECT identifier, 'new', secret, 0, 'withdrawn', NULL FROM invitations",
        "INSERT INTO invitations VALUES ('x', 'machine-c', NULL, 0, 'open', NULL)",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'redeemed', NULL)",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'withdrawn', 'k')",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'lost', NULL)",
    ],
)
def test_e5_the_database_refuses_what_must_never_be(path, registry, statement):
    redeem(registry, invite(registry), key(1))
    invite(registry, "machine-c")

    with pytest.raises(sqlite3.IntegrityError):
        sql(path, statement)
    is_sound(path)


def test_e5_the_database_allows_what_may_be(path, registry):
    redeem(registry, invite(registry), key(1))
    sql(path, f"{A_MACHINE} ('new', '{key(2)}', '10.77.0.9', 9, 1, 'active', '[]')")

    assert distinct(registry.inventory(), 3)


def crash_in(path: Path, work: Callable[[Registry], object], statement: str) -> int:
    """Do `work` in a process that is killed just before SQLite carries out `statement`."""
    identifier = os.fork()
    if identifier == 0:
        with contextlib.suppress(BaseException), Registry(path) as registry:

            def crash(sentence: str) -> None:
                if sentence.startswith(statement):
                    os.kill(os.getpid(), signal.SIGKILL)

            registry._connection.set_trace_callback(crash)
            work(registry)
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invitations SET outcome = 'expired'",
        "UPDATE machines SET public_key",
        "UPDATE invitations SET outcome = 'redeemed'",
        "UPDATE mesh SET revision",
        "INSERT INTO events",
        "COMMIT",
    ],
)
def test_e4_a_control_node_that_is_killed_in_a_redemption_has_done_nothing(path, statement):
    with Registry(path) as registry:
        issued = invite(registry)
        before = (registry.inventory(), registry.events(), registry.preshared_keys())

    assert crash_in(path, lambda registry: redeem(registry, issued, key(1)), statement) == signal.SIGKILL
    is_sound(path)
    with Registry(path) as registry:
        assert (registry.inventory(), registry.events(), registry.preshared_keys()) == before
        assert redeem(registry, issued, key(1)).machine("machine-b").public_key == key(1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invitations SET outcome = 'withdrawn'",
        "DELETE FROM machines",
        "INSERT INTO machines",
        "INSERT INTO invitations",
        "COMMIT",
    ],
)
def test_a_control_node_that_is_killed_in_an_invitation_has_withdrawn_nothing(path, statement):
    with Registry(path) as registry:
        issued = invite(registry)

    assert crash_in(path, invite, statement) == signal.SIGKILL
    is_sound(path)
    with Registry(path) as registry:
        assert redeem(registry, issued, key(1)).machine("machine-b").address == "10.77.0.2"


def test_e4_killed_at_any_instant_every_join_is_whole_or_not_at_all(path):
    def join_on_and_on() -> None:
        with Registry(path) as registry:
            for number in range(len(registry.events()), 10**6):
                redeem(registry, invite(registry, f"machine-{number}", workers=1), key(number + 1))

    for _ in range(12):
        before = is_sound(path)
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                join_on_and_on()
            os._exit(1)
        some_time(0.02, 0.15)
        os.kill(identifier, signal.SIGKILL)
        _, status = os.waitpid(identifier, 0)
        after = is_sound(path)

        assert os.WIFSIGNALED(status)
        assert distinct(after, len(after.machines))
        assert after.machines[: before.revision] == before.machines[: before.revision]
    assert is_sound(path).revision > 1


def test_a_creation_that_is_killed_leaves_no_registry_and_can_be_said_again(tmp_path):
    path = tmp_path / "mesh.db"
    for _ in range(10):
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                while True:
                    Registry.create(path, MESH, now=NOW)
                    path.unlink()
            os._exit(1)
        some_time(0.005, 0.05)
        os.kill(identifier, signal.SIGKILL)
        _, status = os.waitpid(identifier, 0)

        assert os.WIFSIGNALED(status)
        assert not path.exists() or is_sound(path) == MESH
    Registry.create(path, MESH, now=NOW)

    assert is_sound(path) == MESH
    assert [found.name for found in tmp_path.iterdir()] == ["mesh.db"]


def test_what_is_left_of_an_older_registry_does_not_get_into_a_new_one(path):
    with Registry(path) as registry:
        invite(registry)
        wal = path.with_name("mesh.db-wal").read_bytes()
    path.with_name("mesh.db-wal").write_bytes(wal)
    path.with_name("mesh.db.new").write_bytes(b"half of one")
    Registry.create(path, MESH, now=NOW)

    assert is_sound(path) == MESH


def test_a_missing_registry_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(
        StateUnreadable, match=r"mesh\.db, the control node.s registry, is missing"
    ) as missing:
        Registry(tmp_path / "mesh.db")

    assert "backup" in missing.value.hint
    assert list(tmp_path.iterdir()) == []


def with_pages(path: Path) -> bytes:
    """The octets of a registry of some pages, all in its one file."""
    with Registry(path) as registry:
        for number in range(40):
            redeem(registry, invite(registry, f"machine-{number}"), key(number + 1))
    octets = path.read_bytes()
    assert len(octets) > 6 * 4096
    return octets


def look(path: Path) -> None:
    with Registry(path) as registry:
        registry.inventory()
        registry.events()
        registry.preshared_keys()


@pytest.mark.parametrize("length", [0, 1, 16, 50, 99, 100, 1000, 4096, 5000, 3 * 4096, -4096, -1000])
def test_a_truncated_registry_is_an_error(path, length):
    octets = with_pages(path)
    path.write_bytes(octets[:length])

    with pytest.raises(StateUnreadable, match=r"mesh\.db") as unreadable:
        look(path)

    assert "backup" in unreadable.value.hint


@pytest.mark.parametrize("octets", [b"no database", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192])
def test_what_is_no_database_is_an_error(path, octets):
    path.write_bytes(octets)
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(StateUnreadable, match=r"mesh\.db") as unreadable:
        look(path)

    assert unreadable.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_overwritten_page_is_an_error(path):
    octets = with_pages(path)
    path.write_bytes(octets[:4096] + b"\xa5" * (len(octets) - 4096))

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


def test_another_programs_database_is_an_error_and_stays_as_it_was(tmp_path):
    path = tmp_path / "mesh.db"
    sql(path, "CREATE TABLE machines (name)", "PRAGMA application_id = 7")
    before = path.read_bytes()

    with pytest.raises(StateUnreadable, match="is not a qmesh registry"):
        Registry(path)
    assert path.read_bytes() == before


def test_a_registry_that_goes_away_while_it_is_opened_is_not_made_empty(tmp_path):
    odd = tmp_path / "100 %20? #1"
    odd.mkdir()
    with pytest.raises(MachineRefused, match="unable to open"):
        sqlite.connect(odd / "mesh.db")
    (odd / "mesh.db").touch()
    sqlite.connect(odd / "mesh.db").close()
    assert [path.name for path in odd.iterdir()] == ["mesh.db"]


def change(what: EventKind, machine: str) -> dict[str, Any]:
    return {"command": "set", "what": what, "machine": machine, "now": NOW + 9}


def test_a_change_is_written_whole_with_its_event(path, registry):
    for number, name in enumerate(("machine-b", "machine-c", "machine-d"), 1):
        redeem(registry, invite(registry, name, workers=number), key(number))
    old, new = registry.change_mesh(
        lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b")
    )
    assert [machine.name for machine in old.machines] == ["control", "machine-b", "machine-c", "machine-d"]
    assert registry.inventory() == new
    assert list(new.cores) == ["control", "machine-c", "machine-d"]
    assert set(registry.preshared_keys()) == {key(2), key(3)}
    assert told(registry)[-1] == ("removed", "machine-b", new.revision)
    for after in (
        lambda mesh: pause_machine(mesh, "machine-c"),
        lambda mesh: set_worker_count(mesh, "machine-d", 9),
        lambda mesh: set_endpoints(mesh, "machine-d", [Endpoint("192.0.2.4", 51820)]),
        lambda mesh: set_mesh_options(mesh, MeshOptions(node="2.1", master_proxy=True)),
        lambda mesh: resume_machine(mesh, "machine-c"),
    ):
        _, new = registry.change_mesh(after, **change("machine-changed", "machine-c"))
        assert registry.inventory() == new
        with Registry(path) as again:
            assert again.inventory() == new
    assert new.node == "2.1"
    # A machine that was removed may be invited anew.
    assert invite(registry, "machine-b").machine.name == "machine-b"


def test_a_machine_that_is_only_invited_is_changed_too(registry):
    issued = invite(registry, workers=None)
    where = [Endpoint("198.51.100.7", 51820)]

    def after(mesh: Inventory) -> Inventory:
        return set_endpoints(set_worker_count(mesh, "machine-b", 5), "machine-b", where)

    _, new = registry.change_mesh(after, command="set", what="machine-changed", machine="machine-b", now=NOW)
    assert registry.inventory() == new
    assert redeem(registry, issued, key(1)).machine("machine-b").workers == 5


def test_a_change_that_is_refused_or_none_leaves_no_trace(registry):
    before = registry.inventory(), registry.events()
    with pytest.raises(BadInput):
        registry.change_mesh(lambda mesh: remove_machine(mesh, "control"), **change("removed", "control"))
    registry.change_mesh(lambda mesh: mesh, **change("mesh-changed", "control"))
    assert (registry.inventory(), registry.events()) == before


def test_a_newer_registry_is_an_error_and_not_damage(path):
    sql(path, "PRAGMA user_version = 99")

    with pytest.raises(StateUnreadable, match="was written by a newer qmesh") as newer:
        Registry(path)

    assert "install" in newer.value.hint


OPTIONS = {
    "announce": "node.example.org",
    "guarded_ports": (GuardedPort(5432, "none"), GuardedPort(9100, "mesh")),
    "left_open": (8080,),
    "node_files": True,
}


def test_what_most_machines_have_nothing_of_is_kept(registry):
    registry.change_mesh(
        lambda mesh: set_machine_fields(mesh, "control", **OPTIONS), **change("machine-changed", "control")
    )

    kept = registry.inventory().control_node
    assert {name: getattr(kept, name) for name in OPTIONS} == OPTIONS


def test_the_registry_has_all_that_a_mesh_and_a_machine_are():
    elsewhere = {"machines", "stand_ins", "successor"}
    assert {*rows._OF_THE_MESH, *elsewhere} == set(Inventory.__struct_fields__)
    columns = {*rows.MachineRow._fields, *rows.MachineOptions.__struct_fields__} - {"options"}
    assert columns == set(Machine.__struct_fields__)


def test_another_schema_has_another_version():
    """Else a registry of yesterday is damaged today: with a version comes a step of `_MIGRATIONS`."""
    text = " ".join((schema.SCHEMA + schema._RETIRED_KEYS).split())
    assert (schema.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (7, "31ebd5c18316a681")
    assert sorted(schema._MIGRATIONS) == list(range(schema.OLDEST, schema.VERSION))


@pytest.mark.parametrize("version", [5, 6])
def test_a_registry_of_a_version_before_is_read_and_brought_to_this_one(path, version):
    with Registry(path) as registry:
        before = registry.inventory(), registry.events()
    sql(path, "DROP TABLE retired_keys", f"PRAGMA user_version = {version}")
    if version < 6:
        sql(path, "ALTER TABLE machines DROP COLUMN options")
    octets = path.read_bytes()

    for _ in range(2):
        with Registry(path) as registry:
            assert (registry.inventory(), registry.events()) == before
    with RegistryImage(octets) as image:
        assert image.inventory() == before[0]
        redeem(image, invite(image), key(1))
        image.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
        assert [each.public_key for each in image.list_retired_keys()] == [key(1)]


@pytest.mark.parametrize("version", [-(2**31), -1, 0, 1, 4])
def test_a_version_that_was_never_released_is_damage(path, version):
    sql(path, f"PRAGMA user_version = {version}")

    with pytest.raises(StateUnreadable, match="is damaged"):
        Registry(path)


def test_a_registry_without_its_mesh_is_an_error(path):
    sql(path, "DELETE FROM mesh")

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE machines SET endpoints = '['",
        "UPDATE machines SET options = '['",
        'UPDATE machines SET options = \'{"announce": ""}\'',
        'UPDATE machines SET options = \'{"who": "knows"}\'',
        "UPDATE machines SET public_key = 'short'",
        "UPDATE machines SET address = '192.0.2.1'",
        "UPDATE mesh SET network = 'nowhere'",
        "UPDATE mesh SET node = '9.9'",
        "UPDATE mesh SET stream = 'wherever'",
        "UPDATE mesh SET base_port = -1",
        "UPDATE mesh SET p2p_base_port = 65536",
        "UPDATE mesh SET master_proxy = 7",
        "UPDATE mesh SET revision = -1",
        f"UPDATE mesh SET revision = {2**63 - 1}",  # noqa: S608
        "UPDATE mesh SET mesh = CAST(x'ff' AS TEXT)",
        f'UPDATE machines SET endpoints = \'[{{"host": "a", "port": 1, "x": {"[" * 5000}\'',  # noqa: S608
        "INSERT INTO stand_ins (public_key, machine) VALUES ('x', 'control')",
    ],
)
def test_a_registry_that_breaks_the_rules_of_a_mesh_is_an_error(path, statement):
    sql(path, statement)

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


ODD_KEYS = (Registry.preshared_keys, lambda registry: registry.find_preshared_key("10.77.0.1"))


@pytest.mark.parametrize("read", ODD_KEYS)
@pytest.mark.parametrize("text", ["'x'", "''", "CAST(x'ff' AS TEXT)", "'a' || char(0)"])
def test_a_preshared_key_that_is_none_is_damage(path, read, text):
    """It would be a traceback where WireGuard is to have it, at every look of the agent."""
    sql(path, f"UPDATE machines SET preshared_key = {text}")  # noqa: S608

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        read(registry)


EMPTY = {
    "events": (Registry.last_event_number,),
    "mesh": (Registry.revision, Registry.inventory, invite),
}


@pytest.mark.parametrize(("table", "read"), [(table, read) for table, all_ in EMPTY.items() for read in all_])
def test_a_table_that_is_empty_and_must_not_be_is_damage(path, table, read):
    sql(path, f"DELETE FROM {table}")  # noqa: S608

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        read(registry)


def test_what_a_foreign_trigger_refuses_is_damage_and_no_other_error(path):
    sql(path, "CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        invite(registry)


FOREIGN_OBJECTS = (
    "CREATE TRIGGER more AFTER INSERT ON events BEGIN DELETE FROM resting; END",
    "CREATE VIEW more AS WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
    "CREATE TABLE more (x)",
    "CREATE INDEX more ON events (abs(at))",
    "ALTER TABLE resting ADD COLUMN more TEXT AS (upper(address))",
)


@pytest.mark.parametrize("statement", FOREIGN_OBJECTS)
def test_an_image_of_other_tables_than_ours_is_not_read(path, statement):
    """It comes from elsewhere, and what its views and triggers compute may have no end."""
    sql(path, statement)

    with Registry(path) as registry:
        octets = registry.copy_database()
    with pytest.raises(StateUnreadable, match="are not those of qmesh"):
        RegistryImage(octets)


def test_an_image_whose_schema_is_no_text_is_damage(path):
    """SQLite quotes what it does not understand, and Python fails to read that."""
    with Registry(path) as registry:
        octets = registry.copy_database()
    damaged = octets.replace(
        b"triggerstand_in_is_onestand_insCREATE", b"triggerstand_in_is_on\x9fstand_insCREATX"
    )
    assert damaged != octets
    with pytest.raises(StateUnreadable, match="is damaged"):
        RegistryImage(damaged)


def test_an_image_has_the_tables_that_a_registry_has(path):
    with Registry(path) as registry:
        octets = registry.copy_database()
    with RegistryImage(octets) as image:
        assert image.inventory() == MESH


def test_a_directory_in_its_place_is_an_error(tmp_path):
    (tmp_path / "mesh.db").mkdir()

    with pytest.raises(MachineRefused, match="could not be used"):
        Registry(tmp_path / "mesh.db")


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_user_who_may_not_read_it_is_told_to_be_root():
    path = Path("/run/mesh.db")
    Registry.create(path, MESH, now=NOW)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        with pytest.raises(NeedsRoot, match=r"mesh\.db cannot be read by this user"):
            Registry(path)
    finally:
        os.setresuid(0, 0, 0)


def invite_many(registry: Registry) -> None:
    for number in range(100):
        invite(registry, f"machine-{number}")


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_full_disk_is_refused_and_changes_nothing():
    disk = Path("/run/small")
    disk.mkdir()
    os.system(f"mount -t tmpfs -o size=256k tmpfs {disk}")  # noqa: S605 - the test's own machine
    path = disk / "mesh.db"
    Registry.create(path, MESH, now=NOW)
    with Registry(path) as registry:
        before = registry.inventory()
        (disk / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(MachineRefused, match=r"mesh\.db could not be used: .*full") as refused:
            invite_many(registry)

        assert "full disk" in refused.value.hint
        (disk / "filler").unlink()
        invited = registry.inventory()
        invite(registry, "machine-x")
    assert before.machines == invited.machines[:1]
    is_sound(path)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_full_disk_makes_no_registry():
    disk = Path("/run/small")
    disk.mkdir()
    os.system(f"mount -t tmpfs -o size=16k tmpfs {disk}")  # noqa: S605 - the test's own machine
    with pytest.raises(MachineRefused, match=r"mesh\.db could not be used: .*full"):
        Registry.create(disk / "mesh.db", MESH, now=NOW)

    assert not (disk / "mesh.db").exists()


def test_another_who_writes_is_waited_for(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool, Registry(path) as registry:
            waiting = pool.submit(invite, registry)
            idle(0.3)

            assert not waiting.done()

            other.execute("COMMIT")
            assert waiting.result().machine.name == "machine-b"


def test_news_is_who_became_of_machines_since_an_event(registry):
    kept, gone = invite(registry, "machine-b"), invite(registry, "machine-c", now=NOW - 2 * DAY_S)
    begun = registry.last_event_number()
    redeem(registry, kept, key(7))
    registry.expire_invitations(now=NOW)
    news = registry.read_news(since=begun)

    assert news is not None
    assert news.event == registry.last_event_number()
    assert set(news.machines) == {"machine-b", "machine-c"}
    assert news.machines[gone.machine.name] is None
    known = news.machines[kept.machine.name]
    assert known is not None
    assert known.machine == registry.inventory().machine("machine-b")
    assert known.preshared_key == registry.preshared_keys()[key(7)]


def test_of_an_invitation_that_was_made_and_used_since_the_news_do_not_tell_all(registry):
    """Its key was a peer, and is in the registry no more."""
    begun = registry.last_event_number()
    issued = invite(registry, "machine-b")
    assert registry.read_news(since=begun) is not None
    redeem(registry, issued, key(7))
    assert registry.read_news(since=begun) is None
    assert registry.read_news(since=begun + 1) is not None


def test_without_news_there_is_none_to_tell(registry):
    invite(registry)
    news = registry.read_news(since=registry.last_event_number())

    assert news is not None
    assert (news.event, news.machines) == (registry.last_event_number(), {})


def test_news_since_an_event_that_is_not_there_is_not_known(registry):
    assert registry.read_news(since=registry.last_event_number() + 1) is None


def test_news_of_another_kind_is_not_told_as_that_of_machines(registry, path):
    begun = registry.last_event_number()
    insert = "INSERT INTO events (at, command, what, machine, revision)"
    sql(path, f"{insert} VALUES (1, 'set', 'moved', 'control', 2)")
    invite(registry)

    assert registry.read_news(since=begun) is None


def test_no_news_shows_a_key(registry):
    begun = registry.last_event_number()
    issued = invite(registry)

    assert derive_invitation_keys(issued.secret).preshared_key.reveal() not in repr(
        registry.read_news(since=begun)
    )


def replacement(registry: Registry, *, now: int = NOW + 6) -> IssuedInvitation:
    return registry.invite(
        "machine-b", workers=None, endpoint=None, expires_at=now + DAY_S, now=now, replace=True
    )


def redeem_replacement(
    registry: Registry, issued: IssuedInvitation, own_key: str, *, sender: str | None = None
) -> Inventory:
    assert issued.from_address is not None
    return registry.redeem(message(issued, own_key), sender=sender or issued.from_address, now=NOW + 7)


def test_a_machine_is_replaced_in_its_place_by_who_has_a_new_invitation(path, registry):
    old = redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    issued = replacement(registry)
    assert (issued.machine.address, issued.from_address) == ("10.77.0.2", "10.77.0.4")
    waiting = registry.inventory()
    assert waiting.machine("machine-b") == old.machine("machine-b")  # until it is used
    throwaway = derive_invitation_keys(issued.secret)
    assert waiting.stand_ins == (PendingKey("machine-b", throwaway.public_key, "10.77.0.4"),)
    assert registry.preshared_keys()[throwaway.public_key] == throwaway.preshared_key

    new = redeem_replacement(registry, issued, key(3))
    assert redeem_replacement(registry, issued, key(3)) == new == registry.inventory()
    assert (new.machine("machine-b").public_key, new.stand_ins) == (key(3), ())
    assert new.cores == waiting.cores
    assert new.revision == waiting.revision + 1
    assert told(registry)[-1] == ("replaced", "machine-b", new.revision)
    shared = derive_permanent_preshared_key(issued.secret, CONTROL.public_key, key(3))
    assert registry.preshared_keys()[key(3)] == shared
    assert key(1) not in registry.preshared_keys()
    for thief in (key(1), key(4)):
        with pytest.raises(EnrolmentRefused, match="used already"):
            redeem_replacement(registry, issued, thief)
    assert is_sound(path) == new


def test_a_replacement_comes_from_its_own_address_alone(registry):
    redeem(registry, invite(registry), key(1))
    issued = replacement(registry)
    before = registry.inventory()
    for elsewhere in ("10.77.0.2", "10.77.0.1", "10.77.0.5"):
        with pytest.raises(EnrolmentRefused, match="did not come from"):
            redeem_replacement(registry, issued, key(3), sender=elsewhere)
    with pytest.raises(EnrolmentRefused, match="refused"):
        redeem_replacement(registry, issued, CONTROL.public_key)
    assert registry.inventory() == before


def test_a_replacement_that_ends_leaves_the_machine_as_it_was(registry):
    before = redeem(registry, invite(registry), key(1))
    replacement(registry)
    second = replacement(registry)
    assert [each.public_key for each in registry.inventory().stand_ins] == [
        derive_invitation_keys(second.secret).public_key
    ]
    assert registry.withdraw_invitation("machine-b", now=NOW + 7)
    assert registry.inventory() == before
    assert not registry.withdraw_invitation("machine-b", now=NOW + 7)
    replacement(registry)
    assert registry.expire_invitations(now=NOW + 2 * DAY_S)
    assert registry.inventory() == before
    assert [what for what, _, _ in told(registry)[-2:]] == ["replacement-invited", "replacement-ended"]


def test_nobody_takes_the_place_of_the_control_node_or_of_one_that_is_not_there(registry):
    for name in ("control", "machine-b"):
        with pytest.raises(BadInput):
            registry.invite(name, workers=None, endpoint=None, expires_at=NOW + 9, now=NOW, replace=True)


def test_a_removed_machine_takes_what_stood_in_for_it_with_it(path, registry):
    redeem(registry, invite(registry), key(1))
    issued = replacement(registry)
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    assert is_sound(path).stand_ins == ()
    with pytest.raises(EnrolmentRefused):
        redeem_replacement(registry, issued, key(3))


def test_open_invitations_are_listed_and_no_others(registry):
    redeem(registry, invite(registry), key(1))
    invite(registry, "machine-c", workers=None)
    invite(registry, "machine-d", now=NOW - 2 * DAY_S)
    replacement(registry)
    assert registry.list_open_invitations(now=NOW + 9) == (
        OpenInvitation("machine-b", "10.77.0.2", 2, NOW + 6 + DAY_S, replaces=True),
        OpenInvitation("machine-c", "10.77.0.3", None, NOW + DAY_S, replaces=False),
    )


def test_an_address_rests_until_every_member_knows_that_its_machine_is_gone(registry):
    for number, name in enumerate(("machine-b", "machine-c", "machine-d"), 1):
        redeem(registry, invite(registry, name), key(number))
    _, gone = registry.change_mesh(
        lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b")
    )

    def given() -> str:
        address = invite(registry, "machine-e").machine.address
        assert registry.withdraw_invitation("machine-e", now=NOW)
        return address

    assert given() == "10.77.0.5"
    registry.record_acknowledgements({"10.77.0.3": gone.revision, "10.77.0.4": gone.revision - 1})
    assert given() == "10.77.0.5"
    registry.record_acknowledgements({"10.77.0.4": gone.revision + 7, "10.77.0.3": 1, "10.77.0.99": 1})
    assert given() == "10.77.0.2"


def test_a_key_is_offered_and_then_taken_up(path, registry):
    before = redeem(registry, invite(registry), key(1))
    shared = registry.preshared_keys()[key(1)]
    for _ in range(2):
        registry.offer_key(key(2), sender="10.77.0.2", now=NOW + 6)
    registry.offer_key(key(1), sender="10.77.0.2", now=NOW + 6)  # its own, still
    offered = registry.inventory()
    assert offered == msgspec.structs.replace(before, stand_ins=(PendingKey("machine-b", key(2), None),))
    assert registry.preshared_keys() == {key(1): shared, key(2): shared}

    with pytest.raises(EnrolmentRefused, match="a moment ago"):
        registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 15)
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 16)  # another try
    registry.activate_pending_key(key(2), now=NOW + 7)
    assert registry.inventory().machine("machine-b").public_key == key(1)
    for _ in range(2):
        registry.activate_pending_key(key(3), now=NOW + 17)
    after = is_sound(path)
    assert (after.machine("machine-b").public_key, after.stand_ins) == (key(3), ())
    assert (after.revision, registry.preshared_keys()) == (before.revision + 1, {key(3): shared})
    assert [what for what, _, _ in told(registry)[-3:]] == ["joined", "key-offered", "key-rotated"]


def test_e5_a_key_that_another_has_can_be_offered_by_nobody(registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    waiting = derive_invitation_keys(invite(registry, "machine-d").secret).public_key
    registry.offer_key(key(5), sender="10.77.0.3", now=NOW)
    before = registry.inventory()
    for taken in (key(2), key(5), CONTROL.public_key, waiting):
        with pytest.raises(EnrolmentRefused, match="that key is in use"):
            registry.offer_key(taken, sender="10.77.0.2", now=NOW)
    for stranger in ("10.77.0.4", "10.77.0.99", ""):
        with pytest.raises(EnrolmentRefused, match="not a member"):
            registry.offer_key(key(7), sender=stranger, now=NOW)
    assert registry.inventory() == before


def test_who_is_to_be_replaced_can_offer_no_key(registry):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(5), sender="10.77.0.2", now=NOW)
    issued = replacement(registry)
    with pytest.raises(EnrolmentRefused, match="invited to take the place of machine-b"):
        registry.offer_key(key(6), sender="10.77.0.2", now=NOW)
    assert [each.address for each in registry.inventory().stand_ins] == [issued.from_address]
    redeem_replacement(registry, issued, key(3))


def test_e5_the_database_refuses_what_two_would_have(path, registry):
    redeem(registry, invite(registry), key(1))
    issued = replacement(registry)
    insert = "INSERT INTO machines (name, public_key, address, place, workers, state, endpoints) VALUES"
    stand_in = "INSERT INTO stand_ins (public_key, machine, address, invitation) VALUES"
    refused = (
        f"{insert} ('x', '{key(7)}', '{issued.from_address}', 9, 1, 'active', '[]')",
        f"{insert} ('x', '{issued.machine.public_key}', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{stand_in} ('{key(1)}', 'machine-b', NULL, NULL)",
        f"{stand_in} ('{key(7)}', 'machine-b', '10.77.0.2', 'x')",
        f"{stand_in} ('{key(7)}', 'nobody', NULL, NULL)",
    )
    for statement in refused:
        with pytest.raises(sqlite3.IntegrityError):
            sql(path, statement)


def size(path: Path) -> int:
    """Octets of a registry, less what is free in it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        return len(connection.serialize())


def test_a_member_that_offers_keys_for_ever_makes_no_history(path, registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    for sender, number in (("10.77.0.2", 3), ("10.77.0.3", 4)):
        registry.offer_key(key(number), sender=sender, now=NOW)
    before, count, numbers = size(path), len(registry.events()), {registry.last_event_number()}
    for number in range(1, 301):
        registry.offer_key(key(100 + number), sender="10.77.0.2", now=NOW + 10 * number)
        numbers.add(registry.last_event_number())
    assert len(registry.events()) == count
    assert size(path) == before
    assert len(numbers) == 301  # each is news, and no number is given twice
    assert [(event.what, event.machine, event.at) for event in registry.events()[-2:]] == [
        ("key-offered", "machine-c", NOW),
        ("key-offered", "machine-b", NOW + 3000),
    ]


def test_another_offer_of_the_same_machine_is_news(registry):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    seen = registry.last_event_number()
    assert registry.read_news(since=seen) is not None
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 10)
    assert registry.read_news(since=seen) is None


def test_a_member_that_changes_its_key_for_ever_makes_no_history(registry):
    redeem(registry, invite(registry), key(1))
    count = len(registry.events())
    for number in range(400):
        registry.offer_key(key(100 + number), sender="10.77.0.2", now=NOW + 10 * number)
        registry.activate_pending_key(key(100 + number), now=NOW + 10 * number + 1)
    told_of = registry.events()
    assert len(told_of) == count + 1 + 16
    assert told_of[-1].what == "key-rotated"
    assert told_of[0].what == "mesh-made"  # what others did is not what goes


def test_history_ends_and_an_invitation_that_was_used_is_known_still(path, registry):
    used = invite(registry)
    redeem(registry, used, key(1))
    sql(
        path,
        "INSERT INTO events (at, command, what, machine, revision) WITH RECURSIVE many(n) AS (SELECT 1"
        " UNION ALL SELECT n + 1 FROM many WHERE n < 60000) SELECT 1, 'set', 'paused', 'x', 1 FROM many",
        "INSERT INTO invitations (identifier, machine, expires_at, outcome) WITH RECURSIVE many(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 6000)"
        " SELECT 'of ' || n, 'y', 1, 'expired' FROM many",
    )
    for number in range(130):
        invite(registry, f"machine-{number % 2}")
    assert 50_000 <= len(registry.events()) <= 50_000 + 256
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM invitations").fetchone()
    assert kept <= 5_000 + 130 + 3
    assert redeem(registry, used, key(1)).machine("machine-b").public_key == key(1)


@pytest.mark.parametrize("back_s", [3600, 10**9])
def test_a_clock_that_was_set_back_lifts_no_limit_on_keys(registry, back_s):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW - back_s)
    for seconds in (0, 1, 9):
        with pytest.raises(EnrolmentRefused, match="a moment ago"):
            registry.offer_key(key(4), sender="10.77.0.2", now=NOW - back_s + seconds)
    registry.offer_key(key(4), sender="10.77.0.2", now=NOW - back_s + 10)


def test_a_clock_that_was_set_back_makes_no_invitation_good_for_longer(registry):
    issued = invite(registry)
    with pytest.raises(EnrolmentRefused, match="behind the time at which this invitation was made"):
        redeem(registry, issued, key(1), now=NOW - 3600)
    assert [each.name for each in registry.list_open_invitations(now=NOW - 3600)] == ["machine-b"]
    assert redeem(registry, issued, key(1), now=NOW - 200).machine("machine-b").public_key == key(1)


def test_a_clock_that_was_set_forward_ends_invitations_for_good(registry):
    issued = invite(registry)
    registry.expire_invitations(now=NOW + 10**9)
    with pytest.raises(EnrolmentRefused, match="expired"):
        redeem(registry, issued, key(1))


def test_an_address_rests_whatever_the_clock_says(registry):
    for number, name in enumerate(("machine-b", "machine-c"), 1):
        redeem(registry, invite(registry, name), key(number))
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    for now in (1, 10**11):
        issued = registry.invite("machine-d", workers=1, endpoint=None, expires_at=now + DAY_S, now=now)
        assert issued.machine.address != "10.77.0.2"


@pytest.mark.parametrize("at", [-1, 2**40, 2**62])
def test_an_event_of_no_time_is_damage(path, registry, at):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET at = ?", (at,))
    with pytest.raises(StateUnreadable, match="its rows do not make a mesh"):
        registry.events()


def test_who_did_it_is_noted_and_of_a_join_who_invited_and_whence_it_came(path):
    with Registry(path, user="alice") as registry:
        issued = invite(registry)
        registry.change_mesh(
            lambda mesh: set_worker_count(mesh, "control", 4), **change("machine-changed", "control")
        )
    with Registry(path) as registry:
        came = iter(["198.51.100.7:51820"])
        for _ in range(2):  # the second one asks nobody
            registry.redeem(
                message(issued, key(1)),
                sender="10.77.0.2",
                now=NOW + 5,
                endpoint=lambda: next(came),
            )
        registry.expire_invitations(now=NOW)
        events = registry.events()
    assert [(event.what, event.user) for event in events] == [
        ("mesh-made", None),
        ("invited", "alice"),
        ("machine-changed", "alice"),
        ("joined", "alice"),
    ]
    joined = events[-1]
    assert (joined.address, joined.endpoint, joined.public_key) == ("10.77.0.2", "198.51.100.7:51820", key(1))


def test_what_became_of_an_invitation_is_known(registry):
    assert registry.find_spent_invitation("machine-b") is None
    issued = invite(registry)
    redeem(registry, issued, key(1))
    found = registry.find_spent_invitation("machine-b")
    assert found is not None
    assert (found.outcome, found.public_key, found.is_member) == ("redeemed", key(1), True)
    assert found.joined is not None
    assert found.joined.at == NOW + 5
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    gone = registry.find_spent_invitation("machine-b")
    assert gone is not None
    assert not gone.is_member
    invite(registry, "machine-c")
    registry.withdraw_invitation("machine-c", now=NOW)
    withdrawn = registry.find_spent_invitation("machine-c")
    assert withdrawn is not None
    assert (withdrawn.outcome, withdrawn.joined) == ("withdrawn", None)


def test_who_reads_waits_for_nobody_who_writes(registry):
    with contextlib.closing(sqlite3.connect(registry._path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Registry(registry._path, busy_s=0.0) as reading:
            assert reading.inventory() == registry.inventory()
            assert reading.last_event_number() == registry.last_event_number()
            assert reading.read_news(since=reading.last_event_number()) is not None
            assert not reading.expire_invitations(now=NOW)
            with pytest.raises(Busy, match="another program is writing to it"):
                reading.record_acknowledgements({"10.77.0.1": 1})


def test_no_temporary_file_of_sqlites_holds_keys(registry):
    assert registry._connection.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY


@pytest.mark.parametrize("how", ["removed", "replaced", "rotated"])
def test_e4_cut_off_at_any_write_a_key_is_its_machines_or_remembered(path, how):
    with Registry(path) as registry:
        redeem(registry, invite(registry), key(1))
        shared = registry.preshared_keys()[key(1)]
        issued = replacement(registry) if how == "replaced" else None
        if how == "rotated":
            registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    before = path.read_bytes()

    def afresh() -> None:
        sqlite.remove_database(path)
        path.write_bytes(before)

    def change_keys() -> None:
        with Registry(path) as registry:
            if issued is not None:
                redeem_replacement(registry, issued, key(2))
            elif how == "rotated":
                registry.activate_pending_key(key(2), now=NOW)
            else:
                registry.change_mesh(
                    lambda mesh: remove_machine(mesh, "machine-b"), **change(how, "machine-b")
                )

    def look() -> tuple[bool, list[str]]:
        with Registry(path) as registry:
            keys = {each.public_key for each in registry.inventory().machines}
            return key(1) in keys, [each.public_key for each in registry.list_retired_keys()]

    cut = []
    for at in cut_offs(change_keys, afresh=afresh):
        cut.append(at)
        assert look() in [(True, []), (False, [key(1)])]
    assert "commit" in cut
    assert look() == (False, [key(1)])
    with Registry(path) as registry:
        (gone,) = registry.list_retired_keys()
    reason = "removed" if how == "removed" else "replaced"
    assert (gone.machine, gone.preshared_key, gone.reason) == ("machine-b", shared, reason)
    assert gone.at >= NOW


def test_who_was_only_invited_had_no_key(registry):
    invite(registry)
    assert registry.withdraw_invitation("machine-b", now=NOW)
    issued = invite(registry, "machine-c")
    assert redeem(registry, issued, key(1)).machine("machine-c").public_key == key(1)
    assert registry.list_retired_keys() == ()


def test_the_newest_keys_that_machines_had_are_remembered_and_no_machine_displaces_all(registry):
    def come_and_go(image: Registry, name: str, number: int) -> None:
        redeem(image, invite(image, name), key(number))
        image.change_mesh(lambda mesh: remove_machine(mesh, name), **change("removed", name))

    def numbers(image: Registry) -> list[str]:
        return [each.public_key for each in image.list_retired_keys()]

    with RegistryImage(registry.copy_database()) as image:  # in memory
        for number in range(1, MOST_RETIRED + 3):
            come_and_go(image, f"machine-{number}", number)
        assert numbers(image) == [key(number) for number in range(3, MOST_RETIRED + 3)]
        come_and_go(image, "machine-5", 5)
        assert numbers(image)[-1] == key(5)
        assert len(set(numbers(image))) == MOST_RETIRED
        for number in range(100, 100 + MOST_RETIRED):
            come_and_go(image, "machine-3", number)
        of_one = [
            key(number) for number in range(100 + MOST_RETIRED - retired_keys.MOST_OF_ONE, 100 + MOST_RETIRED)
        ]
        others = MOST_RETIRED - retired_keys.MOST_OF_ONE
        assert numbers(image)[others:] == of_one
        assert not {key(number) for number in range(100, 100 + MOST_RETIRED)} & set(numbers(image)[:others])


def test_keys_that_machines_had_are_part_of_a_backup_and_of_no_handover(registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    known = registry.list_retired_keys()
    assert [each.public_key for each in known] == [key(1)]
    registry.begin_handover("machine-c", now=NOW)
    with RegistryImage(registry.copy_database()) as image:
        with RegistryImage(image.serialize()) as backup:
            assert backup.list_retired_keys() == known
        _, octets = image.serialize_for_successor()
    with RegistryImage(octets) as handed_over:
        assert handed_over.list_retired_keys() == ()
    assert known[0].preshared_key.reveal().encode() not in octets
    assert registry.list_retired_keys() == known


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO retired_keys VALUES (1, 'b', 'no key', 'no key', 'removed', 1)",
        "INSERT INTO retired_keys VALUES (1, 'B!', '{key}', '{key}', 'removed', 1)",
        "INSERT INTO retired_keys VALUES (1, 'b', '{key}', '{key}', 'removed', -1)",
    ],
)
def test_a_key_that_is_none_is_damage(path, registry, statement):
    sql(path, statement.format(key=key(1)))
    with pytest.raises(StateUnreadable, match="is damaged"):
        registry.list_retired_keys()
