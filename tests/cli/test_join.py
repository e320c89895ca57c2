"""Options of `join` that do not go together are refused before anything is read or changed."""

from __future__ import annotations

import pytest

from qmesh.cli import app


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (["--answer", "answer", "invitation"], "without an invitation"),
        (["--answer", "answer", "--offline"], "without an invitation"),
        (["--answer", "answer", "--listen-port", "5"], "belong to --offline"),
        (["--answer", "answer", "--endpoint", "192.0.2.1:5"], "belong to --offline"),
        (["--answer", "answer", "--config", "/root"], "belong to --offline"),
        (["--answer", "answer", "--announce", "203.0.113.7"], "belong to --offline"),
        (["invitation", "--offline", "--no-apply"], "--offline applies nothing"),
        (["invitation", "--out", "request"], "--out is for the request of --offline"),
        (["--answer", "answer", "--out", "request"], "--out is for the request of --offline"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, because, capfd):
    assert app.run(["join", *words]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert because in said.err
    assert "hint: " in said.err
