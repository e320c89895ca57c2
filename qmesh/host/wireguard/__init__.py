"""WireGuard of this machine: the kernel's, or a process that stands in for it."""

from __future__ import annotations

from qmesh.errors import KernelRefused
from qmesh.host.network import links
from qmesh.host.wireguard import kernel, uapi, userspace
from qmesh.host.wireguard.device import Backend, Counters, Device
from qmesh.host.wireguard.kernel import KernelWireGuard
from qmesh.host.wireguard.userspace import UserspaceWireGuard
from qmesh.mesh.model import InterfaceKind

__all__ = ["Backend", "Counters", "Device", "available_kind", "backend_for", "backend_of"]


def backend_for(interface: str) -> Backend:
    """What does WireGuard for `interface`: what made it, or where there is none, what could.

    Raises KernelRefused when an interface of that name is not WireGuard's, and MissingProgram as
    `available_kind` does.
    """
    link = links.read(interface)
    return _backend(available_kind()) if link is None else backend_of(link)


def backend_of(link: links.Link) -> Backend:
    """What made this interface. Raises KernelRefused when it is not WireGuard's."""
    return _backend(_tunnel_kind(link.name, link.kind))


def _backend(kind: InterfaceKind) -> Backend:
    return KernelWireGuard() if kind == "wireguard" else UserspaceWireGuard()


def available_kind() -> InterfaceKind:
    """What a new tunnel would be here. Asking makes the kernel load its WireGuard module.

    Raises MissingProgram when there is neither kernel WireGuard nor `wireguard-go`.
    """
    if kernel.available():
        return "wireguard"
    userspace.program()
    return "tun"


def _tunnel_kind(interface: str, kind: str | None) -> InterfaceKind:
    if kind == "wireguard":
        return "wireguard"
    if kind != "tun":
        raise KernelRefused(
            f"{interface} is a {kind or 'hardware'} interface, not WireGuard's",
            hint="it is somebody else's; rename it or give it up before qmesh takes the name",
        )
    if uapi.answers(interface):
        return "tun"
    where = uapi.socket_path(interface)
    state = "nobody answers at" if where.exists() else "there is no"
    raise KernelRefused(
        f"{interface} is a TUN interface without a WireGuard process: {state} {where}",
        hint=f"if no other program uses it, remove it with `ip link delete {interface}`",
    )
