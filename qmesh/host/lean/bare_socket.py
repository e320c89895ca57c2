"""A socket without the module `socket`, whose enumerations take a megabyte."""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class BareSocket(_socket.socket):
    """The kernel's socket, to be used in a `with` as Python's own is. Inherited by no program."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def accept_caller(self) -> BareSocket:
        """Whoever has connected. Raises OSError."""
        descriptor, _ = self._accept()  # type: ignore[attr-defined]  # the one thing of it that no stub has
        return BareSocket(fileno=descriptor)
