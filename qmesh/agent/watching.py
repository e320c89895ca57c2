"""The agent's look at its machine: at what may have changed every few seconds, at all of it at intervals.

What the agent found as desired, it holds. A machine that joins is then one peer to set, among ten as
among ten thousand, and a look costs the same in a mesh of any size. Only the control node's audits
read every peer, the less often the more there are.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Final

import msgspec

from qmesh.agent.converge import converge
from qmesh.agent.here import Here, endpoint_wanted, linux_for, load
from qmesh.host.linux import Linux, Outline
from qmesh.host.registry import News, Registry
from qmesh.host.state import State
from qmesh.mesh.desired import peer_of
from qmesh.mesh.model import Peer
from qmesh.mesh.plan import Step, peer_steps

AUDIT_S_A_MACHINE: Final = 0.01
"""Seconds between two audits for each machine of the mesh: 50 s where there are 5,000."""


class _Held(msgspec.Struct, kw_only=True):
    """A machine that was found as desired, and what that came from.

    stamp: of the files of which the desired state is made.
    """

    here: Here
    stamp: Hashable
    audited: _Audited | None


class _Audited(msgspec.Struct, kw_only=True):
    """A control node that was found as desired, peer by peer.

    outline: the machine without its peers.
    event: the registry's last event that is in `peers`.
    peers: of each machine by name, as desired; no endpoints.
    until: on the monotonic clock, when the next audit is due.
    """

    linux: Linux
    outline: Outline
    event: int
    peers: dict[str, Peer]
    until: float


class Watch:
    """Over one machine, by the one agent that it has."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._held: _Held | None = None

    def look(self) -> tuple[Here, tuple[Step, ...]]:
        """See that the machine is as desired; what it remembers, and the steps that were taken.

        On a control node what it remembers lacks the machines that came since the last audit.
        Raises what `load` and `converge` raise; then the next look is at everything.
        """
        held, self._held = self._held, None
        # Taken first: what is written from here on, the next look sees.
        stamp = self._state.stamp()
        if held is None or held.stamp != stamp:
            held = _Held(here=load(self._state), stamp=stamp, audited=None)
        steps = None if held.audited is None else self._follow(held.audited, held.here)
        if steps is None:
            held, steps = self._audit(held)
        self._held = held
        return held.here, steps

    def _audit(self, held: _Held) -> tuple[_Held, tuple[Step, ...]]:
        if not held.here.settings.control:
            return held, converge(held.here, linux_for(self._state, held.here), follow_roaming=True)
        event = self._last_event()
        here = load(self._state)
        linux = linux_for(self._state, here)
        steps = converge(here, linux, follow_roaming=True)
        if not here.settings.up:
            return _Held(here=here, stamp=held.stamp, audited=None), steps
        audited = _Audited(
            linux=linux,
            outline=linux.outline(),
            event=event,
            peers=_peers(here),
            until=time.monotonic() + AUDIT_S_A_MACHINE * len(here.inventory.machines),
        )
        return _Held(here=here, stamp=held.stamp, audited=audited), steps

    def _last_event(self) -> int:
        with Registry(self._state.registry_file) as registry:
            registry.expire(now=int(time.time()))
            return registry.last_event()

    def _follow(self, audited: _Audited, here: Here) -> tuple[Step, ...] | None:
        """Do what the registry's events ask for since the last look; None where an audit has to."""
        if time.monotonic() > audited.until or audited.linux.outline() != audited.outline:
            return None
        with Registry(self._state.registry_file) as registry:
            registry.expire(now=int(time.time()))
            news = registry.news(since=audited.event)
        if news is None:
            return None
        seen = {name: audited.peers[name] for name in news.machines if name in audited.peers}
        wanted = _wanted(news, seen)
        steps = tuple(peer_steps(here.settings.interface, wanted.values(), seen.values()))
        audited.linux.apply(*steps)
        for name in seen.keys() - wanted.keys():
            del audited.peers[name]
        audited.peers |= wanted
        audited.event = news.event
        return steps


def _peers(here: Here) -> dict[str, Peer]:
    return {
        machine.name: peer_of(
            machine, endpoint=None, preshared_key=here.preshared.get(machine.public_key), calls=False
        )
        for machine in here.inventory.machines
        if machine.name != here.settings.name
    }


def _wanted(news: News, seen: dict[str, Peer]) -> dict[str, Peer]:
    """The peers of the machines that are in the news and in the mesh.

    One with the key that it had is left as it is: its endpoint may have changed for the better since.
    """
    wanted = {}
    for name, known in news.machines.items():
        if known is None:
            continue
        if name in seen and seen[name].public_key == known.machine.public_key:
            wanted[name] = seen[name]
            continue
        endpoint = endpoint_wanted(known.machine.endpoints, None)
        wanted[name] = peer_of(
            known.machine, endpoint=endpoint, preshared_key=known.preshared_key, calls=False
        )
    return wanted
