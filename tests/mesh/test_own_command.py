"""How qmesh starts itself: what it hands on."""

from __future__ import annotations

from qmesh.mesh.own_command import build_environment


def test_of_the_environment_words_and_times_are_handed_on() -> None:
    kept = {"LANG": "C.UTF-8", "LC_TIME": "C", "PATH": "/usr/bin", "QMESH_TRACEBACK": "1", "TZ": "UTC"}
    others = {"HOME": "/home/alice", "LD_PRELOAD": "/home/alice/x.so", "TMPDIR": "/home/alice", "LCX": "1"}
    assert build_environment({**others, **kept}) == kept
