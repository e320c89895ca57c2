"""Secrets: hidden for showing, and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import read_secret, redact_config

HEX = "0badc0de5ec12e7f"

REDACTED = {
    "the node's own": (
        "key:\n  keyManagerFile:\n    path: k\n    encryptionKey: {HEX} # y\np2p:\r\n  peerPrivKey: '{HEX}'",
        (
            "key:\n  keyManagerFile:\n    path: <not shown>\n    encryptionKey: <not shown> # <not shown>\n"
            "p2p:\r\n  peerPrivKey: <not shown>"
        ),
    ),
    "what is shown": (
        (
            "engine:\n  maxFrames: -1\n  fullProver: true\n  syncTimeout: 4s\n  dataWorkerMultiaddrs:\n"
            "  - /ip4/10.77.0.1/tcp/40000\n  - '/ip6/fd00::1/tcp/40001'\np2p: {minPeers: 3, d: 6}\n"
        ),
        None,
    ),
    "the same elsewhere": (
        "p2p: {x: {maxFrames: 1}}\nkey:\n  maxFrames: 1\nengine:\n  maxFrames: {HEX}\n",
        (
            "p2p: {x: {maxFrames: <not shown>}}\nkey:\n  maxFrames: <not shown>\n"
            "engine:\n  maxFrames: <not shown>\n"
        ),
    ),
    "misspelt and unknown keys": (
        "encriptionKey: {HEX}\np2p:\n  pierPrivKey: c2VjcmV0\n  peerPrivKeyOld: 5\n  x: {HEX}\n",
        (
            "encriptionKey: <not shown>\np2p:\n  pierPrivKey: <not shown>\n  peerPrivKeyOld: <not shown>\n"
            "  x: <not shown>\n"
        ),
    ),
    "a secret for a key": ("{HEX}: 1\np2p: {'{HEX}'}\n", "<not shown>: <not shown>\np2p: {<not shown>}\n"),
    "an address with a secret": (
        (
            "engine:\n  dataWorkerMultiaddrs: ['https://u:{HEX}@h/', /dns4/{HEX}.x/tcp/1,"
            " /ip4/1.2.3.4/tcp/1/p2p/{HEX}]\n"
        ),
        "engine:\n  dataWorkerMultiaddrs: [<not shown>, <not shown>, <not shown>]\n",
    ),
    "text blocks and more lines": (
        "peerPrivKey: |+ # {HEX}\n  {HEX}\n  {HEX}\n\n\nx: 1\ny: {HEX}\n  {HEX}\nz: >-\n  a\n",
        "peerPrivKey: <not shown>\n\n\nx: <not shown>\ny: <not shown>\nz: <not shown>\n",
    ),
    "anchors, tags, aliases": (
        "a: &{HEX} !{HEX} # {HEX}\n  v\nb: !!str x\nc: *{HEX}\nd: &m{HEX} !<tag:{HEX}> {e: 1}\n<<: *m{HEX}\n",
        "a: &a1 <not shown>\nb: <not shown>\nc: *a1\nd: &a2 ! {e: <not shown>}\n<<: *a2\n",
    ),
    "comments": (
        (
            "# encryptionKey: {HEX}\r\n#{HEX}\r#\n##\n# Keys that you add stay; qmesh changes only its own.\n"
            "p2p: # {HEX}\n  d: 1 # {HEX}\n# {HEX}"
        ),
        (
            "# <not shown>\r\n# <not shown>\r#\n##\n# Keys that you add stay; qmesh changes only its own.\n"
            "p2p: # <not shown>\n  d: 1 # <not shown>\n# <not shown>"
        ),
    ),
    "nothing to hide": ('\ufeffpeerPrivKey:\nencryptionKey: ""\np2p: ~\n', None),
    "no text": ("", ""),
}


@pytest.mark.parametrize(("before", "after"), REDACTED.values(), ids=REDACTED)
def test_redacted(before, after):
    text = before.replace("{HEX}", HEX)
    result = redact_config(text)
    assert HEX not in result
    assert result == (text if after is None else after)
    assert redact_config(result) == result


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        (f"p2p:\n  peerPrivKey: '{HEX}'\n", "p2p.peerPrivKey", HEX),
        (f"\ufeffp2p: {{peerPrivKey: {HEX}}}\n", "p2p.peerPrivKey", HEX),
        (f"a: &a {HEX}\nb: &b {{c: *a}}\nd: *b\n", "d.c", HEX),
        ("p2p:\n  peerPrivKey: 007\n", "p2p.peerPrivKey", "007"),
        ("p2p:\n  peerPrivKey: ''\n", "p2p.peerPrivKey", ""),
        ("p2p:\n  peerPrivKey:\n", "p2p.peerPrivKey", None),
        ("p2p:\n  d: 1\n", "p2p.peerPrivKey", None),
        ("p2p:\n", "p2p.peerPrivKey", None),
        ("x: 1\n", "p2p.peerPrivKey", None),
        ("", "p2p.peerPrivKey", None),
        (f"key:\n  keyManagerFile:\n    encryptionKey: {HEX}\n", "key.keyManagerFile.encryptionKey", HEX),
    ],
)
def test_secret(text, path, value):
    assert read_secret(text, path) == value


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        f"p2p: {HEX}",
        f"p2p:\n- peerPrivKey: {HEX}",
        f"p2p:\n  peerPrivKey: [{HEX}]",
        f"p2p:\n  peerPrivKey:\n    {HEX}: 1",
        f"x: &x {{peerPrivKey: {HEX}}}\np2p:\n  <<: *x",
    ],
)
def test_secret_of_another_kind(text):
    with pytest.raises(BadInput, match=r"line \d, column \d+: ") as caught:
        read_secret(text, "p2p.peerPrivKey")
    assert HEX not in caught.value.message + caught.value.hint


words = st.sampled_from(
    ["peerPrivKey", "encriptionKey", "p2p", "engine", "maxFrames", "x", "keyManagerFile", "<<", HEX, "path"]
)
secrets = st.sampled_from(
    [
        *(HEX, f"'{HEX}'", f'"{HEX}"', f"|\n  {HEX}\n  {HEX}", f"&{HEX} a", f"!{HEX} a", f"[{HEX}]"),
        *(f"https://a:{HEX}@b/", f"{{a: {HEX}}}", f"!!binary {HEX}", f"a # {HEX}", f"[a, # {HEX}\n  {HEX}]"),
        *(f"&k !!str # {HEX}\n  {HEX}", f">-\n  {HEX}\n\n  {HEX}", f"'a\n  {HEX}'", f"? {HEX}"),
        *(f"/ip4/1.2.3.4/tcp/1/p2p/{HEX}", f"/dns4/{HEX}/tcp/1", f"!<{HEX}> [a]", f"&{HEX} [a]"),
    ]
)


@given(
    st.lists(st.tuples(words, secrets, st.sampled_from(["", "# "])), max_size=5, unique_by=lambda x: x[0]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["{}", "s:\n  {}", "- {}", "p2p:\n  {}", "engine:\n- {}", f"%TAG !e! {HEX}\n---\n{{}}"]),
)
def test_law_no_secret_is_shown_wherever_it_stands(entries, line_break, around):
    indent = " " * (len(around.rpartition("\n")[2]) - 2)
    lines = [f"{mark}{word}: {value}".replace("\n", f"\n{mark}{indent}") for word, value, mark in entries]
    text = around.format(f"\n{indent}".join(lines)).replace("\n", line_break)
    refused, result = None, ""
    try:
        result = redact_config(text)
    except BadInput as error:
        refused = f"{error.message}{error.hint}"
    if refused is not None:
        assert HEX not in refused
    else:
        assert HEX not in result
        assert redact_config(result) == result
