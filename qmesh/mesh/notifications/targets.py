"""Where notifications go: URLs and programs as they are typed, and how they are shown.

A webhook's URL is a password: who has it can write in its owner's name. It is kept in one file that root
alone reads, and shown as its host only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.notifications.url import parse_web_url
from qmesh.mesh.values import Secret, SecretStruct, quote_text

Format: TypeAlias = Literal["json", "ntfy", "slack", "discord", "telegram"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

MOST_TARGETS: Final = 8
LEAST_AFTER_S: Final = 10
MOST_AFTER_S: Final = 86_400
DEFAULT_AFTER_S: Final = 60

_PREFIXED: Final = re.compile(rf"(?P<format>{'|'.join(FORMATS)})\+(?P<url>.*)", re.DOTALL)
_DISCORD: Final = frozenset({"discord.com", "discordapp.com", "ptb.discord.com", "canary.discord.com"})
_BY_HOST: Final[dict[str, Format]] = {
    "hooks.slack.com": "slack",
    "api.telegram.org": "telegram",
    "ntfy.sh": "ntfy",
    **dict.fromkeys(_DISCORD, "discord"),
}


class SecretUrl(Secret):
    """A URL that no message, log, JSON or traceback shows."""

    __slots__ = ()


class NotifyTarget(SecretStruct, frozen=True):
    """Who is told by HTTP. identifier: by which it is known among others; format: in which it takes them."""

    identifier: str
    format: Format
    url: SecretUrl

    def __post_init__(self) -> None:
        parse_web_url(self.url.reveal())


class NotifySettings(SecretStruct, frozen=True, kw_only=True):
    """Who is told of this machine's changes. program: an absolute path, and its identifier; or None.

    after_s: seconds that something has to last before it is told.
    """

    targets: tuple[NotifyTarget, ...] = ()
    program: str | None = None
    program_identifier: str = ""
    after_s: int = DEFAULT_AFTER_S

    def __post_init__(self) -> None:
        if not LEAST_AFTER_S <= self.after_s <= MOST_AFTER_S:
            raise BadInput(
                f"--notify-after is from {LEAST_AFTER_S} to {MOST_AFTER_S} seconds, and not {self.after_s}",
                hint=f"leave it out for {DEFAULT_AFTER_S} seconds",
            )
        if self.program is not None:
            validate_program_path(self.program)

    @property
    def receivers(self) -> tuple[str, ...]:
        """The identifiers of all."""
        return (
            *(each.identifier for each in self.targets),
            *((self.program_identifier,) if self.program is not None else ()),
        )


def parse_target(text: str) -> tuple[Format, str]:
    """The format and the plain URL of what was typed: a URL, or `FORMAT+URL`. Raises BadInput, without it."""
    prefixed = _PREFIXED.fullmatch(text)
    plain = text if prefixed is None else prefixed["url"]
    url = parse_web_url(plain)
    named = None if prefixed is None else prefixed["format"]
    guessed = _BY_HOST.get(url.host, "json")
    chosen: Format = next((each for each in FORMATS if each == named), guessed)
    if chosen == "telegram" and not url.parse_query().get("chat_id"):
        raise BadInput(
            "this URL of Telegram does not name the chat",
            hint="write it as https://api.telegram.org/botTOKEN/sendMessage?chat_id=NUMBER",
        )
    return chosen, plain


def validate_program_path(path: str) -> str:
    """Return `path` when it can name a program. Raises BadInput."""
    if not path.startswith("/") or "\0" in path or not path.isprintable():
        raise BadInput(
            f"{quote_text(path)} is not an absolute path",
            hint="pass --notify-command a program, as a path that begins with /, and no arguments",
        )
    return path


class TargetFacts(msgspec.Struct, frozen=True):
    """One URL as it is shown."""

    format: Format
    url: str


class NotifyFacts(msgspec.Struct, frozen=True):
    """Settings as they are shown: nothing of them is secret. is_another: whether they have changed."""

    is_another: bool
    notify: tuple[TargetFacts, ...]
    notify_command: str | None
    notify_after: int


def describe_settings(settings: NotifySettings, *, is_another: bool) -> NotifyFacts:
    """Settings as they are shown."""
    return NotifyFacts(
        is_another,
        tuple(TargetFacts(each.format, parse_web_url(each.url.reveal()).origin) for each in settings.targets),
        settings.program,
        settings.after_s,
    )


def replace_targets(
    settings: NotifySettings, urls: Iterable[str], identifiers: Iterable[str]
) -> NotifySettings:
    """The same with these URLs, as they are typed. One that was there keeps its place in what was told.

    identifiers: for new ones, as many as there are URLs at least. Raises BadInput.
    """
    known = {(each.format, each.url.reveal()): each for each in settings.targets}
    parsed = list(dict.fromkeys(map(parse_target, urls)))
    if len(parsed) > MOST_TARGETS:
        raise BadInput(
            f"{len(parsed)} URLs were passed, and one machine can notify {MOST_TARGETS}",
            hint="pass fewer, or the URL of one receiver that passes messages on",
        )
    targets = tuple(
        known.get(each) or NotifyTarget(identifier, each[0], SecretUrl(each[1]))
        for each, identifier in zip(parsed, identifiers, strict=False)
    )
    return msgspec.structs.replace(settings, targets=targets)
