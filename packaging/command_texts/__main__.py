"""Man pages and completions of what `--help` and docs/reference.md say, written once and below a folder.

.venv/bin/python -I packaging/command_texts FOLDER

FOLDER is /usr/share of a package. Below it come to be man/man8/qmesh.8, qmesh-init.8 and so on, which are not
compressed; bash-completion/completions/qmesh; zsh/vendor-completions/_qmesh; and
fish/vendor_completions.d/qmesh.fish. The same commit gives the same octets: the pages have the date of
SOURCE_DATE_EPOCH, without it today's. Python is any that has qmesh of this checkout.
"""

from __future__ import annotations

import sys
from pathlib import Path

from command_tree import read_commands, read_program
from completions import render_completions
from man_pages import render_pages


def main() -> int:
    """Write the files."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: packaging/command_texts FOLDER", file=sys.stderr)
        return 2
    program, commands = read_program(), read_commands()
    texts = render_pages(program, commands) | render_completions(program, commands)
    for place, text in texts.items():
        path = Path(sys.argv[1]) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


sys.exit(main())
