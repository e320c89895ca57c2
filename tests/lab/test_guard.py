"""The guard's promises, packet by packet, against the kernel's nftables and a real WireGuard tunnel.

A packet that does not arrive shows nothing by itself. So each hostile probe is made three times:
without the guard, when it must arrive; with it, when it must not; and with it to a port of no
worker, the worker ports' neighbour, where it must arrive.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from qmesh.mesh.guard.parse import parse_table
from qmesh.mesh.guard.scripts import render_change_script, render_load_script
from qmesh.mesh.state import AlteredGuard, Guard
from tests.support.lab import attack
from tests.support.lab.machines import Machine, Running
from tests.support.lab.matrix.arrangements import MASQUERADE
from tests.support.lab.mesh import (
    ADDRESSES,
    CONTROL,
    CONTROL6,
    GUARDED,
    GUARDS,
    LAST_WORKER,
    LISTEN,
    MEMBER_BY_HUB,
    MEMBERSHIP,
    NEIGHBOUR,
    PORTS,
    PROTOCOLS,
    SILENT_WORKER,
    SSH,
    USER,
    WORKER,
    WORKER_BY_HUB,
    Mesh,
    all_arrived,
    nft,
)
from tests.support.lab.probe import (
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    Attempt,
    Listeners,
    Probe,
    attempts,
    eventually,
    reach,
)
from tests.support.lab.ways import LAN_WAYS, forged, lan_ways, to_each, without_tunnel
from tests.support.older_guard import as_of_format_1
from tests.support.waiting import Deadline, idle, patience

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("role", ["worker", "control"])
class TestG1FromTheLan:
    def test_g1_a_forged_request_for_a_connection_is_not_answered(self, mesh, role):
        machine = mesh.machines[role]
        made = attack.attempts_on(
            machine, (WORKER, NEIGHBOUR), tunnel_address=ADDRESSES[role][0], control_address=CONTROL
        )
        sent = [attempt for attempt in made if attempt.source]
        # The true control node can then refuse the answers, so that they are not repeated.
        nft(mesh.control, "flush ruleset\n")
        mesh.guard(role)
        told = attack.attack(mesh.attacker, [machine], sent)
        assert {attempt.port for attempt in told if attempt.reached} == {NEIGHBOUR}
        nft(machine, "flush ruleset\n")
        assert all(attempt.reached for attempt in attack.attack(mesh.attacker, [machine], sent))

    @pytest.mark.parametrize("first", ["the worker", "the attacker"])
    @pytest.mark.parametrize("tracked", [True, False], ids=["tracked", "untracked"])
    def test_g1_a_connection_opened_before_the_guard_is_dead(self, mesh, role, tracked, first):
        machine, attacker = mesh.machines[role], mesh.at["attacker"]
        theirs = "chain c { type filter hook input priority 0; ct state established,related accept; }"
        nft(machine, "flush ruleset\n" + (f"table inet theirs {{\n{theirs}\n}}\n" if tracked else ""))
        probes = [
            probe
            for port in (WORKER, NEIGHBOUR)
            for probe in to_each("before", attacker, (machine.ipv4, machine.ipv6), port)
        ]
        with attempts(probes) as opened:
            assert eventually(lambda: all_arrived(mesh, opened))
            mesh.guard(role)
            if first == "the worker":
                for attempt in opened:
                    if attempt.probe.protocol == "tcp":
                        mesh.listeners.say(attempt.line, "news")
                idle(0.05)
            for attempt in opened:
                attempt.send(f"{attempt.line}-again")
            ordinary = [attempt for attempt in opened if attempt.probe.port == NEIGHBOUR]
            assert eventually(lambda: all(again(mesh, attempt) for attempt in ordinary))
            idle(QUIET_SECONDS)
            assert all(again(mesh, a) == (a.probe.port == NEIGHBOUR) for a in opened)


def again(mesh: Mesh, attempt: Attempt) -> bool:
    return mesh.listeners.came(f"{attempt.line}-again")


class TestG1OnAWorkerMachine:
    def test_g1_nobody_behind_a_worker_machine_speaks_in_its_name_through_the_tunnel(self, mesh):
        """The machine forwards and masquerades."""
        nft(mesh.worker, f"table inet theirs {{\n{MASQUERADE}\n}}\n")
        nft(mesh.control, "delete table inet qmesh\n")
        mesh.assert_guarded(
            "worker",
            lambda port: to_each("by a member", mesh.at["container-a"], [CONTROL], port),
            other_port=None,
        )

    def test_g1_a_guarded_hub_forwards_nothing(self, mesh):
        nft(mesh.worker, "delete table inet qmesh\n")
        mesh.assert_guarded(
            "control",
            lambda port: to_each(
                "by the hub", mesh.at["member"], [WORKER_BY_HUB], port, source=MEMBER_BY_HUB
            ),
            other_port=None,
        )

    def test_g1_a_local_user_cannot_hold_a_worker_port_open_for_his_friend(self, mesh):
        """While no worker listens, the user asks for a connection from its port to the friend, who
        does not answer, but asks for one himself when the worker is back: a reply, to conntrack.
        """
        ports, friend = (SILENT_WORKER, NEIGHBOUR + 1), 5555
        holds, friends = (
            [Probe(who, mesh.at[who], "tcp", target, *pair) for pair in pairs]
            for who, target, pairs in (
                ("worker", mesh.attacker.ipv4, [(friend, "", port) for port in ports]),
                ("attacker", mesh.worker.ipv4, [(port, "", friend) for port in ports]),
            )
        )
        silence = f"type filter hook input priority 0; tcp dport {friend} tcp flags & (syn | ack) == syn drop"
        nft(mesh.attacker, f"table inet lab {{\nchain c {{ {silence}; }}\n}}\n")
        try:
            with attempts(holds):
                idle(0.05)
            with Listeners() as late:
                late.listen(mesh.at["worker"], ports)
                assert reach(late, friends, wanted=friends[1:]) == set(friends[1:])
        finally:
            nft(mesh.attacker, "delete table inet lab\n")

    def test_g1_an_interface_of_another_kind_than_the_guard_names_is_not_the_tunnel(self, mesh):
        probes = to_each("control node", mesh.at["control"], ADDRESSES["worker"][:1], WORKER)
        mesh.assert_all_arrive(probes)
        mesh.guard("worker", kind="wireguard")
        assert mesh.arrived(probes) == set()

    @pytest.mark.parametrize("port", GUARDED)
    def test_g2_a_machines_own_connection_that_is_older_than_the_guard_goes_on(self, mesh, port):
        """Also where conntrack has not seen it, and its server is the first to go on."""
        nft(mesh.worker, "flush ruleset\n")
        probes = [
            Probe("own", mesh.at["worker"], "tcp", target, port) for target in ("127.0.0.1", "10.77.0.2")
        ]
        with attempts(probes) as opened:
            assert eventually(lambda: all_arrived(mesh, opened))
            mesh.guard("worker")
            for attempt in opened:
                mesh.listeners.say(attempt.line, "news")
            assert eventually(lambda: all("news" in attempt.received() for attempt in opened))


class TestG1OnTheControlMachine:
    def test_g1_members_reach_the_membership_service_and_nothing_else_of_it(self, mesh):
        service = [
            Probe("member", mesh.at[name], "tcp", CONTROL, MEMBERSHIP) for name in ("member", "worker")
        ]
        others = [
            probe
            for name in ("member", "worker")
            for port in (SSH, NEIGHBOUR, MEMBERSHIP)
            for probe in to_each("member", mesh.at[name], ADDRESSES["control"], port)
            if probe not in service
        ]
        assert mesh.arrived([*service, *others], service) == set(map(str, service))
        nft(mesh.control, "delete table inet qmesh\n")
        mesh.assert_all_arrive([*service, *others])


@contextlib.contextmanager
def reloading(machine: Machine, guard: Guard, between: str = "") -> Iterator[Running]:
    """The guard is loaded again and again meanwhile."""
    machine.write("/root/guard.nft", render_load_script(guard))
    loop = machine.start(["sh", "-c", f"while {between} nft -f /root/guard.nft; do echo reloaded; done"])
    loop.wait_for("reloaded")
    try:
        yield loop
    finally:
        loop.stop()


def reloads(loop: Running) -> int:
    return loop.output().count("reloaded")


def flood(mesh: Mesh, port: int, enough: Callable[[], bool]) -> bool:
    """Whether one of very many packets to a port of the worker machine arrives, until it is enough."""
    word, attacker = f"flood-{time.monotonic_ns()}", mesh.at["attacker"]
    probes = [Probe("flood", attacker, "tcp", mesh.worker.ipv4, port)] * 20
    with attacker.socket("udp", socket.AF_INET) as sender:
        while not enough():
            with attempts(probes) as made:
                for _ in range(300):
                    with contextlib.suppress(BlockingIOError):
                        sender.sendto(f"{word}\n".encode(), (mesh.worker.ipv4, port))
                for attempt in made:
                    attempt.push()
                if any(attempt.touched for attempt in made):
                    return True
    idle(QUIET_SECONDS)
    return mesh.listeners.came(word)


class TestG3WhileTheGuardIsReplaced:
    def test_g3_not_one_packet_gets_through(self, mesh):
        with reloading(mesh.worker, GUARDS["worker"]) as loop:
            assert not flood(mesh, WORKER, lambda: reloads(loop) > 150)
            assert flood(mesh, NEIGHBOUR, Deadline(10).is_over)

    def test_g3_a_moment_without_the_guard_would_have_been_found(self, mesh):
        with reloading(mesh.worker, GUARDS["worker"], "nft delete table inet qmesh &&"):
            assert flood(mesh, WORKER, Deadline(10).is_over)

    def test_g2_the_control_nodes_connections_live_and_new_ones_come_about(self, mesh):
        def fresh() -> list[Probe]:
            return to_each("control node", mesh.at["control"], ["10.77.0.2"], LAST_WORKER)

        with attempts(to_each("lasting", mesh.at["control"], ["10.77.0.2"], WORKER)) as lasting:
            assert eventually(lambda: all_arrived(mesh, lasting))
            with reloading(mesh.worker, GUARDS["worker"]) as loop, reloading(mesh.control, GUARDS["control"]):
                while reloads(loop) < 60:
                    mesh.assert_all_arrive(fresh())
                    lines = {attempt: f"{attempt.line}-{time.monotonic_ns()}" for attempt in lasting}
                    for attempt, line in lines.items():
                        attempt.send(line)
                    # A datagram is sent once: were one packet dropped, it would not come.
                    assert eventually(lambda lines=lines: all(map(mesh.listeners.came, lines.values())))

    def test_g2_the_control_machines_own_processes_go_on(self, mesh):
        with reloading(mesh.control, GUARDS["control"]) as loop:
            while reloads(loop) < 30:
                mesh.assert_all_arrive(to_each("own", mesh.at["control"], ("127.0.0.1", CONTROL), WORKER))


class TestG2NothingElseChanges:
    def test_g2_in_a_mesh_of_ipv6_as_well_and_g1_there(self, mesh):
        for role in GUARDS:
            mesh.guard(role, control_address=CONTROL6)
        let_in = [*to_each("control node", mesh.at["control"], ["fd77::2"], WORKER),
                  *to_each("own", mesh.at["control"], ["fd77::1", "127.0.0.1"], WORKER),
                  Probe("member", mesh.at["member"], "tcp", CONTROL6, MEMBERSHIP)]  # fmt: skip
        kept_out = [
            *to_each("control node", mesh.at["control"], ["10.77.0.2"], WORKER),
            *to_each("member", mesh.at["member"], ADDRESSES["worker"], WORKER),
            *forged(mesh.at["attacker"], (f"{mesh.worker.ipv6}", "fd77::2"), WORKER),
            Probe("member", mesh.at["member"], "tcp", CONTROL6, SSH),
        ]
        assert mesh.arrived([*let_in, *kept_out], let_in) == set(map(str, let_in))

    @pytest.mark.parametrize("role", ["worker", "control"])
    def test_g2_ssh_is_never_cut(self, mesh, role):
        ways = lan_ways(mesh.at["attacker"], mesh.machines[role], role)
        own = to_each("own", mesh.at[role], ("127.0.0.1", "::1", mesh.machines[role].ipv4), SSH)
        probes = [*own, *(probe for way in LAN_WAYS for probe in ways[way](SSH))]
        mesh.assert_all_arrive(probes)
        without = [*own, *(probe for way in LAN_WAYS if way != "tunnel address" for probe in ways[way](SSH))]
        with without_tunnel(mesh, role):
            mesh.assert_all_arrive(without)

    def test_g2_a_containers_masqueraded_connection_may_leave_from_a_worker_port(self, mesh):
        rule = 'type nat hook postrouting priority srcnat; oifname "eth0" masquerade'
        nft(mesh.worker, f"table inet theirs {{\nchain c {{ {rule}; }}\n}}\n")
        targets = (mesh.attacker.ipv4, f"{mesh.attacker.ipv6}")
        probes = [
            Probe("outward", mesh.at["container-a"], protocol, target, SSH, source_port=SILENT_WORKER)
            for target, protocol in itertools.product(targets, PROTOCOLS)
        ]
        for line in assert_answered(mesh, probes):
            assert mesh.listeners.seen[line] == {"attacker": SILENT_WORKER}

    @pytest.mark.parametrize("role", ["worker", "control"])
    def test_g2_echo_requests_are_answered(self, mesh, role):
        machine = mesh.machines[role]
        for target in (machine.ipv4, f"{machine.ipv6}", f"{machine.link_local}%eth0"):
            assert mesh.at["attacker"].ping(target)
        other = mesh.at["control" if role == "worker" else "worker"]
        for target in ADDRESSES[role]:
            assert other.ping(target)
            assert mesh.at["member"].ping(target)

    @pytest.mark.parametrize("role", ["worker", "control"])
    def test_g2_ipv6_neighbours_find_each_other(self, mesh, role):
        for one, other in itertools.permutations((role, "attacker")):
            for both in (one, other):
                mesh.machines[both].run(["ip", "-6", "neigh", "flush", "dev", "eth0"])
            assert mesh.at[one].ping(f"{mesh.machines[other].ipv6}")
            assert mesh.at[one].ping(f"{mesh.machines[other].link_local}%eth0")

    @pytest.mark.parametrize("target", [CONTROL, CONTROL6])
    def test_g2_the_path_mtu_is_learnt_through_the_tunnel(self, mesh, target):
        for family in ("-4", "-6"):
            mesh.worker.run(["ip", family, "route", "flush", "cache"])
        with attempts([Probe("outward", mesh.at["worker"], "udp", target, NEIGHBOUR)]) as (attempt,):
            attempt.push()
            assert attempt.path_mtu() == 1420
            attempt.too_big(mesh.at["control"], 1300)
            assert eventually(lambda: attempt.path_mtu() == 1300)

    def test_g2_wireguards_own_port_stays_open_though_it_were_a_workers(self, mesh):
        ports = (*PORTS, LISTEN)
        try:
            mesh.guard("worker", ports=ports, listen_port=1)
            mesh.control.run(["wg", "set", "qmesh0", "listen-port", "51901"])
            assert not mesh.at["control"].ping("10.77.0.2", seconds=QUIET_SECONDS)
            mesh.guard("worker", ports=ports)
            mesh.control.run(["wg", "set", "qmesh0", "listen-port", "51902"])
            assert mesh.at["control"].ping("10.77.0.2")
        finally:
            mesh.settle()
            mesh.control.run(["wg", "set", "qmesh0", "listen-port", f"{LISTEN}"])
            for peer in ("10.77.0.2", "10.77.0.3"):  # each learns where the control node is from its packets
                assert mesh.at["control"].ping(peer)


USERS, ROOTS = 9378, 9379
"""Ports of servers on the control machine: a user's, and root's."""
SERVING = ("fin-wait-1", "fin-wait-2", "close-wait", "closing", "last-ack")
"""How a connection is that one side alone has ended."""


def half_open(machine: Machine) -> str:
    """Connections with the service that one side alone has ended."""
    states = [word for state in SERVING for word in ("state", state)]
    where = f"( sport = :{MEMBERSHIP} or dport = :{MEMBERSHIP} )"
    return machine.run(["ss", "-Htn", *states, where]).stdout


class TestG5TheServiceIsRoots:
    @pytest.mark.parametrize("role", ["worker", "control"])
    def test_g5_a_users_connection_that_is_older_than_the_guard_is_dead(self, mesh, role):
        nft(mesh.machines[role], "delete table inet qmesh\n")
        probes = [Probe("own", mesh.at[role], "tcp", CONTROL, MEMBERSHIP, user=user) for user in (0, USER)]
        with attempts(probes) as opened:
            assert eventually(lambda: all_arrived(mesh, opened))
            mesh.guard(role)
            for attempt in opened:
                attempt.send(f"{attempt.line}-again")
            roots, users = opened
            assert eventually(lambda: again(mesh, roots))
            idle(QUIET_SECONDS)
            assert not again(mesh, users)

    def test_g5_a_user_who_has_the_services_port_cannot_answer_as_the_service(self, mesh):
        """As while the agent restarts: whoever keeps the port is asked by every member."""
        with Listeners() as late:
            late.listen(mesh.at["control"], [USERS], user=USER)
            late.listen(mesh.at["control"], [ROOTS])
            for port, wanted in ((ROOTS, True), (USERS, False)):
                probe = Probe("member", mesh.at["member"], "tcp", CONTROL, port)
                nft(mesh.control, "delete table inet qmesh\n")
                assert reach(late, [probe], wanted=[probe]) == {probe}
                mesh.guard("control", service_port=port)
                assert reach(late, [probe], wanted=[probe] if wanted else []) == (
                    {probe} if wanted else set()
                )

    @pytest.mark.parametrize("role", ["worker", "control"])
    @pytest.mark.parametrize("cookies", ["1", "2"], ids=["", "syn cookies"])
    def test_g5_roots_connections_begin_and_end_as_any(self, mesh, role, cookies):
        """The last packets of a connection are of no socket any more, and so of no user."""
        mesh.control.run(["sysctl", "-qw", f"net.ipv4.tcp_syncookies={cookies}"])
        try:
            probes = [Probe("own", mesh.at[role], "tcp", CONTROL, MEMBERSHIP)] * 20
            assert_answered(mesh, probes)
            assert eventually(lambda: not half_open(mesh.machines[role]) and not half_open(mesh.control))
        finally:
            mesh.control.run(["sysctl", "-qw", "net.ipv4.tcp_syncookies=1"])

    def test_g5_a_connection_that_the_kernel_opens_for_a_user_is_none_of_roots(self, mesh):
        """A user's friend has the kernel open a subflow of MPTCP to the service: no user is known of it."""
        mesh.guard("worker", service_port=ROOTS)
        mesh.worker.run(["ip", "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2"])
        mesh.attacker.run(["ip", "mptcp", "limits", "set", "subflow", "2"])
        mesh.attacker.run(["ip", "mptcp", "endpoint", "add", CONTROL, "signal"])
        sockets = [
            mesh.at[name].socket("tcp", socket.AF_INET, user, MPTCP)
            for name, user in (("attacker", 0), ("worker", USER))
        ]
        with sockets[0] as friend, sockets[1] as user:
            friend.bind((mesh.attacker.ipv4, ROOTS))
            friend.listen()
            user.connect_ex((mesh.attacker.ipv4, ROOTS))
            friend.settimeout(patience(PATIENCE_SECONDS))
            with friend.accept()[0]:
                assert eventually(lambda: dropped(mesh.worker, "tcp flags syn") > 0)
        assert dropped(mesh.worker, "meta skuid != 0") == 0

    def test_g5_a_member_that_opens_connections_without_end_is_slowed_and_no_other_is(self, mesh):
        flood = [Probe("flood", mesh.at["member"], "tcp", CONTROL, MEMBERSHIP)] * 300
        other = Probe("other", mesh.at["worker"], "tcp", CONTROL, MEMBERSHIP)
        with attempts(flood) as made:
            assert mesh.arrived([other], [other]) == {str(other)}
            idle(QUIET_SECONDS)
            for attempt in made:
                attempt.push()
            assert 20 <= sum(attempt.touched for attempt in made) <= 100
        assert (
            parse_table(mesh.control.run(["nft", "-s", "list", "table", "inet", "qmesh"]).stdout)
            == GUARDS["control"]
        )
        nft(mesh.control, "delete table inet qmesh\n")
        with attempts(flood) as made:
            assert eventually(lambda: all_arrived(mesh, made))

    @pytest.mark.parametrize("role", ["worker", "control"])
    def test_g5_an_older_guard_is_replaced_and_users_are_kept_out_from_then_on(self, mesh, role):
        script = as_of_format_1(render_load_script(GUARDS[role]))
        nft(mesh.machines[role], "flush ruleset\n" + script)
        old = parse_table(mesh.machines[role].run(["nft", "-s", "list", "table", "inet", "qmesh"]).stdout)
        assert isinstance(old, AlteredGuard)
        probe = Probe("user", mesh.at[role], "tcp", CONTROL, MEMBERSHIP, user=USER)
        mesh.assert_all_arrive([probe])
        nft(mesh.machines[role], render_change_script(old, GUARDS[role]))
        assert mesh.arrived([probe]) == set()


MPTCP = 262


def dropped(machine: Machine, rule: str) -> int:
    """Packets that a rule of the chain `asks_service` has dropped."""
    listed = machine.run(["nft", "list", "chain", "inet", "qmesh", "asks_service"]).stdout
    found = re.search(rf"{re.escape(rule)} counter packets (\d+)", listed)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("role", ["worker", "control"])
def test_the_kernel_gives_back_the_guard_that_was_loaded(mesh, role):
    assert (
        parse_table(mesh.machines[role].run(["nft", "-s", "list", "table", "inet", "qmesh"]).stdout)
        == GUARDS[role]
    )


def assert_answered(mesh: Mesh, probes: list[Probe]) -> list[str]:
    """That each probe gets its answer; returns their lines."""
    with attempts(probes) as made:
        assert eventually(lambda: all_arrived(mesh, made))
        assert all(eventually(lambda attempt=attempt: attempt.line in attempt.received()) for attempt in made)
        return [attempt.line for attempt in made]
