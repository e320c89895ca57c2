"""What is in qmesh's packages besides qmesh, by the metadata that came with it. See packaging/licences.

.venv/bin/python -I packaging/inside list [FOLDER]        names, versions and licences
.venv/bin/python -I packaging/inside copyright [FOLDER]   the copyright file of a Debian package

Of FOLDER, a folder `site-packages` with the files RECORD in it, all is told; without one, what qmesh needs in
this environment. The exit code is 1 where a licence is not one of those in allowed.py, and that is said.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from allowed import list_faults
from copyright_file import render_copyright
from parts import read_needed_parts, read_parts


def main() -> int:
    """Print what is asked for."""
    match sys.argv[1:]:
        case [("list" | "copyright") as wanted]:
            parts = read_needed_parts(Path(sysconfig.get_path("purelib")), "qmesh")
        case [("list" | "copyright") as wanted, folder]:
            parts = read_parts(Path(folder))
        case _:
            print("usage: packaging/inside list|copyright [FOLDER]", file=sys.stderr)
            return 2
    if wanted == "copyright":
        print(render_copyright(parts), end="")
    else:
        for part in parts:
            compiled = f", and {len(part.compiled)} parts compiled in" * bool(part.compiled)
            print(f"{part.name} {part.version}: {part.licence}{compiled}")
    for fault in list_faults(parts):
        print(f"error: not one of the licences that are allowed: {fault}", file=sys.stderr)
    return 1 if list_faults(parts) else 0


sys.exit(main())
