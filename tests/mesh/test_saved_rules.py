"""Tables of qmesh in rule sets that somebody saved."""

from __future__ import annotations

import pytest

from qmesh.mesh.foreign.saved_rules import find_saved_rules, list_includes, list_loaded_files
from qmesh.mesh.guard.render import render_table
from tests.support.factories import guard
from tests.support.rulesets import OTHERS, SAVED

SED = r"sed -i -E '/^table inet qmesh(-held|-staged|-stand-in)? +\{/,/^\}/d' "


def test_both_tables_are_found_as_nft_prints_them_and_a_command_takes_them_out() -> None:
    found = find_saved_rules("/etc/nftables.conf", SAVED.encode())
    assert found is not None
    assert set(found.tables) == {"qmesh", "qmesh-held"}
    assert (found.cure, found.is_json) == (f"{SED}/etc/nftables.conf", False)
    assert find_saved_rules("/etc/nftables.conf", SAVED.replace("\t", "  ").encode()) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        OTHERS,
        "# table inet qmesh {\n",
        "table inet qmesh2 {\n}\n",
        "table ip qmesh {\n}\n",
        "flush table inet qmesh\ndelete table inet qmesh-held\n",
        'table inet mine {\n\tcomment "like table inet qmesh {"\n}\n',
        '{"table": {"family": "ip", "name": "qmesh"}}',
    ],
)
def test_what_others_have_is_none_of_them(text: str) -> None:
    assert find_saved_rules("/etc/nftables.conf", text.encode()) is None


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(render_table(guard(40003)).replace("\t", ""), id="not indented"),
        pytest.param(f"{OTHERS}table inet qmesh {{ }}\n{OTHERS}", id="on one line"),
        pytest.param(render_table(guard(40003)).rstrip("}\n"), id="cut off"),
        pytest.param("add table inet qmesh\n", id="without a block"),
        pytest.param(f"{SAVED}create table inet qmesh-held {{\n}}\n", id="partly otherwise"),
    ],
)
def test_where_sed_would_take_out_too_much_or_too_little_no_command_is_named(text: str) -> None:
    found = find_saved_rules("/etc/nftables.conf", text.encode())
    assert found is not None
    assert found.cure.startswith("edit the file, and take out all that is about table inet qmesh")


def test_rules_saved_as_json_are_said_to_be() -> None:
    text = '{"nftables": [{"table": {"family": "inet", "name": "qmesh-held ", "handle": 3}}]}'
    found = find_saved_rules("/etc/rules.json", text.encode())
    assert found is not None
    assert (found.tables, found.is_json) == (("qmesh-held",), True)
    assert found.cure.startswith("python3 -Ic ")


@pytest.mark.parametrize(
    "text",
    [
        '{"nftables": [{"add": {"table": {"family": "inet", "name": "qmesh"}}}]}',
        '{"nftables": [{"table": {"family": "inet", "name": "qmesh"}}',
        '[{"table": {"family": "inet", "name": "qmesh"}}]',
        '{"nftables": [["table"], {"table": {"family": "inet", "name": "qmesh"}}]}',
    ],
)
def test_json_that_nft_has_not_printed_is_for_a_person(text: str) -> None:
    found = find_saved_rules("/etc/rules.json", text.encode())
    assert found is not None
    assert (found.is_json, found.cure[:13]) == (True, "edit the file")


def test_a_path_is_quoted_and_one_that_cannot_be_typed_is_in_no_command() -> None:
    found = find_saved_rules("/etc/it's; rm.conf", SAVED.encode())
    assert found is not None
    assert found.cure == f"""{SED}'/etc/it'"'"'s; rm.conf'"""
    odd = find_saved_rules("/etc/a\nb", SAVED.encode())
    assert odd is not None
    assert odd.cure.startswith("edit the file")


def test_octets_that_are_no_text_are_no_hindrance() -> None:
    assert find_saved_rules("/etc/nftables.conf", b'table inet a {\n\tcomment "\xff"\n}\n' + SAVED.encode())


def test_includes_are_found_wherever_a_command_may_begin() -> None:
    begun = b'#!/usr/sbin/nft -f\nflush ruleset; include "/etc/nftables.d/*.nft"\n'
    found = list_includes(begun + b'  include "own.nft"\n# include "x"\n')
    assert found == ("/etc/nftables.d/*.nft", "own.nft")
    assert list_includes(b"flush ruleset\n") == ()


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("nft -f /etc/a", ("/etc/a",)),
        ("ExecStart=/usr/sbin/nft -I /etc -f /etc/a\nExecReload=nft -j --file=/etc/b", ("/etc/a", "/etc/b")),
        ("\tpre-up nft -f '/etc/a'; nft -cf /etc/c || exit", ("/etc/a", "/etc/c")),
        ("x=$(nft -f /etc/a)", ("/etc/a",)),
        ("nft -f - </etc/a\nnft < /etc/b", ("/etc/a", "/etc/b")),
        ("nft list ruleset >/etc/a; rm -f /etc/b", ()),
        ("/usr/bin/draft -f /etc/a", ()),
        ("nothing", ()),
        ("nft " * 20000, ()),
    ],
)
def test_what_is_given_to_nft_is_found(text: str, paths: tuple[str, ...]) -> None:
    assert list_loaded_files(text.encode()) == paths
