"""What a new tunnel would collide with on this machine."""

from __future__ import annotations

from qmesh.errors import BadInput
from qmesh.host.network import links, ports


def refuse_interface(interface: str, *, instead: str) -> None:
    """Raise BadInput where there is an interface of that name. instead: what else to do, for the hint."""
    if links.read(interface) is not None:
        raise BadInput(
            f"there is an interface {interface} already, and qmesh did not make it",
            hint=f"{instead}; if an earlier qmesh left it: `ip link delete {interface}`",
        )


def refuse_listen_port(listen_port: int, *, instead: str) -> None:
    """Raise BadInput where another program has that UDP port. instead: as above."""
    if ports.udp_port_in_use(listen_port):
        raise BadInput(
            f"UDP port {listen_port} is in use on this machine",
            hint=f"see by whom with `ss -lunp sport = :{listen_port}`; {instead}",
        )
