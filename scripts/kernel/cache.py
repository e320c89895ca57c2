"""What is made once and kept: kernels. What is in the cache is whole."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""The checkout."""


def made(name: str, recipe: list[Path], make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; `make` fills it unless it is there.

    recipe: the files that say how it is made; after a change in one of them it is made anew.
    """
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in recipe)).hexdigest()
    cache = Path(os.environ.get("QMESH_KERNEL_CACHE") or ROOT / ".cache" / "kernel").absolute()
    cache.mkdir(parents=True, exist_ok=True)
    whole = cache / f"{name}-{digest[:12]}"
    with _locked(cache):
        if not whole.exists():
            _make(whole, make)
            for old in set(cache.glob(f"{name}-*")) - {whole}:
                shutil.rmtree(old)
    return whole


def _make(whole: Path, make: Callable[[Path], None]) -> None:
    aside = whole.with_name("half-made")
    # Whoever was killed here left it.
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        make(aside)
        aside.rename(whole)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
