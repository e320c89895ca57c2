"""Secrets: hidden for showing, and read."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.nodeconfig import redacted, secret

HEX = "0badc0de5ec12e7f"

REDACTED = {
    "the node's own": (
        "key:\n  keyManagerFile:\n    path: k\n    encryptionKey: {HEX} # y\np2p:\r\n  peerPrivKey: '{HEX}'",
        (
            "key:\n  keyManagerFile:\n    path: k\n    encryptionKey: <not shown> # y\n"
            "p2p:\r\n  peerPrivKey: <not shown>"
        ),
    ),
    "2.1's": ('engine: {alertKey: "{HEX}", x: 1}\n', "engine: {alertKey: <not shown>, x: 1}\n"),
    "at any level, in any letter case": (
        "peerprivkey: {HEX}\na:\n- b:\n    PeerPrivKey: {HEX}\n",
        "peerprivkey: <not shown>\na:\n- b:\n    PeerPrivKey: <not shown>\n",
    ),
    "what others put there": (
        "password: {HEX}\nrpcToken: {HEX}\nprivate_key: {HEX}\nmnemonic: {HEX}\nclientSecret: {HEX}\n",
        (
            "password: <not shown>\nrpcToken: <not shown>\nprivate_key: <not shown>\n"
            "mnemonic: <not shown>\nclientSecret: <not shown>\n"
        ),
    ),
    "text block": (
        "peerPrivKey: |+\n  {HEX}\n  {HEX}\n\n\nx: 1\n",
        "peerPrivKey: <not shown>\n\n\nx: 1\n",
    ),
    "over lines": ("peerPrivKey: {HEX}\n  {HEX}\nx: '{HEX}'\n", "peerPrivKey: <not shown>\nx: '{HEX}'\n"),
    "below the key, with anchor and tag": (
        "peerPrivKey: &k !!str\n  {HEX}\nx: *k\n",
        "peerPrivKey: &k !!str\n  <not shown>\nx: *k\n",
    ),
    "brought by an alias": (
        "x: &k {HEX}\np2p: {peerPrivKey: *k}\n",
        "x: &k <not shown>\np2p: {peerPrivKey: *k}\n",
    ),
    "a list or mapping of them": (
        "token: [{HEX}, {a: {HEX}}, {'{HEX}': &x b}]\ntokens: [*x]\n",
        "token: [<not shown>, {<not shown>: <not shown>}, {<not shown>: &x <not shown>}]\ntokens: [*x]\n",
    ),
    "commented out": (
        "# encryptionKey: {HEX} or so\r\n  #peerPrivKey: '{HEX}'\r# my key: x\n# peerPrivKeyOld: {HEX}",
        (
            "# encryptionKey: <not shown>\r\n  #peerPrivKey: <not shown>\r# my key: x\n"
            "# peerPrivKeyOld: <not shown>"
        ),
    ),
    "nothing to hide": (
        '\ufeffpeerPrivKey:\nencryptionKey: ""\nprovingKeyId: x # the secret is elsewhere\n',
        '\ufeffpeerPrivKey:\nencryptionKey: ""\nprovingKeyId: x # the secret is elsewhere\n',
    ),
    "byte order mark": ("\ufeffpeerPrivKey: {HEX}\n", "\ufeffpeerPrivKey: <not shown>\n"),
    "no text": ("", ""),
}


@pytest.mark.parametrize(("before", "after"), REDACTED.values(), ids=REDACTED)
def test_redacted(before, after):
    result = redacted(before.replace("{HEX}", HEX))
    assert result == after.replace("{HEX}", HEX)
    assert redacted(result) == result


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
    assert secret(text, path) == value


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
        secret(text, "p2p.peerPrivKey")
    assert HEX not in caught.value.message + caught.value.hint


secret_names = st.sampled_from(["peerPrivKey", "encryptionKey", "alertKey", "password", "myToken"])
written = st.sampled_from(
    [
        "{}",
        "'{}'",
        '"{}"',
        "[{}, '{}']",
        "{{a: {}}}",
        "|\n    {}\n",
        ">-\n    {}\n    {}",
        "&anc {}",
        "!!str {}",
        "{} # c",
    ]
)


@given(
    st.lists(
        st.tuples(secret_names, written, st.sampled_from(["", "  ", "# "])),
        max_size=4,
        unique_by=lambda x: x[0],
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.text(st.sampled_from("abcdef0123456789"), min_size=12, max_size=40),
)
def test_law_no_secret_is_left_and_all_else_is(entries, line_break, value):
    entries = [entry for entry in entries if "\n" not in entry[1] or entry[2] != "# "]
    lines = ["top: &t a b # note", "s:", "  first: 'kept' # kept"]
    if sum("&anc" in shape for _, shape, _ in entries) > 1:
        entries = []
    lines += [f"  {lead.strip(' ')}{name}: {shape.format(value, value)}" for name, shape, lead in entries]
    lines += ["  last: *t # end", "z: [1, {y: 2}]"]
    text = "\n".join(lines).replace("\n", line_break)
    result = redacted(text)
    assert value not in result
    assert result.count("<not shown>") >= len(entries)
    assert result.startswith(line_break.join(lines[:3]))
    assert result.endswith(line_break.join(lines[-2:]))
    assert redacted(result) == result
    assert list(yaml.safe_load(result)["s"]) == list(yaml.safe_load(text)["s"])
