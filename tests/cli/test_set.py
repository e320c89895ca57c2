"""`qmesh set`: what does not go together is refused before anything is looked at."""

from __future__ import annotations

import pytest

from qmesh.cli.app import run


@pytest.mark.parametrize("endpoints", [("none", "203.0.113.7"), ("203.0.113.7", "none"), ("none", "none")])
def test_no_endpoint_and_another_one_do_not_go_together(capsys, endpoints, tmp_path):
    words = [word for endpoint in endpoints for word in ("--endpoint", endpoint)]
    assert run(["set", "hel-2", *words, "--state", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "error: --endpoint none says" in said
    assert "hint: leave one of the two out" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("--readers", "ops", "--metrics", "127.0.0.1:9586"),
            "--metrics and --metrics-directory are for this machine",
        ),
        (("--readers", "ops", "--node", "2.1"), "--readers is for this machine, and passed alone"),
        (("hel-2", "--readers", "ops"), "--readers is for this machine, and passed alone"),
    ],
)
def test_what_is_for_this_machine_is_passed_alone(capsys, words, said, tmp_path):
    assert run(["set", *words, "--state", str(tmp_path)]) == 2
    assert f"error: {said}" in capsys.readouterr().err
