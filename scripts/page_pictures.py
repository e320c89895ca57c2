"""The page in Chromium, measured and as pictures: see scripts/page-pictures."""

from __future__ import annotations

import argparse
import statistics
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from qmesh.host.page import news
from qmesh.host.page.page_files import read_page_files
from qmesh.mesh.page.picture import build_page_picture
from qmesh.mesh.view.cluster_view import ClusterView
from tests.support.browser import Browser, BrowserFailed, start_browser
from tests.support.page_server import ServedPage
from tests.support.page_views import FAULTS, NOW, build_view, list_faulty_cores

PAGE: Final = Path(__file__).resolve().parents[1] / "docs/page"
MOST_BYTES: Final = 150_000
"""Of a picture: they are part of every clone."""
HISTORY: Final = 40
"""Looks at the workers before a picture is taken, for the plots."""


class Cluster(NamedTuple):
    """One that is shown. workers: of each machine."""

    title: str
    workers: tuple[int, ...]


SMALL: Final = Cluster("3 machines, 11 workers", (3, 4, 4))
MIDDLE: Final = Cluster("12 machines, 120 workers", (8, *(16, 8, 12, 4) * 2, 16, 8, 8))
LARGE: Final = Cluster("128 machines, 2,048 workers", (16,) * 128)
WIDE: Final = Cluster("3 machines, 2,048 workers", (512, 768, 768))
MANY: Final = Cluster("1,000 machines, 4,000 workers", (4,) * 1000)


class Shot(NamedTuple):
    """One picture. size: of the window, in pixels."""

    name: str
    cluster: Cluster
    scheme: str
    size: tuple[int, int]
    has_faults: bool = False


SHOTS: Final = (
    Shot("three-machines-light", SMALL, "light", (1280, 860)),
    Shot("three-machines-faults-dark", SMALL, "dark", (1280, 860), has_faults=True),
    Shot("twelve-machines-light", MIDDLE, "light", (1280, 860)),
    Shot("many-machines-faults-light", LARGE, "light", (1280, 1180), has_faults=True),
    Shot("many-machines-dark", LARGE, "dark", (1280, 1180)),
    Shot("many-cores-light", WIDE, "light", (1280, 860)),
    Shot("phone-faults-light", SMALL, "light", (390, 1300), has_faults=True),
    Shot("phone-faults-dark", MIDDLE, "dark", (390, 1300), has_faults=True),
)


def main() -> int:
    """Measure and draw; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/page-pictures", description=__doc__)
    parser.add_argument("--to", type=Path, default=PAGE, metavar="DIR", help="where the pictures belong")
    parser.add_argument("--runs", type=int, default=5, help="of each figure, of which the median counts")
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(shot.name for shot in SHOTS)}")
    asked = parser.parse_args()
    try:
        with start_browser() as browser:
            if not asked.names:
                measure_all(browser, asked.runs)
            return draw_all(browser, asked.to, asked.names)
    except BrowserFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


def measure_all(browser: Browser, runs: int) -> None:
    """Print a table: how much is sent, and how long it takes until it is seen."""
    files = sum(len(each.octets) for name, each in read_page_files().items() if name)
    print(f"Files of the page: {files / 1000:.0f} kB.\n")
    print("| cluster | a picture of it, kB | first picture, ms | all of it, ms | from news to paint, ms |")
    print("|---|---:|---:|---:|---:|")
    for cluster in (SMALL, MIDDLE, LARGE, WIDE, MANY):
        found = [measure(browser, cluster, run) for run in range(runs)]
        first, complete, update = (statistics.median(each) for each in zip(*found, strict=True))
        size = len(news.encode_event("view", build_page_picture(build_view(cluster.workers)))) / 1000
        print(
            f"| {cluster.title} | {size:.1f} | {first:.0f} | {complete:.0f} | {update:.0f} |",
            flush=True,
        )


def measure(browser: Browser, cluster: Cluster, run: int) -> tuple[float, float, float]:
    """Milliseconds until the picture is there, until all is, and until news are seen."""
    view = build_view(cluster.workers, seed=run)
    news.LEAST_S = 0.01  # type: ignore[misc]
    news.BYTES_A_S = 1 << 40  # type: ignore[misc]
    served = ServedPage(view)
    try:
        browser.set_size(1280, 900)
        browser.show(served.url)
        wait_for_mark(browser, "complete")
        first, complete = browser.run(
            "['drawn', 'complete'].map((name) => performance.getEntriesByName(name)[0].startTime)"
        )
        # The next frame is painted once its callbacks have run, and another one's begin.
        browser.run(
            "window.painted = new Promise((done) => new MutationObserver(() => requestAnimationFrame(() =>"
            " requestAnimationFrame(() => done(Date.now())))).observe(document.getElementById('verdict'),"
            " {childList: true, characterData: true, subtree: true})); 0"
        )
        began = time.time()
        served.tell(build_view(cluster.workers, seed=run + 1, silent=(2,), at=NOW + 5))
        update = browser.run("window.painted") - began * 1000
    finally:
        served.stop()
    return first, complete, update


def wait_for_mark(browser: Browser, name: str) -> None:
    """Until the page has said so."""
    until = time.monotonic() + 60
    while not browser.run(
        f"document.readyState === 'complete' && performance.getEntriesByName('{name}').length > 0"
    ):
        if time.monotonic() > until:
            raise BrowserFailed(f"the page is not {name}: {browser.list_complaints()}")


def draw_all(browser: Browser, to: Path, names: list[str]) -> int:
    """Write the pictures, all where no name is given; returns the exit code: 1 where one is too large."""
    to.mkdir(parents=True, exist_ok=True)
    large = []
    for shot in SHOTS:
        if names and shot.name not in names:
            continue
        octets = draw(browser, shot)
        (to / f"{shot.name}.png").write_bytes(octets)
        print(f"{shot.name}: {len(octets) / 1000:.0f} kB", file=sys.stderr)
        if len(octets) > MOST_BYTES:
            large.append(shot.name)
    if large:
        print(f"error: more than {MOST_BYTES} bytes: {', '.join(large)}", file=sys.stderr)
    return 1 if large else 0


def draw(browser: Browser, shot: Shot) -> bytes:
    """A picture, after a history of looks of which the last have the faults."""
    last = shot_view(shot)
    served = ServedPage(build_view(shot.cluster.workers, seed=0, at=NOW - 15 * HISTORY))
    try:
        for number in range(1, HISTORY):
            served.tell(build_view(shot.cluster.workers, seed=number, at=NOW - 15 * (HISTORY - number)))
        served.tell(msgspec.structs.replace(last, at=NOW - 20))
        served.tell(last)
        browser.set_size(*shot.size, is_phone=shot.size[0] < 600)
        browser.set_media(prefers_color_scheme=shot.scheme, prefers_reduced_motion="reduce")
        browser.ask("Emulation.setTimezoneOverride", timezoneId="UTC")
        browser.show(served.url)
        wait_for_mark(browser, "complete")
        browser.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return reduce_colours(browser.take_picture())
    finally:
        served.stop()


def shot_view(shot: Shot) -> ClusterView:
    """What is shown in the end."""
    workers = shot.cluster.workers
    if not shot.has_faults:
        return build_view(workers, seed=HISTORY)
    silent, restarting, gone = list_faulty_cores(workers)
    return build_view(workers, seed=HISTORY, silent=silent, restarting=restarting, gone=gone, findings=FAULTS)


# Pictures with 256 colours are a third as large, and look the same


def reduce_colours(png: bytes) -> bytes:
    """A PNG of 8 bits for each of three colours, with a palette. Source: the PNG specification."""
    parts, at = {}, 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        parts[kind] = parts.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, colours = struct.unpack_from(">IIBB", parts[b"IHDR"])
    assert (depth, colours) == (8, 2)
    rows = list(read_rows(zlib.decompress(parts[b"IDAT"]), 3 * width))
    pixels = [list(zip(row[::3], row[1::3], row[2::3], strict=True)) for row in rows]
    counted = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counted.most_common(256)]
    index = {colour: palette.index(find_nearest(colour, palette)) for colour in counted}
    octets = b"".join(b"\0" + bytes(index[pixel] for pixel in row) for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    flat = bytes(part for colour in palette for part in colour)
    body = ((b"IHDR", head), (b"PLTE", flat), (b"IDAT", zlib.compress(octets, 9)), (b"IEND", b""))
    return png[:8] + b"".join(build_part(kind, content) for kind, content in body)


def read_rows(octets: bytes, length: int) -> Iterator[bytearray]:
    """The rows of pixels, without their filters."""
    before = bytearray(length)
    for begin in range(0, len(octets), length + 1):
        kind, row = octets[begin], bytearray(octets[begin + 1 : begin + 1 + length])
        for at in range(length) if kind else ():
            left = row[at - 3] if at >= 3 else 0
            corner = before[at - 3] if at >= 3 else 0
            guess = (left, before[at], (left + before[at]) // 2, predict(left, before[at], corner))[kind - 1]
            row[at] = (row[at] + guess) & 0xFF
        yield row
        before = row


def predict(left: int, above: int, corner: int) -> int:
    """Paeth's guess."""
    guess = left + above - corner
    return min((left, above, corner), key=lambda each: abs(guess - each))


def find_nearest(colour: tuple[int, int, int], palette: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """That of the palette which differs least."""
    return min(palette, key=lambda each: sum((a - b) ** 2 for a, b in zip(colour, each, strict=True)))


def build_part(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


if __name__ == "__main__":
    sys.exit(main())
