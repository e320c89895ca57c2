"""What is not copied of iptables-legacy's tables."""

from __future__ import annotations

from typing import cast

from qmesh.host.drill.legacy_copy import load_legacy_tables
from qmesh.host.drill.namespaces import Namespaces
from qmesh.mesh.foreign.xtables.legacy_tables import LegacyBlock


class _Copy:
    def verify_copy(self) -> None:
        """It is there."""


def test_a_table_that_acts_on_the_whole_machine_is_not_copied():
    block = LegacyBlock("ip", b"filter".ljust(84, b"\0"), b"\x40\0IDLETIMER\0")
    refused = load_legacy_tables(cast("Namespaces", _Copy()), [block])
    assert refused == ["table filter of iptables-legacy: its rules act on the whole machine"]
