"""The page's files: HTML, style and script as they are in the package, without a build."""

from __future__ import annotations

from importlib import resources
from typing import Final, NamedTuple

PAGE: Final = "page.html"
_MEDIA: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class PageFile(NamedTuple):
    """What is sent of one. media: its Content-Type."""

    octets: bytes
    media: str


def read_page_files() -> dict[str, PageFile]:
    """All of them, by name; the page itself has also the empty name."""
    found = {
        each.name: PageFile(each.read_bytes(), _MEDIA[each.name[each.name.rindex(".") :]])
        for each in (resources.files(__package__) / "files").iterdir()
    }
    return {**found, "": found[PAGE]}
