"""The program that holds the guard, as `qmesh.mesh.own_command.build_holder_line` starts it.

A file, and no module of `python -m`: that alone would load half as much again as all of this process.
"""

from __future__ import annotations

import os
import sys

if not __package__:  # started as that: this is where qmesh is, behind all that is Python's own
    sys.path.append(__file__.removesuffix("/qmesh/host/lean/hold.py"))

from qmesh.errors import Interrupted, QmeshError, build_bug_error
from qmesh.host.firewall.holder import run_holder
from qmesh.host.log.plain_log import PlainLog


def main(directory: str) -> int:
    """Hold the guard of a state directory until a signal ends it; returns the exit code."""
    os.chdir("/")  # the directory that it was typed in may be any user's, and may be unmounted one day
    log = PlainLog(directory)
    try:
        run_holder(directory, log)
    except QmeshError as error:
        return _end(log, error)
    except KeyboardInterrupt:
        return _end(log, Interrupted())
    except Exception as error:
        if os.environ.get("QMESH_TRACEBACK"):
            raise
        return _end(log, build_bug_error(error))
    return 0


def _end(log: PlainLog, error: QmeshError) -> int:
    log.report_error(error)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[2]))
