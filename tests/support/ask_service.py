"""Asks the membership service of this machine how it is: `qmesh status --json | python ask_service.py`.

Ends with 0 when it answers that it is well. Needs qmesh, and no other part of the tests.
"""

# ruff: noqa: T201  # it prints its answer

from __future__ import annotations

import http.client
import json
import sys

from qmesh.mesh.values import SERVICE_PORTS


def main() -> int:
    """Ask, and say what was answered; the exit status."""
    address = json.load(sys.stdin)["machines"][0]["address"]
    service = http.client.HTTPConnection(address, SERVICE_PORTS[0], timeout=30)
    service.request("GET", "/v1/health")
    status = service.getresponse().status
    print(f"\nthe membership service at {address} answers {status}")
    return int(status != http.client.NO_CONTENT)


if __name__ == "__main__":
    sys.exit(main())
