"""The user-data of docs/cloud-init.md, filled in as the page says."""

from __future__ import annotations

import base64
import re
from typing import Any, NamedTuple

import yaml

from tests.support.pages import read_section

REPOSITORY, RELEASE = "From a repository", "From the files of a release"


class UserData(NamedTuple):
    """A text for cloud-init, and what it has: files by path, with their modes, and the lines to run."""

    text: str
    files: dict[str, tuple[str, int]]
    lines: list[str]

    @property
    def script(self) -> str:
        """What cloud-init makes of the lines."""
        return "\n".join(["#!/bin/sh", *self.lines, ""])


def read_text(heading: str) -> str:
    """The text below a heading, as it stands on the page."""
    (text,) = re.findall(r"```yaml\n(.*?)```", read_section("cloud-init", heading), flags=re.DOTALL)
    return str(text)


def read_user_data(heading: str, **values: str) -> UserData:
    """The text below a heading, with values in place of the words in capitals."""
    text = read_text(heading)
    for name, value in values.items():
        assert name in text
        text = text.replace(name, value)
    loaded: dict[str, Any] = yaml.safe_load(text)
    files = {
        each["path"]: (_content_of(each), int(each.get("permissions", "644"), 8))
        for each in loaded["write_files"]
    }
    return UserData(text, files, loaded["runcmd"])


def _content_of(file: dict[str, str]) -> str:
    if file.get("encoding") == "b64":
        return base64.b64decode(file["content"]).decode()
    return file["content"]


def as_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def read_shell_lines(heading: str) -> str:
    """The lines that make the text of one server."""
    (lines,) = re.findall(r"```sh\n(.*?)```", read_section("cloud-init", heading), flags=re.DOTALL)
    return str(lines)
