"""The page's files as they are: nothing inline, nothing of elsewhere, and colours that can be read."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from qmesh.host.page.page_files import PAGE, read_page_files
from tests.support.checkout import CHECKOUT

FILES = read_page_files()
HTML = FILES[PAGE].octets.decode()
STYLE = FILES["page.css"].octets.decode()
SCRIPT = FILES["page.js"].octets.decode()
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """All elements, in order, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text_of_scripts = ""
        self.feed(HTML)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] in {"script", "style"}:
            self.text_of_scripts += data.strip()


ELEMENTS = Page().elements


def tagged(tag: str) -> list[dict[str, str]]:
    return [attributes for name, attributes in ELEMENTS if name == tag]


def test_nothing_in_the_page_is_inline_so_that_its_policy_can_forbid_it():
    assert not re.search(r"<script(?![^>]* src=)", HTML)
    assert Page().text_of_scripts == ""
    assert tagged("style") == []
    found = {name for _, attributes in ELEMENTS for name in attributes if re.match(r"on|style$", name)}
    assert found == set()


def test_the_page_loads_nothing_of_elsewhere_and_sends_nothing():
    for text in (HTML, STYLE, SCRIPT, FILES["icon.svg"].octets.decode()):
        assert re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<]*", text.replace(SVG_NAMESPACE, "")) == []
    assert not re.search(r"url\(|@import|@font-face", STYLE)
    assert not re.search(
        r"\b(?:fetch|XMLHttpRequest|sendBeacon|WebSocket|localStorage|cookie|import)\b", SCRIPT
    )
    assert re.findall(r"EventSource\(([^)]*)\)", SCRIPT) == ['"events"']
    assert tagged("form") == tagged("input") == tagged("button") == []


def test_what_others_wrote_enters_the_document_as_text():
    """The browser refuses the rest, as the policy has it; here none is even written."""
    writing = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|createContextualFragment"
    )
    assert not re.search(writing, SCRIPT)
    assert not re.search(r"setAttribute\(\s*[\"'](?:href|src|on|style)", SCRIPT)
    assert not re.search(r"\bhref:|\bsrc:|\bonclick:|\bstyle:", SCRIPT)


def test_all_that_the_script_asks_for_is_in_the_page():
    ids = [attributes["id"] for _, attributes in ELEMENTS if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', SCRIPT)) <= set(ids)
    used = {
        *(attributes["aria-labelledby"] for _, attributes in ELEMENTS if "aria-labelledby" in attributes),
        *(each["href"][1:] for each in tagged("a")),
        *re.findall(r'"aria-describedby": "([\w-]+)"', SCRIPT),
    }
    assert used <= set(ids)


def test_landmarks_and_headings_are_there_for_who_does_not_see_the_page():
    assert tagged("html") == [{"lang": "en"}]
    assert [len(tagged(tag)) for tag in ("h1", "main", "header", "footer", "title")] == [1, 1, 1, 1, 1]
    assert all("aria-labelledby" in section for section in tagged("section"))
    assert len(tagged("section")) == len(tagged("h2"))
    (viewport,) = [each["content"] for each in tagged("meta") if each.get("name") == "viewport"]
    assert not re.search(r"user-scalable|maximum-scale", viewport)
    live = [attributes for _, attributes in ELEMENTS if attributes.get("aria-live") == "polite"]
    assert len(live) == 1


def test_motion_contrast_and_dark_are_as_the_user_has_set_them():
    for feature in ("prefers-color-scheme: dark", "prefers-reduced-motion", "forced-colors: active"):
        assert feature in STYLE
    moving = STYLE.split("prefers-reduced-motion: no-preference")[0]
    assert not re.search(r"animation|transition|scroll-behavior", moving)


def colours(text: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text))


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


LIGHT = colours(STYLE.split("@media (prefers-color-scheme: dark)")[0])
DARK = {**LIGHT, **colours(STYLE.split("@media (prefers-color-scheme: dark)")[1].split("*, *")[0])}
GROUNDS = ("card", "page", "alive-soft", "silent-soft", "restarting-soft")
WORDS = [
    *((words, ground) for words in ("text", "quiet") for ground in GROUNDS),
    *(("link", ground) for ground in ("card", "page")),
    *((words, "card") for words in ("alive", "restarting")),
    *(("silent", ground) for ground in ("card", "page", "silent-soft")),
]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("words", "ground"), WORDS)
def test_words_can_be_read_as_wcag_aa_has_it(scheme, words, ground):
    assert contrast(scheme[words], scheme[ground]) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("shape", ["alive", "silent", "restarting", "unknown", "link"])
def test_shapes_can_be_seen_as_wcag_aa_has_it(scheme, shape):
    assert contrast(scheme[shape], scheme["card"]) >= 3.0


def test_the_measure_of_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.478, abs=0.001)


def test_the_page_is_small():
    assert sum(len(FILES[name].octets) for name in FILES if name) < 60_000


def test_the_pictures_in_the_documents_are_small():
    pictures = list((CHECKOUT / "docs/page").iterdir())
    assert {path.suffix for path in pictures} == {".png"}
    assert len(pictures) >= 8
    assert max(path.stat().st_size for path in pictures) < 150_000
