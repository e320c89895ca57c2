"""The names of qmesh's tables in nftables."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

TABLE: Final = "qmesh"
HELD: Final = "qmesh-held"
"""The second table, as its file has it."""
HELD_IN_KERNEL: Final = f"{HELD} "
"""Its name in the kernel: nft prints it, and reads back `HELD` (`qmesh.host.firewall.held_table`)."""
STAGED: Final = "qmesh-staged"
STAND_IN: Final = "qmesh-stand-in"
"""The same table for some milliseconds: while it is made, and while another process comes to hold it."""
OWN_TABLES: Final = frozenset({TABLE, HELD, HELD_IN_KERNEL, STAGED, STAND_IN})
"""Of family inet: all that qmesh has, or that nft has made of them."""
