"""Redeeming an invitation: knock at every endpoint until the control node answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import cached_property

import msgspec

from qmesh.agent.converge import apply_steps
from qmesh.errors import EnrolmentRefused
from qmesh.host.api.client import Client
from qmesh.host.api.messages import ControlNodeUnavailable
from qmesh.host.linux import Linux
from qmesh.host.network import dns, routes
from qmesh.host.state.directory import State
from qmesh.host.state.documents import LocalOptions, UnfinishedRedemption
from qmesh.mesh.desired import host_network
from qmesh.mesh.endpoints import ROUNDS, attempt_wait_s, index_addresses, sort_by_locality
from qmesh.mesh.mtu import LEAST_MTU
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.plan.steps import CreateTunnel
from qmesh.mesh.protocol.enrolment import (
    Invitation,
    build_redemption,
    derive_permanent_preshared_key,
    derive_public_key,
)
from qmesh.mesh.state import Guard, NodeState, Peer, Tunnel, list_address_routes
from qmesh.mesh.values import KEEPALIVE_S, Endpoint, InterfaceKind, Secret, SecretStruct

log = logging.getLogger("qmesh")

_ANSWER_S = 5.0


class Joiner(SecretStruct, frozen=True, dict=True):
    """A join under way: what was asked for, valid, and this machine's own key.

    ports: worker ports that were closed before, on a machine that lost its membership: they stay so.
    has_new_key: whether its key was made for this join, so that nobody can know it yet.
    """

    invitation: Invitation
    options: LocalOptions
    private_key: Secret
    ports: tuple[int, ...]
    has_new_key: bool

    @cached_property
    def public_key(self) -> str:
        """Of its key."""
        return derive_public_key(self.private_key)

    @property
    def preshared_key(self) -> Secret:
        """The permanent preshared key."""
        return derive_permanent_preshared_key(
            self.invitation.secret, self.invitation.control_key, self.public_key
        )

    def build_joining_state(self, kind: InterfaceKind, tunnel: Tunnel | None = None) -> NodeState:
        """This machine while it joins: with a guard, and such a tunnel."""
        guard = Guard(
            role="worker",
            interface=self.options.interface,
            kind=kind,
            listen_port=self.options.listen_port,
            control_address=self.invitation.control_address,
            service_port=self.invitation.service_port,
            ports=self.ports,
        )
        return NodeState(guard=guard, tunnel=tunnel, reserved_ports=self.ports)


class Attempt(msgspec.Struct, frozen=True):
    """How to knock: with which key pair and preshared key, where, and for how many seconds.

    source: this machine's tunnel address.
    endpoint: of the control node, as the invitation has it; address: the same, looked up.
    """

    public_key: str
    preshared: Secret
    source: str
    endpoint: Endpoint
    address: Endpoint
    patience_s: float


def redeem_invitation(
    state: State, joiner: Joiner, linux: Linux, *, on_send: Callable[[], None]
) -> tuple[bytes, Endpoint]:
    """Knock until the control node answers: the throwaway key first, our own once it may be known.

    on_send: called each time before the redemption is sent, after which our own key may be known there.

    Returns the signed membership, and the endpoint by way of which it came.
    """
    invitation, derived = joiner.invitation, joiner.invitation.derived_keys
    message = build_redemption(
        derived,
        public_key=joiner.public_key,
        workers=len(os.sched_getaffinity(0)),
        endpoint=joiner.options.endpoint,
        announce=joiner.options.announce,
    )
    may_be_known = [not joiner.has_new_key or state.unfinished_redemption.read() is not None]
    state.unfinished_redemption.write(UnfinishedRedemption(derived.identifier))
    client = Client(address=invitation.control_address, port=invitation.service_port)
    for attempt in _generate_attempts(joiner, may_be_known):
        _prepare_attempt(linux, joiner, attempt)
        on_send()
        try:
            answer = client.redeem(message, connect_s=attempt.patience_s, read_s=_ANSWER_S)
        except ControlNodeUnavailable as silent:
            may_be_known[0] |= silent.was_reached  # it may have admitted us, and its answer is lost
            log.info("no answer via %s yet: %s ...", attempt.endpoint, silent)
        else:
            return answer, attempt.endpoint
    tried = ", ".join(str(endpoint) for endpoint in invitation.endpoints)
    if not _has_route(invitation):
        raise EnrolmentRefused(
            f"this machine has no route to the control node at {tried}",
            hint="see `ip route` and `ip -6 route`; where this machine has IPv6 alone, or IPv4 alone: run"
            " `qmesh set NAME --endpoint ADDRESS` on the control node with such an address, then invite"
            " again",
        )
    raise EnrolmentRefused(
        f"the control node does not answer at {tried}",
        hint="on the control node, run `qmesh invite --list`: does it still show this invitation? If so,"
        " check there:"
        f" UDP port {invitation.endpoints[0].port} open, firewall allows qmesh0, and what `qmesh check` says",
    )


def _has_route(invitation: Invitation) -> bool:
    """Whether the kernel knows a way to any of the endpoints, as far as their names have addresses."""
    found = dns.resolve_all(invitation.endpoints)
    return any(
        routes.find_route(each.host, each.port) is not None
        for addresses in found.values()
        for each in addresses
    )


def _generate_attempts(joiner: Joiner, may_be_known: list[bool]) -> Iterator[Attempt]:
    """How to knock, in turn. may_be_known: of one, whether the control node may know our own key by now."""
    invitation = joiner.invitation
    derived = invitation.derived_keys
    throwaway = (derived.public_key, derived.preshared_key, invitation.source_address)
    own = (joiner.public_key, joiner.preshared_key, invitation.address)
    found = dns.resolve_all(invitation.endpoints)
    for endpoint, addresses in found.items():
        if not addresses:
            log.warning("DNS has no address for %s on this machine", endpoint.host)
    of = index_addresses(found)
    order = sort_by_locality(of, routes.list_attached_networks(joiner.options.interface))
    routed = [way for way in order if routes.find_route(way.host, way.port) is not None]
    # Where no way leads anywhere, the control node may still call this machine.
    reachable = [(of[way], way) for way in routed or order]
    for turn in range(ROUNDS):
        for keys in (throwaway, own) if may_be_known[0] else (throwaway,):
            for number, (endpoint, address) in enumerate(reachable):
                yield Attempt(*keys, endpoint, address, attempt_wait_s(turn, number, len(reachable)))


def _prepare_attempt(linux: Linux, joiner: Joiner, attempt: Attempt) -> None:
    """Guard and tunnel for one attempt; a peer that is there already shakes hands anew."""
    invitation = joiner.invitation
    peer = Peer(
        public_key=invitation.control_key,
        allowed_ips=(host_network(invitation.control_address),),
        endpoint=attempt.address,
        preshared_key=attempt.preshared,
        keepalive_s=KEEPALIVE_S,
    )
    prefix_length = invitation.network.rpartition("/")[2]
    addresses = (f"{attempt.source}/{prefix_length}",)
    tunnel = Tunnel(
        interface=joiner.options.interface,
        kind=linux.backend.kind,
        public_key=attempt.public_key,
        listen_port=joiner.options.listen_port,
        addresses=addresses,
        mtu=LEAST_MTU,  # what the path carries is not known yet
        up=True,
        peers=(peer,),
        routes=list_address_routes(addresses),
    )
    steps = apply_steps(
        linux, plan_steps(joiner.build_joining_state(linux.backend.kind, tunnel), linux.observe())
    )
    if not any(isinstance(step, CreateTunnel) for step in steps):
        # Else WireGuard would not begin a handshake by this way within 5 s of one by another.
        linux.backend.reset_session(joiner.options.interface, peer)
