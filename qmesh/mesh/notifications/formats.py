"""Changes as the request that a receiver takes.

Names, paths and programs in a message are others' text, and a chat gives a meaning to some of it:
`@everyone` calls all, `<http://...|here>` is a link. Here no text has one: Discord and Telegram show it as
code, Slack is told not to read it, and in all of them an @ names nobody.
Sources: api.slack.com, "Formatting text"; discord.com/developers, "Execute Webhook";
core.telegram.org/bots/api, "sendMessage"; docs.ntfy.sh, "Publishing".
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final, assert_never

import msgspec

from qmesh.mesh.notifications.change import ToldChange
from qmesh.mesh.notifications.outbox import Batch
from qmesh.mesh.notifications.targets import NotifyTarget
from qmesh.mesh.notifications.text import Sender, render_text, render_title
from qmesh.mesh.notifications.url import WebUrl, parse_web_url, unquote_text
from qmesh.mesh.printable_json import render_json
from qmesh.mesh.values import SecretStruct

_JSON_TYPE: Final = "application/json"
_MOST_NTFY: Final = 4000
"""Bytes; a longer message is made an attachment."""
_MOST_SLACK: Final = 3000
_MOST_DISCORD: Final = 1900
_MOST_TELEGRAM: Final = 4000
"""Characters: a longer message is refused."""
_NO_MENTION: Final = "@\u200b"
"""An @ and a space without width: what follows is no name."""
_NO_EMBEDS: Final = 4


class Request(SecretStruct, frozen=True):
    """A POST. target: path and query. headers: besides those that HTTP wants anyway."""

    scheme: str
    host: str
    port: int
    target: str
    headers: Mapping[str, str]
    body: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a webhook and a program get, as JSON.

    machine: which one tells; mesh: of which mesh. text: for people.
    dropped: how many changes before these could not be delivered, and are lost.
    """

    version: int = 1
    machine: str
    mesh: str
    title: str
    text: str
    changes: tuple[ToldChange, ...]
    dropped: int = 0


def encode_message(sender: Sender, batch: Batch) -> str:
    """The message as JSON, of ASCII alone."""
    message = Message(
        machine=sender.machine,
        mesh=sender.mesh,
        title=render_title(sender, batch.changes),
        text=render_text(sender, batch.changes, dropped=batch.dropped),
        changes=batch.changes,
        dropped=batch.dropped,
    )
    return render_json(message)


def build_request(target: NotifyTarget, sender: Sender, batch: Batch) -> Request:
    """The request that tells a receiver of these changes, in its format."""
    url = parse_web_url(target.url.reveal())
    text = render_text(sender, batch.changes, dropped=batch.dropped)
    headers = {"Content-Type": _JSON_TYPE, **_build_credentials(url)}
    path = url.path + (f"?{url.query}" if url.query else "")
    match target.format:
        case "json":
            body = encode_message(sender, batch)
        case "ntfy":
            headers |= _build_ntfy_headers(sender, batch)
            body = _cut_bytes(text, _MOST_NTFY)
        case "slack":
            body = render_json(_build_slack(text))
        case "discord":
            body = render_json(_build_discord(text))
        case "telegram":
            path, body = url.path, render_json({**url.parse_query(), **_build_telegram(text)})
        case other:
            assert_never(other)
    return Request(url.scheme, url.host, url.port, path, headers, body)


def _build_credentials(url: WebUrl) -> dict[str, str]:
    if not url.user:
        return {}
    user, colon, password = url.user.partition(":")
    token = f"{unquote_text(user)}{colon}{unquote_text(password)}".encode()
    return {"Authorization": f"Basic {base64.b64encode(token).decode()}"}


def _build_ntfy_headers(sender: Sender, batch: Batch) -> dict[str, str]:
    is_bad = any(each.phase != "ended" and each.kind != "test" for each in batch.changes)
    return {
        "Content-Type": "text/plain; charset=utf-8",
        "Title": f"qmesh on {sender.machine}",
        "Priority": "high" if is_bad else "default",
        "Tags": "warning" if is_bad else "white_check_mark",
        "Markdown": "no",
    }


def _build_slack(text: str) -> dict[str, object]:
    plain = _cut(text.replace("@", _NO_MENTION), _MOST_SLACK)
    escaped = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {
        "text": escaped,
        "mrkdwn": False,
        "link_names": False,
        "parse": "none",
        "unfurl_links": False,
        "unfurl_media": False,
    }


def _build_discord(text: str) -> dict[str, object]:
    plain = _cut(text.replace("@", _NO_MENTION).replace("`", "'"), _MOST_DISCORD)
    return {
        "content": f"```\n{plain}\n```",
        "allowed_mentions": {"parse": []},
        "flags": _NO_EMBEDS,
    }


def _build_telegram(text: str) -> dict[str, object]:
    plain = _cut(text.replace("@", _NO_MENTION), _MOST_TELEGRAM)
    length = len(plain.encode("utf-16-le")) // 2
    return {
        "text": plain,
        "entities": [{"type": "pre", "offset": 0, "length": length}],
        "link_preview_options": {"is_disabled": True},
    }


def _cut(text: str, most: int) -> str:
    """At most so many characters; of one beyond the basic plane, chats count two."""
    kept = text.encode("utf-16-le", "replace")[: 2 * most].decode("utf-16-le", "ignore")
    return kept if kept == text else f"{kept}\n..."


def _cut_bytes(text: str, most: int) -> str:
    octets = text.encode("utf-8", "replace")
    return text if len(octets) <= most else octets[:most].decode("utf-8", "ignore") + "\n..."
