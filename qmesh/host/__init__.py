"""What acts: every line here may touch the machine, none takes a decision."""

from qmesh.host.system.partial_import import import_lazily

import_lazily("pyroute2")
