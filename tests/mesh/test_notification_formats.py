"""How an operator is told: in each receiver's format, with nothing of others' text meaning anything there."""

from __future__ import annotations

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmesh.errors import BadInput
from qmesh.mesh.notifications.change import KINDS, ToldChange, cut_text
from qmesh.mesh.notifications.formats import Message, build_request, encode_message
from qmesh.mesh.notifications.outbox import Batch
from qmesh.mesh.notifications.targets import (
    FORMATS,
    MOST_TARGETS,
    NotifySettings,
    NotifyTarget,
    SecretUrl,
    describe_settings,
    parse_target,
    replace_targets,
    validate_program_path,
)
from qmesh.mesh.notifications.text import MOST_LINES, MOST_NAMES, Sender, render_text, render_title
from qmesh.mesh.notifications.url import is_near, parse_web_url, unquote_text

NOW = 1_700_000_000
SENDER = Sender("fra-1", "56a71c69d69f5698")
SLACK = "https://hooks.slack.com/services/T0123/B0456/s3cr3tTOKEN"
TELEGRAM = "https://api.telegram.org/bot123456:AAsecret/sendMessage?chat_id=-100123&message_thread_id=7"


def change(kind="peer-silent", phase="begun", machine="hel-2", **named) -> ToldChange:
    return ToldChange(at=NOW, kind=kind, phase=phase, machine=machine, **named)


def text_of(*changes: ToldChange, dropped: int = 0) -> str:
    return render_text(SENDER, changes, dropped=dropped)


# The text

OFTEN = " (this comes and goes: the next change is told once it has lasted {})"


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (change(), "hel-2: silent, nothing comes through the tunnel"),
        (change(phase="ended"), "hel-2: reachable again"),
        (change("worker-silent", cores=((4, 6), (9, 9))), "hel-2: cores 4-6, 9 do not answer"),
        (
            change("worker-silent", cores=((4, 4),), detail="refused"),
            "hel-2: core 4 does not answer (refused)",
        ),
        (change("worker-silent", "ended", cores=((4, 4),)), "hel-2: core 4 answers again"),
        (
            change("guard-not-whole"),
            "hel-2: the guard is not whole, worker ports may be open; run `qmesh check` there",
        ),
        (change("guard-not-whole", "ended"), "hel-2: the guard is whole again"),
        (
            change("guard-changed", "happened", detail="nft (process 7)", hold_s=600),
            "hel-2: nft (process 7) changed the guard's table, and it was restored",
        ),
        (
            change("guard-changed", "happened", times=12, hold_s=7200),
            (
                "hel-2: another program changed the guard's table 12 times, and it was restored;"
                " the next time is told after 2 h"
            ),
        ),
        (
            change("finding", code="key-mode", subject="/x", detail="mode 0644", fix="chmod 600 /x"),
            "hel-2: error: key-mode, /x: mode 0644 (fix: chmod 600 /x)",
        ),
        (
            change("finding", code="clock", severity="warning", subject="fra-1", detail="62 s apart"),
            "hel-2: warning: clock, fra-1: 62 s apart",
        ),
        (change("finding", "ended", code="clock", subject="x"), "hel-2: no longer found: clock, x"),
        (change("joined", "happened", detail="at 10.0.0.3"), "hel-2 joined (at 10.0.0.3)"),
        (change("removed", "happened"), "hel-2 was removed"),
        (change("worker-silent", "ended", cores=((4, 5),)), "hel-2: cores 4-5 answer again"),
        (change("replaced", "happened", detail="by anna"), "hel-2 joined again, with a new key (by anna)"),
        (change("restored", "happened"), "the control node was restored from a backup"),
        (
            change("handed-over", "happened"),
            (
                "the control role moved to hel-2; it tells of the cluster now, where `qmesh set --notify` was"
                " run there"
            ),
        ),
        (change("test", "happened"), "hel-2: this is a test, nothing has happened"),
        (
            change(hold_s=240),
            "hel-2: silent, nothing comes through the tunnel" + OFTEN.format("4 min"),
        ),
        (change(phase="ended", hold_s=90), "hel-2: reachable again" + OFTEN.format("90 s")),
    ],
)  # fmt: skip
def test_a_change_in_words(told, line):
    assert text_of(told) == f"qmesh on fra-1, mesh 56a71c69d69f5698:\n- {line}"


def test_every_kind_has_words_of_its_own():
    texts = {text_of(change(kind, cores=((1, 1),))) for kind in KINDS}
    assert len(texts) == len(KINDS)


def test_machines_that_fell_silent_together_are_one_line():
    many = [change(machine=f"m{number}") for number in range(100)]
    (_, line) = text_of(*many).split("\n")
    assert line.startswith("- 100 machines (m0, m1, ")
    assert line.count(",") == MOST_NAMES
    assert render_title(SENDER, many).startswith("qmesh on fra-1: 100 machines (m0,")
    assert text_of(change(), change(machine="c")).count("hel-2, c: silent") == 1
    assert text_of(change(), change(phase="ended")).count("\n") == 2


def test_more_lines_than_anybody_reads_are_counted_and_so_is_what_is_lost():
    lines = text_of(*(change("test", machine=f"m{each}") for each in range(50)), dropped=3).split("\n")
    assert len(lines) == MOST_LINES + 3
    assert lines[-2:] == [
        f"- and {50 - MOST_LINES} more; `qmesh status` and `qmesh check` show all",
        "- 3 earlier changes could not be delivered, and are lost",
    ]
    title = render_title(SENDER, [change("test"), change("guard-not-whole")])
    assert title == "qmesh on fra-1: hel-2: this is a test, nothing has happened (and 1 more)"


# What others wrote, in each format

HOSTILE = (
    "@everyone <!channel> <http://evil.example|here> **b** `c` ```\n[x](http://evil.example) \x1b[2J\u202e_i_"
    " & \ud800"
)


def target(url: str, typed: str = "") -> NotifyTarget:
    chosen, plain = parse_target(f"{typed}{url}")
    return NotifyTarget("0011223344556677", chosen, SecretUrl(plain))


def batch(*changes: ToldChange, dropped: int = 0) -> Batch:
    numbered = (msgspec.structs.replace(each, number=number) for number, each in enumerate(changes, 1))
    return Batch(tuple(numbered), dropped)


BAD = batch(change("finding", code="port-wide", subject=HOSTILE, detail=HOSTILE, fix=HOSTILE))


def test_a_webhook_gets_all_of_it_as_json():
    request = build_request(target("https://example.org:8443/hook?t=1"), SENDER, BAD)
    assert (request.scheme, request.host, request.port) == ("https", "example.org", 8443)
    assert request.target == "/hook?t=1"
    assert request.headers == {"Content-Type": "application/json"}
    told = msgspec.json.decode(request.body, type=Message)
    assert (told.machine, told.mesh, told.version) == ("fra-1", SENDER.mesh, 1)
    assert told.changes[0].subject == HOSTILE.replace("\ud800", "?")
    assert told.changes[0].number == 1
    assert request.body.isascii()
    assert "\x1b" not in told.text
    assert "\u202e" not in told.text
    assert request.body == encode_message(SENDER, BAD)


def test_slack_is_told_to_read_nothing_in_it():
    request = build_request(target(SLACK), SENDER, BAD)
    told = msgspec.json.decode(request.body)
    assert told["mrkdwn"] is False
    assert told["link_names"] is False
    assert told["parse"] == "none"
    assert "<" not in told["text"]
    assert ">" not in told["text"]
    assert "@everyone" not in told["text"]
    assert "&lt;!channel&gt;" in told["text"]
    assert " &amp; " in told["text"]


def test_discord_shows_it_as_code_and_calls_nobody():
    request = build_request(target("https://discord.com/api/webhooks/1/tok3n"), SENDER, BAD)
    told = msgspec.json.decode(request.body)
    assert told["allowed_mentions"] == {"parse": []}
    assert told["content"].startswith("```\n")
    assert told["content"].endswith("\n```")
    assert "`" not in told["content"][3:-3]
    assert "@everyone" not in told["content"]


def test_telegram_shows_it_as_code_in_the_chat_that_the_url_names():
    told_of = change("finding", code="port-wide", subject=HOSTILE, detail=f"\U0001f600{HOSTILE}")
    request = build_request(target(TELEGRAM), SENDER, batch(told_of))
    assert request.target == "/bot123456:AAsecret/sendMessage"
    told = msgspec.json.decode(request.body)
    assert (told["chat_id"], told["message_thread_id"]) == ("-100123", "7")
    assert "parse_mode" not in told
    (entity,) = told["entities"]
    assert entity == {"type": "pre", "offset": 0, "length": len(told["text"].encode("utf-16-le")) // 2}
    assert "@everyone" not in told["text"]


def test_a_field_of_the_url_takes_the_place_of_nothing_that_is_told():
    fields = "chat_id=1&text=calm&entities=none&link_preview_options=x&parse_mode=HTML"
    url = f"https://api.telegram.org/bot1:A/sendMessage?{fields}"
    plain = msgspec.json.decode(build_request(target(TELEGRAM), SENDER, BAD).body)
    told = msgspec.json.decode(build_request(target(url), SENDER, BAD).body)
    for name in ("text", "entities", "link_preview_options"):
        assert told[name] == plain[name]


def test_ntfy_gets_plain_text_and_a_priority():
    request = build_request(target("https://ntfy.sh/topic"), SENDER, BAD)
    assert request.headers["Priority"] == "high"
    assert request.headers["Title"] == "qmesh on fra-1"
    assert request.headers["Content-Type"].startswith("text/plain")
    assert "\x1b" not in request.body
    back = build_request(target("https://ntfy.sh/topic"), SENDER, batch(change(phase="ended")))
    assert (back.headers["Priority"], back.headers["Tags"]) == ("default", "white_check_mark")


@given(text=st.text(max_size=200), times=st.integers(1, 22), which=st.sampled_from(FORMATS))
def test_law_a_receiver_takes_it_whatever_others_wrote(text, times, which):
    """Within the bounds of its format, without a line, a header or a mention of others' making."""
    told = batch(*(change("finding", code="x", subject=text, detail=text, fix=text) for _ in range(times)))
    request = build_request(target("https://h.example/p?chat_id=1", f"{which}+"), SENDER, told)
    for name, value in request.headers.items():
        assert (name + value).isascii()
        assert (name + value).isprintable()
    request.body.encode()
    most = {"ntfy": 4010, "slack": 3010, "discord": 2000, "telegram": 4096}
    if which == "ntfy":
        assert len(request.body.encode()) <= most["ntfy"]
        shown = request.body
    else:
        body = msgspec.json.decode(request.body)
        shown = body["content"] if which == "discord" else body["text"]
        if which != "json":
            unescaped = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            assert len(unescaped.encode("utf-16-le")) // 2 <= most[which]
            assert not any(f"@{each}" in shown for each in ("everyone", "here", "channel", "all"))
            assert all(part == "" or part[0] == "\u200b" for part in shown.split("@")[1:])
    assert all(each.isprintable() or each in "\n\u200b" for each in shown)
    assert shown.count("\n") <= times + 6


def test_user_and_password_of_a_url_go_into_a_header():
    request = build_request(target("https://al%40ice:p%3Aw@ntfy.example/t", "ntfy+"), SENDER, BAD)
    assert request.host == "ntfy.example"
    kind, token = request.headers["Authorization"].split()
    assert (kind, base64.b64decode(token)) == ("Basic", b"al@ice:p:w")


# URLs


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [
        ("https://example.org/hook", "json"),
        (SLACK, "slack"),
        ("https://canary.discord.com/api/webhooks/1/x", "discord"),
        (TELEGRAM, "telegram"),
        ("https://NTFY.sh/topic", "ntfy"),
        ("ntfy+https://ntfy.example.org/topic", "ntfy"),
        ("json+https://hooks.slack.com/x", "json"),
        ("slack+http://10.0.0.7:8065/hooks/x", "slack"),
        ("json+https://api.telegram.org/bot1/x", "json"),
        ("http://[::1]:8080/x", "json"),
        ("HTTPS://h.example", "json"),
    ],
)
def test_a_url_has_the_format_of_its_host_or_the_one_that_is_named(typed, chosen):
    assert parse_target(typed)[0] == chosen


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "none ",
        "example.org/x",
        "ftp://example.org/x",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "https://exa mple.org/x",
        "https://example.org/x y",
        "https://example.org/x\r\nX-Other: 1",
        "https://example.org/\x00",
        "https://example.org/ä",
        "https://bücher.example/x",
        "https://example.org/x#fragment",
        "https://example.org:0/x",
        "https://example.org:65536/x",
        "https://example.org:x/",
        "https://[::1/x",
        "https://::1/x",
        "https://[10.0.0.1]/x",
        "https://[fe80::1%25eth0]/x",
        "https://127.1/x",
        "https://0x7f000001/x",
        "https://a.0x7f/x",
        "https://2130706433/x",
        "https://0x7f.0.0.1/x",
        "https://a..b/x",
        "https://evil.example\\@good.example/x",
        "https://good.example@@evil.example/x",
        "https://" + "a" * 300 + ".example/",
        "https://example.org/" + "x" * 2048,
        "telegram+https://t.example/bot1/sendMessage",
        "https://api.telegram.org/bot1/sendMessage?chat_id=",
        "email+https://example.org/x",
    ],
)
def test_what_is_not_plainly_a_url_is_refused_without_repeating_it(typed):
    with pytest.raises(BadInput) as refused:
        parse_target(typed)
    assert refused.value.hint
    if len(typed) > 8:
        assert typed not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("192.168.1.1", True),
        ("100.64.0.1", True),
        ("fd00::1", True),
        ("172.32.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing listens there
        ("::", False),
        ("::ffff:8.8.8.8", False),
        ("8.8.8.8", False),
        ("2001:db8::1", False),
        ("fe80::1", False),
        ("localhost.example", False),
        ("ntfy.lan", False),
    ],
)
def test_http_without_tls_is_for_what_is_near(host, near):
    assert is_near(host) is near
    url = f"http://[{host}]/x" if ":" in host else f"http://{host}/x"
    if near:
        assert parse_web_url(url).host == host
    else:
        with pytest.raises(BadInput):
            parse_web_url(url)


def test_of_a_url_only_the_origin_is_shown():
    assert parse_web_url(SLACK).origin == "https://hooks.slack.com"
    assert parse_web_url("https://user:pass@[2001:db8::1]:444/x?y").origin == "https://[2001:db8::1]:444"
    assert parse_web_url("http://127.0.0.1:80").origin == "http://127.0.0.1"


def test_what_a_receiver_says_has_nothing_of_its_url():
    url = parse_web_url("https://us3r:passw0rd@h.example/services/T012/s3%63ret?token=abcdef&x=y")
    said = url.remove_secrets("no /services/T012/s3cret?token=abcdef for us3r:passw0rd; s3%63ret, abcdef; x")
    assert said.startswith("no ...")
    assert said.endswith("; ..., ...; x")
    assert not any(each in said for each in ("T012", "s3cret", "s3%63", "abcdef", "us3r", "passw0rd"))


@given(token=st.from_regex(r"[A-Za-z0-9_-]{12,40}", fullmatch=True), around=st.text(max_size=50))
def test_law_no_token_of_a_url_is_in_what_is_shown_of_it(token, around):
    for text in (
        f"https://h.example/{token}",
        f"https://h.example/x?k={token}",
        f"https://u:{token}@h.example/",
    ):
        url = parse_web_url(text)
        kept = NotifyTarget("id", "json", SecretUrl(text))
        shown = (
            url.origin,
            repr(url),
            repr(kept),
            f"{kept.url}",
            repr(NotifySettings(targets=(kept,))),
            url.remove_secrets(f"{around}{token}{around}"),
            msgspec.json.encode(describe_settings(NotifySettings(targets=(kept,)), is_another=True)).decode(),
            repr(build_request(kept, SENDER, BAD)),
        )
        assert not any(token in each for each in shown)
        for encode in (msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins):
            with pytest.raises(TypeError):
                encode(kept)


def test_a_query_and_escapes_are_read():
    assert parse_web_url("https://h.example/?a=1&b=x+y%26&&c").parse_query() == {
        "a": "1",
        "b": "x y&",
        "c": "",
    }
    assert unquote_text("%41%zz%ff") == "A%zz\ufffd"


# Settings


def test_a_url_that_stays_keeps_its_place_and_a_new_one_gets_another():
    first = replace_targets(NotifySettings(), [SLACK, "https://a.example/"], ["1", "2"])
    second = replace_targets(first, ["https://b.example/", SLACK, SLACK], ["3", "4", "5"])
    assert [each.identifier for each in second.targets] == ["3", "1"]
    facts = describe_settings(second, is_another=True)
    assert [(each.format, each.url) for each in facts.notify] == [
        ("json", "https://b.example"),
        ("slack", "https://hooks.slack.com"),
    ]
    assert second.receivers == ("3", "1")
    assert NotifySettings(program="/x", program_identifier="9").receivers == ("9",)
    with pytest.raises(BadInput, match="can notify 8"):
        replace_targets(NotifySettings(), [f"https://{n}.example" for n in range(MOST_TARGETS + 1)], "1" * 99)


@pytest.mark.parametrize("seconds", [0, 9, 86_401, -1])
def test_how_long_something_has_to_last_has_bounds(seconds):
    with pytest.raises(BadInput, match="from 10 to 86400"):
        NotifySettings(after_s=seconds)


@pytest.mark.parametrize("path", ["", "tell-me", "./x", "/x\0y", "/x\ny"])
def test_a_program_is_an_absolute_path(path):
    with pytest.raises(BadInput, match="absolute path"):
        validate_program_path(path)
    with pytest.raises(BadInput, match="absolute path"):
        NotifySettings(program=path)


def test_a_text_of_others_is_cut():
    assert cut_text("x" * 300) == "x" * 300
    assert cut_text("x" * 301) == "x" * 300 + "..."
