"""What the commands do to a machine, what they refuse, and what the agent does between them."""

import json
import signal

import pytest

from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    NODE_CONFIG,
    checked,
    count,
    dial,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import Lab
from tests.support.node_identity import PEER_KEY
from tests.support.waiting import idle, some_time, wait_until

pytestmark = pytest.mark.lab

GOOD = ("--workers", "3", "--endpoint", "192.168.0.200", "--node", "2.0")


@pytest.fixture(scope="module")
def blank():
    """A machine in no mesh, with things in the way: an interface, a taken port, a config directory."""
    with Lab() as lab:
        machine = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200")
        machine.run(["ip", "link", "add", "taken0", "type", "bridge"])
        listen = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', 51999));"
        machine.start(["python", "-c", f"{listen} print('ready', flush=True); s.recv(1)"]).wait_for("ready")
        machine.write("/root/broken/config.yml", "engine:\n\t- [", 0o600)
        machine.write("/root/invitations/long", "qmesh1" + "A" * 10_000_000)
        machine.write("/root/invitations/empty", "")
        machine.write("/root/invitations/other", "not an invitation\n\x1b[31mred")
        yield machine


BAD_OPTIONS = {
    "--name": ("", "A", "a_b", "-a", "a-", "a" * 64, "a\nb", "../a", "a b", "ä", "a\x1b[1m"),
    "--reserve": ("1",),
    "--workers": ("0", "-1", "65536", "25537", "3.5", "many", ""),
    "--listen-port": ("0", "-1", "65536", "51999", "40001", "x"),
    "--worker-base-port": ("0", "65536", "65534", "51818"),
    "--network": (
        *("10.77.0.1/20", "10.77.0.0/31", "10.77.0.0/32", "192.168.0.0/24", "10.0.0.0", "fe", "::/127"),
    ),
    "--endpoint": (*("", "a b", "a:0", "a:65536", "1.2.3", "[::1", "10.77.0.9", "-x", "a\n.b", "x" * 300),),
    "--announce": ("", "10.77.0.9", "hel-2", "203.0.113.7:25000", "/ip4/203.0.113.7/tcp/25000", "x" * 300),
    "--node": ("1.5", "2.2", "rust", ""),
    "--interface": ("", "a b", "x" * 16, "../x", "taken0", "lo", "eth0"),
    "--config": ("/root/none", "/root/broken", "/etc/hosts"),
    "--frob": ("",),
    "surplus": ("",),
}


@pytest.mark.parametrize("option", BAD_OPTIONS)
def test_init_refuses_bad_input_and_leaves_nothing(blank, option):
    before = what_is_there(blank)
    defaults = {"--node": "2.0", "--workers": "1" if option == "--reserve" else "3"}
    given = [word for name, value in defaults.items() if name != option for word in (name, value)]
    for value in BAD_OPTIONS[option]:
        refusal(blank, "init", *given, option, value, code=2)
    assert what_is_there(blank) == before


@pytest.mark.parametrize(
    ("options", "because"),
    [
        (("--network", "fd77::/64"), "does not support --network fd77::/64"),
        (("--announce", "2001:db8::7"), "cannot be announced at 2001:db8::7"),
    ],
)
def test_init_refuses_what_the_rust_node_would_not_work_with(blank, options, because):
    before = what_is_there(blank)
    assert because in refusal(blank, "init", "--node", "2.1-rust", "--workers", "3", *options, code=2)
    assert what_is_there(blank) == before


@pytest.mark.parametrize(
    "words",
    [
        *(("join", f"invitations/{name}") for name in ("long", "empty", "other", "none")),
        ("join", "invitations"),
        ("join", "qmesh1AAAA"),
        ("join",),
        ("join", "-"),
        ("frob",),
        *((command,) for command in ("plan", "apply", "down", "agent", "check", "status", "log", "units")),
        ("invite", "machine-b"),
        ("render-config",),
    ],
    ids=" ".join,
)
def test_other_commands_refuse_what_makes_no_sense_here(blank, words):
    before = what_is_there(blank)
    said = refusal(blank, *words, code=2)
    assert len(said) < 400
    assert "AAAA" not in said
    assert what_is_there(blank) == before


@pytest.fixture(scope="module")
def control():
    """A control node that the tests leave as it was."""
    with Lab() as lab:
        yield make_control(lab)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("", ("", "A", "--x", "a_b", "a\n", "../x", "control", "x" * 64)),
        ("--workers", ("0", "-1", "25534", "65536", "x")),
        ("--expires", ("", "0h", "24", "59s", "31d", "-1h", "1y", "9" * 20 + "d")),
        ("--endpoint", ("10.0.0.256", "10.77.0.9", "10.77.0.9:1", "x:", "a b:1")),
        ("--out", ("/root", "/none/x", f"{CONFIG}/config.yml")),
    ],
)
def test_invite_refuses_bad_input_and_leaves_nothing(control, option, values):
    before = what_is_there(control), facts(control, "log")
    for value in values:
        refusal(control, "invite", *(("machine-b", option, value) if option else (value,)), code=2)
    assert (what_is_there(control), facts(control, "log")) == before


def test_an_invitation_file_is_private_and_a_new_one_replaces_it(control):
    for _ in range(2):
        qmesh(control, "invite", "machine-z", "--out", "z.invitation")
        assert control.run(["stat", "-c%a", "z.invitation"]).stdout == "600\n"
    assert facts(control, "log")["events"][-2]["what"] == "invitation-withdrawn"
    control.run(["rm", "z.invitation"])


@pytest.mark.parametrize(
    "words",
    [
        ("init", "--workers", "3"),
        ("status",),
        *(
            # What each command needs: tests/agent/test_preconditions.py.
            pytest.param(words, marks=pytest.mark.long)
            for words in (
                ("invite", "machine-b"),
                ("join", "/etc/hostname"),
                *((command,) for command in ("plan", "apply", "down", "agent", "check", "log", "units")),
                ("render-config",),
            )
        ),
    ],
    ids=" ".join,
)
def test_without_root_it_says_so_before_it_touches_anything(blank, words):
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "qmesh", *words]
    before = what_is_there(blank)
    done = blank.run(as_nobody, check=False)
    if "Permission denied" in done.stderr:
        pytest.skip("this machine cannot: its users may not run this checkout")
    assert done.returncode == 3, done.stderr
    assert "root" in done.stderr
    assert done.stderr.startswith("error: ")
    may_look = "; `sudo qmesh set --readers GROUP` lets the members of a group look"
    assert done.stderr.splitlines()[-1] == (
        "hint: run the same command again, with `sudo` before it"
        + (may_look if words[0] in {"check", "status", "log"} else "")
    )
    assert what_is_there(blank) == before


def test_errors_are_json_where_answers_are(blank):
    done = qmesh(blank, "init", "--workers", "0", "--json", code=2)
    assert done.stdout == ""
    told = json.loads(done.stderr)
    assert list(told) == ["error", "hint", "exit_code"]
    assert told["exit_code"] == 2


def test_two_commands_wait_for_each_other(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    commands = [machine.start(["qmesh", "init", *GOOD]) for _ in range(4)]
    assert [command.wait(60) for command in commands] == [0, 0, 0, 0]
    assert len({command.output() for command in commands}) == 1
    assert [event["what"] for event in facts(machine, "log")["events"]] == ["mesh-made"]
    assert count(machine, AGENT) == 1


def test_init_again_with_other_options_is_refused_by_their_names(control):
    before = what_is_there(control)
    for other in (
        *(("--workers", "4"), ("--endpoint", "192.0.2.1"), ("--config", "/root"), ("--name", "other")),
        *(("--listen-port", "51821"), ("--network", "10.99.0.0/24"), ("--node", "2.0")),
    ):
        assert f", with another {other[0]}" in refusal(control, "init", *other, code=2)
    assert what_is_there(control) == before


def test_apply_starts_an_agent_where_none_runs(lab):
    machine = make_control(lab)
    stop_agent(machine, signal.SIGKILL)
    assert facts(machine, "apply")["steps"] == []
    assert [each["code"] for each in checked(machine, code=1)["findings"]] == ["config-stale"]
    assert count(machine, AGENT) == 1


def test_an_init_that_was_killed_can_be_run_again(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    for delay_s in (0.3, 0.5, 0.7):
        begun = machine.start(["qmesh", "init", *GOOD])
        some_time(delay_s, delay_s + 0.1)
        begun.kill()
        begun.wait()
    made = facts(machine, "init", *GOOD)
    assert facts(machine, "plan")["steps"] == []
    assert facts(machine, "status")["mesh"] == made["mesh"]
    assert count(machine, AGENT) == 1


def test_down_keeps_the_guard_and_open_says_what_it_exposes(lab):
    machine = make_control(lab)
    whole = what_is_there(machine)
    qmesh(machine, "down")
    assert "qmesh0" not in what_is_there(machine)["links"]
    assert what_is_there(machine)["rules"] == whole["rules"]
    idle(6)  # longer than the agent looks away: it does not bring back what was taken down
    assert "qmesh0" not in what_is_there(machine)["links"]
    done = qmesh(machine, "down", "--open")
    assert "40000-40002 are OPEN" in done.stderr
    assert "40000-40002 are OPEN" in qmesh(machine, "down").stderr
    assert what_is_there(machine)["rules"] == ""
    assert what_is_there(machine)["reserved"].strip() == ""
    steps = facts(machine, "plan", code=1)["steps"]
    assert steps[0]["kind"] == "load-guard"
    assert facts(machine, "apply")["steps"] == steps
    assert facts(machine, "apply")["steps"] == []
    assert what_is_there(machine)["rules"] == whole["rules"]


def test_the_agent_puts_back_what_others_take_away(lab):
    machine = make_control(lab)
    rules = what_is_there(machine)["rules"]
    for spoil in ("nft flush ruleset", "ip link delete qmesh0", "ip address flush dev qmesh0"):
        machine.run(["sh", "-c", spoil])
        wait_until(lambda: facts_or_none(machine) == [], 20)
    assert what_is_there(machine)["rules"] == rules
    member = lab.machine("machine-b", "192.168.0.201")
    invite(machine, member, "--workers", "4")
    qmesh(member, "join", "invitation")  # the service came back with the interface


def facts_or_none(machine) -> object:
    done = machine.run(["qmesh", "plan", "--json"], check=False)
    return json.loads(done.stdout)["steps"] if done.returncode in {0, 1} else None


def test_tunnel_and_guard_outlive_the_agent(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    qmesh(control, "render-config", "--write")
    start_workers(member, "4..7")
    stop_agent(control, signal.SIGKILL)
    stop_agent(member, signal.SIGTERM)
    assert dial(control)[3:] == [f"core {core} on machine-b" for core in range(4, 8)]
    for machine in (control, member):
        assert facts(machine, "plan")["steps"] == []
        start_agent(machine)
    assert "runs already" in refusal(control, "agent", code=3)


def test_render_config_shows_no_secret_and_writes_all_of_it(lab):
    control = make_control(lab)
    secret = "5ec4e7a11b1e"
    for options in ((), ("--diff",), ("--json",)):
        done = control.run(["qmesh", "render-config", *options], check=False)
        assert secret not in done.stdout + done.stderr
        assert "/ip4/10.77.0.1/tcp/40002" in done.stdout
    assert control.read(f"{CONFIG}/config.yml") == NODE_CONFIG
    qmesh(control, "render-config", "--write")
    text = control.read(f"{CONFIG}/config.yml")
    entries = "".join(f"\n    - /ip4/10.77.0.1/tcp/{port}" for port in (40000, 40001, 40002))
    assert text == NODE_CONFIG.replace(" []", entries)
    assert control.read(f"{CONFIG}/config.yml.bak") == NODE_CONFIG
    assert control.run(["stat", "-c%a", f"{CONFIG}/config.yml"]).stdout == "600\n"
    qmesh(control, "render-config", "-o", "/root/copy.yml")
    assert control.read("/root/copy.yml") == text
    assert control.run(["stat", "-c%a", "/root/copy.yml"]).stdout == "600\n"
    assert "exists already" in refusal(control, "render-config", "-o", "/root/copy.yml", code=2)
    assert qmesh(control, "render-config", "--diff").stdout == "as desired\n"


def test_render_config_never_makes_the_control_node_a_new_identity(lab):
    control = make_control(lab)
    control.run(["rm", f"{CONFIG}/config.yml"])
    said = refusal(control, "render-config", "--write", code=2)
    assert "new identity" in said
    assert control.run(["ls", CONFIG]).stdout == ""


def test_a_worker_of_node_2_0_gets_just_the_secret_it_needs(lab):
    control = lab.machine("machine-a", "192.168.0.200")
    own = NODE_CONFIG.replace("5ec4e7a11b1e", PEER_KEY)
    control.write(f"{CONFIG}/config.yml", f"{own}key:\n  keyManagerFile:\n    encryptionKey: 0ther\n", 0o600)
    qmesh(control, "init", *GOOD, "--config", CONFIG)
    member = lab.machine("machine-b", "192.168.0.201")
    invite(control, member, "--workers", "4")
    done = qmesh(member, "join", "invitation")
    assert "`qmesh set machine-b --node-files on` on control" in done.stderr
    shown = qmesh(control, "render-config", "--for", "machine-b").stdout
    assert PEER_KEY not in shown
    qmesh(control, "render-config", "--for", "machine-b", "-o", "b.yml")
    text = control.read("/root/b.yml")
    assert f"peerPrivKey: {PEER_KEY}" in text.replace('"', "")
    assert "0ther" not in text
    member.write(f"{CONFIG}/config.yml", text, 0o600)
    qmesh(member, "render-config", "--write", "--config", CONFIG)
    assert member.read(f"{CONFIG}/config.yml") == text
    assert checked(member)["findings"] == []
    refusal(member, "render-config", "--for", "control", code=2)


def test_a_list_under_a_key_that_the_node_ignores_is_reported(lab):
    control = make_control(lab)
    control.write(f"{CONFIG}/config.yml", NODE_CONFIG.replace("dataWorkerMulti", "dataWorkersMulti"), 0o600)
    done = qmesh(control, "render-config", "--write")
    assert "line 4 column 3: `dataWorkersMultiaddrs` is misspelt" in done.stderr


def test_units_of_a_program_that_cannot_be_started_are_not_written(lab):
    control = make_control(lab)
    control.run(["mkdir", "/root/units", "/root/node/directory"])
    control.write("/root/node/text", "no program")
    control.write("/root/node/closed", "#!/bin/sh\n", 0o644)
    to = ("units", "--write", "/root/units")
    for program, why in (
        ("/root/node/nothing", "there is no program"),
        ("/root/node/directory", "is a directory"),
        ("/root/node/closed", "is not executable"),
        ("/root/node/text", "is not executable"),
        ("node", "not an absolute path"),
    ):
        assert why in refusal(control, *to, "--program", program, code=2)
    assert "there is no program '/usr/local/bin/quilibrium-node'" in refusal(control, *to, code=2)
    for arguments in ("--core 5", "--config=/tmp", "debug", "'"):
        refusal(control, *to, "--program", "/bin/true", "--node-args", arguments, code=2)
    assert control.run(["ls", "/root/units"]).stdout == ""


def test_the_nodes_further_arguments_and_its_second_program_are_kept_in_the_units(lab):
    control = make_control(lab)
    control.run(["mkdir", "/root/units"])
    control.write("/root/node/node", "#!/bin/sh\n", 0o755)
    control.write("/root/node/quil-amount-proof-worker", "#!/bin/sh\n", 0o755)
    to = ("units", "--write", "/root/units")
    done = qmesh(control, *to, "--program", "/root/node/node", "--node-args", "--debug --log-filter 'a b'")
    assert "/root/node/quil-amount-proof-worker, lies beside it" in done.stderr
    end = ' --debug --log-filter "a b"\n'
    worker, process = "/root/units/qmesh-worker@.service", "/root/units/qmesh-control.service"
    assert f"ExecStart=/root/node/node --config {CONFIG} --core %i{end}" in control.read(worker)
    assert f"ExecStart=/root/node/node --config {CONFIG}{end}" in control.read(process)
    assert "up to date" in qmesh(control, *to).stderr
    control.run(["cp", "/root/node/node", "/root/node/newer"])
    qmesh(control, *to, "--program", "/root/node/newer")
    assert f"ExecStart=/root/node/newer --config {CONFIG} --core %i{end}" in control.read(worker)
    assert facts(control, *to, "--node-args", "")["second_program"] == "/root/node/quil-amount-proof-worker"
    assert f"ExecStart=/root/node/newer --config {CONFIG} --core %i\n" in control.read(worker)
    # What has gone since stays in the units, and is told of.
    control.run(["rm", "/root/node/newer"])
    assert "there is no program '/root/node/newer'" in qmesh(control, *to).stderr


def test_the_units_are_what_systemd_takes(lab):
    control = make_control(lab)
    control.run(["mkdir", "/root/units"])
    qmesh(control, "units", "--write", "/root/units", "--program", "/bin/true")
    said = qmesh(control, "units", "--write", "/root/units")
    assert said.stderr == "nothing to do: the units in /root/units are up to date\n"
    drop_in = "nftables.service.d/qmesh.conf"
    listed = set(control.run(["ls", "/root/units"]).stdout.split())
    names = listed - {"nftables.service.d"} | {drop_in}
    assert names == {
        *("qmesh.service", "qmesh-guard.service", "qmesh-hold.service", "qmesh-control.service"),
        *("qmesh-worker@.service", "qmesh-workers.target", drop_in),
    }
    assert control.read(f"/root/units/{drop_in}") == facts(control, "units")["units"][drop_in]
    control.run(["cp", "/root/units/qmesh-worker@.service", "/root/units/qmesh-worker@1.service"])
    if control.run(["sh", "-c", "command -v systemd-analyze"], check=False).returncode:
        pytest.skip("this machine cannot: it has no systemd-analyze")
    files = sorted(
        f"/root/units/{name}"
        for name in {*names, "qmesh-worker@1.service"} - {"qmesh-worker@.service", drop_in}
    )
    done = control.run(["systemd-analyze", "verify", "--man=no", *files], check=False)
    assert done.returncode == 0, done.stderr
    assert "/root/units" not in done.stderr
    assert set(facts(control, "units")["units"]) == names


def test_the_state_may_be_anywhere_and_is_named_in_three_ways(lab):
    machine = lab.machine("machine-a", "192.168.0.200")
    made = facts(machine, "init", *GOOD, "--state", "/root/mine")
    assert facts(machine, "status", "--state", "/root/mine")["mesh"] == made["mesh"]
    assert (
        json.loads(qmesh(machine, "--state", "/root/mine", "status", "--json").stdout)["mesh"] == made["mesh"]
    )
    done = qmesh(machine, "status", "--json", env={"QMESH_STATE": "/root/mine"})
    assert json.loads(done.stdout)["mesh"] == made["mesh"]
    refusal(machine, "status", code=2)


@pytest.mark.parametrize(
    "spoil",
    [
        "mkdir -m700 mine; ln -s /etc/passwd mine/private.key",
        "mkdir -p -m700 mine/private.key",
        "mkdir -m700 mine; mkfifo mine/private.key",
        "ln -s /var mine",
        "touch mine",
        "mkdir mine; chown 65534 mine",
        "mkdir mine; mount -t tmpfs -o ro none mine",
        "mkdir mine; mount -t tmpfs -o size=4k,mode=700 none mine; head -c 4096 /dev/zero >mine/full",
    ],
)
def test_a_hostile_state_directory_is_refused_whole(lab, spoil):
    machine = lab.machine("machine-a", "192.168.0.200")
    machine.run(["sh", "-c", spoil])
    before = what_is_there(machine)
    refusal(machine, "init", *GOOD, "--state", "/root/mine", code=3)
    assert what_is_there(machine) == before


def test_works_without_ipv6(lab):
    control = lab.machine("machine-a", "192.168.0.200")
    member = lab.machine("machine-b", "192.168.0.201")
    for machine in (control, member):
        machine.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"])
    qmesh(control, "init", "--workers", "3", "--node", "1.4")
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation")
    assert checked(member)["findings"] == []
