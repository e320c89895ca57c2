"""Lint has an error where the node's loader refuses a file, and none where it loads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import (
    decode_config,
    edit_settings,
    lint_config,
    list_worker_multiaddrs,
    render_config,
    scan_config,
)
from qmesh.mesh.nodeconfig.document import Scalar
from qmesh.mesh.nodeconfig.edit.settings import Setting
from qmesh.mesh.nodeconfig.key_location import Key
from qmesh.mesh.nodeconfig.known_keys import known_sections, walk_key_paths
from qmesh.mesh.nodeconfig.lint import go_refusals, rust_refusals
from qmesh.mesh.nodeconfig.profiles import profile_facts
from qmesh.mesh.nodeconfig.worker_list import read_workers
from qmesh.mesh.values import PROFILES, Profile
from tests.support.factories import cluster
from tests.support.node_files import own_file, verdicts

VERDICTS = list(verdicts())
_LOADED = {"profile", "wildcard"}


def refusals_of(file: bytes | str, profile: Profile) -> list[str]:
    """The errors of lint, each with its place."""
    try:
        text, is_utf16 = (file, False) if isinstance(file, str) else decode_config(file)
        config = scan_config(text, is_utf16=is_utf16)
    except BadInput as refused:
        return [refused.message]
    problems = lint_config(config, profile=profile)
    for problem in problems:
        # A list of another version, and an address that the program replaces, do not keep it from loading.
        assert problem.refused is (problem.severity == "error") or problem.kind in _LOADED, problem
        assert problem.hint
    return [f"{each.line}:{each.column} {each.message}" for each in problems if each.refused]


def test_all_verdicts_are_given():
    assert len(VERDICTS) == 464
    assert len({verdict.case for verdict in VERDICTS}) == 118
    assert sum(verdict.loads for verdict in VERDICTS) == 266


def test_lint_agrees_with_every_verdict_of_the_nodes_own_loaders():
    found = [(verdict, refusals_of(verdict.file, verdict.profile)) for verdict in VERDICTS]
    missed = [(each.profile, each.case) for each, errors in found if not errors and not each.loads]
    false_alarms = [(each.profile, each.case, errors) for each, errors in found if errors and each.loads]
    assert (missed, false_alarms) == ([], [])


@pytest.mark.parametrize("profile", PROFILES)
def test_the_nodes_own_file_has_no_problem(profile):
    assert lint_config(own_file(profile), profile=profile) == ()


@pytest.mark.parametrize("profile", PROFILES)
def test_the_file_that_an_older_node_wrote_is_loaded_by_a_newer_one(profile):
    for older in PROFILES[: PROFILES.index(profile)]:
        assert refusals_of(own_file(older), profile) == []


NUMBERS = "0|+1|0x1F"
"""What every number may be, however small it has to be."""
FORMS = {
    # form: values that both take, that neither takes, that only Go takes, that only Rust takes
    "text": ("a|1|true|''|~|2026-11-28|!x a|\"a\"", "[a]|{a: b}", "", "!!int x"),
    "texts": ("[]|[a, 1, true, ~]|!x []|", "a|''|[[a]]|[{a: b}]|{a: b}|0", "~|null", ""),
    "texts by name": ("{}|{a: b}|{a: ~}|", "a|[]|{a: [b]}|''", "~|null", ""),
    "flag": ("true|True|FALSE", "1|0|'true'|\"false\"|tru|[]|{}", "yes|No|on|OFF|y|~|", ""),
    "float": ("0|.5|-1.5|1e3|5.|.inf", "'0.25'|0,25|a|[]|++1|true", "1_0|0x10|~|", ""),
    "duration": (
        "'0'|4|1m30s|1.5h|'4s'|0|.5s|1us|~||1ns",
        "4 seconds|1d|s|1s 2s|true|[]|1S|2026-11-28",
        "-1s|+1s|1.5|-4|1_000",
        "'4'|''|010s5|' 4s '",
    ),
    "manager": ("file|inMemory|'file'", "1|FILE|mem|[]|''|true", "~|", "inmemory"),
    "int": (f"{NUMBERS}|-5|0o17", "'1'|a|1s|[]|true|1:30|9223372036854775808", "1.0|1_0|010|08|1e1|~|", ""),
    "long": (f"{NUMBERS}|-5|9223372036854775807", "'1'|a|[]|9223372036854775808", "1.5|1_0|010|~|", ""),
    "u8": (f"{NUMBERS}|255", "-1|256|'1'|mainnet|[]|{}|-1.5", "1.0|1_0|010|~|", ""),
    "u16": (f"{NUMBERS}|65535", "-1|65536|25000/tcp|'25000'|[]|70000", "25000.0|25_000|010|~|", ""),
    "u32": (f"{NUMBERS}|4294967295", "-1|4294967296|'1'|a", "1.0|1_0|010|~|", ""),
    "u64": (f"{NUMBERS}|18446744073709551615", "-1|2e19|'1'|a", "1.0|1_0|010|~|", ""),
}


def values_for(form: str, *, is_rust: bool) -> tuple[list[str], list[str]]:
    """Values that a node takes and those that it does not."""
    both, neither, gos, rusts = (values.split("|") if values else [] for values in FORMS[form])
    return (both + rusts, neither + gos) if is_rust else (both + gos, neither + rusts)


def nest(path: str, value: str) -> str:
    """A file with one key."""
    *above, name = path.strip(".").split(".")
    lines = [f"{'  ' * depth}{each}:" for depth, each in enumerate(above)]
    return "\n".join([*lines, f"{'  ' * len(above)}{name}: {value}"]) + "\n"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_key_of_a_form_is_judged_alike(profile):
    judged = 0
    for path, section in known_sections(profile).items():
        for name, key in section.items():
            if key.form is None or key.is_newer or name == "bootstrapPeers":
                continue
            good, bad = values_for(key.form, is_rust=profile == "2.1-rust")
            for value in good:
                text = nest(f"{path}.{name}", value)
                assert refusals_of(text, profile) == [], (text, profile)
            for value in bad:
                text = nest(f"{path}.{name}", value)
                assert len(refusals_of(text, profile)) == 1, (text, profile)
            judged += 1
    assert judged >= {"1.4": 50, "2.0": 80, "2.1": 105, "2.1-rust": 105}[profile]


TAGS = {
    # value: the forms that Go takes it for, those that Rust does
    "!!int 1": ("text int duration float", "text int duration float"),
    "!!int '1'": ("text int duration float", "text duration"),
    "!!int x": ("", "text"),
    "!!str 1": ("text", "text int duration float"),
    "!!str file": ("text manager", "text manager"),
    "!!float 1": ("text int duration float", "text int float"),
    "!!float x": ("", "text"),
    "!!bool yes": ("text flag", "text"),
    "!!bool true": ("text flag", "text flag"),
    "!!null ~": ("text int duration float flag manager", "text duration"),
    "!!null x": ("", "text"),
    "!!binary ZmlsZQ==": ("text manager", "text"),
    "!!binary x!": ("", "text"),
    "!!timestamp 2026-11-28": ("text", "text"),
    "!!timestamp x": ("", "text"),
    "!x file": ("text manager", "text"),
    "!x 4s": ("text duration", "text"),
    "!file": ("text", "text manager"),
    "!!int |-\n        1": ("text int duration float", "text int duration"),
    "!!bool |-\n        true": ("text flag", "text flag"),
}
TAGGED = {
    "text": "engine.filter",
    "int": "p2p.d",
    "duration": "engine.syncTimeout",
    "float": "p2p.gossipFactor",
    "flag": "key.keyManagerFile.createIfMissing",
    "manager": "key.keyManagerType",
}


@pytest.mark.parametrize(("value", "gos", "rusts"), [(value, *forms) for value, forms in TAGS.items()])
def test_a_tag_says_what_a_value_is(value, gos, rusts):
    judged: tuple[tuple[Profile, str], ...] = (("2.0", gos), ("2.1-rust", rusts))
    for profile, forms in judged:
        taken = [form for form, path in TAGGED.items() if refusals_of(nest(path, value), profile) == []]
        assert taken == [form for form in TAGGED if form in forms.split()], profile


@pytest.mark.parametrize("profile", PROFILES)
def test_a_section_is_a_mapping_or_nothing(profile):
    is_rust = profile == "2.1-rust"
    for path in known_sections(profile):
        if not path:
            continue
        panics = not is_rust and path in {"p2p", "engine", *(("db",) if profile == "2.1" else ())}
        may_be_null = not is_rust or path in {"logger", "proofWorker"}
        for value in ("x", "[]", "''"):
            found = refusals_of(nest(path, value), profile)
            assert bool(found) is (path != "proofWorker"), (path, value)
        assert refusals_of(nest(path, "{}"), profile) == []
        assert bool(refusals_of(nest(path, ""), profile)) is panics
        null = refusals_of(nest(path, "~"), profile)
        assert bool(null) is (panics or not may_be_null), path
        assert refusals_of(f"z: &z {{}}\n{nest(path, '*z')}", profile) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_version_does_not_know_may_be_anything(profile):
    known = known_sections(profile)
    unknown = [(path, name) for path, name in walk_key_paths() if name not in known.get(path, ())]
    assert len(unknown) > 10
    for path, name in unknown:
        assert refusals_of(nest(f"{path}.{name}", "[[{a: {b: [c]}}]]"), profile) == [] or path not in known


RUST_REFUSES = "the node does not load this file"
TWICE = {
    "key of a section": (
        "p2p:\n  network: 0\n  network: 1\n",
        f"3:3 `network` is already in line 2: {RUST_REFUSES}",
    ),
    "section": ("engine: {}\nengine: {}\n", f"2:1 `engine` is already in line 1: {RUST_REFUSES}"),
    "two spellings": (
        "p2p: {pingPeriod: 1s, pingPeriodMs: 1}\n",
        f"1:23 `pingPeriodMs` and `pingPeriod` in line 1 are the same key: {RUST_REFUSES}",
    ),
    "second document": (
        "p2p: {}\n---\nengine: {}\n",
        "2:1 a second document starts here, or what is none: some nodes read only what is before it",
    ),
    "an entry at the margin": (
        " p2p: {}\nengine: {}\n",
        "2:1 a second document starts here, or what is none: some nodes read only what is before it",
    ),
}


@pytest.mark.parametrize(("text", "expected"), TWICE.values(), ids=TWICE)
def test_only_rust_refuses_what_is_there_twice_and_qmesh_leaves_its_own_keys(text, expected):
    assert refusals_of(text, "2.1-rust") == [expected]
    assert refusals_of(text, "2.1") == []
    if text != TWICE["two spellings"][0]:
        (problem,) = lint_config(text, profile="2.1")
        assert problem.severity == "warning"
    settings = [Setting(Key("engine", "dataWorkerMultiaddrs"), ())]
    if text in {TWICE["two spellings"][0], TWICE["key of a section"][0]}:
        assert edit_settings(text, settings) == f"{text}engine:\n  dataWorkerMultiaddrs: []\n"
    else:
        with pytest.raises(BadInput, match=r"already|second"):
            edit_settings(text, settings)


OURS_IN_QUOTES = {
    "2.1": (("engine:\n  enableMasterProxy: 'false'\n", "  enableMasterProxy: false\n"),),
    "2.1-rust": (
        ('engine:\n  enableMasterProxy: "false"  # no\n', "  enableMasterProxy: false  # no\n"),
        ('engine: {dataWorkerBaseStreamPort: "32500"}\n', "dataWorkerBaseStreamPort: 32500"),
        ("engine:\n  dataWorkerBaseP2pPort: '60000'\n", "  dataWorkerBaseP2pPort: 25000\n"),
        ("engine:\n  dataWorkerBaseStreamPort:\n", "  dataWorkerBaseStreamPort: 32500\n"),
        ("engine:\n  dataWorkerBaseStreamPort: 032500\n", "  dataWorkerBaseStreamPort: 32500\n"),
    ),
}


@pytest.mark.parametrize(
    ("profile", "text", "written"),
    [(profile, *each) for profile, cases in OURS_IN_QUOTES.items() for each in cases],
)
def test_a_value_of_ours_that_the_node_refuses_is_put_right_and_not_refused(profile, text, written):
    (problem,) = [each for each in lint_config(text, profile=profile) if each.refused]
    assert problem.cured
    assert problem.hint.startswith("run `qmesh render-config --write`")
    mesh = cluster(1, 2, node=profile, base_port=32500, p2p_base_port=25000)
    new = render_config(mesh, "a", text).text
    assert written in new
    assert refusals_of(new, profile) == []
    assert render_config(mesh, "a", new).text == new


OUR_LISTS = [
    (profile, name)
    for profile in PROFILES
    for key in profile_facts(profile).lists
    for name in (key.name, key.alias)
    if name
]
NO_LIST = ["", "~", "null", "''", '"a"', "a", "/ip4/192.0.2.1/tcp/1  # mine", "0", "true", "\n    a\n    b"]


@pytest.mark.parametrize("value", NO_LIST)
@pytest.mark.parametrize(("profile", "name"), OUR_LISTS)
def test_a_word_in_place_of_a_list_of_ours_is_put_right_in_every_profile(profile, name, value):
    is_21 = profile.startswith("2.1")
    ports = {"base_port": 32500, "p2p_base_port": 25000} if is_21 else {}
    mesh = cluster(1, 2, node=profile, **ports)
    kept = "  syncTimeout: 4s  # mine\n"
    for text in (
        f"engine:\n  {name}: {value}\n{kept}",
        f"engine:\n{kept}  {name}: {value}",
        *(() if "#" in value or "\n" in value else (f"engine: {{{name}: {value}, syncTimeout: 4s}}\n",)),
    ):
        assert all(each.cured for each in lint_config(text, profile=profile) if each.refused), text
        new = render_config(mesh, "a", text).text
        assert refusals_of(new, profile) == []
        assert read_workers(new, profile) == list_worker_multiaddrs(mesh)
        assert new.startswith("engine: {") or kept in new
        assert ("# mine" in value) is (new.count("# mine") == 2)
        assert render_config(mesh, "a", new).text == new


@pytest.mark.parametrize("value", ["", "~", "null", " # none"])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_section_of_ours_without_anything_is_put_right_in_every_profile(profile, value):
    text = f"engine: {value}\np2p: {{}}\n"
    assert all(each.cured for each in lint_config(text, profile=profile) if each.refused)
    mesh = cluster(1, 2, node=profile, p2p_base_port=25000 if profile.startswith("2.1") else None)
    new = render_config(mesh, "a", text).text
    assert refusals_of(new, profile) == []
    assert read_workers(new, profile) == list_worker_multiaddrs(mesh)


@pytest.mark.parametrize(
    "text",
    [
        "engine: !!null ~\n",
        "x: &x ~\nengine: *x\n",
        "p2p: ~\n",
        "engine:\n  directPeers: ~\np2p:\n  directPeers: ~\n",  # which qmesh does not write
        "engine:\n  dataWorkerStreamMultiaddrs: {}\n",
        "engine:\n  dataWorkerStreamMultiaddrs: |\n    a\n",
        "engine:\n  dataWorkerStreamMultiaddrs: !!null ~\n",
        "engine:\n  dataWorkerStreamMultiaddrs: &x ~\nx: *x\n",
        "x: &x ~\nengine:\n  dataWorkerStreamMultiaddrs: *x\n",
        "engine:\n  dataWorkerStreamMultiaddrs: [[a]]\n",
    ],
)
def test_what_is_no_list_and_cannot_be_exchanged_is_refused_as_lint_says(text):
    mesh = cluster(1, 2, node="2.1-rust", base_port=32500, p2p_base_port=25000)
    assert any(each.refused and not each.cured for each in lint_config(text, profile="2.1-rust"))
    with pytest.raises(BadInput, match="does not load"):
        render_config(mesh, "a", text)


@pytest.mark.parametrize(
    "text",
    [
        "engine:\n  dataWorkerBaseStreamPort: |\n    32500\n",
        'engine:\n  dataWorkerBaseStreamPort: !!str "32500"\n',
        'x: &x "32500"\nengine:\n  dataWorkerBaseStreamPort: *x\n',
        'engine:\n  gossipFactor: "32500"\np2p:\n  d: "8"\n',  # which qmesh does not write
    ],
)
def test_what_qmesh_cannot_exchange_or_does_not_write_stays_refused(text):
    mesh = cluster(1, 2, node="2.1-rust", base_port=32500, p2p_base_port=25000)
    assert any(each.refused and not each.cured for each in lint_config(text, profile="2.1-rust"))
    with pytest.raises(BadInput, match="has to be"):
        render_config(mesh, "a", text)


SHARED = "engine:\n  dataWorkerMultiaddrs: []\n"
OURS_TWICE = {
    "the list": (f"{SHARED}  dataWorkerMultiaddrs: []\n", "line 3, column 3: this key is already in line 2"),
    "its section": (
        f"{SHARED}engine: {{}}\n",
        "line 3, column 1: a second `engine:`, the first",
    ),
}


@pytest.mark.parametrize(("text", "message"), OURS_TWICE.values(), ids=OURS_TWICE)
def test_a_key_of_ours_that_is_there_twice_is_named_and_not_changed(text, message):
    settings = [Setting(Key("engine", "dataWorkerMultiaddrs"), ("/ip4/10.77.0.1/tcp/40000",))]
    with pytest.raises(BadInput, match=message):
        edit_settings(text, settings)


@pytest.mark.parametrize("profile", ["1.4", "2.0", "2.1"])
def test_the_list_is_written_beside_what_is_there_twice_and_is_none_of_ours(profile):
    """As the node loads it: only the mesh's own keys must be there once."""
    text = "key: {}\nkey: {}\np2p:\n  network: 0\n  network: 0\n" + SHARED
    mesh = cluster(1, 2, node=profile, p2p_base_port=25000 if profile == "2.1" else None)
    new = render_config(mesh, "a", text).text
    assert [line for line in new.splitlines() if line in text.splitlines()] == text.splitlines()[:-1] + (
        [] if profile != "2.1" else text.splitlines()[-1:]
    )
    assert read_workers(new, profile) == list_worker_multiaddrs(mesh)
    assert render_config(mesh, "a", new).text == new
    with pytest.raises(BadInput, match="already in line 1: the node does not load"):
        render_config(cluster(1, 2, node="2.1-rust", p2p_base_port=25000), "a", text)


def test_a_key_that_no_node_knows_may_be_there_twice():
    for profile in PROFILES:
        (problem,) = lint_config("foo: 1\nfoo: 2\n", profile=profile)
        assert (problem.severity, problem.message) == ("warning", "this key is already in line 1")


GO_READS = {
    "the last section is empty": ("engine: {}\nengine:\n", "2:1 there is nothing below `engine:`, and"),
    "a merged value": ("x: &x {network: a}\np2p:\n  <<: *x\n", "1:17 `network` has to be a whole number"),
    "a long way of merged sections": (
        "a0: &a0 {d: a}\n"
        + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 2000))
        + "p2p: {<<: *a1999}\n",
        "1:13 `d` has to be a whole number",
    ),
    "merged sections": ("x: &x {d: a}\np2p: {<<: [*x, {dLo: b}]}\n", "1:11 `d` has to be a whole number"),
    "a merge key with a text": ("p2p:\n  <<: a\n", "2:7 a merge key (<<) has no section behind it"),
    "a short first peer": ("p2p: {bootstrapPeers: [/ip4/192.0.2.1, x]}\n", "1:24 the first entry of"),
    "a null first peer": ("p2p: {bootstrapPeers: [~]}\n", "1:24 the first entry of"),
    "YAML 1.2": ("%YAML 1.2\n---\np2p: {}\n", "1:1 the node reads only YAML 1.1"),
    "an escaped slash": ('p2p: {listenMultiaddr: "\\/ip4"}\n', "1:24 the node does not know the escape \\/"),
    "nothing": ("# nothing\n", "1:1 nothing stands in the file"),
    "a section tagged as null": ("p2p: !!null ~\n", "1:1 there is nothing below `p2p:`"),
    "null": ("---\n", "1:1 nothing stands in the file"),
    "a list": ("- a\n", "1:1 the file's top level is not a mapping"),
}


@pytest.mark.parametrize(("text", "expected"), GO_READS.values(), ids=GO_READS)
def test_what_go_refuses(text, expected):
    assert any(error.startswith(expected) for error in refusals_of(text, "2.1")), refusals_of(text, "2.1")
    assert bool(refusals_of(text, "2.1-rust")) is (
        text in {"- a\n", "engine: {}\nengine:\n", "p2p: !!null ~\n"}
    )


GO_TAKES = (
    "engine:\nengine: {}\n",
    "engine: Null\n",
    "p2p: {bootstrapPeers: [a]}\np2p: ~\np2p: {}\n",
    "p2p: {bootstrapPeers: [a], bootstrapPeers: []}\n",
    "p2p: {bootstrapPeers: ~}\n",
    "p2p:\n  '<<': a\n",
    "!!str engine: {}\n",
    "x: &x engine\n*x : {}\n",
    'p2p: {listenMultiaddr: "\\\\/ip4"}\n',
    "p2p: {}\n...\n",
)


@pytest.mark.parametrize("text", GO_TAKES)
def test_what_go_takes(text):
    assert refusals_of(text, "2.1") == []


def test_a_key_behind_an_alias_is_that_key():
    for profile in PROFILES:
        (error,) = refusals_of("x: &x network\np2p: {*x : a}\n", profile)
        assert error.startswith("2:12 `network` has to be a whole number")


def test_a_wrong_peer_is_told_once():
    assert len(refusals_of("p2p: {bootstrapPeers: [[a]]}\n", "2.0")) == 1


BOMS = {
    "more than one key": ("engine: {}\np2p: {}\n", True),
    "one key": ("engine: {}\n", False),
    "a comment first": ("# mine\nengine: {}\np2p: {}\n", False),
    "in braces": ('{"engine": {}, "p2p": {}}\n', False),
    "the mark of a document first": ("---\nengine: {}\n", True),
}


@pytest.mark.parametrize(("text", "is_refused"), BOMS.values(), ids=BOMS)
def test_a_byte_order_mark_is_a_character_to_rust(text, is_refused):
    problems = lint_config(f"\ufeff{text}", profile="2.1-rust")
    assert [problem.cured for problem in problems] == [True] * is_refused
    assert all("render-config --write" in problem.hint for problem in problems)
    assert lint_config(f"\ufeff{text}", profile="2.1") == ()


def test_two_byte_order_marks_are_for_the_owner():
    (problem,) = lint_config("\ufeff\ufeffengine: {}\np2p: {}\n", profile="2.1-rust")
    assert (problem.cured, problem.hint) == (False, "save it without marks")
    with pytest.raises(BadInput, match="U\\+FEFF"):
        edit_settings("\ufeff\ufeffengine: {}\n", [])


def test_a_byte_order_mark_inside_is_odd_and_no_error():
    for profile in PROFILES:
        (problem,) = lint_config("p2p: {} # a\ufeffb\n", profile=profile)
        assert (problem.column, problem.severity) == (12, "warning")


MARKS_INSIDE = {
    "a line of its own at the end": ("p2p: {}\n\ufeff\n", ("2.1",)),
    "before a key of the top level": ("p2p: {}\n\ufeffengine: {}\n", ("2.1-rust",)),
    "in a value": ("p2p: {listenMultiaddr: a\ufeffb}\n", ()),
    "where no node loads it": ("p2p: {}\n\ufeff[\n", ("2.1", "2.1-rust")),
}


@pytest.mark.parametrize(("text", "refusing"), MARKS_INSIDE.values(), ids=MARKS_INSIDE)
def test_a_byte_order_mark_inside_is_a_letter_to_go_and_skipped_by_rust(text, refusing):
    for profile in ("2.1", "2.1-rust"):
        problems = lint_config(text, profile=profile)
        assert [each.refused for each in problems] == [profile in refusing]
        assert "U+FEFF" in problems[0].message


def test_go_merges_into_names_with_texts_too():
    for value, is_taken in (("{<<: {a: b}, c: d}", True), ("{<<: {a: [b]}}", False), ("{<<: x}", False)):
        assert (refusals_of(f"logger: {{logFilters: {value}}}\n", "2.1") == []) is is_taken


def test_what_only_newer_builds_know_is_a_warning():
    text = "p2p: {disableOnionRouting: 1}\nproofWorker: {cpuSeconds: a, path: /x}\n"
    problems = lint_config(text, profile="2.1-rust")
    assert [(each.line, each.severity, each.refused) for each in problems] == [
        (1, "warning", False),
        (2, "warning", False),
    ]
    assert lint_config(text, profile="2.1") == ()


def test_a_value_that_thousands_of_aliases_name_is_looked_at_once(monkeypatch):
    looked: list[object] = []

    def note(form: object, node: Scalar) -> bool:
        looked.append(node)
        return True

    monkeypatch.setattr(go_refusals, "fits_go", note)
    monkeypatch.setattr(rust_refusals, "fits_rust", note)
    text = (
        f"x: &x [{'a,' * 5000}]\ns: &s {{blacklist: *x}}\n" + "engine: *s\nengine: {blacklist: *x}\n" * 1000
    )
    for profile in ("2.1", "2.1-rust"):
        lint_config(text, profile=profile)
    assert len(looked) == 2


def test_of_many_wrong_values_the_first_are_told_and_the_others_counted():
    many = "".join(f"  network: {'1' * 2000}\n" for _ in range(400))
    problems = [each for each in lint_config(f"p2p:\n{many}", profile="2.0") if each.refused]
    assert len(problems) == 20
    assert problems[-1].message.endswith("; and 380 more errors")


@given(st.text("0123456789.+-_eExXobnsumh", min_size=1, max_size=12), st.sampled_from(PROFILES))
def test_law_a_number_in_quotes_is_none(text, profile):
    for key in ("p2p: {d: '%s'}", "p2p: {gossipFactor: '%s'}", "p2p: {network: '%s'}"):
        assert len(refusals_of(key % text + "\n", profile)) == 1
