"""libnftables: loaded, and as a process of its own, for what others wrote.

The library ends the process it is in at some rulesets (1.0.6: at a chain's name that is not UTF-8, in JSON).
So this module is also a program: it does what it is told on its standard input, one after the other.
"""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import struct
import sys
from typing import Any, Final

import nftables

LIBRARY: Final = "libnftables.so.1"
ANSWER: Final = struct.Struct("=iQQ")
"""Before each answer: the library's code, the length of what it printed, and of its errors, in octets."""


def load() -> Any:
    """The library. Raises OSError when there is none."""
    ctypes.CDLL(LIBRARY)  # looked for first: an Nftables() without it complains once more when it goes
    library = nftables.Nftables(LIBRARY)
    library.set_stateless_output(True)
    return library


def serve_commands(most_s: int) -> None:
    """Run each line's command, `[command, whether in JSON]`, and answer it, until there are no more.

    most_s: seconds after which the kernel ends this process, wherever it is.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(most_s)
    library = load()
    library.set_handle_output(True)
    for line in sys.stdin.buffer:
        command, in_json = json.loads(line)
        library.set_json_output(in_json)
        code, output, error = library.cmd(command.encode())
        sys.stdout.buffer.write(ANSWER.pack(code, len(output), len(error)) + output + error)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve_commands(int(sys.argv[1]))
