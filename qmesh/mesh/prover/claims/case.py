"""A claim about packets that have gone their way."""

from __future__ import annotations

import msgspec

from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.gates import TRUE
from qmesh.mesh.prover.traveller import Family
from qmesh.mesh.prover.walk import Walk


class Case(msgspec.Struct, frozen=True):
    """A claim about packets of a family. broken: which packets break it, once they have gone their `walk`.

    leaves: of what is to leave, which packets do. A proof does without that, as some ways out pass no rule
    of the hook `postrouting`; a packet that is shown does leave.
    """

    claim: ClaimCode
    family: Family
    walk: Walk
    broken: int
    leaves: int = TRUE
