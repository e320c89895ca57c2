"""The file that `qmesh drill` is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmesh.cli.commands.drill import _read_rules
from qmesh.errors import BadInput


def test_a_file_of_which_only_the_beginning_would_be_loaded_is_refused(tmp_path: Path):
    file = tmp_path / "rules"
    file.write_bytes(b"table inet t {\n}\n\0table inet u {\n}\n")
    with pytest.raises(BadInput, match="is no text"):
        _read_rules(file)
