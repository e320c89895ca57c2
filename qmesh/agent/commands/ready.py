"""`ready`: whether a worker of this machine can start, and whether it listens. Every core asks at its start.

Nothing is read of what qmesh remembers: where the agent or the registry is down, workers start all the same.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from qmesh.agent.node import node_config, node_directory
from qmesh.errors import BadInput, MachineRefused, QmeshError
from qmesh.host import config_directory
from qmesh.host.lean import nftables_messages
from qmesh.host.log.events import report_event
from qmesh.host.network import local_addresses, tcp_probe
from qmesh.host.network.sockets import socket_lists
from qmesh.host.system import process_end
from qmesh.mesh.guard.tables import HELD_IN_KERNEL, TABLE
from qmesh.mesh.nodeconfig import (
    ParsedConfig,
    find_listen_address,
    find_stream_address,
    parse_config,
    read_store_path,
)
from qmesh.mesh.values import quote_text

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5
"""A machine may have a hundred cores that wait."""
_LONGEST_CALL_PAUSE_S: Final = 1.0
_ANSWER_S: Final = 2.0
"""Seconds that the control process has to answer a call through the tunnel."""
_STORE_LOCK: Final = "LOCK"
"""The file in the node's store that its control process locks, in Go's store and in Rust's."""
_SAID_AFTER_S: Final = 1.0
_SETTLED_AFTER_S: Final = 3.0
"""How long what is wrong may mend itself: an interface gets its addresses one by one."""


class ReadyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `ready` answers. address, port: where the core's worker listens or may; None for core 0."""

    core: int
    address: str | None
    port: int | None
    listens: bool


def wait_until_startable(core: int, config: Path | None, *, timeout_s: float) -> ReadyResult:
    """Wait until a guard is loaded, the core's address is this machine's, and its port is free.

    From node 2.1 on, wait for the control process as well, which a worker calls when it starts. Where that
    does not answer in time, the worker may start all the same, and a line says so.

    core: 0 for the control process. It waits for the guard, and until another one has given up the store, and
        the port that workers call.
    Raises BadInput for what is wrong, MachineRefused for what did not come in time.
    """
    if core == 0:
        find_obstacle = _prepare_control_check(config)
        _wait_until_clear(lambda: _check_guard() or find_obstacle(), timeout_s)
        return ReadyResult(core=core, address=None, port=None, listens=False)
    begun = time.monotonic()
    text = _read_config(config)
    address, port = find_listen_address(core, text)

    def find_worker_obstacle() -> QmeshError | None:
        return _check_guard() or _check_port_free(core, address, port)

    _wait_until_clear(find_worker_obstacle, timeout_s)
    stream = find_stream_address(text)
    if stream is not None:
        _wait_for_control(core, *stream, timeout_s - (time.monotonic() - begun))
        _wait_until_clear(find_worker_obstacle, timeout_s - (time.monotonic() - begun))
    return ReadyResult(core=core, address=address, port=port, listens=False)


def wait_until_listening(core: int, config: Path | None, *, timeout_s: float) -> ReadyResult:
    """Wait until something listens on just the address and port of the core's entry.

    Where systemd says in $MAINPID which process is the worker, no longer than that lives.
    Raises BadInput for what is wrong, MachineRefused for what did not come in time.
    """
    if core == 0:
        raise BadInput(
            "core 0 is the control process, which is in no worker list",
            hint="leave --listening out, or give a worker's core, from 1 on",
        )
    address, port = find_listen_address(core, _read_config(config))
    worker = os.environ.get("MAINPID", "")
    _wait_until_clear(
        lambda: _check_listening(core, address, port),
        timeout_s,
        int(worker) if re.fullmatch("[0-9]{1,9}", worker) else None,
    )
    return ReadyResult(core=core, address=address, port=port, listens=True)


def _read_config(config: Path | None) -> ParsedConfig:
    directory = node_directory.find_directory(config)
    text = None if directory is None else node_config.read(directory).text
    if text is None:
        raise BadInput(
            f"there is no {node_directory.FILE_NAME} in {directory or '.config here'}",
            hint="pass the node's directory with --config, or write the file: `qmesh render-config --write`",
        )
    return parse_config(text)


def _prepare_control_check(config: Path | None) -> Callable[[], QmeshError | None]:
    """What looks whether another control process is in the way, as far as the config tells where to look.

    A control process starts whatever its file is: the node itself says what is wrong with it.
    """
    try:
        directory = node_directory.find_directory(config)
        text = None if directory is None else node_config.read(directory).text
        parsed = parse_config(text or "")
    except QmeshError:
        return lambda: None
    stream, store = find_stream_address(parsed), read_store_path(parsed)
    if stream is not None and not _is_own_address(stream[0]):
        stream = None
    # The node is started in the directory that holds its config directory.
    place = None if directory is None or store is None else directory.path.parent / store
    return lambda: (stream and _check_stream_free(*stream)) or (place and _check_store_free(place)) or None


def _check_stream_free(address: str, port: int) -> QmeshError | None:
    if not _is_heard_here(address, port):
        return None
    return MachineRefused(
        f"port {port}, where the control process should listen, is in use: one that stops may need"
        " half a minute",
        hint=f"if it does not end, see which program has it with `ss -ltnp sport = :{port}`, and stop it",
    )


def _check_store_free(store: Path) -> QmeshError | None:
    try:
        found = config_directory.find(store)
        owner = None if found is None else config_directory.find_lock_owner(found, _STORE_LOCK)
    except QmeshError:  # where it can't be looked at, the node itself finds out
        return None
    if owner is None:
        return None
    which = f"process {owner}" if owner else "another process"
    return MachineRefused(
        f"{which} has the node's store {quote_text(str(store))}: one that stops may need half a minute",
        hint="if it does not end, stop it; never run two control processes with the same keys",
    )


def _wait_for_control(core: int, address: str, port: int, timeout_s: float) -> None:
    """Wait until the control process answers where workers call it, or for so long; that is said."""
    begun, pause_s, said = time.monotonic(), _FIRST_PAUSE_S, False
    is_own = _is_own_address(address)
    where = f"{'this machine' if is_own else address} port {port}"
    while not (_is_heard_here(address, port) if is_own else _answers(address, port)):
        passed_s = time.monotonic() - begun
        if passed_s >= timeout_s:
            report_event(
                "control-unanswered",
                "the control process does not answer at %s; core %d starts all the same, and calls it again"
                " later",
                *(where, core),
            )
            return
        if passed_s >= _SAID_AFTER_S and not said:
            report_event("ready-waits", "the control process does not answer at %s yet: waiting", where)
            said = True
        time.sleep(min(pause_s, timeout_s - passed_s))
        pause_s = min(2 * pause_s, _LONGEST_CALL_PAUSE_S)


def _is_own_address(address: str) -> bool:
    """Whether it is this machine's, or every one of its addresses."""
    return ipaddress.ip_address(address).is_unspecified or local_addresses.can_be_bound(address)


def _is_heard_here(address: str, port: int) -> bool:
    """Whether something listens on an address of this machine; for a wildcard, on any."""
    listening = {each.local for each in socket_lists.find_listening_sockets(port)}
    if ipaddress.ip_address(address).is_unspecified:
        return bool(listening)
    return not listening.isdisjoint({address, *socket_lists.wildcard_addresses(address)})


def _answers(address: str, port: int) -> bool:
    return bool(tcp_probe.measure_connect_times([(address, port)], wait_s=_ANSWER_S))


def _check_guard() -> QmeshError | None:
    if any(nftables_messages.has_table("inet", name) for name in (TABLE, HELD_IN_KERNEL)):
        return None
    return MachineRefused(
        "no guard is loaded: worker ports would be open to everyone",
        hint="run `qmesh apply` to load it; `qmesh check` tells what is wrong",
    )


def _check_port_free(core: int, address: str, port: int) -> QmeshError | None:
    if not local_addresses.can_be_bound(address):
        return _absent_address_error(core, address)
    in_the_way = {address, *socket_lists.wildcard_addresses(address)}
    if taken := [
        each.local for each in socket_lists.find_listening_sockets(port) if each.local in in_the_way
    ]:
        return MachineRefused(
            f"{taken[0]} port {port}, where core {core} should listen, is in use",
            hint=f"see which program has it with `ss -ltnp sport = :{port}`, and stop it; it may be the"
            " node itself",
        )
    return None


def _absent_address_error(core: int, address: str) -> QmeshError:
    around = local_addresses.find_direct_network(address)
    if around is None:
        return MachineRefused(
            f"{address}, where core {core} should listen, is not an address of this machine yet",
            hint="run `qmesh apply` to bring the tunnel up; `qmesh check` tells what is wrong",
        )
    from qmesh.host.system import systemd  # noqa: PLC0415 - a start that goes well has no use for it
    from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action  # noqa: PLC0415

    stop = describe_workers_action("stop", (core,), NodeHost(has_units=systemd.has_node_units()))
    return BadInput(
        f"core {core} is another machine's: {address} is in {around}, and is not an address of this machine",
        hint=f"if it was this machine's before: {stop}; `qmesh status` shows this machine's cores",
    )


def _check_listening(core: int, address: str, port: int) -> QmeshError | None:
    found = {each.local for each in socket_lists.find_listening_sockets(port)}
    if wide := found & socket_lists.wildcard_addresses(address):
        return BadInput(
            f"core {core} listens on {min(wide)} port {port}, which is every address; it should listen on"
            f" {address} only",
            hint="check that the node is started with this config.yml, and has the version that it is for",
        )
    if address in found:
        return None
    return MachineRefused(
        f"core {core} does not listen on {address} port {port}",
        hint="see its log; check that it is started with this config.yml, and has the version that it is for",
    )


def _wait_until_clear(
    look: Callable[[], QmeshError | None], timeout_s: float, worker: int | None = None
) -> None:
    """Look until nothing is in the way. Raises what is, when it does not go in time."""
    begun, pause_s, said = time.monotonic(), _FIRST_PAUSE_S, False
    while error := look():
        passed_s = time.monotonic() - begun
        if not passed_s < (min(_SETTLED_AFTER_S, timeout_s) if isinstance(error, BadInput) else timeout_s):
            raise error
        if passed_s >= _SAID_AFTER_S and not said:
            report_event("ready-waits", "%s: waiting", error.message)
            said = True
        if process_end.wait_for_exit(worker, pause_s):
            raise MachineRefused(f"{error.message}: its process ended", hint=error.hint)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
