"""Situations of two worlds: a key that two machines have, a registry or a state that went back."""

from __future__ import annotations

from typing import Final

from tests.support.lab.cluster import (
    CONFIG,
    STATE,
    copy_state,
    facts,
    invite,
    qmesh,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.situation_cluster import SITUATION_AGENT, Machines, Situation
from tests.support.waiting import wait_until

_SNAPSHOT: Final = "/root/snapshot"
_BACKUP: Final = "/root/control.backup"
_COPIED: Final = ("machine.json", "private.key", "preshared.key", "membership.json", "guard.nft")


def _copy_member(machines: Machines) -> None:
    """Have the third machine what a copy of the member's disk has, and its agent."""
    member, copy = machines["member"], machines["copy"]
    copy.run(["mkdir", "-p", STATE])
    for name in _COPIED:
        copy.write(f"{STATE}/{name}", member.read(f"{STATE}/{name}"), 0o600)
    copy.start(["qmesh", "agent"])


def _replace_member(machines: Machines) -> None:
    """Give the member another key, as the findings say, and end the copy."""
    invite(machines["control"], machines["member"], "--replace")
    qmesh(machines["member"], "join", "invitation", "--config", CONFIG, timeout=90)
    machines["copy"].kill()


def _put_registry_back(machines: Machines, *, changes_it: bool = False) -> None:
    """As a snapshot of the control node's disk does. changes_it: to another mesh of the same revision."""
    control, member = machines["control"], machines["member"]
    assert control.kill(SITUATION_AGENT)
    control.run(["cp", "-a", STATE, _SNAPSHOT])
    start_agent(control)
    qmesh(control, "set", "machine-b", "--guard-port", "9999")
    held = facts(control, "status")["revision"]
    wait_until(lambda: facts(member, "status")["revision"] == held, 30)
    stop_agent(control)
    control.run(["sh", "-c", f"rm {STATE}/mesh.db*; cp -a {_SNAPSHOT}/mesh.db* {STATE}"])
    if changes_it:
        qmesh(control, "set", "machine-b", "--workers", "3")
    start_agent(control)


def _put_another_registry_back(machines: Machines) -> None:
    _put_registry_back(machines, changes_it=True)


def _restore_control(machines: Machines) -> None:
    """The commands that the finding prints."""
    control = machines["control"]
    qmesh(control, "backup", _BACKUP)
    qmesh(control, "uninstall", "--delete-state", "--yes", "control", timeout=60)
    qmesh(control, "restore", _BACKUP, "--plain", "--config", CONFIG, timeout=60)


def _put_key_back(machines: Machines) -> None:
    """As a restored disk of a member does, of before it had another key."""
    member = machines["member"]
    copy_state(member, _SNAPSHOT, SITUATION_AGENT)
    qmesh(member, "rotate-key", timeout=60)
    assert member.kill(SITUATION_AGENT)
    member.run(["sh", "-c", f"cp -a {_SNAPSHOT}/private.key {_SNAPSHOT}/membership.json {STATE}"])
    qmesh(member, "apply")


def _remove_while_away(machines: Machines) -> None:
    member = machines["member"]
    member.run(["ip", "link", "set", "eth0", "down"])
    qmesh(machines["control"], "remove", "machine-b")
    member.run(["ip", "link", "set", "eth0", "up"])


def _join_again(machines: Machines) -> None:
    """With a new invitation, and its workers from the new list."""
    control, member = machines["control"], machines["member"]
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--config", CONFIG, timeout=90)
    member.kill("worker.py")
    for machine in (control, member):
        qmesh(machine, "render-config", "--write")
    start_workers(member, "4..7")


TWO_WORLDS: Final = (
    Situation(
        part=3,
        name="two machines with one key",
        harm="each cuts the other off",
        spoil=_copy_member,
        code="key-shared",
        asked="control",
        by_hand=_replace_member,
        within_s=180,
        is_last=True,
    ),
    Situation(
        part=3,
        name="registry older than its members",
        harm="members learn of no change",
        spoil=_put_registry_back,
        code="membership-conflict",
        on="control",
        by_hand=_restore_control,
        within_s=90,
        is_last=True,
    ),
    Situation(
        part=3,
        name="another mesh of the same revision",
        harm="members learn of no change",
        spoil=_put_another_registry_back,
        code="membership-conflict",
        on="control",
        by_hand=_restore_control,
        within_s=90,
        is_last=True,
    ),
    Situation(
        part=3,
        name="a member's state of before its new key",
        harm="nothing of it is let through",
        spoil=_put_key_back,
        code="key-retired",
        by_hand=_replace_member,
        within_s=120,
        is_last=True,
    ),
    Situation(
        part=3,
        name="a machine that was removed while it was away",
        harm="it belongs to no mesh, and does not know",
        spoil=_remove_while_away,
        code="membership-stale",
        by_hand=_join_again,
        within_s=150,
        is_last=True,
    ),
)
