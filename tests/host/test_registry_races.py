"""Many at once, and processes that are killed: the registry is whole, and nothing is given twice."""

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import BadInput, Busy, EnrolmentRefused
from qmesh.host.registry import IssuedInvitation, Registry
from qmesh.mesh.changes import remove_machine
from qmesh.mesh.inventory import list_workers
from tests.support.factories import key
from tests.support.registries import (
    MESH,
    NOW,
    children,
    invite,
    is_sound,
    message,
    path,
    redeem,
    registry,
    shares_nothing,
)
from tests.support.waiting import idle, some_time

__all__ = ["path", "registry"]


def test_e5_machines_that_join_at_once_from_many_threads_share_nothing(path):
    def join(number: int) -> int:
        with Registry(path) as registry:
            issued = invite(registry, f"machine-{number}", workers=1 + number % 3)
            return redeem(registry, issued, key(number + 1)).revision

    with ThreadPoolExecutor(12) as pool:
        revisions = list(pool.map(join, range(36)))
    inventory = is_sound(path)

    assert sorted(revisions) == list(range(2, 38))
    assert shares_nothing(inventory, 37)
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
    assert shares_nothing(is_sound(path), 31)


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
        assert shares_nothing(registry.inventory(), 14)


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
    assert shares_nothing(is_sound(path), 2)


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
        assert shares_nothing(after, len(after.machines))
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


def test_another_who_writes_is_waited_for(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool, Registry(path) as registry:
            waiting = pool.submit(invite, registry)
            idle(0.3)

            assert not waiting.done()

            other.execute("COMMIT")
            assert waiting.result().machine.name == "machine-b"


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
            with pytest.raises(Busy, match="another program is writing to it"):
                reading.require_write_access()
    revision = registry.revision()
    registry.require_write_access()
    assert registry.revision() == revision
