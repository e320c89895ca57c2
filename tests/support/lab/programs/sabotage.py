"""An agent, a part of which can be broken: `python sabotage.py`, then a file /root/HOW-PART.

HOW is `hang`, which blocks the part's thread for ever, or `crash`, which ends it by an error that nobody
has foreseen; `hang` and `crash` happen once for each such file, which is removed by that. What comes after
an agent that has begun anew is an ordinary one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qmesh.agent.daemon import claim_watch
from qmesh.agent.daemon.main import Agent
from qmesh.agent.daemon.membership.poll import MembershipPoller
from qmesh.agent.daemon.monitor import Monitor
from qmesh.agent.daemon.own_knowledge import OwnKnowledge
from qmesh.agent.metrics.outlets import MetricsOutlets
from qmesh.agent.node import node_restarts
from qmesh.agent.notifications.notifier import Notifier
from qmesh.agent.readers.service import ReaderService
from qmesh.cli.entrypoints import run
from qmesh.host.api.server import _Server
from qmesh.host.firewall.guard_keeper import GuardKeeper
from qmesh.host.metrics.http_server import MetricsServer
from qmesh.host.network import netlink_events

PARTS = {
    "look": (Agent, "_look_at_machine"),
    "service": (_Server, "tick"),
    "asking": (MembershipPoller, "_poll_once"),
    "following": (node_restarts.NodeConfigFollower, "follow_changes"),
    "monitor": (Monitor, "_probe_holder"),
    "answering": (OwnKnowledge, "build_health"),
    "guard": (GuardKeeper, "ensure_loaded"),
    "proving": (claim_watch.ClaimWatch, "_prove_if_due"),
    "metrics": (MetricsOutlets, "_update"),
    "serving": (MetricsServer, "tick"),
    "readers": (ReaderService, "update_place"),
    "notifying": (Notifier, "_read_settings"),
    "notices": (netlink_events.Notices, "take_notice"),
}
"""What each part calls again and again."""


class Sabotage(BaseException):
    """No part expects this."""


def breakable(part: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def broken(*arguments: Any, **rest: Any) -> Any:
        for how in ("hang", "crash"):
            try:
                os.unlink(f"/root/{how}-{part}")  # noqa: PTH108 - quick: it is tried at each call
            except FileNotFoundError:
                continue
            if how == "hang":
                threading.Event().wait()
            if part == "notices":  # both sockets are none any more
                arguments[0].close()
                continue
            raise Sabotage(f"sabotaged {part}")
        return real(*arguments, **rest)

    return broken


def main() -> int:
    for part, (owner, name) in PARTS.items():
        setattr(owner, name, breakable(part, getattr(owner, name)))
    return run("agent", Path("/var/lib/qmesh"))


if __name__ == "__main__":
    sys.exit(main())
