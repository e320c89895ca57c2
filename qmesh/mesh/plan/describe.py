"""What a step does, in words."""

from __future__ import annotations

from qmesh.mesh.plan.steps import (
    AddAddress,
    AddRoute,
    CreateTunnel,
    DeleteTunnel,
    DeviceStep,
    LoadGuard,
    PlaceStep,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    RemoveRoute,
    ReservePorts,
    SetKey,
    SetListenPort,
    SetMtu,
    SetPeer,
    Step,
    UnloadGuard,
)
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.state import TunnelRoute


def describe_step(step: Step) -> str:
    """What a step does, in words."""
    match step:
        case LoadGuard():
            done = "add" if step.old is None else "replace"
            ports = format_port_ranges(step.new.ports) or "none"
            others = format_port_ranges(step.new.guarded_ports)
            more = f"; other closed ports: {others}" if others else ""
            return f"{done} the guard; worker ports: {ports}{more}; control node: {step.new.control_address}"
        case UnloadGuard():
            return "remove the guard: any machine that reaches a worker port can then use the worker"
        case ReservePorts():
            old, new = format_port_ranges(step.old), format_port_ranges(step.new)
            return f"reserve {old or 'none'} -> {new or 'none'}"
        case CreateTunnel():
            how = "kernel" if step.interface_kind == "wireguard" else "userspace"
            return f"create the interface with {how} WireGuard"
        case DeleteTunnel():
            return f"delete the interface with {len(step.old.peers)} peers"
        case RemovePeer():
            return (
                f"remove peer {step.old.public_key} ({', '.join(step.old.allowed_ips) or 'no allowed IPs'})"
            )
        case SetPeer():
            done = "add" if step.old is None else "change"
            where = f" at {step.new.endpoint}" if step.new.endpoint else ""
            return f"{done} peer {step.new.public_key} ({', '.join(step.new.allowed_ips)}){where}"
        case SetKey() | SetListenPort() | SetMtu():
            return _describe_device_step(step)
        case _:
            return _describe_place_step(step)


def describe_route(route: TunnelRoute) -> str:
    """A route as ip(8) writes it: `10.77.0.0/20 src 10.77.0.2`."""
    words = (
        *(("local",) if route.is_local else ()),
        route.network,
        *(("via", route.gateway) if route.gateway else ()),
        *(() if route.is_local else ("src", route.source)),
    )
    return " ".join(words)


def _describe_device_step(step: DeviceStep) -> str:
    match step:
        case SetKey():
            return f"public key {step.old or 'none'} -> {step.new or 'none'}"
        case SetListenPort():
            return f"listen port {step.old or 'none'} -> {step.new}"
        case _:
            return f"MTU {step.old} -> {step.new}"


def _describe_place_step(step: PlaceStep) -> str:
    match step:
        case RemoveAddress():
            return f"remove address {step.old}"
        case AddAddress():
            return f"add address {step.new}"
        case ReleaseTunnel():
            return f"take the interface out of {step.old}"
        case RemoveRoute():
            return f"remove route {describe_route(step.old)}"
        case AddRoute():
            return f"add route {describe_route(step.new)}"
        case _:
            return f"bring the interface {'up' if step.new else 'down'}"
