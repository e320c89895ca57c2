"""Machines of two versions of qmesh in one mesh: what is tried, and which machine has which version.

For tests, and for `scripts/versions`, which tries all of it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.lab.cluster import (
    CONFIG,
    NODE_CONFIG,
    STATE,
    all_hold,
    facts,
    has_agent,
    invite,
    make_control,
    make_member,
    newcomer,
    peers_of,
    problems,
    qmesh,
    reached,
    start_agent,
    start_workers,
    stop_agent,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.lab.mesh import USER
from tests.support.node_identity import IDENTITY, KEY_STORE
from tests.support.waiting import comes_true, wait_until

SOON_S: Final = 30
NOTES: Final = {"machine-versions", "core-slow"}
"""What `check` notes of machines that are unlike each other, which these are."""


class MixedLab(Lab):
    """A lab whose machines have the versions that are named, by host name; others have this checkout's."""

    def __init__(self, versions: Mapping[str, Path]) -> None:
        super().__init__()
        self._versions = versions

    def machine(self, name: str, ipv4: str, ipv6: str | None = None) -> Machine:
        made = super().machine(name, ipv4, ipv6)
        made.version = self._versions.get(name, made.version)
        return made


def expect_well(*machines: Machine, besides: Collection[str] = ()) -> None:
    """That `check` finds nothing on any of them but such codes, soon."""
    for machine in machines:
        comes_true(lambda: problems(machine) <= NOTES.union(besides), SOON_S)  # noqa: B023 - called at once
        found = problems(machine) - NOTES.union(besides)
        assert not found, f"{machine.name}: {qmesh(machine, 'check', code=None).stdout}"


def expect_facts(control: Machine, *members: Machine) -> None:
    """That the control node knows what each member runs."""
    names = {member.name for member in members}

    def are_told() -> bool:
        known = {each["name"]: each["facts"] for each in facts(control, "status")["machines"]}
        return all(known[name] and known[name]["qmesh"] for name in names)

    wait_until(are_told, SOON_S)


def revision_of(control: Machine) -> int:
    return int(facts(control, "status")["revision"])


def follow(control: Machine, *members: Machine) -> None:
    """Wait until the members hold the newest membership."""
    all_hold(list(members), revision_of(control), within_s=SOON_S)


def carry(what: str, source: Machine, target: Machine) -> None:
    """Take a file of /root to another machine, as it is."""
    target.path(what).write_bytes(source.path(what).read_bytes())


def read_guard(machine: Machine) -> str:
    """The guard's first table, but for who asked lately."""
    words = ["sh", "-c", "nft -s list table inet qmesh | sed '/set askers/,/^\\t}$/d'"]
    return machine.run(words).stdout


def join_online(lab: Lab) -> None:
    control = make_control(lab)
    members = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    follow(control, *members)
    expect_facts(control, *members)
    expect_well(control, *members)
    qmesh(members[0], "join", "invitation")  # again: it changes nothing
    follow(control, *members)


def join_by_files(lab: Lab) -> None:
    control, member = make_control(lab), newcomer(lab)
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--offline", "--out", "request")
    carry("request", member, control)
    qmesh(control, "admit", "request", "--out", "answer")
    carry("answer", control, member)
    qmesh(member, "join", "--answer", "answer")
    follow(control, member)
    expect_facts(control, member)
    expect_well(control, member)


def make_changes(lab: Lab) -> None:
    control = make_control(lab)
    b, c = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    for words in (
        ("set", "machine-b", "--workers", "5"),
        ("set", "machine-b", "--endpoint", "192.168.0.201:51820"),
        ("set", "machine-b", "--guard-port", "5432", "--from", "mesh"),
        ("set", "machine-c", "--leave-open", "9000"),
        ("set", "--node", "2.1-rust"),
        ("set", "--node", "1.4"),
        ("set", "--worker-base-port", "41000"),
        ("set", "--restart"),
        ("pause", "machine-c"),
        ("resume", "machine-c"),
    ):
        qmesh(control, *words)
    follow(control, b, c)
    wait_until(lambda: "5432" in read_guard(b) and "41003" in read_guard(b), SOON_S)
    expect_well(control, b, c, besides={"config-lint", "port-wide"})


def rotate_key(lab: Lab) -> None:
    control = make_control(lab)
    b, c = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    old = set(peers_of(control))
    done = facts(b, "rotate-key")
    assert done["confirmed"]
    assert done["from"] in old
    wait_until(lambda: done["to"] in peers_of(control) and done["from"] not in peers_of(control), SOON_S)
    follow(control, b, c)
    expect_well(control, b, c)


def replace_machine(lab: Lab) -> None:
    control = make_control(lab)
    b, c = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    b.kill()
    qmesh(b, "uninstall", "--delete-state")
    text = qmesh(control, "invite", "machine-b", "--replace").stdout
    b.write("/root/invitation", text, 0o600)
    done = facts(b, "join", "invitation", "--config", CONFIG)
    assert done["cores"] == {"first": 4, "count": 4}
    follow(control, b, c)
    expect_facts(control, b)
    expect_well(control, b, c)


def remove_machine(lab: Lab) -> None:
    control = make_control(lab)
    b, c = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    qmesh(control, "remove", "machine-b")
    wait_until(lambda: "removed" in qmesh(b, "status", code=None).stdout, SOON_S)
    assert "40003" in read_guard(b)
    follow(control, c)
    expect_well(control, c)
    invite(control, b, "--workers", "4")
    qmesh(b, "join", "invitation", "--config", CONFIG)
    follow(control, b, c)
    expect_well(control, b, c)


def hand_over(lab: Lab) -> None:
    """There and back; a machine joins in between, and the worker ports follow."""
    a = make_control(lab)
    b, c = make_member(lab, a, 201, 4), make_member(lab, a, 202, 2)
    qmesh(a, "set", "machine-b", "--endpoint", "192.168.0.201:51820")
    start_workers(c, "8..9", "--careless")
    for source, target, name in ((a, b, "machine-b"), (b, a, "control")):
        done = facts(source, "handover", name)
        assert (done["to"], done["left_behind"], done["answers"]) == (name, [], True)
        wait_until(lambda: reached(target, "10.77.0.3", [40007, 40008]) == [40007, 40008], SOON_S)  # noqa: B023
        assert reached(source, "10.77.0.3", [40007, 40008]) == []
        for machine in (a, b, c):
            found = facts(machine, "status")
            assert (found["control"], found["revision"]) == (name, done["revision"])
        expect_facts(target, c)
        expect_well(a, b, c, besides={"worker-wide"})
        if target is b:
            joined = make_member(lab, b, 203, 1)
            follow(b, a, c, joined)


def back_up_and_restore(lab: Lab) -> None:
    """The control node goes on, on a machine of the other version; its members follow."""
    a = make_control(lab)
    b, c = make_member(lab, a, 201, 4), make_member(lab, a, 202, 2)
    invite(a, lab.machine("machine-g", "192.168.0.206"))
    a.write("/root/words", "correct horse\n", 0o600)
    qmesh(a, "backup", "control.backup", "--passphrase-file", "words")
    a.run(["ip", "link", "delete", "eth0"])
    new = lab.machine("new-a", "192.168.0.200")
    new.run(["bash", "-c", "echo >/dev/udp/192.168.0.201/9"])  # by which others learn who has the address
    for name in ("control.backup", "words"):
        carry(name, a, new)
    new.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    words = ("restore", "control.backup", "--passphrase-file", "words", "--config", CONFIG)
    assert facts(new, *words)["name"] == "control"
    follow(new, b, c)
    expect_facts(new, b, c)
    expect_well(b, c)
    fresh = make_member(lab, new, 204, 1)
    follow(new, b, c, fresh)


def check_all(lab: Lab) -> None:
    control = make_control(lab)
    members = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    expect_well(control, *members)
    report = json.loads(qmesh(control, "check", "--all", "--json", code=None, timeout=90).stdout)
    said = {each["machine"]: {found["code"] for found in each["findings"]} for each in report["members"]}
    assert said.keys() == {"machine-b", "machine-c"}
    assert all(codes <= {*NOTES, "config-stale", "worker-silent"} for codes in said.values()), said


def fetch_node_files(lab: Lab) -> None:
    control, member = lab.machine("machine-a", "192.168.0.200"), newcomer(lab)
    control.write(f"{CONFIG}/config.yml", IDENTITY, 0o600)
    control.write(f"{CONFIG}/keys.yml", KEY_STORE, 0o600)
    options = ("--node", "2.1-rust", "--workers", "2", "--endpoint", "192.168.0.200", "--config", CONFIG)
    qmesh(control, "init", *options)
    qmesh(control, "render-config", "--write")
    invite(control, member, "--workers", "2", "--node-files")
    qmesh(member, "join", "invitation", "--node-files")
    assert member.read(f"{STATE}/node/keys.yml") == KEY_STORE
    follow(control, member)
    expect_well(member, besides={"announce-missing"})


READERS: Final = 3001


def ask_the_agent(lab: Lab) -> None:
    """Commands of the other version ask an agent: as between the package's new files and its restart."""
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    expect_facts(control, member)
    by = ["setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={READERS}"]
    control.write("/etc/group", f"{control.read('/etc/group')}readers:x:{READERS}:\n")
    qmesh(control, "set", "--readers", "readers")
    wait_until(lambda: control.run([*by, "qmesh", "status"], check=False).returncode == 0, SOON_S)
    control.version, member.version = member.version, control.version  # the agents run on as they are
    for machine in (control, member):
        knows_others = "restart" in qmesh(machine, "--help").stdout
        # To 0.1.0, rules of any other version are changed ones, which make up for no setting.
        said = {"guard-outdated"} if knows_others else {"guard-drift", "sysctl"}
        expect_well(machine, besides={"agent-outdated", *said})
    for words in (["status"], ["status", "--json"], ["check", "--json"], ["log"], ["metrics"]):
        for prefix in ([], by):
            done = control.run([*prefix, "qmesh", *words], check=False)
            assert done.returncode in {0, 1}, (words, prefix, done.stderr)
            assert done.stdout, (words, prefix)
    expect_facts(control, member)


def take_over(machine: Machine) -> None:
    """Have the version that is installed there take the place of what runs. 0.1.0 has no command for it."""
    if "restart" in qmesh(machine, "--help").stdout:
        qmesh(machine, "restart")
    else:
        stop_agent(machine)
        start_agent(machine)
        qmesh(machine, "apply")
    assert has_agent(machine)


def update_in_place(lab: Lab) -> None:
    """One machine after the other gets the other version and keeps its state, and goes back."""
    control = make_control(lab)
    b, c = make_member(lab, control, 201, 4), make_member(lab, control, 202, 2)
    invited = lab.machine("machine-g", "192.168.0.206")
    invite(control, invited, "--workers", "1")
    before = {name: qmesh(control, *words).stdout for name, words in WHAT_STAYS.items()}
    others = (b.version, control.version)
    for turn in others:
        for machine in (b, c, control):
            machine.version = turn
            take_over(machine)
        expect_facts(control, b, c)
        follow(control, b, c)
        expect_well(control, b, c)
        assert {name: qmesh(control, *words).stdout for name, words in WHAT_STAYS.items()} == before
    qmesh(invited, "join", "invitation")
    qmesh(control, "set", "machine-b", "--workers", "2")
    follow(control, b, c, invited)


WHAT_STAYS: Final = {
    "events": ("log", "--json"),
    "invitations": ("invite", "--list"),
    "hosts": ("export", "hosts"),
}


class Row(NamedTuple):
    """Something that machines of a mesh do with each other."""

    name: str
    run: Callable[[Lab], None]


ROWS: Final = (
    Row("join", join_online),
    Row("join by files", join_by_files),
    Row("check --all", check_all),
    Row("set, pause, resume", make_changes),
    Row("rotate-key", rotate_key),
    Row("invite --replace", replace_machine),
    Row("remove, join again", remove_machine),
    Row("handover there and back", hand_over),
    Row("backup, restore", back_up_and_restore),
    Row("node-files", fetch_node_files),
    Row("commands and the agent", ask_the_agent),
    Row("update and go back", update_in_place),
)
MACHINES: Final = ("machine-a", "machine-b", "machine-c")
OTHERS: Final = {
    "machine-d": "machine-b",
    "machine-e": "machine-b",
    "new-a": "machine-b",
    "machine-g": "machine-c",
}
"""Machines that have the version of another one."""


def list_columns() -> Iterator[tuple[str, dict[str, bool]]]:
    """Which of the machines have the version before; all but those where no machine or every one has."""
    for number in range(1, 7):
        older = {name: bool(number >> place & 1) for place, name in enumerate(MACHINES)}
        yield ", ".join(name[-1].upper() for name, has in older.items() if has), older


COLUMNS: Final = dict(list_columns())
"""By the machines that have the version before; A is the control node at first."""


@contextlib.contextmanager
def make_lab(column: str, before: Path) -> Iterator[Lab]:
    """A lab in which those machines have the version before, and the others this one."""
    older = COLUMNS[column]
    versions = {name: before for name in (*MACHINES, *OTHERS) if older[OTHERS.get(name, name)]}
    with MixedLab(versions) as lab:
        yield lab
