"""What comes of one message to one receiver."""

from __future__ import annotations

import msgspec


class DeliveryResult(msgspec.Struct, frozen=True):
    """What came of it. is_delivered: whether the receiver has taken it.

    text: that in words, without a secret. said: what the receiver answered besides, cut short.
    """

    is_delivered: bool
    text: str
    said: str = ""
