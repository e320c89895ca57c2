from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import KernelRefused, NeedsRoot, StateUnreadable
from qmesh.host import wireguard
from qmesh.host.firewall import holder_client, nftables
from qmesh.host.linux import Linux
from qmesh.host.network import links
from qmesh.host.state.directory import State
from qmesh.host.wireguard import uapi
from qmesh.mesh.guard.scripts import render_load_script
from qmesh.mesh.guard.tables import TABLE
from qmesh.mesh.plan.compare import plan_steps, strip_open_endpoints
from qmesh.mesh.plan.describe import describe_step
from qmesh.mesh.plan.simulate import simulate_step
from qmesh.mesh.plan.steps import CreateTunnel, SetKey, SetPeer, Step
from qmesh.mesh.protocol.enrolment import derive_public_key
from qmesh.mesh.state import AlteredGuard, Guard, NodeState, Peer, Tunnel, list_address_routes
from qmesh.mesh.values import Endpoint, InterfaceKind, Secret
from tests.support import factories
from tests.support.keeping import unkept
from tests.support.network import ip, nft
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.usefixtures("own_machine")]

NAME = "qmesh0"
NOTHING = NodeState(guard=None, tunnel=None)
WITHOUT_RIGHT = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")


def key(number: int) -> Secret:
    return Secret(factories.key(number))


OWN, OTHER = key(7), key(8)
PEERS = tuple(
    sorted(
        (
            Peer(
                public_key=derive_public_key(key(100 + number)),
                allowed_ips=(f"10.77.0.{number + 2}/32",),
                endpoint=Endpoint("203.0.113.5", 51820 + number) if number % 2 else None,
                preshared_key=key(200 + number) if number % 3 else None,
                keepalive_s=25 if number % 2 else 0,
            )
            for number in range(5)
        ),
        key=lambda peer: peer.public_key,
    )
)


def wanted_here() -> NodeState:
    """A control node with guard, reserved ports and a tunnel of the kind that this machine can have."""
    kind = wireguard.detect_tunnel_kind()
    return NodeState(guard=guard(kind), tunnel=tunnel(kind), reserved_ports=(40000, 40001, 40003))


def guard(kind: InterfaceKind) -> Guard:
    return factories.guard(40000, 40001, 40003, role="control", kind=kind, service_port=51820)


def tunnel(kind: InterfaceKind) -> Tunnel:
    return factories.tunnel(*PEERS, kind=kind, public_key=derive_public_key(OWN))


@pytest.fixture
def a_tunnel_can_be_made():
    if not Path("/dev/net/tun").exists():
        pytest.skip("this machine cannot: it has no /dev/net/tun")


pytestmark.append(pytest.mark.usefixtures("a_tunnel_can_be_made"))


def machine(state: State, *keys: Secret) -> Linux:
    return Linux(state, NAME, keys or (OWN,))


def converge(linux: Linux, wanted: NodeState) -> list[str]:
    """Take the steps to `wanted`, after each of which the machine is as the pure model says; their kinds."""
    steps = plan_steps(wanted, linux.observe())
    for step in steps:
        take(linux, step)
    found = linux.observe()

    assert strip_open_endpoints(wanted, found) == wanted
    assert plan_steps(wanted, found) == ()
    return [step.kind for step in steps]


def take(linux: Linux, step: Step) -> None:
    expected = simulate_step(linux.observe(), step)
    linux.apply(step)
    found = linux.observe()
    if isinstance(step, CreateTunnel):
        # What a new device is like is not known beforehand: an MTU, and a listen port of its own choice.
        assert found.tunnel is not None
        assert (found.tunnel.public_key, found.tunnel.peers, found.tunnel.up) == (None, (), False)
    else:
        assert found == expected


def test_on_a_fresh_machine_there_is_nothing(state):
    assert machine(state).observe() == NOTHING
    assert list(state.directory.iterdir()) == []


def test_what_was_planned_and_done_is_observed_and_leaves_nothing_to_do(state):
    linux, wanted = machine(state), wanted_here()
    kinds = converge(linux, wanted)

    assert kinds[:3] == ["load-guard", "reserve-ports", "create-tunnel"]
    assert kinds[-1] == "set-up"
    assert converge(linux, wanted) == []


def test_another_process_observes_the_same(state):
    wanted = wanted_here()
    assert wanted.tunnel is not None
    converge(machine(state), wanted)

    assert converge(machine(State(state.directory)), wanted) == []
    assert machine(state).backend.kind == wanted.tunnel.kind


@pytest.mark.emulated
def test_and_back_to_nothing_the_guard_last(state):
    linux = machine(state)
    converge(linux, wanted_here())
    kinds = converge(linux, NOTHING)

    assert kinds == ["reserve-ports", "delete-tunnel", "unload-guard"]
    assert links.read(NAME) is None
    assert not uapi.socket_path(NAME).exists()
    assert nftables.run("list ruleset") == ""
    assert RESERVED.read_text().strip() == ""
    assert {path.name for path in state.directory.iterdir()} == {"agent.log", "hold.lock"}


def test_a_worker_machine_over_ipv6(state):
    own = ("fd12:3456:789a::2/64",)
    wanted = wanted_here()
    assert isinstance(wanted.guard, Guard)
    assert wanted.tunnel is not None
    hub = msgspec.structs.replace(PEERS[0], allowed_ips=("fd12:3456:789a::1/128",), keepalive_s=25)
    wanted = NodeState(
        guard=msgspec.structs.replace(wanted.guard, role="worker", control_address="fd12:3456:789a::1"),
        tunnel=msgspec.structs.replace(
            wanted.tunnel, addresses=own, routes=list_address_routes(own), peers=(hub,)
        ),
        reserved_ports=(40003,),
    )
    linux = machine(state)

    assert "load-guard" in converge(linux, wanted)
    assert converge(linux, wanted) == []


def test_the_boot_guard_is_on_disk_while_the_guard_is_wanted(state):
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    nft("flush ruleset")
    subprocess.run(["nft", "-f", state.guard_file], check=True)

    assert linux.observe().guard == wanted.guard
    assert state.guard_file.stat().st_mode & 0o777 == 0o600

    converge(linux, msgspec.structs.replace(wanted, guard=None))

    assert not state.guard_file.exists()


def test_g3_a_guard_that_the_kernel_refuses_is_on_disk_all_the_same(state):
    wanted = wanted_here()
    assert isinstance(wanted.guard, Guard)
    # Without the network administrator's capability, root still writes files.
    code = (
        "import sys, msgspec; from pathlib import Path; from qmesh.host.linux import Linux;"
        "from qmesh.host.state.directory import State; from qmesh.mesh.plan.steps import LoadGuard;"
        "from qmesh.mesh.state import Guard; guard = msgspec.json.decode(sys.argv[2], type=Guard);"
        "Linux(State(Path(sys.argv[1])), 'qmesh0', ()).apply(LoadGuard(None, guard))"
    )
    ended = subprocess.run(
        [*WITHOUT_RIGHT, sys.executable, "-c", code, state.directory, msgspec.json.encode(wanted.guard)],
        text=True,
        capture_output=True,
        check=False,
    )

    assert "NeedsRoot: nftables may not be used by this user" in ended.stderr
    assert nftables.read_table(TABLE) is None
    assert state.guard_file.read_text() == render_load_script(wanted.guard)


def wg(*words: str) -> None:
    subprocess.run(["wg", "set", NAME, *words], check=True)


def cleared_preshared_key() -> None:
    peer = next(peer for peer in PEERS if peer.preshared_key is not None)
    wg("peer", peer.public_key, "preshared-key", "/dev/null")


def another_key() -> None:
    Path("/run/key").write_text(OTHER.reveal())
    wg("private-key", "/run/key")


def allowed_ips_of(peers: Iterable[Peer]) -> list[str]:
    return [network for peer in peers for network in peer.allowed_ips]


ANEW = ["create-tunnel", "set-key", "set-listen-port", "add-address", *["set-peer"] * 5, "set-up"]
DRIFT: dict[str, tuple[Callable[[], object], list[str]]] = {
    "address-removed": (lambda: ip("address", "delete", "10.77.0.1/20", "dev", NAME), ["add-address"]),
    "address-added": (
        lambda: ip("address", "add", "10.88.0.1/24", "dev", NAME),
        ["remove-address", "remove-address", "add-address"],
    ),
    "down": (lambda: ip("link", "set", NAME, "down"), ["set-up"]),
    "route-removed": (lambda: ip("route", "delete", "10.77.0.0/20", "dev", NAME), ["add-route"]),
    "routes-flushed": (
        lambda: (ip("route", "flush", "dev", NAME), ip("route", "flush", "table", "local", "dev", NAME)),
        ["add-route", "add-route"],
    ),
    "route-replaced": (
        lambda: ip("route", "replace", "10.77.0.0/20", "dev", "lo"),
        ["add-route"],
    ),
    "route-black": (lambda: ip("route", "replace", "blackhole", "10.77.0.0/20"), ["add-route"]),
    "route-with-a-router": (
        lambda: ip("route", "replace", "10.77.0.0/20", "via", "10.77.0.9", "dev", NAME, "onlink"),
        ["remove-route", "add-route"],
    ),
    "route-with-another-source": (
        lambda: (
            ip("address", "add", "192.0.2.9/32", "dev", "lo"),
            ip("route", "replace", "10.77.0.0/20", "dev", NAME, "src", "192.0.2.9"),
        ),
        ["remove-route", "add-route"],
    ),
    "route-of-another-network": (
        lambda: ip("route", "add", "192.0.2.0/24", "dev", NAME, "metric", "50"),
        ["remove-route"],
    ),
    "default-route": (lambda: ip("route", "add", "default", "dev", NAME), ["remove-route"]),
    "mtu": (lambda: ip("link", "set", NAME, "mtu", "1280"), ["set-mtu"]),
    "guard-flushed": (lambda: nft("flush ruleset"), ["load-guard"]),
    "guard-opened": (lambda: nft("insert rule inet qmesh closed_port accept"), ["load-guard"]),
    "guard-port-lost": (
        lambda: nft("delete element inet qmesh closed_ports { 40003 }"),
        ["load-guard"],
    ),
    "guard-asleep": (lambda: nft("add table inet qmesh { flags dormant; }"), ["load-guard"]),
    "ports-given-back": (lambda: RESERVED.write_text("\n"), ["reserve-ports"]),
    "interface-deleted": (lambda: ip("link", "delete", NAME), ANEW),
    "peer-removed": (lambda: wg("peer", PEERS[0].public_key, "remove"), ["set-peer"]),
    "peer-added": (
        lambda: wg("peer", derive_public_key(OTHER), "allowed-ips", "10.77.9.9/32"),
        ["remove-peer"],
    ),
    "allowed-ips-stolen": (
        lambda: wg("peer", PEERS[0].public_key, "allowed-ips", ",".join(allowed_ips_of(PEERS[:2]))),
        ["set-peer", "set-peer"],
    ),
    "allowed-ips-widened": (
        lambda: wg("peer", PEERS[0].public_key, "allowed-ips", "0.0.0.0/0"),
        ["set-peer"],
    ),
    "preshared-key-cleared": (cleared_preshared_key, ["set-peer"]),
    "listen-port": (lambda: wg("listen-port", "51999"), ["set-listen-port"]),
    "another-key": (another_key, ["set-key"]),
}


@pytest.mark.parametrize(("drift", "cure"), DRIFT.values(), ids=DRIFT.keys())
def test_drift_is_seen_and_repaired_and_nothing_else_is_touched(state, drift, cure):
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    of_guard = cure == ["load-guard"]
    with unkept(state) if of_guard else contextlib.nullcontext():
        drift()
        found = linux.observe()

    assert strip_open_endpoints(wanted, found) != wanted

    kinds = converge(linux, wanted)

    # A new device may choose its MTU, and with it whether that has to be set.
    assert [kind for kind in kinds if kind != "set-mtu" or cure == ["set-mtu"]] == cure


def test_a_route_beside_the_tunnels_own_is_no_drift(state):
    """One by another metric, one in another table: none of them takes the place of the kernel's."""
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    ip("route", "add", "10.77.0.0/20", "dev", NAME, "metric", "50")
    ip("route", "add", "10.77.0.0/20", "dev", NAME, "table", "52")
    assert plan_steps(wanted, linux.observe()) == ()

    ip("route", "delete", "10.77.0.0/20", "dev", NAME, "proto", "kernel")  # as NetworkManager has them
    assert plan_steps(wanted, linux.observe()) == ()


@pytest.mark.parametrize(
    ("drift", "kinds"),
    [
        (["route", "delete", "fd12:3456:789a::/64"], ["add-route"]),
        (["route", "delete", "local", "fd12:3456:789a::2", "table", "local"], ["add-route"]),
        (["route", "add", "fd12:3456:789a::7", "dev", NAME, "metric", "7"], ["remove-route"]),
        (["route", "add", "blackhole", "fd12:3456:789a::/64"], []),
    ],
)
def test_routes_of_ipv6_are_seen_and_repaired(state, drift, kinds):
    linux, wanted = machine(state), wanted_here()
    assert wanted.tunnel is not None
    own = ("fd12:3456:789a::2/64",)
    wanted = msgspec.structs.replace(
        wanted,
        tunnel=msgspec.structs.replace(wanted.tunnel, addresses=own, routes=list_address_routes(own)),
    )
    converge(linux, wanted)
    ip("-6", *drift)

    assert converge(linux, wanted) == kinds


def test_of_an_address_that_goes_no_route_is_left(state):
    """Not even one that was added in place of the kernel's, which the kernel leaves where it is."""
    linux, wanted = machine(state), wanted_here()
    assert wanted.tunnel is not None
    first, second = (
        msgspec.structs.replace(
            wanted,
            tunnel=msgspec.structs.replace(wanted.tunnel, addresses=own, routes=list_address_routes(own)),
        )
        for own in (("fd12:3456:789a::2/64",), ("fd12:3456:789a::3/64",))
    )
    converge(linux, first)
    ip("-6", "route", "delete", "local", "fd12:3456:789a::2", "table", "local")
    assert converge(linux, first) == ["add-route"]
    assert converge(linux, second) == ["remove-address", "add-address"]
    assert "789a::2" not in ip("-6", "route", "show", "table", "all", "dev", NAME)


@pytest.mark.parametrize("is_held", [True, False])
def test_the_tunnel_is_begun_when_the_ports_are_closed_while_the_guard_is_taken_in_hand(
    state, monkeypatch, is_held
):
    """And where nobody takes it in hand, the machine has no tunnel."""
    linux, wanted = machine(state), wanted_here()
    hold, seen = holder_client.hold_saved_guard, []

    def held(of: State) -> None:
        seen.append((nftables.read_table(TABLE) is not None, list(linux.backend.__dict__.get("_begun", {}))))
        if not is_held:
            raise KernelRefused("nobody holds it", hint="try again")
        hold(of)

    monkeypatch.setattr(holder_client, "hold_saved_guard", held)
    steps = plan_steps(wanted, linux.observe())
    with contextlib.nullcontext() if is_held else pytest.raises(KernelRefused, match="nobody holds it"):
        linux.apply(*steps)

    assert seen == [(True, [NAME] if linux.backend.kind == "tun" else [])]
    assert (links.read(NAME) is not None) == is_held
    if is_held:
        assert plan_steps(wanted, linux.observe()) == ()
    else:
        wait_until(lambda: not uapi.is_responding(NAME))


def test_a_guard_that_somebody_changed_is_observed_as_it_is(state):
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    with unkept(state):
        nft("add rule inet qmesh closed_port accept")
        found = linux.observe().guard

        assert isinstance(found, AlteredGuard)
        assert found.text == nftables.read_table(TABLE)


def test_an_endpoint_that_is_left_open_is_no_drift(state):
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    roaming = next(peer for peer in PEERS if peer.endpoint is None)
    wg("peer", roaming.public_key, "endpoint", "198.51.100.9:4242")

    assert plan_steps(wanted, linux.observe()) == ()


def test_the_guard_stays_while_the_tunnel_goes(state):
    linux, wanted = machine(state), wanted_here()
    converge(linux, wanted)
    kinds = converge(linux, msgspec.structs.replace(wanted, tunnel=None))

    assert kinds == ["delete-tunnel"]
    assert linux.observe().guard == wanted.guard


@pytest.mark.parametrize("public_key", [derive_public_key(OTHER), None])
def test_a_key_that_is_not_known_is_refused_and_none_is_set(state, public_key):
    linux = machine(state, OWN)
    linux.apply(CreateTunnel(NAME, wireguard.detect_tunnel_kind()))

    with pytest.raises(StateUnreadable, match="is not the one that the mesh knows") as refused:
        linux.apply(SetKey(NAME, None, public_key))

    assert str(state.keys.private_file) in refused.value.message
    assert linux.backend.read(NAME).public_key is None


def test_one_of_several_keys_is_found_by_its_public_key(state):
    linux = machine(state, OTHER, OWN)
    linux.apply(CreateTunnel(NAME, wireguard.detect_tunnel_kind()))
    for secret in (OWN, OTHER):
        linux.apply(SetKey(NAME, None, derive_public_key(secret)))

        assert linux.backend.read(NAME).public_key == derive_public_key(secret)


def test_a_step_for_a_tunnel_that_is_not_there_is_refused(state):
    linux = machine(state)
    for step in plan_steps(wanted_here(), NOTHING):
        if step.kind not in {"load-guard", "reserve-ports", "create-tunnel", "delete-tunnel"}:
            with pytest.raises(KernelRefused):
                linux.apply(step)
    assert linux.observe() == NOTHING


def test_somebody_elses_interface_is_refused_and_left_alone(state):
    ip("link", "add", NAME, "type", "veth", "peer", "name", "other")

    with pytest.raises(KernelRefused, match="is a veth interface"):
        machine(state).observe()
    found = links.read(NAME)

    assert found is not None
    assert found.kind == "veth"


def test_what_cannot_be_looked_at_is_an_error_and_never_nothing(state):
    linux = machine(state)
    converge(linux, wanted_here())
    os.seteuid(65534)
    try:
        with pytest.raises(NeedsRoot):
            linux.observe()
    finally:
        os.seteuid(0)


def test_thousands_of_ports_and_hundreds_of_peers(state):
    wanted = wanted_here()
    assert isinstance(wanted.guard, Guard)
    assert wanted.tunnel is not None
    peers = tuple(
        Peer(
            public_key=key(1000 + number).reveal(),
            allowed_ips=(f"10.77.{1 + (number >> 8)}.{number & 255}/32",),
        )
        for number in range(300)
    )
    ports = tuple(range(40000, 45000))
    wanted = NodeState(
        guard=msgspec.structs.replace(wanted.guard, ports=ports),
        tunnel=msgspec.structs.replace(
            wanted.tunnel, peers=tuple(sorted(peers, key=lambda peer: peer.public_key))
        ),
        reserved_ports=ports,
    )
    linux = machine(state)
    for step in plan_steps(wanted, linux.observe()):
        linux.apply(step)

    assert linux.observe() == wanted
    assert plan_steps(wanted, linux.observe()) == ()


def test_no_step_that_is_printed_shows_a_key(state):
    linux, wanted = machine(state), wanted_here()
    steps = plan_steps(wanted, linux.observe())
    text = "".join(f"{step!r} {step.kind} {step.subject} {describe_step(step)}" for step in steps) + repr(
        wanted
    )

    assert any(isinstance(step, SetPeer) for step in steps)
    for secret in (OWN, *(peer.preshared_key for peer in PEERS if peer.preshared_key)):
        assert secret.reveal() not in text
