"""The copy that a drill fires at: made elsewhere, of all rules, and gone with its process."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qmesh.errors import KernelRefused, MachineRefused
from qmesh.host.drill import namespaces as namespaces_module
from qmesh.host.drill.conduct import DrillOrder, conduct_drill
from qmesh.host.drill.legacy_copy import load_legacy_tables
from qmesh.host.drill.live_network import read_live_network
from qmesh.host.drill.namespaces import Namespaces, run_in_namespaces
from qmesh.host.drill.network_copy import copy_network
from qmesh.host.drill.rule_copy import load_tables, read_live_tables
from qmesh.host.firewall import nftables
from qmesh.host.firewall.legacy_iptables import list_legacy_tables
from tests.support import factories
from tests.support.rule_sets import RuleSet, list_rule_sets
from tests.support.waiting import some_time, wait_until

pytestmark = pytest.mark.lab

EVERYTHING = """
table ip nat {
	map published {
		type inet_service : ipv4_addr . inet_service
		elements = { 8080 : 172.17.0.2 . 80 }
	}
	set blocked {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8, 11.9.0.1-11.9.0.7 }
	}
	chain pre {
		type nat hook prerouting priority dstnat; policy accept;
		dnat ip to tcp dport map @published
		tcp dport vmap { 1-5 : accept, 7 : jump other, 9 : drop }
	}
	chain other {
		ip saddr { 192.0.2.0/24, 198.51.100.7 } counter accept
	}
}
table inet named {
	comment "of mine"
	counter hits { }
	limit slow { rate 5/second }
	set asked {
		type ipv4_addr . inet_service
		flags dynamic,timeout
		timeout 1m
	}
	chain in {
		type filter hook input priority 5; policy drop;
		counter name "hits" limit name "slow" accept comment "x"
		add @asked { ip saddr . tcp dport limit rate 3/second } accept
		meta l4proto { tcp, udp } th dport 40000-40003 jump { accept; }
	}
}
table netdev early {
	chain in {
		type filter hook ingress device "lo" priority 0; policy accept;
		ip saddr 192.0.2.1 drop
	}
}
table bridge frames {
	chain c {
		type filter hook input priority 0; policy accept;
		ether saddr 02:00:00:00:00:01 drop
	}
}
"""


def list_rules() -> str:
    """All of this namespace, by nft itself, without what counts and without numbers of their own."""
    words = ["nft", "-s", "list", "ruleset"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def copy_rules() -> tuple[list[str], str]:
    """What was refused, and the copy's listing."""
    live, tables = read_live_network(), read_live_tables()

    def work(namespaces: Namespaces) -> tuple[list[str], str]:
        copy_network(namespaces, live)
        refused = load_tables(namespaces, tables)
        return refused, list_rules()

    return run_in_namespaces(work, tuple[list[str], str], timeout_s=60)


def normalize(listing: str) -> list[str]:
    """Tables in any order; anonymous chains have names of their own in the copy."""
    return sorted(listing.replace("__set", "set").split("\n}\n"))


@pytest.mark.usefixtures("own_machine")
def test_all_that_nft_can_say_is_copied():
    nftables.run(EVERYTHING.replace("jump { accept; }", "accept"))
    refused, copied = copy_rules()
    assert refused == []
    assert normalize(copied) == normalize(list_rules())


RULE_SETS = [each for each in list_rule_sets() if not each.backend.endswith("-legacy")]
ASK_IPSET = {"crowdsec-banned by iptables-nft", "crowdsec by iptables-nft"}


@pytest.mark.parametrize(
    "rule_sets",
    [
        pytest.param(RULE_SETS[::6], id="some"),
        pytest.param(RULE_SETS, id="all", marks=pytest.mark.long),
    ],
)
@pytest.mark.usefixtures("own_machine")
def test_the_rules_of_each_known_program_are_copied_iptables_matches_too(rule_sets):
    for name in ("eth0", "qmesh0"):
        subprocess.run(["ip", "link", "add", name, "type", "veth"], check=True)
    unlike = []
    for rules in rule_sets:
        rules.load()
        refused, copied = copy_rules()
        if refused or normalize(copied) != normalize(list_rules()):
            unlike.append(str(rules))
        rules.unload()
    assert set(unlike) == ASK_IPSET.intersection(map(str, rule_sets))


LEGACY = [
    each
    for each in list_rule_sets()
    if each.backend.endswith("-legacy") and "--match-set" not in each.path.read_text(encoding="utf-8")
]


def save_legacy(rules: RuleSet) -> list[str]:
    """The tables in iptables' words, in any order, without what counts and the time."""
    words = [f"{rules.backend}-save"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    kept = [re.sub(r"\[\d+:\d+\]", "", line) for line in lines if not line.startswith("#")]
    return sorted(each.strip() for each in "\n".join(kept).split("COMMIT"))


@pytest.mark.usefixtures("own_machine")
def test_tables_of_iptables_legacy_are_copied():
    for rules in LEGACY[::5]:
        rules.load()
        blocks = tuple(list_legacy_tables())

        def work(namespaces: Namespaces) -> tuple[list[str], list[str]]:
            refused = load_legacy_tables(namespaces, blocks)  # noqa: B023 - called at once
            return refused, save_legacy(rules)  # noqa: B023

        copied = run_in_namespaces(work, tuple[list[str], list[str]], timeout_s=60)
        assert copied == ([], save_legacy(rules)), str(rules)
        rules.unload()
    assert LEGACY


def find_processes() -> set[str]:
    """Those that run: what nobody has waited for yet, as this is process 1, has ended all the same."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if (path / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z":
                    found.add(path.name)
    return found


def list_interfaces() -> str:
    return Path("/proc/net/dev").read_text(encoding="ascii")


@pytest.mark.usefixtures("own_machine")
def test_no_rule_is_loaded_where_the_kernel_gave_no_namespace(monkeypatch):
    monkeypatch.setattr(namespaces_module, "_call", lambda *_: None)
    with pytest.raises(MachineRefused, match="no network namespace of its own; nothing was loaded"):
        run_in_namespaces(lambda _: nftables.run("add table inet mistake"), None, timeout_s=60)
    assert "mistake" not in list_rules()


@pytest.mark.usefixtures("own_machine")
def test_no_rule_is_loaded_by_who_is_back_in_the_machines_namespace():
    """What could change rules asks where it is, and not where it should be."""
    nftables.run("add table inet theirs")
    tables, own = read_live_tables(), os.open("/proc/self/ns/net", os.O_RDONLY)

    def work(namespaces: Namespaces) -> str:
        back = os.open(f"/proc/{os.getppid()}/ns/net", os.O_RDONLY)
        namespaces_module._call("setns", back, 0x40000000)
        with pytest.raises(KernelRefused, match="not in its own network namespace"):
            load_tables(namespaces, tables)
        return "refused"

    assert run_in_namespaces(work, str, timeout_s=60) == "refused"
    os.close(own)


@pytest.mark.usefixtures("own_machine")
def test_what_was_loaded_before_speaks_to_the_machine_no_more():
    """The library's socket is one of the namespace in which it was opened."""
    nftables.run("add table inet theirs")

    def work(_: Namespaces) -> str:
        nftables.run("flush ruleset; add table inet mistake")
        return nftables.run("list tables")

    assert run_in_namespaces(work, str, timeout_s=60) == "table inet mistake\n"
    assert nftables.run("list tables") == "table inet theirs\n"


DRILL = """
import os, sys
from qmesh.host.drill.conduct import DrillOrder, conduct_drill
from tests.support import factories
order = DrillOrder(guard=factories.guard(kind="tun"), member=None, listened=(22,))
print("begun", flush=True)
conduct_drill(order)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
@pytest.mark.usefixtures("own_machine")
def test_nothing_is_left_whenever_it_is_ended(how):
    make_interface()
    nftables.run("add table inet theirs")
    before = find_processes(), list_interfaces(), list_rules()
    for _ in range(4):
        drill = subprocess.Popen(
            [sys.executable, "-c", DRILL],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert drill.stdout is not None
        assert drill.stdout.readline() == "begun\n"
        some_time(0, 0.5)
        if how == signal.SIGINT:  # as of a terminal, which tells all of them
            os.killpg(drill.pid, how)
        else:
            drill.kill()
        drill.wait()
        drill.stdout.close()
        wait_until(lambda: find_processes() == before[0])
        assert (list_interfaces(), list_rules()) == before[1:]


@pytest.mark.usefixtures("own_machine")
def test_what_decides_about_packets_and_is_not_copied_is_named():
    make_interface()
    policy = "xfrm policy add src 198.51.100.7 dst 192.0.2.2 dir in action block"
    subprocess.run(["ip", *policy.split()], check=True)
    found = conduct_drill(DrillOrder(guard=factories.guard(kind="tun"), member=None, listened=()))
    assert set(found.unknown) == {
        "not copied: IPsec policies",
        "the tunnel qmesh0 is not up: nothing was fired through it",
        "the machine does not have the table inet qmesh",
        "the machine does not have the table inet qmesh-held",
    }
    assert found.stand_ins == []


@pytest.mark.usefixtures("own_machine")
def test_no_user_keeps_root_from_a_drill_by_listening_at_many_ports():
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 256), most))
    found = conduct_drill(
        DrillOrder(guard=factories.guard(kind="tun"), member=None, listened=(22, *range(1024, 2048)))
    )
    assert found.fired


@pytest.mark.usefixtures("own_machine")
def test_a_bridge_without_a_port_has_one_in_the_copy_beside_interfaces_that_are_down():
    make_interface()
    for words in ("link add down0 type veth", "link add docker0 type bridge", "link set docker0 up"):
        subprocess.run(["ip", *words.split()], check=True)
    live = read_live_network()

    def work(namespaces: Namespaces) -> tuple[list[str], list[str]]:
        copy = copy_network(namespaces, live)
        return sorted(each.name for each in copy.ways), list(copy.failures)

    found = run_in_namespaces(work, tuple[list[str], list[str]], timeout_s=60)
    assert found == (["docker0", "eth0"], [])


def make_interface() -> None:
    for words in ("link add eth0 type veth", "link set eth0 up", "addr add 192.0.2.2/24 dev eth0"):
        subprocess.run(["ip", *words.split()], check=True)
