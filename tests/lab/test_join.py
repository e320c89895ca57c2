"""From nothing to a member by the real commands, and what must never happen on the way (E1 to E6)."""

import base64
import json
import re
import signal
from functools import partial

import pytest

from tests.support.lab.cluster import (
    AGENT,
    CONFIG,
    NODE_CONFIG,
    SERVICE,
    STATE,
    checked,
    dial,
    facts,
    files_with,
    invite,
    make_control,
    make_member,
    newcomer,
    qmesh,
    refusal,
    start_agent,
    start_workers,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import TOOLS, Machine
from tests.support.waiting import idle, some_time, wait_until

pytestmark = pytest.mark.lab


def standing_of(machine: Machine) -> dict[str, object]:
    """The machine as its own status has it."""
    told = facts(machine, "status")
    name = "control" if machine.name == "machine-a" else machine.name
    return next(each for each in told["machines"] if each["name"] == name)


def test_three_commands_make_a_cluster(lab):
    """A control node, an invitation, a join: tunnel, guard and the list as in the table."""
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    qmesh(control, "render-config", "--write")
    workers = [start_workers(control, "1..3"), start_workers(member, "4..7")]
    assert dial(control) == [f"core {core} on machine-{'a' if core < 4 else 'b'}" for core in range(1, 8)]
    make_member(lab, control, 203, 10)
    rendered = facts(control, "render-config", "--write")["workers"]
    machines = [("10.77.0.1", range(40000, 40003)), ("10.77.0.2", range(40003, 40007))]
    machines.append(("10.77.0.3", range(40007, 40017)))
    assert rendered == [f"/ip4/{address}/tcp/{port}" for address, ports in machines for port in ports]
    for worker in workers:
        worker.stop()


def test_answers_have_the_shape_that_tools_are_written_against(lab):
    control = lab.machine("machine-a", "192.168.0.200")
    made = facts(control, "init", "--workers", "3", "--node", "1.4")
    fields = [
        "mesh",
        "name",
        "address",
        "network",
        "public_key",
        "interface",
        "listen_port",
        "node",
        "cores",
        "ports",
        "open_ports",
    ]
    assert list(made)[: len(fields)] == fields
    member = newcomer(lab)
    text = facts(control, "invite", "machine-b", "--workers", "2")["invitation"]
    told = json.loads(qmesh(member, "join", "-", "--json", input=text).stdout)
    assert list(told)[: len(fields)] == fields
    assert told["cores"] == {"first": 4, "count": 2}
    assert told["ports"] == [40003, 40004]
    assert (told["mesh"], told["node"], told["address"]) == (made["mesh"], "1.4", "10.77.0.2")
    status = facts(control, "status")
    assert list(status) == [
        *("mesh", "revision", "node", "control", "machines", "advice"),
        *("control_process", "foreign", "other_keys", "errors", "silent_agents", "machine"),
    ]
    assert list(status["machines"][1]) == [
        *("name", "role", "address", "public_key", "endpoint", "cores", "ports", "state"),
        *("last_handshake", "rx_bytes", "tx_bytes", "workers", "node_files", "facts", "facts_age"),
    ]
    assert status["machines"][1]["last_handshake"] < 30
    assert [event["what"] for event in facts(control, "log")["events"]] == ["mesh-made", "invited", "joined"]


def test_works_over_ipv6_alone_outside_and_inside(lab):
    """No machine has an address of IPv4, nor has the endpoint's name."""
    control, member = lab.machine("machine-a", "192.168.0.200", "fd00:1a::200"), newcomer(lab)
    for machine in (control, member):
        machine.run(["ip", "-4", "address", "flush", "dev", "eth0"])
        machine.run(["sh", "-c", "echo 'fd00:1a::200 control.example' >>/etc/hosts"])
        machine.write(f"{CONFIG}/config.yml", NODE_CONFIG, 0o600)
    own = ("--workers", "3", "--node", "1.4", "--config", CONFIG)
    qmesh(control, "init", *own, "--network", "fd12:3456:789a::/64", "--endpoint", "control.example")
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--config", CONFIG)
    qmesh(control, "render-config", "--write")
    workers = [start_workers(control, "1..3"), start_workers(member, "4..7")]
    assert dial(control)[3] == "core 4 on machine-b"
    for machine in (control, member):
        assert checked(machine)["findings"] == []
    chain = "type filter hook input priority 0; icmpv6 type nd-neighbor-advert drop;"
    member.run(["nft", "-f", "-"], input=f"table ip6 f {{ chain in {{ {chain} }}; }}")
    (found,) = facts(member, "check", code=1)["findings"]
    assert found["code"] == "foreign-drop"
    assert "ICMPv6 type 136" in found["wanted"]
    member.run(["sh", "-ec", found["cure"]])
    assert checked(member)["findings"] == []
    other = newcomer(lab, 202)
    other.run(["ip", "-6", "address", "flush", "dev", "eth0", "scope", "global"])
    other.run(["sh", "-c", "echo 'fd00:1a::200 control.example' >>/etc/hosts"])
    invite(control, other)
    said = refusal(other, "join", "invitation", code=4)
    assert "has no route to the control node at control.example:51820" in said
    assert "--endpoint ADDRESS" in said
    for worker in workers:
        worker.stop()


def test_takes_the_endpoint_that_answers_and_looks_names_up(lab):
    control = make_control(lab, "--endpoint", "192.168.0.99:51820", "--endpoint", "control.example:51820")
    member = newcomer(lab)
    member.run(["sh", "-c", "echo '192.168.0.200 control.example' >>/etc/hosts"])
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation")
    assert checked(member)["findings"] == []
    assert facts(member, "status")["machines"][0]["endpoint"] == "192.168.0.200:51820"


def test_e1_the_private_key_never_leaves_its_file(lab):
    control = make_control(lab)
    member = newcomer(lab)
    text = invite(control, member, "--workers", "4")
    done = qmesh(member, "join", "invitation", "--json")
    for machine in (control, member):
        file = f"{STATE}/private.key"
        assert machine.run(["stat", "-c%a", file]).stdout == "600\n"
        key = machine.read(file).strip()
        assert files_with(machine, key) == {file}
        assert files_with(machine, base64.b64decode(key).hex()) == set()
        for other in {control, member} - {machine}:
            assert files_with(other, key) == set()
        assert key not in done.stdout + done.stderr + text


def test_e2_a_false_control_node_learns_and_gains_nothing(lab):
    """It sits at the endpoint, with a mesh of its own: it does not hold the key that was named."""
    control = make_control(lab, "--endpoint", "192.168.0.66:51820")
    impostor = lab.machine("impostor", "192.168.0.66", "fd00:1a::66")
    qmesh(impostor, "init", "--workers", "1")
    member = newcomer(lab)
    control.run(["ip", "link", "set", "eth0", "down"])  # its own addresses would be invited to as well
    invite(control, member)
    before = what_is_there(member)
    said = refusal(member, "join", "invitation", code=4, timeout=60)
    assert "192.168.0.66:51820" in said
    assert [event["what"] for event in facts(impostor, "log")["events"]] == ["mesh-made"]
    assert nothing_but_a_key(what_is_there(member), before)


def nothing_but_a_key(after: dict[str, str], before: dict[str, str]) -> bool:
    """Whether a refused join left no more than a fresh key, kept for the next try."""
    kept = {"./private.key"}
    new = set(after.pop("state").split()) - set(before["state"].split())
    assert new <= kept, new
    assert after == {what: said for what, said in before.items() if what != "state"}
    return True


class TestE3:
    """An invitation works once, for one machine, until it expires by the control node's clock."""

    def test_refuses_another_machine_with_a_used_one(self, lab):
        control = make_control(lab)
        member = newcomer(lab)
        text = invite(control, member, "--workers", "4")
        qmesh(member, "join", "invitation")
        thief = newcomer(lab, 202)
        thief.write("/root/invitation", text, 0o600)
        before = what_is_there(thief)
        refusal(thief, "join", "invitation", code=4, timeout=60)
        assert nothing_but_a_key(what_is_there(thief), before)
        assert [each["name"] for each in facts(control, "status")["machines"]] == ["control", "machine-b"]
        assert checked(member, code=0)["machine"] == "machine-b"

    def test_of_two_machines_that_use_one_at_once_one_is_a_member(self, lab):
        """Both have the throwaway key, and with it one tunnel address: WireGuard goes to and fro."""
        control = make_control(lab)
        both = newcomer(lab), newcomer(lab, 202)
        text = invite(control, both[0], "--workers", "4")
        both[1].write("/root/invitation", text, 0o600)
        joining = [machine.start(["qmesh", "join", "invitation"]) for machine in both]
        codes = [each.wait(90) for each in joining]
        assert sorted(codes) == [0, 4], [each.error_output() for each in joining]
        member, other = both if codes[0] == 0 else both[::-1]
        known = facts(control, "status")["machines"]
        assert [each["name"] for each in known] == ["control", "machine-b"]
        key = member.run(["sh", "-c", f"wg pubkey < {STATE}/private.key"]).stdout.strip()
        assert known[1]["public_key"] == key
        assert control.run(["wg", "show", "qmesh0", "peers"]).stdout.split() == [key]
        assert "in no mesh" in refusal(other, "status", code=2)
        assert [event["what"] for event in facts(control, "log")["events"]].count("joined") == 1
        assert {each["code"] for each in checked(member)["findings"]} <= {"config-missing"}

    def test_refuses_withdrawn_and_expired_ones(self, lab):
        control = make_control(lab)
        member = newcomer(lab)
        invite(control, member)
        second = qmesh(control, "invite", "machine-b").stdout
        assert "withdrawn" in refusal_or_silence(member)
        member.write("/root/invitation", second, 0o600)
        expire = "UPDATE invitations SET expires_at = 1"
        script = (
            "import sqlite3, sys; sqlite3.connect(sys.argv[1], isolation_level=None).execute(sys.argv[2])"
        )
        control.run(["python", "-c", script, f"{STATE}/mesh.db", expire])
        assert "expired" in refusal_or_silence(member)
        wait_until(lambda: [each["name"] for each in facts(control, "status")["machines"]] == ["control"])
        assert [event["what"] for event in facts(control, "log")["events"]][-1] == "invitation-expired"


def refusal_or_silence(member: Machine) -> str:
    """What a join with a spent invitation says; its throwaway key may be gone, then nobody answers."""
    said = refusal(member, "join", "invitation", code=4, timeout=60)
    return said if "does not answer" not in said else "withdrawn, expired: nobody answers"


class TestE4:
    """A join that is cut off at any instant can be run again with the same invitation."""

    @pytest.mark.parametrize(
        ("side", "delays_s"),
        [
            # At points of each kind it is killed in test_crash.py.
            pytest.param("join", (0.3, 0.55, 0.75, 1.0), marks=pytest.mark.long),
            ("agent", (0.5, 1.0)),
        ],
    )
    def test_cut_off_at_any_instant_it_ends_in_one_membership(self, lab, side, delays_s):
        control = make_control(lab)
        member = newcomer(lab)
        invite(control, member, "--workers", "4")
        member.run(["mkdir", "-p", CONFIG])
        victim, pattern = (member, "qmesh join") if side == "join" else (control, AGENT)
        for delay_s in delays_s:
            joining = member.start(["qmesh", "join", "invitation", "--config", CONFIG])
            some_time(delay_s, delay_s + 0.1)
            victim.kill(pattern)
            if side == "agent":
                start_agent(control)
            joining.wait(60)
        qmesh(member, "join", "invitation", "--config", CONFIG, timeout=60)
        machines = facts(control, "status")["machines"]
        assert [(each["name"], each["address"], each["state"]) for each in machines] == [
            ("control", "10.77.0.1", "active"),
            ("machine-b", "10.77.0.2", "active"),
        ]
        assert machines[1]["cores"] == {"first": 4, "count": 4}
        assert checked(member)["findings"] == []
        assert [event["what"] for event in facts(control, "log")["events"]].count("joined") == 1

    def test_what_a_member_lost_it_gets_again_by_its_invitation(self, lab):
        """Also the instant between the answer and the first file; its workers are closed throughout."""
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        stop_agent(member)
        before = what_is_there(member)
        for lost in ("machine.json", "membership.json", "preshared.key"):
            member.run(["rm", f"{STATE}/{lost}"])
            qmesh(member, "join", "invitation", "--config", CONFIG, timeout=60)
            after = what_is_there(member)
            kept = ("state", "rules", "links", "reserved")
            assert {each: after[each] for each in kept} == {each: before[each] for each in kept}, lost
            assert checked(member)["findings"] == []
            assert facts(control, "status")["revision"] == 2
            stop_agent(member)

    @pytest.mark.long  # test_a_machine_with_a_new_disk_takes_its_own_place says it twice too
    def test_said_twice_it_is_said_once(self, lab):
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        first = standing_of(member)["public_key"]
        qmesh(member, "join", "invitation")
        assert standing_of(member)["public_key"] == first
        assert facts(control, "status")["revision"] == 2

    def test_an_interrupted_join_leaves_nothing(self, lab):
        control = make_control(lab)
        member = newcomer(lab)
        invite(control, member)
        control.run(["ip", "link", "set", "eth0", "down"])  # each knock has to wait
        before = what_is_there(member)
        joining = member.start(["qmesh", "join", "invitation"])
        wait_until(lambda: "inet qmesh\n" in member.run(["nft", "list", "tables"]).stdout)
        some_time(0.2, 0.4)
        joining.send_signal(signal.SIGINT)
        assert joining.wait(40) == 130, joining.error_output()
        assert "error: interrupted\nhint: " in joining.error_output()
        assert nothing_but_a_key(what_is_there(member), before)

    def test_worker_ports_are_closed_throughout(self, lab):
        """A prober on the LAN tries a careless worker's port from before the join until after it."""
        control = make_control(lab)
        member = newcomer(lab)
        prober = lab.machine("prober", "192.168.0.66", "fd00:1a::66")
        member.start(["python", TOOLS / "service.py", "40003"]).wait_for("ready")
        invite(control, member, "--workers", "4")
        script = (
            "import socket, time\n"
            "print('ready', flush=True)\n"
            "while True:\n"
            "    try:\n"
            "        socket.create_connection(('192.168.0.201', 40003), 0.05).close()\n"
            "        print('reached', time.time(), flush=True)\n"
            "    except OSError:\n"
            "        pass\n"
        )
        probing = prober.start(["python", "-c", script])
        probing.wait_for("reached")
        qmesh(member, "join", "invitation")
        listed = member.run(["stat", "-c%.3Y", f"{STATE}/machine.json"]).stdout
        idle(1)  # it tries on
        probing.stop()
        last = max(float(line.split()[1]) for line in probing.output().splitlines()[1:])
        assert last < float(listed), "the port was open after this machine had become a member"


def test_e5_machines_that_join_at_once_have_nothing_in_common(lab):
    control = make_control(lab)
    members = [newcomer(lab, number) for number in (201, 202, 203)]
    for workers, member in enumerate(members, 2):
        invite(control, member, "--workers", str(workers))
    joining = [member.start(["qmesh", "join", "invitation"]) for member in members]
    assert [each.wait(60) for each in joining] == [0, 0, 0]
    machines = facts(control, "status")["machines"]
    for field in ("name", "address", "public_key"):
        assert len({each[field] for each in machines}) == 4
    ports = [port for each in machines for port in each["ports"]]
    assert ports == list(range(40000, 40012))
    assert all(facts(member, "plan")["steps"] == [] for member in members)


def is_guarded_as(machine: Machine, rules: str) -> bool:
    return what_is_there(machine)["rules"] == rules


class TestE6:
    """A member believes only a membership signed by the mesh's key; damaged state is an error."""

    DAMAGED = (
        ("membership.json", lambda text: text.replace("eyJ", "eyK", 1)),
        ("membership.json", lambda text: text[: len(text) // 2]),
        ("membership.json", lambda _: ""),
        ("machine.json", lambda text: text[:-9]),
        ("preshared.key", lambda _: ""),
        ("private.key", lambda _: "x"),
    )

    def test_damaged_state_is_an_error_with_a_cure(self, lab):
        control = make_control(lab)
        member = make_member(lab, control, 201, 4)
        stop_agent(member)
        for file, spoil in self.DAMAGED:
            whole = member.read(f"{STATE}/{file}")
            member.write(f"{STATE}/{file}", spoil(whole), 0o600)
            before = what_is_there(member)
            said = refusal(member, "apply", code=3)
            assert file in said
            assert re.search(r"hint: .*(restore|join)", said)
            assert what_is_there(member) == before
            agent = member.start(["qmesh", "agent"])  # whatever it does not know, the ports stay closed (G3)
            member.run(["nft", "flush", "ruleset"])
            wait_until(partial(is_guarded_as, member, before["rules"]))
            agent.stop()
            member.write(f"{STATE}/{file}", whole, 0o600)

    def test_a_registry_that_is_gone_is_no_empty_mesh(self, lab):
        control = make_control(lab)
        stop_agent(control)
        control.run(["sh", "-c", f"rm {STATE}/mesh.db*"])
        assert "mesh.db, the control node's registry, is missing" in refusal(control, "status", code=3)
        assert "mesh.db, the control node's registry, is missing" in refusal(control, "init", code=3)


def test_the_service_listens_in_the_tunnel_only(lab):
    control = make_control(lab)
    sockets = control.run(["ss", "-Hltn"]).stdout.splitlines()
    assert [line.split()[3] for line in sockets] == [f"10.77.0.1%qmesh0:{SERVICE}"]
    stranger = lab.machine("stranger", "192.168.0.66")
    script = f"import socket, sys; sys.exit(socket.socket().connect_ex(('192.168.0.200', {SERVICE})))"
    assert stranger.run(["python", "-c", script], check=False).returncode == 111


def test_a_machine_is_in_one_mesh_only(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    other = lab.machine("other", "192.168.0.210")
    qmesh(other, "init", "--workers", "1", "--network", "10.99.0.0/24")
    for machine in (member, control):
        invite(other, machine)
        before = what_is_there(machine)
        assert "already" in refusal(machine, "join", "invitation", code=2)
        assert what_is_there(machine) == before
    assert "a member" in refusal(member, "init", code=2)


def test_a_machine_may_say_itself_how_many_workers_it_has(lab):
    control = make_control(lab)
    member = newcomer(lab)
    invite(control, member)
    told = facts(member, "join", "invitation")
    assert told["cores"]["count"] == int(member.run(["nproc"]).stdout)


def test_without_apply_nothing_but_state_is_made(lab):
    control = lab.machine("machine-a", "192.168.0.200")
    links = control.run(["ls", "/sys/class/net"]).stdout
    qmesh(control, "init", "--workers", "3", "--node", "1.4", "--no-apply")
    assert control.run(["ls", "/sys/class/net"]).stdout == links
    assert control.run(["nft", "list", "ruleset"]).stdout == ""
    done = qmesh(control, "invite", "machine-z")
    assert "`qmesh apply`" in done.stderr
    assert control.run(["ls", "/sys/class/net"]).stdout == links
    assert facts(control, "apply")["steps"][0]["kind"] == "load-guard"
    member = newcomer(lab)
    invite(control, member, "--workers", "4")
    qmesh(member, "join", "invitation", "--no-apply")
    assert member.run(["ls", "/sys/class/net"]).stdout == links
    assert member.run(["nft", "list", "ruleset"]).stdout == ""
    assert facts(member, "apply")["steps"][0]["kind"] == "load-guard"
