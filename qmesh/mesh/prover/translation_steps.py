"""Rules that give packets another source or target. Source: net/netfilter/nft_nat.c, nft_redir.c."""

from __future__ import annotations

from typing import Final

from qmesh.mesh.foreign.expressions import Attributes, read_number
from qmesh.mesh.prover.gates import Wires
from qmesh.mesh.prover.rule_run import NewTarget, RuleRun
from qmesh.mesh.prover.traveller import ADDRESSES, FAMILY_NUMBERS

_ANY_FAMILY: Final = 1  # NFPROTO_INET
_TO_TARGET: Final = 1  # NFT_NAT_DNAT
_PLAIN: Final = 1 | 2 | 8
"""NF_NAT_RANGE_MAP_IPS, _PROTO_SPECIFIED, _PERSISTENT: with any other flag the kernel chooses."""


def run_nat(run: RuleRun, attributes: Attributes) -> None:
    """`dnat` and `snat`. Packets of another family than the rule's go on."""
    if read_number(attributes, 2) not in {_ANY_FAMILY, FAMILY_NUMBERS[run.at.family]}:
        return
    if read_number(attributes, 1) != _TO_TARGET or read_number(attributes, 7) & ~_PLAIN:
        run.translate()
        return
    _, _, length = ADDRESSES[run.at.family]
    addresses, ports = _list_ends(run, attributes, 3, length), _list_ends(run, attributes, 5, 2)
    is_known = max(len(addresses), len(ports)) <= 1
    run.translate(NewTarget(run.hits, _find_one(addresses), _find_one(ports)) if is_known else None)


def run_redirect(run: RuleRun, attributes: Attributes) -> None:
    """`redirect`: to this machine, at the interface by which it came."""
    ports = _list_ends(run, attributes, 1, 2)
    is_known = len(ports) <= 1 and not read_number(attributes, 3) & ~_PLAIN
    run.translate(NewTarget(run.hits, port=_find_one(ports), is_own=True) if is_known else None)


def run_masquerade(run: RuleRun, _: Attributes) -> None:
    """`masquerade`."""
    run.translate()


def _list_ends(run: RuleRun, attributes: Attributes, least: int, octets: int) -> set[Wires]:
    """The least and the greatest that a rule names, in one or two registers; once where they are one."""
    registers = [read_number(attributes, kind) for kind in (least, least + 1) if kind in attributes]
    return {run.read(register, octets) for register in registers}


def _find_one(ends: set[Wires]) -> Wires | None:
    return next(iter(ends), None)
