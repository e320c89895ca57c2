"""WireGuard for thousands: one member more, all of them at first, and a look at them."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, paired, seconds

from qmesh.agent.converge import desired_and_observed
from qmesh.agent.daemon.observe import MachineWatch
from qmesh.agent.local import linux_for, load_local
from qmesh.host import wireguard
from qmesh.host.state.directory import State
from qmesh.mesh.plan.compare import peer_steps
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.state import Peer
from qmesh.mesh.values import Secret

CONFIGURATION = Path("/run/wg.conf")


def figures(members: int, runs: int) -> list[Figure]:
    """All rows of the backend that this machine has, for so many members."""
    how = "kernel" if wireguard.detect_tunnel_kind() == "wireguard" else "userspace"
    state = sample.control_node(members)
    first = first_apply(state, members, how, runs)
    # No audit meanwhile: how often there is one is another row's.
    with MachineWatch(state, audit_s=lambda _: math.inf) as watch:
        while watch.converge_machine()[1]:
            pass
        one = one_member(state, watch, members, how, runs)
    return [*one, *first, observe(state, members, how, runs)]


def one_member(state: State, watch: MachineWatch, members: int, how: str, runs: int) -> list[Figure]:
    """A machine is invited; the agent learns of it, plans and applies."""
    own: list[float] = []
    peers = wireguard.find_backend(sample.INTERFACE).read(sample.INTERFACE).peers

    def ours(run: int) -> float:
        sample.invite(state, f"new-{run}")
        return seconds(look)

    def look() -> None:
        began = time.thread_time()
        _, steps = watch.converge_machine()
        own.append(time.thread_time() - began)
        assert [step.kind for step in steps] == ["set-peer"], steps

    def theirs(run: int) -> float:
        # The same work for `wg`: a file of all, with one that is not yet there.
        extra = Peer(public_key=sample.key(10**7 + run), allowed_ips=(f"10.65.0.{run + 1}/32",))
        CONFIGURATION.write_text(configuration([*there(), extra]))
        taken = seconds(lambda: wg("syncconf", sample.INTERFACE, str(CONFIGURATION)))
        wireguard.find_backend(sample.INTERFACE).remove_peers(sample.INTERFACE, [extra.public_key])
        return taken

    def there() -> tuple[Peer, ...]:
        return wireguard.find_backend(sample.INTERFACE).read(sample.INTERFACE).peers

    assert len(peers) == members
    wall, syncconf = paired(runs, ours, theirs)
    own.sort()
    size = f"{members:,}"
    limit = "< 20 ms, and < `wg syncconf`"
    kept = wall < 0.020 and wall < syncconf
    return [
        Figure(
            f"one member more, {how}",
            size,
            wall * 1e3,
            syncconf * 1e3,
            "ms",
            limit,
            kept,
            f"one member more, {how}",
        ),
        Figure(f"the same, our processor time, {how}", size, own[len(own) // 2] * 1e3, None, "ms", "", None),
    ]


def first_apply(state: State, members: int, how: str, runs: int) -> list[Figure]:
    """All peers at once, into an interface that has none."""
    here = load_local(state)
    linux = linux_for(state, here.settings)
    wanted, _ = desired_and_observed(here, linux)
    assert wanted.tunnel is not None
    peers = wanted.tunnel.peers
    CONFIGURATION.write_text(configuration(peers))
    backend = linux.backend
    verified: list[float] = []

    def bare() -> None:
        backend.delete(sample.INTERFACE)
        backend.create(sample.INTERFACE)
        backend.set_key(sample.INTERFACE, Secret(sample.key(2)))

    def apply() -> None:
        steps: tuple[Step, ...] = tuple(peer_steps(sample.INTERFACE, peers, ()))
        linux.apply(*steps)

    def ours(_: int) -> float:
        bare()
        taken = seconds(apply)
        verified.append(taken + seconds(verify))
        return taken

    def verify() -> None:
        seen, _ = linux.observe_with_counters()
        assert seen.tunnel is not None
        assert not tuple(peer_steps(sample.INTERFACE, peers, seen.tunnel.peers))

    def theirs(_: int) -> float:
        bare()
        return seconds(lambda: wg("setconf", sample.INTERFACE, str(CONFIGURATION)))

    wall, setconf = paired(runs, ours, theirs)
    verified.sort()
    size = f"{members:,}"
    return [
        Figure(
            f"first apply of all, {how}",
            size,
            wall * 1e3,
            setconf * 1e3,
            "ms",
            "<= 1.3 x `wg setconf`",
            wall <= 1.3 * setconf,
            f"first apply of all, {how}",
        ),
        Figure(
            f"the same, read back and compared, {how}",
            size,
            verified[len(verified) // 2] * 1e3,
            setconf * 1e3,
            "ms",
            "",
            None,
        ),
    ]


def observe(state: State, members: int, how: str, runs: int) -> Figure:
    """The whole machine, with every peer."""
    linux = linux_for(state, state.settings())
    wall, dump = paired(
        runs,
        lambda _: seconds(linux.observe),
        lambda _: seconds(lambda: wg("show", sample.INTERFACE, "dump")),
    )
    return Figure(
        f"observe, {how}",
        f"{members:,}",
        wall * 1e3,
        dump * 1e3,
        "ms",
        "<= 2 x `wg show dump`",
        wall <= 2 * dump,
        f"observe, {how}",
    )


def wg(*words: str) -> None:
    """Have the program wg do something."""
    subprocess.run(["wg", *words], check=True, stdout=subprocess.DEVNULL)


def configuration(peers: Iterable[Peer]) -> str:
    """These peers as `wg setconf` reads them, with the key and port of our interface."""
    lines = ["[Interface]", f"PrivateKey = {sample.key(2)}", "ListenPort = 51820"]
    for peer in peers:
        lines += ["[Peer]", f"PublicKey = {peer.public_key}", f"AllowedIPs = {', '.join(peer.allowed_ips)}"]
        if peer.preshared_key is not None:
            lines.append(f"PresharedKey = {peer.preshared_key.reveal()}")
        if peer.endpoint is not None:
            lines.append(f"Endpoint = {peer.endpoint}")
        if peer.keepalive_s:
            lines.append(f"PersistentKeepalive = {peer.keepalive_s}")
    return "\n".join(lines) + "\n"
