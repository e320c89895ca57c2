"""iptables' targets that give packets another target. Source: linux/netfilter/nf_nat.h, xt_nat.c."""

from __future__ import annotations

import struct

from qmesh.mesh.prover.gates import make_constant
from qmesh.mesh.prover.rule_run import NewTarget, RuleRun
from qmesh.mesh.prover.traveller import ADDRESSES

_MAP_IPS, _PROTO_SPECIFIED, _PERSISTENT = 1, 2, 8
"""NF_NAT_RANGE_*: with any other flag the kernel chooses."""


def translate_target(run: RuleRun, content: bytes) -> bool:
    """`DNAT` of revision 1 and 2."""
    return _translate(run, content, 16, is_own=False)


def translate_ipv4_target(run: RuleRun, content: bytes) -> bool:
    """`DNAT` of revision 0: with how many ranges there are before the one."""
    return _translate(run, content[4:], 4, is_own=False)


def redirect(run: RuleRun, content: bytes) -> bool:
    """`REDIRECT`, whose range is that of the family."""
    if run.at.family == "ip":
        return _translate(run, content[4:], 4, is_own=True)
    return _translate(run, content, 16, is_own=True)


def _translate(run: RuleRun, content: bytes, width: int, *, is_own: bool) -> bool:
    """width: of an address in the range."""
    (flags,) = struct.unpack_from("=I", content)
    port, last_port = struct.unpack_from("!HH", content, 4 + 2 * width)
    _, _, length = ADDRESSES[run.at.family]
    address, last_address = content[4 : 4 + length], content[4 + width : 4 + width + length]
    is_mapped, has_port = flags & _MAP_IPS and not is_own, flags & _PROTO_SPECIFIED
    is_known = not (
        flags & ~(_MAP_IPS | _PROTO_SPECIFIED | _PERSISTENT)
        or (is_mapped and address != last_address)
        or (has_port and port != last_port)
    )
    new = NewTarget(
        run.hits,
        make_constant(address) if is_mapped else None,
        make_constant(port.to_bytes(2, "big")) if has_port else None,
        is_own=is_own,
    )
    run.translate(new if is_known else None)
    return True
