"""What has to be so while a case of the matrix is tried."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

from tests.support.lab.matrix.case import Arrangement
from tests.support.lab.mesh import ADDRESSES, CONTROL, CONTROL6, PEERS, PROTOCOLS, Mesh, Role, ip, nft
from tests.support.lab.ways import cable, impostor, restore_tunnel, without_tunnel


def with_rules(script: str | Callable[[], str]) -> Arrangement:
    """Another program's table, `inet theirs`."""

    @contextlib.contextmanager
    def arranged(mesh: Mesh, role: Role) -> Iterator[None]:
        nft(mesh.machines[role], script if isinstance(script, str) else script())
        try:
            yield
        finally:
            nft(mesh.machines[role], "delete table inet theirs\n")

    return arranged


@contextlib.contextmanager
def loopback_routed(mesh: Mesh, role: Role) -> Iterator[None]:
    lo = "127.0.0.1"
    ip(mesh.attacker, f"addr del {lo}/8 dev lo", f"route add {lo} via {mesh.machines[role].ipv4}")
    try:
        yield
    finally:
        ip(mesh.attacker, f"route del {lo}", f"addr add {lo}/8 dev lo")


@contextlib.contextmanager
def later_interface(mesh: Mesh, role: Role) -> Iterator[None]:
    with cable(mesh.attacker, "10.99.0.66/24", to=mesh.machines[role]):
        ip(mesh.machines[role], "addr add 10.99.0.2/24 dev cable")
        yield


def bears_the_tunnels_name(kind: str) -> Arrangement:
    @contextlib.contextmanager
    def arranged(mesh: Mesh, role: Role) -> Iterator[None]:
        address, address6 = ADDRESSES[role]
        sources = (f"{CONTROL}/20", f"{CONTROL6}/64") if role == "worker" else ("10.77.0.9/20", "fd77::9/64")
        with contextlib.ExitStack() as stack:
            stack.enter_context(without_tunnel(mesh, role))
            stack.enter_context(cable(mesh.attacker, *sources, to=mesh.machines[role]))
            stack.enter_context(impostor(mesh.machines[role], kind, f"{address}/20", f"{address6}/64"))
            yield

    return arranged


def address_taken_over(*, deleted: bool) -> Arrangement:
    """Without the tunnel the way to the control node is the gateway's, and the attacker sits there."""

    @contextlib.contextmanager
    def arranged(mesh: Mesh, role: Role) -> Iterator[None]:
        del role
        ways = (f"{CONTROL} via {mesh.attacker.ipv4}", f"{CONTROL6} via {mesh.attacker.ipv6}")
        theirs = (f"{CONTROL}/32 dev lo", f"{CONTROL6}/128 dev lo")
        if deleted:
            mesh.delete_tunnel("worker")
        else:
            ip(mesh.worker, "link set qmesh0 down")
        ip(mesh.worker, *(f"route add {way}" for way in ways), "addr add 10.77.0.2/32 dev lo")
        ip(mesh.attacker, f"addr add {theirs[0]}", f"addr add {theirs[1]} nodad")
        try:
            yield
        finally:
            ip(mesh.attacker, *(f"addr del {each}" for each in theirs))
            ip(mesh.worker, *(f"route del {way}" for way in ways), "addr del 10.77.0.2/32 dev lo")
            if not deleted:
                mesh.delete_tunnel("worker")
            restore_tunnel(mesh, "worker")

    return arranged


@contextlib.contextmanager
def way_by_the_hub(mesh: Mesh, role: Role) -> Iterator[None]:
    """The attacker's way to the worker's tunnel addresses is the control node's, which masquerades."""
    del role
    nft(mesh.control, f"table inet theirs {{\n{MASQUERADE}\n}}\n")
    for via in (mesh.control, mesh.worker):
        ip(
            mesh.attacker,
            *(f"route replace {to} via {via.ipv6 if ':' in to else via.ipv4}" for to in TO_WORKER),
        )
        if via is mesh.control:
            try:
                yield
            finally:
                nft(mesh.control, "delete table inet theirs\n")


@contextlib.contextmanager
def way_to_the_hubs_lan(mesh: Mesh, role: Role) -> Iterator[None]:
    """The member sends through the tunnel what is for the attacker, on the control node's LAN."""
    del role
    target = f"{mesh.attacker.ipv4}/32"
    allowed = ["wg", "set", "qmesh0", "peer", mesh.public["control"], "allowed-ips"]
    own = PEERS["member"]["control"].replace(" ", "")
    mesh.member.run([*allowed, f"{own},{target}"])
    ip(mesh.member, f"route add {target} dev qmesh0")
    try:
        yield
    finally:
        ip(mesh.member, f"route del {target} dev qmesh0")
        mesh.member.run([*allowed, own])


TO_WORKER: Final = ADDRESSES["worker"]
MASQUERADE: Final = "chain c {\ntype nat hook postrouting priority srcnat\nmasquerade\n}"


def docker(whereto: dict[int, int]) -> str:
    """What Docker 24 writes for container-a, for iptables-restore; whereto: its ports by those published."""
    to = [(protocol, *pair) for protocol in PROTOCOLS for pair in whereto.items()]
    translated = [
        f"-A DOCKER ! -i docker0 -p {protocol} -m {protocol} --dport {asked} -j DNAT"
        f" --to-destination 172.17.0.2:{port}"
        for protocol, asked, port in to
    ]
    accepted = [
        f"-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p {protocol} -m {protocol} --dport {port}"
        " -j ACCEPT"
        for protocol, _, port in to
    ]
    return "\n".join(
        [
            "*nat",
            ":DOCKER - [0:0]",
            "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
            "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
            "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
            "-A DOCKER -i docker0 -j RETURN",
            *translated,
            "COMMIT",
            "*filter",
            ":FORWARD DROP [0:0]",
            *(f":DOCKER{end} - [0:0]" for end in ("", "-USER", "-ISOLATION-STAGE-1", "-ISOLATION-STAGE-2")),
            "-A FORWARD -j DOCKER-USER",
            "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
            "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-A FORWARD -o docker0 -j DOCKER",
            "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
            "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
            *accepted,
            "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
            "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
            "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
            "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
            "-A DOCKER-USER -j RETURN",
            "COMMIT",
            "",
        ]
    )


def docker_publishes(whereto: dict[int, int]) -> Arrangement:
    @contextlib.contextmanager
    def arranged(mesh: Mesh, role: Role) -> Iterator[None]:
        del role
        mesh.worker.run(["iptables-nft-restore", "--noflush"], input=docker(whereto))
        try:
            yield
        finally:
            nft(mesh.worker, "delete table ip nat\ndelete table ip filter\n")

    return arranged


@contextlib.contextmanager
def routed_back(mesh: Mesh, role: Role) -> Iterator[None]:
    del role
    ip(
        mesh.member,
        f"route replace 10.50.0.0/24 via {mesh.worker.ipv4}",
        f"route replace fd50::/64 via {mesh.worker.ipv6}",
    )
    yield
