"""Redemptions that are one write: each ends as it would by itself."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import RedemptionRequest, Registry
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.registries import (
    CONTROL,
    MESH,
    NOW,
    invite,
    invite_replacement,
    is_sound,
    message,
    path,
    redeem,
    registry,
)

__all__ = ["path", "registry"]


def request(registry: Registry, name: str, own_key: str, *, workers: int = 2) -> RedemptionRequest:
    issued = invite(registry, name, workers=None)
    return RedemptionRequest(message(issued, own_key, workers=workers), issued.machine.address)


def say(refusal: EnrolmentRefused | None) -> tuple[str, str] | None:
    return None if refusal is None else (refusal.message, refusal.hint)


def one_by_one(path: Path, requests: list[RedemptionRequest], now: int) -> list[tuple[str, str] | None]:
    found = []
    for each in requests:
        with Registry(path) as registry:
            try:
                registry.redeem(each.message, sender=each.sender, now=now)
            except EnrolmentRefused as error:
                found.append(say(error))
            else:
                found.append(None)
    return found


def fill(registry: Registry) -> list[RedemptionRequest]:
    """Requests of which some are granted and some refused, whatever their order."""
    joined = invite(registry)
    redeem(registry, joined, key(1))
    fine = [request(registry, f"fine-{number}", key(10 + number)) for number in range(4)]
    stolen = request(registry, "stolen", key(20))
    replaced = invite_replacement(registry)
    reached = invite(registry, "reached")
    at = Endpoint("198.51.100.7", 51820)
    expired = registry.invite("expired", workers=1, endpoint=None, expires_at=NOW + 60, now=NOW)
    return [
        *fine,
        fine[0],
        stolen,
        stolen._replace(message=msgspec.structs.replace(stolen.message, public_key=key(21))),
        stolen._replace(sender="10.77.0.99"),
        RedemptionRequest(message(joined, key(1)), "10.77.0.2"),
        RedemptionRequest(message(joined, key(22)), "10.77.0.2"),
        RedemptionRequest(message(replaced, key(23)), replaced.from_address),
        RedemptionRequest(message(reached, key(24), endpoint=at), None),
        RedemptionRequest(message(expired, key(25)), expired.machine.address),
        request(registry, "the-controls", CONTROL.public_key),
        request(registry, "anothers", key(11)),
        request(registry, "too-many", key(26), workers=65000),
        request(registry, "many", key(27), workers=25000),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_e5_redeemed_together_is_as_redeemed_one_by_one(path, registry, tmp_path, seed):
    requests = fill(registry)
    random.Random(seed).shuffle(requests)  # noqa: S311 - no secret
    registry.__exit__()
    apart = tmp_path / "apart.db"
    shutil.copy(path, apart)

    with Registry(path) as together:
        inventory, refusals = together.redeem_all(requests, now=NOW + 90)
        assert inventory == together.inventory()
    assert list(map(say, refusals)) == one_by_one(apart, requests, NOW + 90)
    assert None in refusals
    assert len([each for each in refusals if each is not None]) >= 6

    with Registry(path) as one, Registry(apart) as other:
        assert one.inventory() == other.inventory()
        assert one.events() == other.events()
        assert one.preshared_keys() == other.preshared_keys()
        assert one.list_open_invitations(now=NOW) == other.list_open_invitations(now=NOW)
    is_sound(path)


def test_who_did_it_and_whence_each_came_is_noted(path):
    with Registry(path, user="alice") as registry:
        requests = [request(registry, f"machine-{number}", key(number + 1)) for number in range(3)]
    asked: list[str] = []

    def find_endpoint(address: str) -> str:
        asked.append(address)
        return f"192.0.2.{address.rpartition('.')[2]}:51820"

    with Registry(path) as registry:
        registry.redeem_all([*requests, *requests], now=NOW, find_endpoint=find_endpoint)
        joined = [each for each in registry.events() if each.what == "joined"]
    senders = [each.sender for each in requests]
    assert asked == senders == [each.address for each in joined]
    assert [each.endpoint for each in joined] == [f"192.0.2.{number}:51820" for number in (2, 3, 4)]
    assert {each.user for each in joined} == {"alice"}
    assert [each.revision for each in joined] == [2, 3, 4]


def test_all_of_them_are_one_durable_write_and_two_looks_at_the_mesh(path, registry):
    requests = [request(registry, f"machine-{number}", key(number + 1)) for number in range(20)]
    statements: list[str] = []
    registry._connection.set_trace_callback(statements.append)
    registry.redeem_all(requests, now=NOW)
    registry._connection.set_trace_callback(None)

    assert [each for each in statements if each.startswith(("BEGIN", "COMMIT", "ROLLBACK"))] == [
        "BEGIN IMMEDIATE",
        "COMMIT",
    ]
    assert len([each for each in statements if each.endswith("FROM mesh") and "control" in each]) == 2


def test_refusals_alone_write_nothing(path, registry):
    wrong = request(registry, "machine-b", key(1))._replace(sender="10.77.0.9")
    before = (registry.inventory(), registry.events())
    octets = path.with_name("mesh.db-wal").stat().st_size
    registry.redeem_all([wrong, wrong], now=NOW)
    assert (registry.inventory(), registry.events()) == before
    assert path.with_name("mesh.db-wal").stat().st_size == octets


@pytest.mark.parametrize(
    ("statement", "which"),
    [
        ("SAVEPOINT", 1),
        ("SAVEPOINT", 3),
        ("UPDATE machines SET public_key", 2),
        ("UPDATE mesh SET revision", 3),
        ("INSERT INTO events", 2),
        ("RELEASE", 1),
        ("RELEASE", 3),
        ("COMMIT", 1),
    ],
)
def test_e4_a_control_node_that_is_killed_in_a_write_of_three_has_let_none_in(path, statement, which):
    with Registry(path) as registry:
        requests = [request(registry, f"machine-{number}", key(number + 1)) for number in range(3)]
        before = (registry.inventory(), registry.events(), registry.preshared_keys())

    assert killed_in(path, lambda registry: registry.redeem_all(requests, now=NOW), statement, which)
    is_sound(path)
    with Registry(path) as registry:
        assert (registry.inventory(), registry.events(), registry.preshared_keys()) == before
        after, refusals = registry.redeem_all(requests, now=NOW)
        assert refusals == [None] * 3
        assert len(after.machines) == len(MESH.machines) + 3


def killed_in(path: Path, work: Callable[[Registry], object], statement: str, which: int) -> bool:
    """Whether a process that does `work` was killed just before its statement of that kind and number."""
    identifier = os.fork()
    if identifier == 0:
        with contextlib.suppress(BaseException), Registry(path) as registry:
            left = [which]

            def crash(sentence: str) -> None:
                left[0] -= sentence.startswith(statement)
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

            registry._connection.set_trace_callback(crash)
            work(registry)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1]) == -signal.SIGKILL


def test_where_the_write_itself_fails_none_of_them_is_a_member(path, registry, monkeypatch):
    requests = [request(registry, f"machine-{number}", key(number + 1)) for number in range(3)]
    before = (registry.inventory(), registry.events())

    def full(connection: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr("qmesh.host.registry.events.prune_history", full)
    monkeypatch.setattr("qmesh.host.registry.events._PRUNED_EVERY", 1)
    with pytest.raises(Exception, match="disk I/O error"):
        registry.redeem_all(requests, now=NOW)
    monkeypatch.undo()
    assert (registry.inventory(), registry.events()) == before
    assert registry.redeem_all(requests, now=NOW)[1] == [None] * 3
