"""Units of systemd that refuse the mesh's packets."""

from __future__ import annotations

import pytest

from qmesh.mesh.foreign.other_hooks.unit_filters import UnitFilter, find_unit_obstacles

ANY = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("allowed", "denied", "is_refused"),
    [
        ((), (), False),
        ((), ANY, True),
        (("127.0.0.0/8",), ANY, True),
        (("10.77.0.0/20",), ANY, False),
        (("10.0.0.0/8",), ("10.77.0.1/32",), False),
        ((), ("10.77.0.1/32",), True),
        ((), ("10.77.0.2/32", "fd77::/64"), False),
    ],
)
def test_a_unit_that_refuses_the_control_nodes_packets_is_named(allowed, denied, is_refused):
    unit = UnitFilter("qmesh-worker@4.service", allowed, denied)
    found = list(find_unit_obstacles([unit], ["10.77.0.1"], "10.77.0.0/20"))
    assert bool(found) is is_refused
    for each in found:
        assert (each.place, each.is_certain) == ("unit qmesh-worker@4.service", True)
        assert each.seen == f"IPAddressDeny={' '.join(denied)}"
        assert each.cure == "systemctl set-property qmesh-worker@4.service IPAddressAllow=10.77.0.0/20"
