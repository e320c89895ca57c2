"""An ordinary service that is no worker: `service.py PORT` answers from every address.

What an attacker can do to a worker is shown by what it can do to this one: the positive control.
"""

from __future__ import annotations

import sys

from tests.support.lab.programs.node import answer_until_terminated, listen_at

if __name__ == "__main__":
    answer_until_terminated([(listen_at("::", int(sys.argv[1])), "service")])
