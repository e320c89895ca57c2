"""A claim about packets that have gone their way."""

from __future__ import annotations

import msgspec

from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.traveller import Family
from qmesh.mesh.prover.walk import Walk


class Case(msgspec.Struct, frozen=True):
    """A claim about packets of a family. broken: which packets break it, once they have gone their `walk`."""

    claim: ClaimCode
    family: Family
    walk: Walk
    broken: int
