"""What `export` gives other tools, given to those tools."""

import json

import pytest

from qmesh.mesh.exports import ansible
from tests.support import factories
from tests.support.lab.cluster import (
    STATE,
    dial,
    facts,
    invite,
    make_control,
    make_member,
    qmesh,
    refusal,
    start_workers,
    stop_agent,
    what_is_there,
)
from tests.support.lab.machines import Lab, Machine

pytestmark = pytest.mark.lab

FORMATS = ("wg-quick", "nft", "hosts", "ansible")
NAME = "control.example.org"
MESH = factories.mesh(factories.machine("control", 1, 3), control="control")


@pytest.fixture(scope="module")
def cluster():
    """A control node that is reached by a name, two members, and a machine that is invited only."""
    with Lab() as lab:
        control = make_control(lab, "--endpoint", NAME)
        members = [
            joined(lab, control, "machine-b", 201, "--workers", "4", "--endpoint", "192.168.0.201:51820"),
            joined(lab, control, "machine-c", 202, "--workers", "2"),
        ]
        invite(control, lab.machine("machine-z", "192.168.0.209"), "--endpoint", "192.168.0.209:51820")
        yield control, *members


def joined(lab: Lab, control: Machine, name: str, number: int, *options: str) -> Machine:
    machine = lab.machine(name, f"192.168.0.{number}", f"fd00:1a::{number}")
    knows_the_name(machine)
    invite(control, machine, *options)
    qmesh(machine, "join", "invitation")
    return machine


def knows_the_name(machine: Machine) -> None:
    machine.run(["sh", "-c", f"echo '192.168.0.200 {NAME}' >>/etc/hosts"])


def secrets_of(machine) -> list[str]:
    """The private key of a machine's tunnel, and the keys it shares with its peers."""
    words = machine.run(["wg", "show", "qmesh0", "dump"]).stdout.split("\n")
    own, *peers = (line.split("\t") for line in words if line)
    return [own[0], *(peer[1] for peer in peers)]


def test_e1_what_is_printed_has_no_secret_in_it(cluster):
    for machine in cluster[:2]:
        secrets = secrets_of(machine)
        assert all(len(secret) == 44 for secret in secrets)
        for wanted in FORMATS:
            for options in ((), ("--json",)):
                done = machine.run(["qmesh", "export", wanted, *options], check=False)
                assert not any(secret in done.stdout + done.stderr for secret in secrets)
                if done.returncode == 0 and wanted == "wg-quick":
                    assert done.stdout.count("<not shown>") >= 2
        qmesh(machine, "export", "wg-quick", "-o", "/root/e1.conf")
        assert machine.run(["stat", "-c%a", "/root/e1.conf"]).stdout == "600\n"
        assert secrets[0] in machine.read("/root/e1.conf")
        assert "exists already" in refusal(machine, "export", "wg-quick", "-o", "/root/e1.conf", code=2)
        machine.run(["rm", "/root/e1.conf"])


def test_exporting_changes_nothing(cluster):
    for machine in cluster[:2]:
        before = what_is_there(machine)
        for wanted in FORMATS:
            machine.run(["qmesh", "export", wanted], check=False)
        assert what_is_there(machine) == before


def dump(machine) -> dict[str, list[str]]:
    """What `wg show dump` says of keys, ports, endpoints, allowed IPs and keepalives, by key."""
    lines = machine.run(["wg", "show", "qmesh0", "dump"]).stdout.splitlines()
    own, *peers = (line.split("\t") for line in lines)
    return {"": own, **{peer[0]: [*peer[1:4], peer[7]] for peer in peers}}


@pytest.mark.long  # test_wg_quick_and_nft_make_the_tunnel_and_the_guard_that_qmesh_makes
def test_wg_reads_back_the_tunnel_that_it_was_made_from(cluster):
    control, *_ = cluster
    invited = {machine["name"]: machine for machine in facts(control, "status")["machines"]}["machine-z"]
    with Lab() as lab:
        blank = lab.machine("machine-y", "192.168.0.210")
        knows_the_name(blank)
        blank.run(["wireguard-go", "qmesh0"])
        for machine in cluster:
            qmesh(machine, "export", "wg-quick", "-o", "/root/qmesh0.conf")
            blank.write("/root/qmesh0.conf", machine.read("/root/qmesh0.conf"), 0o600)
            machine.run(["rm", "/root/qmesh0.conf"])
            blank.write("/root/stripped", blank.run(["wg-quick", "strip", "/root/qmesh0.conf"]).stdout, 0o600)
            blank.run(["wg", "setconf", "qmesh0", "/root/stripped"])
            found, wanted = dump(blank), dump(machine)
            if machine is control:
                # A file would go on letting in who is only invited; who has no endpoint calls.
                del wanted[invited["public_key"]]
                (unknown,) = (key for key in wanted if found[key][1] == "(none)" and key)
                wanted[unknown][1] = "(none)"
            assert found == wanted


def test_an_endpoint_that_is_a_name_is_written_as_one(cluster):
    for member in cluster[1:]:
        kept = json.loads(member.read(f"{STATE}/machine.json"))
        kept["control_endpoints"] = [{"host": NAME, "port": 51820}]  # without its private addresses
        member.write(f"{STATE}/machine.json", json.dumps(kept), 0o600)
        assert f"\nEndpoint = {NAME}:51820\n" in qmesh(member, "export", "wg-quick").stdout
        assert facts(member, "export", "wg-quick")["peers"][0]["endpoint"] == f"{NAME}:51820"


def place(machine) -> tuple[str, ...]:
    """Addresses, octets a packet, and routes of a machine's tunnel."""
    asked = (
        ["ip", "-o", "address", "show", "dev", "qmesh0", "scope", "global"],
        ["sh", "-c", "ip -o link show dev qmesh0 | grep -o 'mtu [0-9]*'"],
        ["ip", "route", "show", "table", "all", "dev", "qmesh0"],
        ["ip", "-6", "route", "show", "table", "all", "dev", "qmesh0"],
        ["ip", "rule"],
    )
    said = (machine.run(words).stdout for words in asked)
    return tuple(text.partition(": ")[2] if text[:1].isdigit() else text for text in said)


def test_wg_quick_and_nft_make_the_tunnel_and_the_guard_that_qmesh_makes(lab):
    control = make_control(lab)
    member = make_member(lab, control, 201, 4)
    qmesh(control, "render-config", "--write")
    start_workers(member, "4..7")
    before, guard = place(member), listing(member)
    stop_agent(member)
    qmesh(member, "export", "wg-quick", "-o", "/root/qmesh0.conf")
    qmesh(member, "export", "nft", "-o", "/root/guard.nft")
    qmesh(member, "down")
    assert dial(control)[3:] == [None] * 4
    assert_wg_quick_does(member, before, control)
    assert listing(member) == guard
    qmesh(member, "down", "--open")
    assert what_is_there(member)["rules"] == ""
    # As after `down`, too: it is what the machine should be, not what it is.
    assert qmesh(member, "export", "nft").stdout == member.read("/root/guard.nft")
    member.run(["nft", "-c", "-f", "/root/guard.nft"])
    assert what_is_there(member)["rules"] == ""
    for _ in range(2):  # it takes the place of what is there
        member.run(["nft", "-f", "/root/guard.nft"])
    assert listing(member) == guard
    assert_wg_quick_does(member, before, control)
    assert listing(member) == guard


def assert_wg_quick_does(member, before, control) -> None:
    """That the exported tunnel is the one there was, as wg-quick makes it, and the guard knows it."""
    member.run(["wg-quick", "up", "/root/qmesh0.conf"])
    assert place(member) == before
    assert dial(control)[3:] == [f"core {core} on machine-b" for core in range(4, 8)]
    steps = json.loads(member.run(["qmesh", "plan", "--json"], check=False).stdout)["steps"]
    assert {step["kind"] for step in steps} <= {"load-guard", "reserve-ports"}
    member.run(["wg-quick", "down", "/root/qmesh0.conf"])


def listing(machine) -> str:
    return str(machine.run(["nft", "-s", "list", "table", "inet", "qmesh"]).stdout)


def test_a_resolver_reads_the_members_and_what_it_knew_stays(lab, cluster):
    for exporter in cluster:
        machine = lab.machine(f"of-{exporter.name}", exporter.ipv4)
        before = machine.run(["getent", "hosts", "localhost", machine.name], check=False).stdout
        text = qmesh(exporter, "export", "hosts").stdout
        machine.run(["sh", "-c", "cat >>/etc/hosts"], input=text)
        assert machine.run(["getent", "hosts", "localhost", machine.name], check=False).stdout == before
        found = facts(exporter, "export", "hosts")["hosts"]
        assert [host["name"] for host in found] == ["control.qmesh", "machine-b.qmesh", "machine-c.qmesh"]
        for host in found:
            assert machine.run(["getent", "hosts", host["name"]]).stdout.split() == [
                host["address"],
                host["name"],
            ]
        assert machine.run(["getent", "hosts", "machine-z.qmesh"], check=False).stdout == ""


def test_ansible_reads_groups_and_variables(cluster):
    control, *_ = cluster
    qmesh(control, "export", "ansible", "-o", "/root/mesh.yml")
    done = control.run(["ansible-inventory", "-i", "/root/mesh.yml", "--list"], timeout=60)
    assert done.stderr == ""
    read = json.loads(done.stdout)
    assert read["qmesh_control"]["hosts"] == ["control"]
    assert read["qmesh_workers"]["hosts"] == ["machine-b", "machine-c"]
    assert set(read["qmesh_machines"]["children"]) == {"qmesh_control", "qmesh_workers"}
    told = facts(control, "export", "ansible")["qmesh_machines"]
    hosts = {
        name: {**told["vars"], **variables}
        for group in told["children"].values()
        for name, variables in group["hosts"].items()
    }
    assert read["_meta"]["hostvars"] == hosts
    for machine in facts(control, "status")["machines"]:
        if machine["name"] == "machine-z":
            assert "machine-z" not in hosts
            continue
        variables = hosts[machine["name"]]
        assert variables["qmesh_address"] == machine["address"]
        assert variables["qmesh_ports"] == machine["ports"]
        assert variables["qmesh_cores"] == machine["cores"]
        assert variables["qmesh_role"] == machine["role"]
        assert variables["qmesh_state"] == machine["state"] == "active"
        assert variables["qmesh_public_key"] == machine["public_key"]
    control.write("/root/mesh.json", qmesh(control, "export", "ansible", "--json").stdout)
    again = control.run(["ansible-inventory", "-i", "/root/mesh.json", "--list"], timeout=60)
    assert json.loads(again.stdout) == read


@pytest.mark.long  # what the guard lets through: test_matrix.py
def test_ssh_goes_elsewhere_than_through_the_tunnel_and_so_does_ansible(cluster):
    control, member, _ = cluster
    listen = (
        "import socket\n"
        "servers = [socket.create_server(('', port)) for port in (22, 40003)]\n"
        "print('ready', flush=True)\n"
        "servers[0].accept()\n"
    )
    listener = member.start(["python", "-c", listen])
    listener.wait_for("ready")
    knock = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
    assert "timed out" in control.run(["python", "-c", knock, "10.77.0.2", "22"], check=False).stderr
    control.run(["python", "-c", knock, "10.77.0.2", "40003"])
    assert listener.poll() is None
    control.run(["python", "-c", knock, member.ipv4, "22"])
    assert listener.wait(5) == 0
    control.write("/root/ssh.yml", qmesh(control, "export", "ansible").stdout)
    command = ["ansible", "-i", "/root/ssh.yml", "machine-b", "-m", "debug", "-a", "var=ansible_host"]
    assert '"machine-b"' in control.run(command, timeout=60).stdout


IS_TEMPLATE = {
    "{{ 7 * 7 }}": True,
    "{% if 1 %}49{% endif %}": True,
    "a{# no comment #}": True,
    "#jinja2: trim_blocks:True\n49": True,
    "$(id) %i": False,
}


def test_no_value_is_a_template_to_ansible(lab):
    """Each is a machine's endpoint, whatever may be one."""
    machine = lab.machine("machine-a", "192.168.0.200")
    tree = ansible.inventory_tree(MESH)
    hosts = tree["qmesh_machines"]["children"]["qmesh_workers"]["hosts"]
    for number, text in enumerate(IS_TEMPLATE):
        hosts[f"machine-{number}"] = {"qmesh_endpoint": text}
    inventory = ansible.render_inventory(tree, "control")
    assert endpoints_said(machine, inventory) == list(IS_TEMPLATE)
    bare = endpoints_said(machine, inventory.replace("!unsafe ", ""))
    assert [said != text for said, text in zip(bare, IS_TEMPLATE, strict=True)] == list(IS_TEMPLATE.values())


def endpoints_said(machine, inventory) -> list[str]:
    """What Ansible takes the workers' endpoints for."""
    machine.write("/root/mesh.yml", inventory)
    asking = ["-m", "debug", "-a", "var=qmesh_endpoint", "--one-line", "--forks", "1"]
    said = machine.run(["ansible", "-i", "/root/mesh.yml", "qmesh_workers", *asking], timeout=60).stdout
    found = dict(line.partition(" | ")[::2] for line in said.splitlines())
    return [json.loads(found[name].partition("=> ")[2])["qmesh_endpoint"] for name in sorted(found)]


def test_a_format_that_is_not_there_is_refused_with_those_that_are(cluster):
    control, member, _ = cluster
    for word in ("frob", "", "WG-QUICK", "a\x1b[1m"):
        assert "wg-quick, nft, hosts, ansible" in refusal(control, "export", word, code=2)
    refusal(control, "export", code=2)
    assert "run `qmesh export ansible` on control" in refusal(member, "export", "ansible", code=2)
    refusal(control, "export", "hosts", "-o", "/none/hosts", code=2)


def test_without_a_mesh_without_root_and_without_a_key_it_is_refused(lab):
    blank = lab.machine("machine-b", "192.168.0.201")
    for wanted in FORMATS:
        assert "in no mesh" in refusal(blank, "export", wanted, code=2)
    control = make_control(lab)
    control.run(["mv", f"{STATE}/private.key", "/root/private.key"])
    assert "private key" in refusal(control, "export", "wg-quick", "-o", "/root/qmesh0.conf", code=3)
    assert "qmesh0.conf" not in control.run(["ls", "/root"]).stdout
    control.run(["mv", "/root/private.key", f"{STATE}/private.key"])
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "qmesh", "export", "hosts"]
    done = control.run(as_nobody, check=False)
    if "Permission denied" in done.stderr:
        pytest.skip("this machine cannot: its users may not run this checkout")
    assert done.returncode == 3
    assert "with `sudo` before it" in done.stderr
