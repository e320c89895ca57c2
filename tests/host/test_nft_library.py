"""libnftables: which one is loaded, and what it may not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qmesh.host.firewall.nft_library import LIBRARY
from tests.support import trap

LOADS = """
from qmesh.host.firewall import nft_library
nft_library.load()
with open("/proc/self/maps") as maps:
    print(*sorted({line.split()[-1] for line in maps if "libnftables" in line}))
"""
ASKS = """
import socket
from qmesh.host.firewall.nft_library import ask_no_resolver
ask_no_resolver()
try:
    socket.getaddrinfo("host.of.rules.example", None)
except socket.gaierror as error:
    print(error.errno == socket.EAI_NONAME)
"""


def test_r1_the_systems_library_is_loaded_whatever_lies_in_the_directory(tmp_path):
    trap.set_up(tmp_path)
    for name in (LIBRARY, "libnftables.so", "libnftables"):
        (tmp_path / name).write_bytes(b"\x7fELF, and no more")
    words = [sys.executable, "-I", "-c", LOADS]
    environment = trap.environment(tmp_path, os.environ["PATH"])
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert trap.caught(tmp_path) == []
    (loaded,) = map(Path, done.stdout.split())
    assert loaded.is_relative_to("/usr/lib") or loaded.is_relative_to("/lib")
    for place in (loaded, *loaded.parents):
        assert (place.stat().st_uid, place.stat().st_mode & 0o022) == (0, 0)


def test_no_resolver_is_asked_for_hosts_that_rules_name():
    done = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
