"""What a test says that cannot run here."""

from __future__ import annotations

from typing import Final

CANNOT: Final = "this machine cannot: "
"""So begins the reason of a skip that is right even where nothing may be left out."""
