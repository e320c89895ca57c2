"""A passphrase from a file or, hidden, from a terminal; never from an argument."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated, TypeAlias

from qmesh.cli.input import read_file
from qmesh.cli.output import file_option
from qmesh.errors import BadInput
from qmesh.mesh.values import quote_text

_MOST = 4096

PassphraseFileOption: TypeAlias = Annotated[
    Path | None, file_option("--passphrase-file", help="FILE with the passphrase as its only line.")
]


def read_passphrase_file(path: Path) -> bytes:
    """The one line of a file, without its end. Raises BadInput."""
    octets = read_file(path, most=_MOST, hint="pass the file with the passphrase: --passphrase-file FILE")
    line = octets.removesuffix(b"\n").removesuffix(b"\r")
    if not line or b"\n" in line or len(octets) > _MOST:
        raise BadInput(
            f"{quote_text(str(path))} is not one line", hint="write the passphrase into it, and nothing else"
        )
    return line


def prompt_for_passphrase(*, twice: bool) -> bytes:
    """What was typed at the terminal. twice: it is a new one, so a slip would be fatal. Raises BadInput."""
    if not sys.stdin.isatty():
        raise BadInput("there is no terminal to ask for the passphrase", hint="pass --passphrase-file FILE")
    try:
        typed = getpass.getpass("Passphrase (is not shown): ")
        again = getpass.getpass("Passphrase again: ") if twice else typed
        octets = typed.encode()
    except EOFError:
        typed, again, octets = "", "", b""
    except UnicodeError:  # the terminal's encoding is another than the locale's
        raise BadInput(
            "what was typed is not UTF-8 text", hint="pass it in a file: --passphrase-file FILE"
        ) from None
    if not typed or typed != again:
        raise BadInput(
            "the two passphrases are not the same" if typed else "no passphrase was given",
            hint="run the command again",
        )
    return octets
