"""A stand-in for the node's data workers: listens where config.yml says, and nowhere else.

    worker.py --config DIR --core 4..7 [--list KEY] [--wait SECONDS] [--careless]

Core N listens on entry N-1 of the list and answers every TCP connection with one line,
`core N on HOST`. Like the node it gives up when the list has no such entry, unless it shall
wait for it. A careless worker takes only the port from the list, and listens on every address.
"""

from __future__ import annotations

import argparse
import errno
import socket
import sys
from pathlib import Path

from tests.support.lab.programs.node import NodeRefuses, answer_until_terminated, listen_at, read_list
from tests.support.waiting import Deadline, pause


def cores(text: str) -> range:
    """`4` or `4..7`, both ends included; core 0 is the control process."""
    first, _, last = text.partition("..")
    numbers = range(int(first), int(last or first) + 1)
    if not numbers or numbers[0] < 1:
        raise argparse.ArgumentTypeError(f"not the numbers of data workers: {text}")
    return numbers


def listeners(arguments: argparse.Namespace) -> list[tuple[socket.socket, str]]:
    """A listener for each core, with its line."""
    entries = read_list(arguments.config, arguments.list)
    if len(entries) < arguments.core[-1]:
        raise NodeRefuses(f"core {arguments.core[-1]}: {arguments.list} has {len(entries)} entries")
    made: list[tuple[socket.socket, str]] = []
    try:
        for core in arguments.core:
            entry = entries[core - 1]
            address = "::" if arguments.careless else entry.address
            made.append((listen_at(address, entry.port), f"core {core}"))
    except OSError:
        for listener, _ in made:
            listener.close()
        raise
    return made


def listeners_in_time(arguments: argparse.Namespace) -> list[tuple[socket.socket, str]]:
    """As `listeners`; until the time is over, a list or a tunnel address may yet come."""
    deadline = Deadline(arguments.wait)
    while True:
        try:
            return listeners(arguments)
        except (NodeRefuses, OSError) as error:
            to_come = isinstance(error, NodeRefuses) or error.errno == errno.EADDRNOTAVAIL
            if not to_come or deadline.is_over():
                raise
        pause()


def main() -> None:
    """Read what is wanted, listen, answer."""
    parser = argparse.ArgumentParser(description="stand-in data workers")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--core", type=cores, required=True)
    parser.add_argument("--list", default="dataWorkerMultiaddrs")
    parser.add_argument("--wait", type=float, default=0.0)
    parser.add_argument("--careless", action="store_true")
    try:
        made = listeners_in_time(parser.parse_args())
    except (NodeRefuses, OSError) as error:
        sys.exit(f"worker: {error}")
    answer_until_terminated(made)


if __name__ == "__main__":
    main()
