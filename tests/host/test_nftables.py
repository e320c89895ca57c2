"""Loading, reading and comparing the guard. What it lets through is for packets to show, in tests/lab."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
import pytest

from qmesh.errors import KernelRefused, MissingProgram, NeedsRoot
from qmesh.host.firewall import nftables
from qmesh.mesh.guard.parse import parse_table
from qmesh.mesh.guard.render import render_table
from qmesh.mesh.guard.script_text import render_unload_script
from qmesh.mesh.guard.scripts import render_change_script, render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.state import AlteredGuard, Guard
from qmesh.mesh.values import InterfaceKind
from tests.support.network import nft
from tests.support.waiting import pause

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("own_machine")]

WORKER = Guard(
    role="worker",
    interface="qmesh0",
    kind="wireguard",
    listen_port=51820,
    control_address="10.77.0.1",
    service_port=51820,
    ports=tuple(range(40003, 40007)),
)

CONTROL = msgspec.structs.replace(WORKER, role="control", ports=(40000, 40001, 40002))
OVER_IPV6 = msgspec.structs.replace(WORKER, control_address="fd12:3456:789a::1")
BOTH = msgspec.structs.replace(WORKER, ports=(*WORKER.ports, 40009))
"""Ports in an interval and one in the set."""
WITHOUT_PORTS = msgspec.structs.replace(WORKER, ports=())


def folded(text: str) -> str:
    return " ".join(text.split())


def load(guard: Guard) -> None:
    nftables.run(render_load_script(guard))


def read() -> Guard | AlteredGuard:
    listing = nftables.read_table(TABLE)
    assert listing is not None
    return parse_table(listing)


def guards_with(ports: tuple[int, ...]) -> Iterator[Guard]:
    """Both roles, both kinds of tunnel, both families, short and long names and numbers."""
    roles: tuple[Literal["control", "worker"], ...] = ("control", "worker")
    kinds: tuple[InterfaceKind, ...] = ("wireguard", "tun")
    addresses = ("10.77.0.1", "fd12:3456:789a::1", "fd12:3456:789a:1234:5678:9abc:def0:1234")
    for role, kind, address in itertools.product(roles, kinds, addresses):
        yield Guard(
            role=role,
            interface="q" if role == "control" else "a-very_long-nam",
            kind=kind,
            listen_port=1 if kind == "tun" else 65535,
            control_address=address,
            service_port=65535 if kind == "tun" else 1,
            ports=ports,
            stream_port=8340 if ":" in address else None,
            successor_address=address[:-1] + "9" if (role, kind) == ("control", "tun") else None,
        )


def test_g3_a_hash_that_the_kernel_enlarges_is_read_until_it_is_whole(monkeypatch):
    """What it lists in between lacks elements, as of a guard that somebody altered."""
    load(msgspec.structs.replace(WORKER, ports=tuple(range(20001, 30001, 2))))
    whole = nftables.run("list table inet qmesh")
    lacking, twice = whole.replace(" 20001,", ""), whole.replace(" 20003,", " 20003, 20003,")
    listings = iter((lacking, twice, whole, whole))
    monkeypatch.setattr(nftables, "run", lambda _: next(listings))
    assert nftables.read_table(TABLE) == whole


@pytest.mark.parametrize(
    "ports",
    [
        (),
        (1,),
        (40000,),
        (65535,),
        (40000, 40001),
        (40000, 40002),
        (1, 65535),
        (1, 2, 65534, 65535),
        (80, 443, *range(40000, 40003), 50000),
        tuple(range(40000, 45000)),
        tuple(range(20001, 30001, 2)),
    ],
    ids=lambda ports: f"{len(ports)}-from-{ports[0] if ports else 'none'}",
)
def test_what_is_rendered_is_what_the_kernel_lists(ports):
    """The last is a hash, which the kernel enlarges while it is read: some of 100 listings lack elements."""
    for guard in guards_with(ports):
        load(guard)
        listing = nftables.read_table(TABLE)

        assert listing is not None
        assert (
            folded(listing)
            == folded(render_table(guard))
            == folded(nft("-s", "list", "table", "inet", "qmesh"))
        )
        assert parse_table(listing) == guard


def test_a_short_guard_is_listed_word_for_word_and_line_for_line():
    for guard in (WORKER, CONTROL, OVER_IPV6, WITHOUT_PORTS):
        load(guard)

        assert nftables.read_table(TABLE) == render_table(guard)


def test_any_ports_read_back_as_they_were_loaded():
    for _ in range(25):
        near = random.sample(range(40000, 40060), random.randrange(1, 50))  # noqa: S311 - any will do
        far = random.sample(range(1, 65536), random.randrange(20))  # noqa: S311
        guard = msgspec.structs.replace(WORKER, ports=tuple(sorted({*near, *far})))
        load(guard)

        assert read() == guard


def test_without_a_guard_there_is_none():
    assert nftables.read_table(TABLE) is None


@pytest.mark.parametrize("table", ["ip qmesh", "ip6 qmesh", "bridge qmesh", "inet qmesh2", "inet qmes"])
def test_another_table_is_not_the_guard_and_survives_it(table):
    family, name = table.split()
    nftables.run(f"add table {table}")

    assert nftables.read_table(TABLE) is None

    load(WORKER)

    assert read() == WORKER

    nftables.run(render_unload_script())

    assert nft("list", "tables").split() == ["table", family, name]


FOREIGN = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport 22 accept
	}
}
table ip nat {
	map published {
		type inet_service : ipv4_addr . inet_service
		elements = { 40003 : 172.17.0.2 . 80 }
	}

	chain docker {
		type nat hook prerouting priority dstnat; policy accept;
		dnat ip to tcp dport map @published
	}
}
"""


def test_what_others_loaded_before_and_after_survives():
    nftables.run(FOREIGN)
    before = nft("list", "ruleset")
    for guard in (WORKER, CONTROL, WORKER):
        load(guard)

        assert nft("list", "ruleset").startswith(before)
    nftables.run("add table inet later")
    load(CONTROL)
    nftables.run(render_unload_script())

    assert folded(nft("list", "ruleset")) == folded(before) + " table inet later { }"


@pytest.mark.parametrize("there", [False, True])
def test_the_guard_is_unloaded_whether_it_is_there_or_not(there):
    if there:
        load(WORKER)
    for _ in range(2):
        nftables.run(render_unload_script())

        assert nftables.read_table(TABLE) is None
    assert nft("list", "ruleset") == ""


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ("add rule inet nowhere input drop", "No such file or directory"),
        ("add rule inet qmesh sent jump nowhere", "No such file or directory"),
        ("add nonsense", "syntax error"),
        ("add chain inet qmesh x { type filter hook nowhere priority 0; }", "unknown chain hook"),
        ("add element inet qmesh closed_ports { 70000 }", "out of range"),
    ],
)
def test_g3_a_script_that_fails_has_changed_nothing(last, why):
    nftables.run(FOREIGN)
    load(WORKER)
    before = nft("list", "ruleset")
    for script in (
        f"{render_load_script(CONTROL)}{last}\n",
        f"{render_unload_script()}{render_load_script(CONTROL)}{last}\n",
    ):
        with pytest.raises(KernelRefused, match=f"(?i)nftables refused: .*{why}") as refused:
            nftables.run(script)

        assert "\n" not in refused.value.message
        assert "no rule was changed" in refused.value.hint
        assert nft("list", "ruleset") == before
    assert read() == WORKER


def test_g3_a_script_with_a_zero_octet_is_refused_and_not_half_run():
    """The library takes what stands before it: that may be the deletion of the old guard alone."""
    load(WORKER)
    with pytest.raises(KernelRefused, match="script is damaged"):
        nftables.run(f"{render_unload_script()}\0{render_table(WORKER)}")
    assert read() == WORKER


@pytest.mark.parametrize(
    "command",
    [
        "add rule inet qmesh closed_port accept",
        "insert rule inet qmesh closed_port tcp dport 40003 accept",
        "insert rule inet qmesh asked_for accept",
        "flush chain inet qmesh closed_port",
        "flush table inet qmesh",
        "flush chain inet qmesh through_tunnel",
        "add set inet qmesh more { type ipv4_addr; }",
        "add chain inet qmesh more",
        "add chain inet qmesh more { type filter hook prerouting priority mangle - 1; }",
        "add chain inet qmesh passed_on { policy drop; }",
        "add counter inet qmesh seen",
        "add table inet qmesh { flags dormant; }",
        "delete table inet qmesh; add table inet qmesh",
    ],
)
def test_a_table_that_was_changed_by_hand_is_not_the_guard(command):
    load(WORKER)
    nft(command)
    found = read()

    assert isinstance(found, AlteredGuard)
    assert found.text == nft("-s", "list", "table", "inet", "qmesh")

    load(WORKER)

    assert read() == WORKER


@pytest.mark.parametrize(
    "command",
    [
        "add element inet qmesh closed_ports { 22 }",
        "delete element inet qmesh closed_ports { 40009 }",
        "flush set inet qmesh closed_ports",
    ],
)
def test_ports_that_were_changed_by_hand_are_not_those_of_the_guard(command):
    load(BOTH)
    nft(command)

    assert read() != BOTH

    load(BOTH)

    assert read() == BOTH


def rules() -> list[tuple[str, str]]:
    """Chain and handle of each rule of the guard."""
    found, chain = [], ""
    for line in nft("-a", "list", "table", "inet", "qmesh").splitlines():
        if line.startswith("\tchain "):
            chain = line.split()[1]
        elif chain and line.startswith("\t\t") and " # handle " in line:
            found.append((chain, line.rsplit(" ", 1)[1]))
    return found


def test_any_rule_that_was_deleted_by_hand_is_missed():
    for guard in (BOTH, CONTROL):
        load(guard)
        count = len(rules())
        assert count > 10
        for number in range(count):
            load(guard)
            chain, handle = rules()[number]
            nft("delete", "rule", "inet", "qmesh", chain, "handle", handle)

            assert isinstance(read(), AlteredGuard)


def test_counted_packets_change_nothing():
    load(CONTROL)
    listing = nftables.read_table(TABLE)
    subprocess.run(["ip", "link", "add", "p", "type", "veth", "peer", "name", "q"], check=True)
    # Rules with numbers in their counters are still the guard's.
    script = render_table(CONTROL).replace("counter drop", "counter packets 7 bytes 420 drop")
    nftables.run(render_unload_script() + script)

    assert "packets 7 bytes 420" in nft("list", "table", "inet", "qmesh")
    assert nftables.read_table(TABLE) == listing
    assert read() == CONTROL


def test_g3_the_guard_outlives_who_loaded_it():
    code = (
        "import sys; from qmesh.host.firewall import nftables; nftables.run(sys.stdin.read());"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], input=render_load_script(WORKER), text=True, check=False
    )

    assert ended.returncode == -9
    assert read() == WORKER


@contextlib.contextmanager
def monitor() -> Iterator[Callable[[], list[str]]]:
    """The events of nftables since then, up to the next table named `end`."""
    watching = subprocess.Popen(["nft", "monitor"], stdout=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    lines = watching.stdout
    try:
        ready = False
        os.set_blocking(lines.fileno(), False)
        while not ready:
            nft("add table inet begin; delete table inet begin")
            pause(0.05)
            ready = bool(lines.readlines())
        os.set_blocking(lines.fileno(), True)

        def events() -> list[str]:
            nft("add table inet end")
            return [
                line.strip() for line in itertools.takewhile(lambda line: "table inet end" not in line, lines)
            ]

        yield events
    finally:
        watching.kill()
        watching.wait()
        lines.close()


def test_g3_a_guard_is_replaced_in_one_transaction():
    load(WORKER)
    with monitor() as events:
        load(CONTROL)
        found = events()
    generations = [line for line in found if "new generation" in line]

    assert "delete table inet qmesh" in found
    assert "add table inet qmesh" in found
    assert len([line for line in generations if "python" in line or "pytest" in line]) == 1


PORTS = (
    ((40003, 40004), (40003, 40004, 40005)),
    ((40003, 40004), (40004,)),
    ((), (40003,)),
    ((40003,), ()),
    ((40003,), (40004,)),
    (tuple(range(40000, 40300)), tuple(range(40150, 40450))),
    (tuple(range(1, 5000)), tuple(range(1, 5001))),
    (tuple(range(1, 3000, 2)), tuple(range(1, 3002, 2))),
    (tuple(range(1, 1998, 2)), tuple(range(1, 2004, 2))),
    (tuple(port for port in range(1, 100) if port % 7), tuple(port for port in range(1, 100) if port % 5)),
)


@pytest.mark.parametrize(("old", "new"), PORTS)
def test_a_guard_whose_ports_were_changed_is_the_guard_with_those_ports(old, new):
    before, after = (msgspec.structs.replace(WORKER, ports=ports) for ports in (old, new))
    load(before)
    nftables.run(render_change_script(before, after))

    assert read() == after


def test_a_port_more_is_a_set_element_and_no_rule_is_touched():
    more = msgspec.structs.replace(BOTH, ports=(*BOTH.ports, 40011))
    load(BOTH)
    with monitor() as events:
        nftables.run(render_change_script(BOTH, more))
        found = [line for line in events() if "generation" not in line and "begin" not in line]

    assert "add element inet qmesh closed_ports { 40011 }" in found
    assert {line.split()[1] for line in found} <= {"set", "element"}
    assert read() == more


def test_ports_of_a_guard_that_others_changed_meanwhile_are_replaced_whole():
    load(BOTH)
    nft("delete element inet qmesh closed_ports { 40009 }")
    fewer = msgspec.structs.replace(WORKER, ports=(40004, 40009))

    nftables.run(render_change_script(BOTH, fewer))
    assert read() == fewer


RELOAD = """
import sys
from qmesh.host.firewall import nftables
scripts = sys.stdin.read().split("---")
print("ready", flush=True)
while True:
    for script in scripts:
        nftables.run(script)
"""


@contextlib.contextmanager
def repeating(*scripts: str) -> Iterator[None]:
    """Another process that runs scripts in turn, for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", RELOAD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("---".join(scripts))
        other.stdin.close()
        try:
            assert other.stdout.readline() == "ready\n"
            yield
            assert other.poll() is None, "the other process ended"
        finally:
            other.kill()


def test_g3_while_the_guard_is_replaced_in_a_loop_it_is_always_there():
    load(WORKER)
    with repeating(render_load_script(CONTROL), render_load_script(WORKER)):
        seen = ["table inet qmesh" in nftables.run("list tables inet") for _ in range(1000)]
    assert all(seen)


def test_a_table_that_goes_between_two_looks_is_none_and_no_error(monkeypatch):
    real = nftables.run

    def run(script: str) -> str:
        if script == "list table inet qmesh":
            nft("delete table inet qmesh")
        return real(script)

    load(WORKER)
    monkeypatch.setattr(nftables, "run", run)

    assert nftables.read_table(TABLE) is None


def test_a_table_that_cannot_be_read_is_not_none(monkeypatch):
    real = nftables.run
    load(WORKER)
    # Another name for what is not there: the second look still finds the table.
    monkeypatch.setattr(
        nftables, "run", lambda script: real(script.replace("table inet qmesh", "table inet no"))
    )

    with pytest.raises(KernelRefused, match="No such file or directory"):
        nftables.read_table(TABLE)


CHILD = """
import sys
from qmesh.errors import QmeshError
from qmesh.host.firewall import nftables
for ask in (lambda: nftables.read_table('qmesh'), lambda: nftables.run("add table inet qmesh")):
    try:
        print(ask())
    except QmeshError as error:
        print(f"{type(error).__name__}: {error.message} -> {error.hint}")
"""

AS_NOBODY = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]
WITHOUT_RIGHT = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]


@pytest.mark.parametrize("drop", [AS_NOBODY, WITHOUT_RIGHT], ids=["nobody", "root-without-net_admin"])
@pytest.mark.parametrize("there", [False, True])
def test_who_may_not_look_is_told_to_be_root_and_never_that_there_is_none(drop, there):
    can = subprocess.run(
        [*drop, sys.executable, "-c", "import qmesh.host.firewall.nftables"], capture_output=True, check=False
    )
    if can.returncode != 0:
        pytest.skip("this machine cannot: nobody may not read this checkout")
    if there:
        load(WORKER)
    told = subprocess.run([*drop, sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)

    assert (
        told.stdout.splitlines()
        == ["NeedsRoot: nftables may not be used by this user -> run the command as root"] * 2
    )


def test_without_the_right_it_cannot_load_here_either():
    nftables.run("list tables")  # the library was used before
    os.seteuid(65534)
    try:
        with pytest.raises(NeedsRoot):
            load(WORKER)
        with pytest.raises(NeedsRoot):
            nftables.read_table(TABLE)
    finally:
        os.seteuid(0)

    assert nftables.read_table(TABLE) is None


def test_without_the_names_of_protocols_it_says_what_to_install():
    # As in a small image of Debian: libnftables depends on no package that has them.
    subprocess.run(["mount", "--bind", "/dev/null", "/etc/protocols"], check=True)
    with pytest.raises(MissingProgram, match="/etc/protocols") as missing:
        load(WORKER)

    assert missing.value.hint == "run `apt-get install netbase`, then the same command again"
    assert nftables.read_table(TABLE) is None


def test_without_the_library_it_says_what_to_install():
    where = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    libraries = [line.split(" => ")[1] for line in where.splitlines() if "libnftables.so.1 " in line]
    assert libraries
    for library in libraries:
        subprocess.run(["mount", "--bind", "/dev/null", library], check=True)
    told = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)

    assert (
        told.stdout.splitlines()
        == [
            (
                "MissingProgram: libnftables is not installed -> run `apt-get install"
                " nftables libnftables1`, then the same command again"
            )
        ]
        * 2
    )
    assert told.stderr == ""


def test_the_boot_guard_is_loaded_by_the_nft_program_as_well():
    program = shutil.which("nft")
    assert program is not None
    for guard in (WORKER, CONTROL, OVER_IPV6, WITHOUT_PORTS):
        subprocess.run([program, "-f", "-"], input=render_load_script(guard), text=True, check=True)

        assert read() == guard
