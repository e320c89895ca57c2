"""What is in qmesh's packages besides qmesh, by the metadata that came with it. See packaging/licences.

.venv/bin/python -I packaging/inside list [FOLDER]        names, versions and licences
.venv/bin/python -I packaging/inside copyright [FOLDER]   the copyright file of a Debian package
.venv/bin/python -I packaging/inside lock                 the entries of the lock for what qmesh needs

Of FOLDER, a folder `site-packages` with the files RECORD in it, all is told; without one, what qmesh needs in
this environment. The exit code is 1 where a licence is not one of those in allowed.py, and that is said.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

from allowed import list_faults
from copyright_file import render_copyright
from parts import read_needed_parts, read_parts

LOCK = Path(__file__).parents[2] / "scripts/requirements.lock"


def main() -> int:
    """Print what is asked for."""
    match sys.argv[1:]:
        case [("list" | "copyright") as wanted]:
            parts = read_needed_parts(Path(sysconfig.get_path("purelib")), "qmesh")
        case [("list" | "copyright") as wanted, folder]:
            parts = read_parts(Path(folder))
        case ["lock" as wanted]:
            parts = read_needed_parts(Path(sysconfig.get_path("purelib")), "qmesh")
        case _:
            print("usage: packaging/inside list|copyright [FOLDER], or lock", file=sys.stderr)
            return 2
    if wanted == "copyright":
        print(render_copyright(parts), end="")
    elif wanted == "lock":
        names = {part.name for part in parts}
        entries = re.split(r"\n(?=\w)", LOCK.read_text("utf-8").strip())
        print("\n".join(each for each in entries if each.partition("==")[0] in names))
    else:
        for part in parts:
            compiled = f", and {len(part.compiled)} parts compiled in" * bool(part.compiled)
            print(f"{part.name} {part.version}: {part.licence}{compiled}")
    for fault in list_faults(parts):
        print(f"error: not one of the licences that are allowed: {fault}", file=sys.stderr)
    return 1 if list_faults(parts) else 0


sys.exit(main())
