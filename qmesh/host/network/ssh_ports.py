"""At which ports SSH is served on this machine: what closed them would lock everyone out.

A program of a user's may call itself as it likes, so only root's sockets count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from qmesh.host.network.sockets.socket_lists import ESTABLISHED, list_listening_sockets, select_tcp_sockets
from qmesh.host.system import processes

_SERVERS: Final = frozenset({"sshd", "sshd-session", "sshd-auth", "dropbear", "tinysshd"})
_INIT: Final = 1
"""systemd listens in a service's place until somebody calls; whether for SSH, its socket does not tell."""

_known: dict[str, bool] = {}
"""Whether a socket is SSH's, by its inode: all processes would have to be looked through to tell."""


def find_ssh_ports(among: Iterable[int], *, with_sessions: Iterable[int] = ()) -> frozenset[int]:
    """Those of these ports at which an SSH server, or the init in its place, listens.

    with_sessions: further ones that also count where nobody listens, and somebody is logged in: reading all
    connections takes a while on a machine that has many. Raises KernelRefused.
    """
    sessions = frozenset(with_sessions)
    wanted = sessions.union(among)
    if not wanted:
        return frozenset()
    found = [each for each in list_listening_sockets() if each.port in wanted and each.user == 0]
    if alone := sessions.difference(each.port for each in found):
        open_there = select_tcp_sockets({ESTABLISHED}, lambda _, port, __: port in alone)
        found += [each for each in open_there if each.user == 0]
    served = _find_served({each.inode for each in found})
    return frozenset(each.port for each in found if each.inode in served)


def _find_served(inodes: set[str]) -> set[str]:
    """Those of these sockets that are SSH's, or the init's."""
    known = {inode: _known[inode] for inode in inodes.intersection(_known)}
    owners = processes.find_socket_owners(inodes.difference(known))
    for inode, owner in owners.items():  # whose owner is not found is looked for again
        known[inode] = owner == _INIT or processes.read_process_name(owner) in _SERVERS
    _known.clear()
    _known.update(known)
    return {inode for inode, is_served in known.items() if is_served}
