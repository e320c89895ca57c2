"""A cluster of a node that has secrets, with nothing copied by hand: who gets its files, and who does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.lab.cluster import (
    CONFIG,
    STATE,
    checked,
    facts,
    files_with,
    newcomer,
    qmesh,
    refusal,
)
from tests.support.lab.machines import Lab, Machine
from tests.support.node_identity import IDENTITY, KEY_STORE, SECRETS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab

FILES = ("config.yml", "keys.yml")
OWN = {f"{CONFIG}/{name}" for name in FILES}


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Machine, Machine, list[str]]]:
    """The README's three commands, and all that they said."""
    with Lab() as lab:
        control = lab.machine("machine-a", "192.168.0.200")
        control.write(f"{CONFIG}/config.yml", IDENTITY, 0o600)
        control.write(f"{CONFIG}/keys.yml", KEY_STORE, 0o600)
        member = newcomer(lab)
        options = ("--node", "2.1-rust", "--workers", "2", "--endpoint", "192.168.0.200", "--config", CONFIG)
        done = [qmesh(control, "init", *options)]
        qmesh(control, "render-config", "--write")
        invitation = qmesh(control, "invite", member.name, "--workers", "2", "--node-files")
        member.write("/root/invitation", invitation.stdout, 0o600)
        done += [invitation, qmesh(member, "join", "invitation", "--node-files")]
        yield control, member, [each.stdout + each.stderr for each in done]


def find_codes(machine: Machine) -> set[str]:
    """What `check` finds, but for workers that nobody started."""
    return {each["code"] for each in checked(machine, code=1)["findings"]}


def modes(machine: Machine, directory: str) -> str:
    return machine.run(["sh", "-c", f"cd {directory} && stat -c '%n %a %U' *"]).stdout


def test_n1_three_commands_make_a_cluster_with_nothing_copied_by_hand(cluster):
    control, member, said = cluster
    assert "qmesh join --node-files" in said[1]
    directory = f"{STATE}/node"
    assert f"wrote {directory}/keys.yml" in said[2]
    assert modes(member, directory) == "config.yml 600 root\nkeys.yml 600 root\n"
    assert member.read(f"{directory}/keys.yml") == KEY_STORE
    text = member.read(f"{directory}/config.yml")
    assert f'path: "{directory}/keys.yml"' in text
    assert "/ip4/10.77.0.2/tcp/32502" in text
    assert find_codes(member) == {"announce-missing"}  # which is about the internet
    event, *_ = (each for each in facts(control, "log")["events"] if each["what"] == "node-files-fetched")
    assert (event["machine"], event["address"]) == ("machine-b", "10.77.0.2")
    assert event["endpoint"].startswith("192.168.0.201:")


def test_n1_said_again_it_changes_nothing_and_is_told_each_time(cluster):
    control, member, _ = cluster

    def fetches() -> int:
        return sum(each["what"] == "node-files-fetched" for each in facts(control, "log")["events"])

    before = fetches()
    done = qmesh(member, "node-files", "--write")
    assert done.stdout.count("nothing to do, ") == 2
    assert facts(member, "node-files") == {
        "files": [
            {"path": f"{STATE}/node/{name}", "outcome": "unchanged"} for name in ("keys.yml", "config.yml")
        ],
        "written": [],
    }
    assert fetches() == before + 2


@pytest.mark.long
def test_n1_into_a_users_directory_they_are_written_as_that_user(cluster):
    _, member, _ = cluster
    home = "/run/home/.config"
    member.run(["sh", "-c", f"mkdir -p {home} && chown -R 1001:1001 /run/home"])
    done = qmesh(member, "node-files", "--config", home)
    assert done.stdout == f"{home}/keys.yml: would be new\n{home}/config.yml: would be new\n"
    assert member.run(["ls", "-A", home]).stdout == ""
    qmesh(member, "node-files", "--write", "--config", home)
    assert modes(member, home) == "config.yml 600 UNKNOWN\nkeys.yml 600 UNKNOWN\n"
    assert f'path: "{home}/keys.yml"' in member.read(f"{home}/config.yml")
    member.run(["rm", "-r", home])
    qmesh(member, "node-files", "--write", "--config", f"{STATE}/node")


def test_n1_nothing_of_another_node_is_replaced_unless_that_is_said(cluster):
    _, member, _ = cluster
    other = {
        "config.yml": IDENTITY.replace("5ec4e7a1", "ab" * 4),
        "keys.yml": KEY_STORE.replace("aabb", "aabc"),
    }
    for name, text in other.items():
        member.write(f"/root/other/{name}", text, 0o600)
    said = refusal(member, "node-files", "--write", "--config", "/root/other", code=2)
    assert "keys.yml and config.yml in /root/other are of another identity" in said
    assert "`qmesh node-files --write --replace`" in said
    assert {name: member.read(f"/root/other/{name}") for name in other} == other
    done = qmesh(member, "node-files", "--write", "--replace", "--config", "/root/other")
    assert "restart this machine's workers" in done.stderr
    assert member.read("/root/other/keys.yml") == KEY_STORE
    assert {name: member.read(f"/root/other/{name}.bak") for name in other} == other
    assert set(modes(member, "/root/other").split()[1::3]) == {"600"}
    qmesh(member, "node-files", "--write", "--config", f"{STATE}/node")
    member.run(["rm", "-r", "/root/other"])


def test_n1_a_link_or_a_full_disk_is_an_error_and_nothing_is_written(cluster):
    _, member, _ = cluster
    member.write("/root/victim", "mine\n", 0o600)
    member.run(["sh", "-c", "mkdir -p /root/linked && ln -s ../victim /root/linked/keys.yml"])
    refusal(member, "node-files", "--write", "--replace", "--config", "/root/linked", code=2)
    assert member.read("/root/victim") == "mine\n"
    assert member.run(["ls", "-A", "/root/linked"]).stdout == "keys.yml\n"
    script = "mkdir /root/full && mount -t tmpfs -o size=8k,mode=700 tmpfs /root/full && echo x >/root/full/x"
    member.run(["sh", "-c", script])
    said = refusal(member, "node-files", "--write", "--config", "/root/full", code=3)
    assert "could not be written: No space left" in said
    assert member.run(["ls", "-A", "/root/full"]).stdout == "x\n"


def test_n1_a_member_that_may_not_is_refused_and_gets_nothing(cluster):
    control, member, _ = cluster
    qmesh(control, "set", "machine-b", "--node-files", "off")
    before = facts(control, "log")["events"]
    said = refusal(member, "node-files", "--write", code=4)
    assert "machine-b may not fetch the node's files" in said
    assert "`qmesh set machine-b --node-files on`" in said
    assert facts(control, "log")["events"] == before
    done = qmesh(control, "set", "machine-b", "--node-files", "on")
    assert "next, on machine-b: qmesh node-files --write" in done.stderr
    qmesh(member, "node-files", "--write")
    assert "is the control node" in refusal(control, "node-files", code=2)


@pytest.mark.long
def test_n1_what_is_wrong_with_the_control_nodes_own_files_is_said_and_nothing_is_sent(cluster):
    control, member, _ = cluster
    for text, words in (
        ("#" * 10_000_000, "larger than 1048576 bytes"),
        ("- 5ec4e7b0\n", "is not a mapping"),
        (None, "there is no keys.yml"),
    ):
        if text is None:
            control.run(["rm", f"{CONFIG}/keys.yml"])
        else:
            control.write(f"{CONFIG}/keys.yml", text, 0o600)
        said = refusal(member, "node-files", "--write", code=3)
        assert words in said
        assert not any(secret in said for secret in SECRETS)
    control.write(f"{CONFIG}/keys.yml", KEY_STORE, 0o600)
    assert member.read(f"{STATE}/node/keys.yml") == KEY_STORE
    qmesh(member, "node-files", "--write")


@pytest.mark.long
def test_n1_a_file_that_is_being_written_is_waited_for(cluster):
    control, member, _ = cluster
    control.write("/root/k", KEY_STORE, 0o600)
    store = f"{CONFIG}/keys.yml"
    script = f"for n in 1 2 3 4 5 6; do head -c 100 k >{store}; sleep 0.2; done; cat k >{store}"
    writer = control.start(["sh", "-c", script])
    qmesh(member, "node-files", "--write")
    assert writer.wait(30) == 0
    control.run(["rm", "/root/k"])
    assert member.read(f"{STATE}/node/keys.yml") == KEY_STORE


def find_keys(machine: Machine) -> list[tuple[str, str, str]]:
    """Subject, what is seen and cure of what `check` finds of the node's keys."""
    findings = checked(machine, code=1)["findings"]
    return [(each["subject"], each["seen"], each["cure"]) for each in findings if each["code"] == "node-keys"]


def has_other_keys(control: Machine) -> bool:
    """Whether its agent has seen a machine with other keys: what `check` and `status` are told by."""
    return control.path(f"{STATE}/node-keys.json").exists()


def test_n1_a_worker_with_another_identity_is_named_on_the_control_node_until_it_has_the_right_one(cluster):
    control, member, _ = cluster
    directory = f"{STATE}/node"
    wait_until(lambda: not has_other_keys(control), 20)
    text = member.read(f"{directory}/config.yml")
    member.write(f"{directory}/config.yml", text.replace("5ec4e7a1", "ab" * 4), 0o600)
    member.write(f"{directory}/keys.yml", KEY_STORE.replace("aabb", "aabc"), 0o600)
    wait_until(lambda: has_other_keys(control), 10)
    ((subject, seen, cure),) = find_keys(control)
    assert subject == "machine-b"
    assert seen.startswith("another p2p.peerPrivKey, keys.yml, since 20")
    assert cure == "on machine-b: qmesh node-files --write --replace, then restart its workers"
    told = qmesh(control, "status").stdout
    assert "other keys: machine-b has another p2p.peerPrivKey, keys.yml, since" in told
    qmesh(member, "node-files", "--write", "--replace")
    wait_until(lambda: not has_other_keys(control), 10)
    member.run(["sh", "-c", f"rm {directory}/*.bak"])


def test_n1_on_the_machine_itself_a_missing_key_store_and_a_short_key_are_errors(cluster):
    _, member, _ = cluster
    directory = f"{STATE}/node"
    text = member.read(f"{directory}/config.yml")
    member.run(["mv", f"{directory}/keys.yml", "/root/away"])
    fetch = "qmesh node-files --write --replace, then restart its workers"
    assert find_keys(member) == [(f"{directory}/keys.yml", "no such file", fetch)]
    member.run(["mv", "/root/away", f"{directory}/keys.yml"])
    member.write(f"{directory}/config.yml", text.replace(f"{directory}/keys.yml", "keys.yml"), 0o600)
    ((subject, seen, cure),) = find_keys(member)
    assert (subject, cure) == (
        f"{directory}/config.yml",
        f"write {directory}/keys.yml as key.keyManagerFile.path into {directory}/config.yml",
    )
    assert seen == f"from the unit's working directory it leads to '{STATE}/keys.yml', where no file is"
    member.write(f"{directory}/config.yml", text.replace("5ec4e7a1", "", 3), 0o600)
    ((subject, seen, cure),) = find_keys(member)
    assert (subject, cure) == (f"{directory}/config.yml", fetch)
    assert seen == "p2p.peerPrivKey has 204 digits; a whole one has 228"
    member.write(f"{directory}/config.yml", text, 0o600)
    assert find_codes(member) == {"announce-missing"}  # which is about the internet


def test_n1_no_secret_of_the_node_is_anywhere_but_in_its_own_files(cluster):
    """Not in an output, a log, the registry, a message that was kept, or an argument."""
    control, member, said = cluster
    asked = [(control, ("check",)), (control, ("log", "--json")), (control, ("render-config", "--json"))]
    asked += [(control, ("status", "--json")), (member, ("check", "--json")), (member, ("node-files",))]
    for machine, words in asked:
        done = machine.run(["qmesh", *words], check=False)
        said = [*said, done.stdout + done.stderr]
    assert [text for text in said if any(secret in text for secret in SECRETS)] == []
    for secret in SECRETS:
        (name,) = [name for name, text in zip(FILES, (IDENTITY, KEY_STORE), strict=True) if secret in text]
        backup = {f"{CONFIG}/config.yml.bak"} & files_with(control, secret)  # of `render-config --write`
        assert files_with(control, secret) == {f"{CONFIG}/{name}", *backup}
        assert files_with(member, secret) == {f"{STATE}/node/{name}"}
