"""Interfaces and rules of the machine that a test runs on, by the programs that people type."""

from __future__ import annotations

import subprocess

from qmesh.host.network.kernel_routes.tunnel import wait_for_local_routes


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def veth(name: str, *addresses: str, up: bool = True) -> None:
    """An interface with its other end beside it, which is up, so that this one has a carrier."""
    ip("link", "add", name, "type", "veth", "peer", "name", f"p-{name}")
    ip("link", "set", f"p-{name}", "addrgenmode", "none", "up")
    for address in addresses:
        ip("address", "add", address, "dev", name, *(["nodad"] if ":" in address else []))
    if up:
        ip("link", "set", name, "up")
        wait_for_local_routes(name)
