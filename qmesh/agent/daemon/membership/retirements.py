"""Machines that were away when they were removed, or got another key: they call, and are told by a notice."""

from __future__ import annotations

import contextlib
import secrets

from qmesh.agent.local import Local
from qmesh.host.linux import Linux
from qmesh.host.network.packet_sockets import PacketReceiver, send_packet
from qmesh.host.state.directory import State
from qmesh.mesh.links.retirement import KeyRetirement, build_notice, read_notice, sign_retirement
from qmesh.mesh.protocol.aead import NONCE_OCTETS


class RetirementWatch:
    """For the agent's loop, once in each look at everything."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._received: dict[str, int] = {}

    def send_notices(self, here: Local, linux: Linux) -> None:
        """Tell those who call with such a key: each time that something came of it since the last look."""
        if not here.settings.up:
            return
        before, self._received = self._received, {}
        for retired in here.retired:
            counters = linux.counters.get(retired.public_key)
            if counters is None:
                continue
            self._received[retired.public_key] = counters.rx_bytes
            if counters.rx_bytes > before.get(retired.public_key, 0):
                mesh, nonce = here.inventory.mesh, secrets.token_bytes(NONCE_OCTETS)
                signed = retired
                if here.settings.control:
                    signed = sign_retirement(retired, mesh, self._state.keys.read_signing_key())
                notice = build_notice(signed, mesh, source=here.machine.address, nonce=nonce)
                with contextlib.suppress(OSError):  # then at the next look
                    send_packet(here.settings.interface, notice)


class RetirementListener:
    """For another machine's questions: hears it while the control node gives no answer."""

    def __init__(self) -> None:
        self._receiver: PacketReceiver | None = None

    def close(self) -> None:
        """Hear nothing more, as the control node has answered."""
        if self._receiver is not None:
            self._receiver.close()
            self._receiver = None

    def find_notice(self, here: Local) -> KeyRetirement | None:
        """What the control node has told of this machine's key since it is silent. Waits for nothing."""
        shared = here.preshared.get(here.inventory.control_node.public_key)
        if shared is None:
            return None
        try:
            if self._receiver is None:
                is_ipv6 = ":" in here.machine.address
                self._receiver = PacketReceiver(here.settings.interface, is_ipv6=is_ipv6)
            for packet in self._receiver.receive_packets():
                said = read_notice(
                    packet,
                    here.machine.public_key,
                    shared,
                    here.settings.verification_key,
                    mesh=here.settings.mesh,
                )
                if said is not None:
                    return said
        except OSError:  # the interface was made anew, or is none
            self.close()
        return None
