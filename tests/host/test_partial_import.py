"""Parts of a package without all of it."""

from __future__ import annotations

import subprocess
import sys


def said_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_agent_loads_nothing_of_pyroute2():
    loaded = said_by("import sys, qmesh.agent.daemon.main; print(*sys.modules)").split()
    assert not {"pyroute2.netlink", "asyncio"} & set(loaded)
    assert "qmesh.mesh.foreign.kernel_rules" not in loaded, "others' rules are read in a process of their own"


def test_who_reads_others_rules_loads_no_more_of_pyroute2_than_that_takes():
    loaded = said_by("import sys, qmesh.agent.audit.foreign_firewalls; print(*sys.modules)").split()
    assert "pyroute2.ipset" in loaded
    assert not {"pyroute2.ndb", "pyroute2.plan9"} & set(loaded)


def test_whoever_wants_all_of_it_gets_all_of_it():
    said_by("""
import sys, qmesh.host.firewall.foreign_rulesets, pyroute2
from pyroute2 import config, netlink
assert "__getattr__" in vars(pyroute2), "these are in modules of their own"
""")
    said_by("""
import sys, qmesh.host.firewall.foreign_rulesets, pyroute2
assert pyroute2.IPRoute is sys.modules['pyroute2.iproute.linux'].IPRoute
assert pyroute2.NDB.__module__ == "pyroute2.ndb.main"
assert "__getattr__" not in vars(pyroute2)
""")


def test_what_is_nowhere_in_it_is_no_attribute():
    said_by("""
import sys, qmesh.host.firewall.foreign_rulesets, pyroute2
assert not hasattr(pyroute2, "__nothing__")
assert not hasattr(pyroute2, "nothing")
""")


def test_a_package_that_is_loaded_already_stays_as_it_is():
    said_by("""
import pyroute2
before = pyroute2.IPRoute
import qmesh.host.firewall.foreign_rulesets
assert pyroute2.IPRoute is before
""")
