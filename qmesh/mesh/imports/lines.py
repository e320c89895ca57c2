"""Machines from lines of `[user@]ip[:port][/workers]`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.imports.machine import ImportedMachines, ListedMachine, is_loopback_or_unspecified
from qmesh.mesh.machine import validate_worker_count
from qmesh.mesh.values import normalize_ip_address, validate_port

_FORM = "write [user@]ip[:port][/workers], such as root@192.168.0.201/4 or [fd00::201]:22/4"
_MACHINE = re.compile(
    r"(?:(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,31})@)?"
    r"(?:\[(?P<bracketed>[0-9a-fA-F:.]+)\]|(?P<v4>[0-9.]+)|(?P<v6>[0-9a-fA-F:.]*:[0-9a-fA-F:.]*:[0-9a-fA-F:.]*))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/(?P<workers>[0-9]{1,5}))?"
)


def parse_machine_lines(text: str, own_addresses: Collection[str]) -> ImportedMachines:
    """The machines of a text, one a line or separated by commas, in core order; `#` begins a comment.

    port: ssh's. workers: may be left out where the machine itself is to tell.
    own_addresses: canonical; who has one of them is the control machine, otherwise the first is.

    Raises BadInput with the line's number. No message repeats a line: the file may be another one.
    """
    found: dict[str, tuple[int, ListedMachine]] = {}
    for line, item in _split_items(text):
        machine = _parse_machine(line, item)
        (address,) = machine.addresses
        if address in found:
            problem = f"{address} is already in line {found[address][0]}"
            raise _line_error(line, problem, "give each machine one line, with all its workers")
        found[address] = line, machine
    if not found:
        raise BadInput("there is no machine in any line", hint=_FORM)
    return _assign_control([machine for _, machine in found.values()], own_addresses)


def _split_items(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        for item in line.partition("#")[0].split(","):
            if item.strip():
                yield number, item.strip()


def _parse_machine(line: int, item: str) -> ListedMachine:
    parts = _MACHINE.fullmatch(item)
    if parts is None:
        raise _line_error(line, "this is not a machine", _FORM)
    try:
        address = normalize_ip_address(parts["bracketed"] or parts["v4"] or parts["v6"])
    except BadInput:
        raise _line_error(line, "this is not an IP address", _FORM) from None
    try:
        port = None if parts["port"] is None else validate_port(int(parts["port"]), "ssh's port")
        workers = None if parts["workers"] is None else validate_worker_count(int(parts["workers"]))
    except BadInput as error:
        raise _line_error(line, error.message, error.hint) from None
    if is_loopback_or_unspecified(address):
        raise _line_error(
            line,
            f"{address} means a different machine on each machine",
            "write the address at which other machines reach it",
        )
    return ListedMachine(
        control=False, addresses=(address,), workers=workers, user=parts["user"], ssh_port=port
    )


def _line_error(line: int, problem: str, hint: str) -> BadInput:
    return BadInput(f"line {line}: {problem}", hint=hint)


def _assign_control(machines: Sequence[ListedMachine], own_addresses: Collection[str]) -> ImportedMachines:
    numbered = tuple(_assign_cores(machines))
    own = [machine for machine in numbered if machine.addresses[0] in own_addresses]
    if len(own) > 1:
        both = " and ".join(machine.addresses[0] for machine in own[:2])
        raise BadInput(
            f"{both} are both addresses of this machine", hint="give it one line, with all its workers"
        )
    control = own[0] if own else numbered[0]
    notes = () if own else (_note_missing_own_line(control),)
    return ImportedMachines(
        tuple(msgspec.structs.replace(machine, control=machine is control) for machine in numbered), notes
    )


def _note_missing_own_line(control: ListedMachine) -> str:
    return (
        f"no line has an address of this machine, so the first one, {control.addresses[0]}, is used as the"
        " control machine, and the commands are for that machine; if another line is this machine, as behind"
        " NAT, pass its address with --here"
    )


def _assign_cores(machines: Sequence[ListedMachine]) -> Iterator[ListedMachine]:
    """The machines with their cores, as far as the lines tell."""
    first: int | None = 1
    for machine in machines:
        if first is None or machine.workers is None:
            first = None
            yield machine
        else:
            yield msgspec.structs.replace(machine, was=tuple(range(first, first + machine.workers)))
            first += machine.workers
