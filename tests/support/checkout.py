"""Where this checkout is: tests read its documents and scripts, and start its programs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[2]
