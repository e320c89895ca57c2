"""A file of rules that somebody else wrote, before the kernel is asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from qmesh.host.given_rules import read_given_rules
from qmesh.host.prover import ruleset_file


def test_a_file_that_includes_what_has_no_end_does_not_keep_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    threads: list[threading.Thread] = []
    monkeypatch.setattr(ruleset_file, "_load", lambda _: threads.append(threading.current_thread()))
    file = tmp_path / "rules"
    file.write_text('include "/dev/zero"\n')
    ruleset_file.read_rules(read_given_rules(file))
    assert [each.daemon for each in threads] == [True]
