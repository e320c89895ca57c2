"""WireGuard of this machine: the kernel's, or a process that stands in for it."""

from __future__ import annotations

from qmesh.errors import KernelRefused
from qmesh.host.network import links
from qmesh.host.wireguard import kernel, uapi, userspace
from qmesh.host.wireguard.device import Backend, Device
from qmesh.host.wireguard.kernel import KernelWireGuard
from qmesh.host.wireguard.userspace import UserspaceWireGuard
from qmesh.mesh.values import InterfaceKind

__all__ = ["Backend", "Device", "detect_tunnel_kind", "find_backend", "find_link_backend"]


def find_backend(interface: str) -> Backend:
    """What does WireGuard for `interface`: what made it, or where there is none, what could.

    Raises KernelRefused when an interface of that name is not WireGuard's, and MissingProgram as
    `detect_tunnel_kind` does.
    """
    link = links.read(interface)
    return _build_backend(detect_tunnel_kind()) if link is None else find_link_backend(link)


def find_link_backend(link: links.Link) -> Backend:
    """What made this interface. Raises KernelRefused when it is not WireGuard's."""
    return _build_backend(_resolve_link_kind(link.name, link.kind))


def _build_backend(kind: InterfaceKind) -> Backend:
    return KernelWireGuard() if kind == "wireguard" else UserspaceWireGuard()


def detect_tunnel_kind() -> InterfaceKind:
    """What a new tunnel would be here. Asking makes the kernel load its WireGuard module.

    Raises MissingProgram when there is neither kernel WireGuard nor `wireguard-go`.
    """
    if kernel.is_available():
        return "wireguard"
    userspace.find_program()
    return "tun"


def _resolve_link_kind(interface: str, kind: str | None) -> InterfaceKind:
    if kind == "wireguard":
        return "wireguard"
    if kind != "tun":
        raise KernelRefused(
            f"{interface} is a {kind or 'hardware'} interface, not a WireGuard interface",
            hint=f"it is not qmesh's: rename it with `ip link set {interface} name OTHER`, or delete it",
        )
    if uapi.is_responding(interface):
        return "tun"
    where = uapi.socket_path(interface)
    state = "nothing answers at" if where.exists() else "there is no"
    raise KernelRefused(
        f"{interface} is a TUN interface without a WireGuard process: {state} {where}",
        hint=f"if no other program uses it, run `ip link delete {interface}`",
    )
