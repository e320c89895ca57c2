"""What `nft -j list ruleset` prints of what is loaded."""

from __future__ import annotations

from qmesh.errors import KernelRefused
from qmesh.host.firewall import nft_library
from qmesh.host.firewall.nftables import build_nft_error, decode_output, open_library
from qmesh.host.lean.nftables_messages import read_generation
from qmesh.host.prover.ruleset_file import ReadRules, read_live_rules

_ATTEMPTS = 10


def read_live_rules_and_listing() -> tuple[ReadRules, bytes | None]:
    """This machine's rules, and the same as nft lists them, of one moment; None where a set is too large.

    Raises MachineRefused.
    """
    for _ in range(_ATTEMPTS):
        before = read_generation()
        found = read_live_rules()
        listed = None if any(each.elements is None for each in found.sets.values()) else _list_rules()
        if read_generation() == before:
            return found, listed
    raise KernelRefused(
        "the rules change faster than they can be read",
        hint="find the program that changes them: `nft monitor`",
    )


def _list_rules() -> bytes:
    nft_library.ask_no_resolver()
    library = open_library()
    library.read_json()
    is_done, listed, error = library.run(b"list ruleset")
    if not is_done:
        raise build_nft_error(decode_output(error))
    return listed
