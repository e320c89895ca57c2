"""libnftables, and what it may not do."""

from __future__ import annotations

import subprocess
import sys

ASKS = """
import socket
from qmesh.host.firewall.nft_library import ask_no_resolver
ask_no_resolver()
try:
    socket.getaddrinfo("host.of.rules.example", None)
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
"""


def test_no_resolver_is_asked_for_hosts_that_rules_name():
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
