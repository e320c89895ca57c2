"""What a config that was written still asks of a machine's processes."""

from __future__ import annotations

import msgspec

from qmesh.mesh.values import CoreNumber


class DueRestarts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has to be restarted, or stopped, before a config that was written takes effect.

    restart, stop: cores of this machine, ascending. control: whether its control process has to.
    """

    restart: tuple[CoreNumber, ...] = ()
    stop: tuple[CoreNumber, ...] = ()
    control: bool = False

    def __bool__(self) -> bool:
        return bool(self.restart or self.stop or self.control)

    def merge(self, later: DueRestarts) -> DueRestarts:
        """Both, where the later one knows better."""
        return DueRestarts(
            restart=tuple(sorted({*self.restart, *later.restart}.difference(later.stop))),
            stop=tuple(sorted({*self.stop, *later.stop}.difference(later.restart))),
            control=self.control or later.control,
        )
