"""What becomes of a datagram under other programs' rules: the kernel's word against the evaluator's."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from qmesh.host.firewall import foreign_rules, nftables
from tests.support.checkout import CHECKOUT
from tests.support.foreign_cases import CASES, DATAGRAM
from tests.support.waiting import patience

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

OUR_OWN = "the guard's own"
LISTINGS = CHECKOUT / "tests/mesh/foreign_listings"


def two_ends() -> None:
    """This machine at one end of a cable, and whoever sends at the other."""
    subprocess.run(["ip", "netns", "add", "far"], check=True)
    commands = [
        "link add eth0 type veth peer name far0 netns far",
        f"addr add {DATAGRAM.target}/24 dev eth0",
        "link set eth0 up",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True)
    commands = [f"addr add {DATAGRAM.source}/24 dev far0", "link set far0 up"]
    subprocess.run(
        ["ip", "-n", "far", "-batch", "-"], input="\n".join(commands) + "\n", text=True, check=True
    )


@contextlib.contextmanager
def far_socket() -> Iterator[socket.socket]:
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    far = os.open("/run/netns/far", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        assert libc.setns(far, 0x40000000) == 0
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert libc.setns(own, 0x40000000) == 0
    finally:
        os.close(far)
        os.close(own)
    with made:
        made.bind((DATAGRAM.source, DATAGRAM.source_port))
        yield made


def test_the_kernel_does_with_each_ruleset_what_is_expected_of_the_evaluator():
    two_ends()
    wrong = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here, far_socket() as there:
        here.bind(("0.0.0.0", DATAGRAM.target_port))  # noqa: S104
        here.settimeout(patience(5))
        there.sendto(b"first", (DATAGRAM.target, DATAGRAM.target_port))  # neighbours know each other after it
        assert here.recv(100) == b"first"
        for number, (name, (fate, ruleset)) in enumerate(CASES.items()):
            nftables.run("flush ruleset\n")
            nftables.run(ruleset)
            here.settimeout(patience(5) if fate == "passes" and name != OUR_OWN else 0.15)
            there.sendto(f"{number}".encode(), (DATAGRAM.target, DATAGRAM.target_port))
            try:
                came = here.recv(100) == f"{number}".encode()
            except TimeoutError:
                came = False
            if name != OUR_OWN and fate != "unclear" and came is not (fate == "passes"):
                wrong.append(f"{name}: {fate}, but it {'came' if came else 'did not come'}")
    assert wrong == []


def test_nft_prints_of_each_ruleset_what_the_evaluator_is_tested_with():
    """With QMESH_WRITE_LISTINGS=NAME what this nft prints is kept, after a case was added."""
    two_ends()
    printed = {}
    for name, (_, ruleset) in CASES.items():
        nftables.run("flush ruleset\n")
        nftables.run(ruleset)
        found = foreign_rules.read_rules()
        assert found.unread == ()
        printed[name] = {"objects": found.objects, "text": found.text}
    if kept_as := os.environ.get("QMESH_WRITE_LISTINGS"):
        (LISTINGS / f"{kept_as}.json").write_text(json.dumps(printed, indent=1, sort_keys=True) + "\n")
    differing = [
        [name for name, each in printed.items() if without_ages(each) != without_ages(kept.get(name))]
        for kept in (json.loads(path.read_text()) for path in LISTINGS.glob("*.json"))
    ]
    assert [] in differing


def test_a_table_with_a_flag_is_read_the_same_each_time():
    """libnftables 1.0.6 prints, for the flag of a table, what else came to lie in its place."""
    sets = "set s { type ipv4_addr; elements = { 192.0.2.1 }; }; "
    maps = "map m { type inet_service : verdict; elements = { 22 : drop }; }; "
    chain = "chain c { type filter hook input priority 0; ip saddr @s drop; tcp dport vmap @m; }; "
    nftables.run("table inet sleeps { flags dormant; " + sets + maps + chain + "}\n")
    seen = {json.dumps(foreign_rules.read_rules().objects) for _ in range(20)}
    (found,) = map(json.loads, seen)
    assert found == [{"table": {"family": "inet", "name": "sleeps", "dormant": True}}]


def test_a_chain_whose_name_is_a_word_of_nft_is_read():
    subprocess.run(["iptables-nft", "-N", "log"], check=True)
    subprocess.run(["iptables-nft", "-A", "log", "-j", "DROP"], check=True)
    subprocess.run(["iptables-nft", "-A", "INPUT", "-j", "log"], check=True)
    objects = foreign_rules.read_rules().objects
    assert ["drop" in str(each) for each in objects if "rule" in each] == [True, False]


def without_ages(listings: object) -> object:
    """An element's time to live is another at each look."""
    text = json.dumps(listings, sort_keys=True)
    return re.sub(r'"expires": \d+|expires \w+', "", text)
