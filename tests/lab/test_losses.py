"""What is lost, late or wrong on a machine opens nothing, destroys nothing, and is said."""

import re

import pytest

from qmesh.host.wireguard import kernel
from tests.support.lab.cluster import (
    CONFIG,
    HOLDER,
    NODE_CONFIG,
    STATE,
    TUNNEL,
    checked,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    stop_agent,
    what_is_there,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.lab


def guards(machine, ports: str = "40003") -> bool:
    """Whether a guard that has these ports is loaded, and would be at the next boot."""
    boot = machine.run(["cat", f"{STATE}/guard.nft"], check=False).stdout
    return all(
        "closed_ports" in rules and ports in rules for rules in (what_is_there(machine)["rules"], boot)
    )


def test_e3_e6_init_never_overwrites_a_mesh_whose_settings_were_lost(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for machine in (control, member):
        stop_agent(machine)
        machine.run(["rm", f"{STATE}/machine.json"])
        machine.run(["ip", "link", "delete", "qmesh0"])  # as after a reboot
        wait_until(lambda: not machine.processes(TUNNEL))  # noqa: B023
        before = what_is_there(machine)
        hashes = machine.run(["sh", "-c", f"find {STATE} -type f -exec sha256sum {{}} +"]).stdout
        for words in (("init", "--workers", "3"), ("status",), ("apply",), ("down", "--open")):
            assert "machine.json is missing" in refusal(machine, *words, code=3)
        assert machine.run(["sh", "-c", f"find {STATE} -type f -exec sha256sum {{}} +"]).stdout == hashes
        assert what_is_there(machine) == before


@pytest.mark.parametrize(
    "guard",
    ["flushed", *(pytest.param(name, marks=pytest.mark.long) for name in ("as it was", "altered"))],
)
def test_g3_a_join_of_a_machine_that_lost_its_membership_never_opens_its_ports(lab, guard):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for machine in (control, member):
        stop_agent(machine)
    spoil = {
        "as it was": "true",
        "altered": "nft insert rule inet qmesh sent counter",
        "flushed": "nft flush ruleset",
    }
    member.run(["sh", "-c", f"rm {STATE}/machine.json {STATE}/membership.json; {spoil[guard]}"])
    refusal(member, "join", "invitation", code=4, timeout=60)
    assert guards(member)
    assert what_is_there(member)["reserved"] == "40003-40006\n"
    control.start(["qmesh", "agent"])
    qmesh(member, "join", "invitation", "--no-apply", timeout=60)
    assert guards(member)
    qmesh(member, "apply")
    assert facts(member, "plan")["steps"] == []


def test_g3_a_flushed_guard_is_put_back_at_the_kernels_word_and_it_is_said_who_flushed_it(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for machine, ports in ((control, "40000"), (member, "40003")):
        for _ in range(3):
            machine.run(["nft", "flush", "ruleset"])
            # Long before a look that nobody asked for.
            wait_until(lambda: guards(machine, ports), seconds=2)  # noqa: B023 - called before the next
        said = r"the guard's table was changed by nft \(process \d+\)(?:;|\n.*) load-guard "
        wait_until(lambda: re.search(said, machine.read(f"{STATE}/agent.log")))  # noqa: B023 - as above


@pytest.mark.long  # bad interfaces: test_commands.py
def test_a_failed_join_takes_no_interface_that_is_somebody_elses(lab):
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member)
    joining = member.start(["qmesh", "join", "invitation"])
    wait_until(member.path(f"{STATE}/joining.json").exists)
    joining.kill()
    joining.wait()
    member.run(
        [
            "sh",
            "-c",
            "ip link delete qmesh0; wireguard-go wg0 && wg genkey | wg set wg0 private-key /dev/stdin",
        ]
    )
    key = member.run(["wg", "show", "wg0", "public-key"]).stdout
    assert "qmesh did not make it" in refusal(member, "join", "invitation", "--interface", "wg0", code=2)
    assert member.run(["wg", "show", "wg0", "public-key"]).stdout == key


def test_a_state_directory_of_somebody_elses_is_left_alone(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    machine.run(["sh", "-c", "mkdir -m 1777 shared; touch shared/theirs"])
    for words, code in ((("check",), 2), (("join", "/etc/hostname"), 2), (("init", "--workers", "1"), 3)):
        refusal(machine, *words, "--state", "/root/shared", code=code)
        assert machine.run(["stat", "-c%a", "shared"]).stdout == "1777\n"
    refusal(machine, "check", "--state", "/root/nothere", code=2)
    assert machine.run(["test", "-e", "/root/nothere"], check=False).returncode == 1


def test_a_guard_of_another_state_directory_is_not_replaced(lab):
    control = make_control(lab)
    invitation = qmesh(control, "invite", "machine-b").stdout
    rules = what_is_there(control)["rules"]
    elsewhere = ("--state", "/root/st", "--interface", "q1", "--listen-port", "51900")
    assert "another state directory" in refusal(
        control, "init", *elsewhere, "--workers", "1", "--network", "10.99.0.0/24", code=2
    )
    other = lab.machine("other", "192.168.0.210")
    qmesh(other, "init", "--workers", "1", "--network", "10.99.0.0/24")
    assert "another state directory" in refusal(other, "join", "-", *elsewhere, code=2, input=invitation)
    assert what_is_there(control)["rules"] == rules


def test_an_invitation_as_an_argument_is_refused_and_not_repeated(lab):
    control = make_control(lab)
    text = qmesh(control, "invite", "machine-b").stdout.strip()
    said = refusal(control, "join", text, code=2)
    assert "every user of this machine can read arguments" in said
    assert text[6:20] not in said


def test_an_invitation_that_goes_to_a_file_for_all_to_read_is_warned_of(lab):
    control = make_control(lab)
    script = "umask {}; qmesh invite machine-b >i"
    assert "chmod 600" in control.run(["sh", "-c", script.format("022")]).stderr
    control.run(["rm", "i"])
    assert "chmod 600" not in control.run(["sh", "-c", script.format("077")]).stderr


def test_no_config_without_the_nodes_identity_is_written_for_the_control_node(lab):
    control = lab.machine("machine-a", "192.168.0.200")
    qmesh(control, "init", "--workers", "3", "--node", "2.0", "--endpoint", "192.168.0.200")
    assert "new identity" in refusal(control, "render-config", "-o", "/root/x.yml", code=2)
    assert control.run(["test", "-e", "/root/x.yml"], check=False).returncode == 1


def test_a_config_that_changes_while_a_command_waits_is_not_overwritten(lab):
    control = make_control(lab)
    holding = control.start(["flock", STATE, "sh", "-c", "echo held; sleep 1000"])
    holding.wait_for("held")
    writing = control.start(["qmesh", "render-config", "--write"])
    wait_until(lambda: "waiting for another qmesh command" in writing.error_output())
    control.write(f"{CONFIG}/config.yml", NODE_CONFIG + "# the node was here\n", 0o600)
    holding.kill_session()
    assert writing.wait(30) == 0, writing.error_output()
    assert "# the node was here\n" in control.read(f"{CONFIG}/config.yml")


def test_g3_the_guard_does_not_wait_for_dns(lab):
    control = make_control(lab, "--endpoint", "control.example:51820")
    member = lab.machine("machine-b", "192.168.0.201")
    member.run(["sh", "-c", "echo '192.168.0.200 control.example' >>/etc/hosts"])
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation")
    stop_agent(member)
    silent = "ip neighbour add 192.168.0.250 lladdr 02:00:00:00:00:01 dev eth0"
    member.run(["sh", "-c", f"{silent}; echo nameserver 192.168.0.250 >/etc/resolv.conf; echo >/etc/hosts"])
    assert member.kill(HOLDER)
    member.run(["sh", "-c", "nft flush ruleset; ip link delete qmesh0"])
    wait_until(lambda: not guards(member))
    seen = member.start(["sh", "-c", "nft monitor tables & ip -o monitor link & exec sleep 1000"])
    listened_to = ["nft", "add table inet seen; delete table inet seen"]
    wait_until(lambda: member.run(listened_to) and "inet seen" in seen.output())
    applying = member.start(["qmesh", "apply"])
    seen.wait_for("qmesh0", timeout=30)
    assert guards(member)
    assert "table inet qmesh" in seen.output().partition("qmesh0")[0], "the look-up was to be slow"
    applying.kill_session()


def test_check_knows_the_key_that_signs_the_membership(lab):
    control = make_control(lab)
    qmesh(control, "render-config", "--write")
    stop_agent(control)
    for spoil, code in (
        ("mv {} /root/k", "key-missing"),
        ("cp -p {} /root/k; head -c32 /dev/urandom >{}", "key-mismatch"),
    ):
        control.run(["sh", "-c", spoil.format(*[f"{STATE}/signing.key"] * 2)])
        findings = checked(control, code=1)["findings"]
        assert (findings[0]["code"], findings[0]["subject"]) == (code, f"{STATE}/signing.key")
        control.run(["mv", "/root/k", f"{STATE}/signing.key"])


def test_where_a_member_says_it_is_reached_is_a_hint_and_its_packets_are_proof(lab):
    control = make_control(lab)
    qmesh(control, "render-config", "--write")
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member, "--workers", "4", "--endpoint", "192.168.0.99:51900")
    qmesh(member, "join", "invitation")
    assert facts(control, "apply")["steps"] == []
    assert facts(control, "status")["machines"][1]["endpoint"] == "192.168.0.201:51820"


@pytest.mark.long  # tests/host/test_api.py
def test_trouble_of_the_control_node_is_not_taken_for_the_members(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    control.run(["sh", "-c", f"rm {STATE}/mesh.db-*; head -c 5000 /dev/zero >{STATE}/mesh.db"])
    done = qmesh(member, "status")
    assert "the control node has an error of its own" in done.stderr
    assert "machine-b" in done.stdout
    qmesh(member, "render-config", "--write")


def test_options_that_a_member_can_not_change_by_joining_again_are_refused(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    for option in (("--listen-port", "5555"), ("--interface", "wg9")):
        assert option[0] in refusal(member, "join", "invitation", *option, code=2)
    member.run(["mkdir", "other"])
    qmesh(member, "join", "invitation", "--config", "other")
    assert "/ip4/10.77.0.2/tcp/40003" in member.read("/root/other/config.yml")
    assert checked(member)["findings"] == []


@pytest.mark.long  # other places of the state: test_commands.py
def test_a_relative_state_directory_is_found_again_from_elsewhere(lab):
    control = make_control(lab)
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--state", "st")
    done = member.run(["sh", "-c", "cd /; qmesh check --state /root/st; qmesh units --state /root/st"])
    assert "as desired" in done.stdout
    assert "--config /root/st/node" in done.stdout


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("exit 1", id="fails"),
        pytest.param("exit 0", id="does nothing", marks=pytest.mark.long),
        pytest.param("sleep 60", id="hangs"),
    ],
)
def test_where_wireguard_fails_nothing_is_left_half_made(lab, program):
    if kernel.is_available():
        pytest.skip("this machine cannot: its kernel has WireGuard, so no program is asked")
    control = make_control(lab)
    machine = lab.machine("machine-b", "192.168.0.201")
    invite(control, machine)
    machine.write("/root/bin/wireguard-go", f"#!/bin/sh\n{program}\n", 0o755)
    broken = {"PATH": f"/root/bin:{machine.run(['sh', '-c', 'echo $PATH']).stdout.strip()}"}
    before = what_is_there(machine)
    for words in (("init", "--workers", "3"), ("join", "invitation")):
        refusal(machine, *words, code=3, env=broken, timeout=60)
        after = what_is_there(machine)
        assert set(after.pop("state").split()) <= {"./private.key"}
        assert after == {what: said for what, said in before.items() if what != "state"}
