"""A stand-in for the node's control process: dials every data worker of the list, in order.

    control.py --config DIR [--list KEY]       a JSON list of what answered at each entry
    control.py --first ADDRESS:PORT [--patience SECONDS]
                                               dials until that worker answers, then a JSON object
    control.py --listen PORT/PROTOCOL...       has these sockets, and does no more

Entry i must be answered by core i+1, else `answered` is false.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.lab.programs.node import (
    NodeRefuses,
    WorkerAddress,
    answer_until_terminated,
    dial,
    listen_at,
    read_list,
)
from tests.support.waiting import Deadline, patience

DIAL_SECONDS = 1.0
POLL_SECONDS = 0.010


async def dial_worker(core: int, worker: WorkerAddress) -> dict[str, Any]:
    """Dial one entry; `by` is the line that came back, or what went wrong."""
    began = time.monotonic()
    try:
        line = await dial(worker.address, worker.port, seconds=patience(DIAL_SECONDS))
    except OSError as error:
        line = str(error) or "timeout"
    return {
        "core": core,
        "address": worker.address,
        "port": worker.port,
        "answered": line.startswith(f"core {core} on "),
        "by": line,
        "milliseconds": round((time.monotonic() - began) * 1000, 1),
    }


async def dial_all(workers: list[WorkerAddress]) -> list[dict[str, Any]]:
    """Dial every entry, one after the other."""
    return [await dial_worker(core, worker) for core, worker in enumerate(workers, start=1)]


async def dial_until_answered(worker: WorkerAddress, seconds: float) -> dict[str, Any]:
    """Dial every 10 ms, not waiting for what is still under way: a lost SYN is sent again after 1 s.

    `at` is the monotonic clock's time of the first answer.
    """
    under_way: set[asyncio.Task[str]] = set()
    deadline = Deadline(seconds)
    try:
        while not deadline.is_over():
            under_way.add(asyncio.create_task(dial(worker.address, worker.port, seconds=0.5)))
            await asyncio.sleep(POLL_SECONDS)
            for attempt in [task for task in under_way if task.done()]:
                under_way.remove(attempt)
                if attempt.exception() is None and attempt.result():
                    return {"at": time.monotonic(), "by": attempt.result()}
    finally:
        for attempt in under_way:
            attempt.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    sys.exit(f"control: {worker.address} port {worker.port} did not answer within {deadline}")


def listen(places: list[str]) -> None:
    """Have the sockets at which a control process is reached, and say `ready`, until SIGTERM or SIGINT."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    lines = []
    for port, _, protocol in (place.partition("/") for place in places):
        if protocol == "udp":
            udp.bind(("0.0.0.0", int(port)))  # noqa: S104 - as the real one
        else:
            lines.append((listen_at("0.0.0.0", int(port)), "control"))  # noqa: S104
    answer_until_terminated(lines)
    udp.close()


def worker_address(text: str) -> WorkerAddress:
    """`ADDRESS:PORT`, an IPv6 address without brackets."""
    address, _, port = text.rpartition(":")
    return WorkerAddress(address, int(port))


def main() -> None:
    """Dial, and print what answered."""
    parser = argparse.ArgumentParser(description="stand-in control process")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--list", default="dataWorkerMultiaddrs")
    parser.add_argument("--first", type=worker_address)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--listen", nargs="+", metavar="PORT/PROTOCOL")
    arguments = parser.parse_args()
    if arguments.listen:
        listen(arguments.listen)
        return
    if arguments.first:
        print("dialling", flush=True, file=sys.stderr)
        print(json.dumps(asyncio.run(dial_until_answered(arguments.first, arguments.patience))))
        return
    try:
        workers = read_list(arguments.config, arguments.list)
    except NodeRefuses as error:
        sys.exit(f"control: {error}")
    print(json.dumps(asyncio.run(dial_all(workers))))


if __name__ == "__main__":
    main()
