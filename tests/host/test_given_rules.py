"""A file of rules that somebody gives, before the kernel is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from qmesh.errors import BadInput
from qmesh.host import given_rules


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"table inet t {\n}\n\0table inet u {\n}\n", "is no text"),
        (b'{"nftables": [{"xt": null}]}', "lacks what iptables' rules say"),
        (b"table ip filter {\n\tchain INPUT {\n\t\tmeta l4proto tcp # xt_recent accept\n", "lacks what"),
    ],
)
def test_a_file_that_says_less_than_its_rules_is_refused(content: bytes | None, words: str, tmp_path: Path):
    file = tmp_path / "rules"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match=words):
        given_rules.read_given_rules(file)


def test_a_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(given_rules, "MOST_OCTETS", 9)
    with pytest.raises(BadInput, match="larger than 9 bytes"):
        given_rules.read_given_rules(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('iif "wan0" accept', {"wan0"}),
        ("iif wan0 accept", {"wan0"}),
        ("oif != wan0 drop", {"wan0"}),
        ("iif { wan0, wan1 } tcp dport 22 accept", {"wan0", "wan1"}),
        ("iif vmap { wan0 : accept, wan1 : jump other }", {"wan0", "wan1", "other"}),
        ("define WAN = wan0\niif $WAN accept", {"wan0"}),
        ("define WANS = { wan0, wan1 }\niif $WANS accept", {"wan0", "wan1"}),
        ("type filter hook ingress devices = { wan0, wan1 } priority 0;", {"wan0", "wan1"}),
        ("type filter hook ingress device wan0 priority 0;", {"wan0"}),
        ('iifname "wan0" accept', set()),
        ("iif lo accept", set()),
        ("iif 2 accept", set()),
    ],
)
def test_interfaces_that_have_to_be_there_are_found_however_they_are_written(text: str, names: set[str]):
    assert given_rules.list_interfaces(text.encode()) == names
