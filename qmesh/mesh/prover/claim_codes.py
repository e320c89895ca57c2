"""The names of the claims: who tells what became of them loads no prover."""

from __future__ import annotations

from typing import Literal, TypeAlias

ClaimCode: TypeAlias = Literal[
    "outside",
    "tunnel",
    "granted",
    "containers",
    "into-tunnel",
    "older",
    "taken-up",
    "service",
    "control",
    "answers",
    "wireguard",
    "others",
]
