"""What a registry of an older schema lacks: statements that take it away."""

from __future__ import annotations

from typing import Final

AS_OF_VERSION_4: Final = (
    "DROP INDEX one_key_offer",
    *(f"ALTER TABLE events DROP COLUMN {name}" for name in ("user", "address", "endpoint", "public_key")),
    "PRAGMA user_version = 4",
)
AS_OF_VERSION_3: Final = (*AS_OF_VERSION_4, "DROP TABLE succession", "PRAGMA user_version = 3")
AS_OF_VERSION_2: Final = (
    *AS_OF_VERSION_3,
    *(f"DROP TRIGGER {name}" for name in ("machine_is_one", "stand_in_is_one")),
    *("DROP TABLE stand_ins", "DROP TABLE resting", "ALTER TABLE machines DROP COLUMN acknowledged"),
    "PRAGMA user_version = 2",
)
AS_OF_VERSION_1: Final = (
    *AS_OF_VERSION_2,
    *(
        f"ALTER TABLE mesh DROP COLUMN {name}"
        for name in ("p2p_base_port", "stream", "master_proxy", "restart")
    ),
    "PRAGMA user_version = 1",
)
