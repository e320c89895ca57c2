"""The page in a real Chromium: what is seen, heard and typed, and that nothing of others' text is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from qmesh.errors import MachineRefused
from qmesh.host.page import http_server, news
from qmesh.mesh.view.cluster_view import ClusterView
from tests.support.browser import Browser, find_browser, start_browser
from tests.support.page_server import ServedPage
from tests.support.page_views import FAULTS, NOW, build_view
from tests.support.skips import CANNOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not find_browser(), reason=f"{CANNOT}there is no Chromium; `scripts/install --browser` unpacks one"
)

replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with start_browser() as started:
        yield started


@pytest.fixture
def served(browser: Browser) -> Iterator[ServedPage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "POLL_S", 0.5)
        patch.setattr(news, "LEAST_S", 0.02)
        patch.setattr(news, "BYTES_A_S", 100_000_000)
        page = ServedPage()
        yield page
        browser.show("about:blank")  # so that it complains of no server that is gone
        page.stop()


def see(browser: Browser, served: ServedPage, *, width: int = 1280, height: int = 900) -> None:
    """Open it, and wait until all of it is there."""
    browser.events.clear()
    browser.set_size(width, height, is_phone=width < 600)
    browser.set_media(prefers_color_scheme="light", prefers_reduced_motion="reduce")
    browser.show(served.url)
    until(browser, "performance.getEntriesByName('complete').length")
    browser.run("window.kept = true")


def tell(browser: Browser, served: ServedPage, view: ClusterView) -> None:
    """Have the page that is open show another cluster, and wait until all of it is there."""
    served.tell(view)
    count = len(view.machines)
    places = ("#picture .machine", "#table tbody tr")
    until(
        browser,
        " && ".join(f"document.querySelectorAll('{each}').length === {count}" for each in places),
    )


def until(browser: Browser, expression: str) -> None:
    wait_until(lambda: browser.run(f"document.readyState === 'complete' && Boolean({expression})"))


def text_of(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def labels(browser: Browser) -> list[str]:
    found: list[str] = browser.run(
        "[...document.querySelectorAll('#picture .machine')].map((each) => each.getAttribute('aria-label'))"
    )
    return found


def test_the_cluster_is_seen_and_the_browser_complains_of_nothing(browser, served):
    served.view = build_view(silent=(6,), gone=(2,), findings=FAULTS)
    see(browser, served)
    assert text_of(browser, "#verdict") == "1 machine silent, 5 workers silent, 2 findings"
    assert labels(browser) == [
        "fra-1; control node; this machine; 3 of 3 alive",
        "hel-2; tunnel up; 3 of 4 alive, 1 silent; silent: core 6",
        "ams-3; tunnel silent, last handshake 7 min ago; 0 of 4 alive, 4 silent; silent: cores 8-11",
    ]
    assert "systemctl restart qmesh-worker@6.service" in text_of(browser, "#findings")
    assert "docs/checks.md#worker-silent" in text_of(browser, "#findings")
    assert "hel-2 joined, invited by anna" in text_of(browser, "#changes")
    assert browser.run("document.querySelectorAll('#workers .tile').length") == 11
    assert browser.run("document.querySelectorAll('#table tbody tr').length") == 3
    assert browser.run("document.title").startswith("✕ ")
    assert browser.list_complaints() == []


def test_each_state_of_a_worker_has_a_shape_of_its_own(browser, served):
    """In one colour they can still be told from each other."""
    served.view = build_view(silent=(5,), restarting=(6,))
    see(browser, served)
    shapes = browser.run(
        "[...document.querySelectorAll('#picture .machine')].map((each) =>"
        " [...each.querySelectorAll('path')].map((path) => path.getAttribute('class')).sort().join())"
    )
    assert shapes == ["fill-a", "fill-a,fill-r,line-r,line-s", "fill-a"]
    words = browser.run("[...document.querySelectorAll('#legend li')].map((each) => each.textContent)")
    assert words[:3] == ["worker alive", "worker silent", "worker restarting"]
    assert (
        len(
            set(
                browser.run(
                    "[...document.querySelectorAll('#legend svg:not(.way)')].map((each) =>"
                    " [...each.querySelectorAll('path')].map((path) => path.getAttribute('d')).join())"
                )
            )
        )
        == 4
    )


HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>&amp;\u202e'\"`${1}"


def test_what_others_wrote_stays_text_wherever_it_is_shown(browser, served):
    view = build_view(names=(HOSTILE, f"b{HOSTILE}", "javascript:window.hacked=1"))
    finding = replace(
        FAULTS[0], code=HOSTILE, subject=HOSTILE, wanted=HOSTILE, seen=HOSTILE, cure=HOSTILE, link=HOSTILE
    )
    assert view.events is not None
    events = tuple(replace(each, what=HOSTILE, user=HOSTILE) for each in view.events)
    served.view = replace(view, findings=(finding,), events=events, mesh=HOSTILE, version=HOSTILE)
    see(browser, served)
    served.error = MachineRefused(HOSTILE, hint=HOSTILE)
    until(browser, "!document.getElementById('trouble').hidden")
    for place in ("#mesh", "#findings", "#changes", "#workers", "#table", "#picture", "#served", "#trouble"):
        assert HOSTILE in text_of(browser, place), place
    assert browser.run("document.querySelectorAll('img, script:not([src]), body a[href^=java]').length") == 0
    assert browser.run("typeof window.hacked") == "undefined"
    assert browser.list_complaints() == []


def test_the_policy_refuses_what_the_page_itself_might_be_made_to_do(browser, served):
    """A positive control: the browser does keep to the headers."""
    see(browser, served)
    browser.run(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'http://127.0.0.2:9/x'}))"
    )
    markup = "document.body.insertAdjacentHTML('beforeend', '<b onclick=1>x</b>')"
    assert "TrustedHTML" in browser.run(f"try {{ {markup}; '' }} catch (error) {{ error.message }}")
    assert browser.run("try { new Function('return 1')(); '' } catch (error) { error.name }") in {
        "EvalError",
        "TypeError",
    }
    assert "blocked" in browser.run("fetch('http://127.0.0.2:9/').catch(() => 'blocked')")
    assert any("Content Security Policy" in each for each in browser.list_complaints())


def test_what_changes_is_shown_and_said_without_a_reload(browser, served):
    see(browser, served)
    assert text_of(browser, "#verdict") == "Everything is as it should be"
    assert text_of(browser, "#said") == ""
    served.tell(build_view(silent=(5,), at=NOW + 5))
    until(browser, "document.getElementById('said').textContent")
    assert text_of(browser, "#said") == "hel-2: core 5 silent"
    until(browser, "document.getElementById('verdict').textContent === '1 worker silent'")
    assert "hel-2: core 5 silent" in text_of(browser, "#changes li")
    served.tell(build_view(at=NOW + 9))
    until(browser, "document.getElementById('said').textContent.includes('alive again')")
    until(browser, "document.getElementById('verdict').textContent === 'Everything is as it should be'")
    served.tell(build_view([3, 4], at=NOW + 12))
    until(browser, "document.querySelectorAll('#table tbody tr').length === 2")
    assert len(labels(browser)) == 2
    assert browser.run("window.kept") is True


def test_answer_times_become_plots_and_a_worker_that_did_not_answer_a_gap(browser, served):
    for seed in range(5):
        served.tell(build_view(seed=seed, silent=(5,) if seed == 3 else (), at=NOW + seed))
    see(browser, served)
    until(browser, "document.querySelector('.tile .plot path').getAttribute('d').split(/[ML]/).length > 5")
    gaps = browser.run(
        "[...document.querySelectorAll('.tile .gap')].map((each) => Boolean(each.getAttribute('d')))"
    )
    assert gaps == [False] * 4 + [True] + [False] * 6


def test_an_agent_and_a_server_that_are_gone_are_said(browser, served):
    see(browser, served)
    assert browser.run("document.getElementById('live').dataset.state") == "on"
    served.error = MachineRefused("this machine's agent does not run", hint="run `qmesh apply`")
    until(browser, "!document.getElementById('trouble').hidden")
    assert text_of(browser, "#trouble") == "this machine's agent does not run. run `qmesh apply`"
    assert browser.run("document.getElementById('live').dataset.state") == "off"
    served.error = None
    until(browser, "document.getElementById('trouble').hidden")
    http = ServedPage()
    browser.show(http.url)
    until(browser, "performance.getEntriesByName('complete').length")
    http.stop()
    until(browser, "document.getElementById('live').textContent.startsWith('not connected')")
    assert len(labels(browser)) == 3


def test_a_window_that_was_refused_is_let_in_once_there_is_room(browser, served):
    served.server._followers += http_server.MOST_FOLLOWERS
    try:
        browser.show(served.url)
        until(browser, "document.getElementById('live').textContent === 'not connected'")
    finally:
        served.server._followers -= http_server.MOST_FOLLOWERS
    until(browser, "document.getElementById('live').dataset.state === 'on'")


def test_all_can_be_reached_and_done_by_keyboard(browser, served):
    see(browser, served)
    seen = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(
            browser.run(
                "document.activeElement.id || document.activeElement.getAttribute('role')"
                " || document.activeElement.tagName"
            )
        )
    assert "listbox" in seen
    assert "SUMMARY" in seen
    browser.run("document.querySelector('#picture svg').focus()")
    for key, name in (
        ("ArrowLeft", "fra-1"),
        ("ArrowRight", "hel-2"),
        ("End", "ams-3"),
        ("ArrowLeft", "hel-2"),
    ):
        browser.press(key)
        chosen = "document.querySelector('#picture [aria-selected=true]')"
        assert browser.run(f"{chosen}.getAttribute('aria-label')").startswith(name)
        owned = "document.querySelector('#picture svg').getAttribute('aria-activedescendant')"
        assert browser.run(f"{owned} === {chosen}.id")
    browser.run("for (const part of document.querySelectorAll('details')) part.open = false")
    browser.press("Enter")
    assert browser.run("document.activeElement.textContent").startswith("hel-2")
    assert browser.run("document.activeElement.parentElement.open") is True
    outline = "getComputedStyle(document.activeElement)"
    assert browser.run(f"{outline}.outlineStyle !== 'none' && parseFloat({outline}.outlineWidth) >= 2")


def accessible(browser: Browser) -> list[tuple[str, str]]:
    """What a screen reader is told, in order: role and name."""
    nodes: list[dict[str, Any]] = browser.ask("Accessibility.getFullAXTree")["nodes"]
    return [
        (node.get("role", {}).get("value", ""), node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]


def test_a_screen_reader_is_told_all_of_it(browser, served):
    served.view = build_view(silent=(6,), findings=FAULTS)
    see(browser, served)
    said = accessible(browser)
    roles = {role for role, _ in said}
    assert {
        "banner",
        "main",
        "contentinfo",
        "listbox",
        "option",
        "table",
        "rowheader",
        "columnheader",
    } <= roles
    headings = [name for role, name in said if role == "heading"]
    assert headings[:2] == ["qmesh 56a71c69d69f5698", "1 worker silent, 2 findings"]
    assert "Machines as a table" in headings
    assert ("option", "hel-2; tunnel up; 3 of 4 alive, 1 silent; silent: core 6") in said
    assert ("cell", "3 of 4 alive, 1 silent") in said
    unnamed = [
        role for role, name in said if role in {"listbox", "option", "region", "table", "link"} and not name
    ]
    assert unnamed == []


def test_on_a_phone_nothing_has_to_be_scrolled_sideways(browser, served):
    see(browser, served, width=360, height=740)
    for workers in ([3, 4, 4], [16] * 12, [2] * 40):
        tell(browser, served, build_view(workers, silent=(6,), findings=FAULTS))
        assert browser.run("document.scrollingElement.scrollWidth") == 360, workers
        smallest = (
            "Math.min(...[...document.querySelectorAll('body *')].filter((each) =>"
            " each.childElementCount === 0 && each.textContent.trim() && each.checkVisibility())"
            ".map((each) => parseFloat(getComputedStyle(each).fontSize)))"
        )
        assert browser.run(smallest) >= 11
        outside = (
            "[...document.querySelectorAll('#picture .box')].map((each) => each.getBoundingClientRect())"
            ".filter((box) => box.left < 0 || box.right > 360).length"
        )
        assert browser.run(outside) == 0, workers


def overlaps(browser: Browser) -> int:
    """How many pairs of machines are drawn over each other."""
    found: int = browser.run(
        "(() => { const boxes = [...document.querySelectorAll('#picture .box')].map((each) =>"
        " each.getBoundingClientRect()); let found = 0;"
        " boxes.forEach((a, at) => boxes.slice(at + 1).forEach((b) => {"
        " if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom) found += 1; }));"
        " return found; })()"
    )
    return found


CLUSTERS = ([3], [0, 2], [4] * 6, [3, 4], [16] * 11, [1, 64, 200], [16] * 128, [1] * 400)


@pytest.mark.parametrize("width", [360, 900, 1500])
def test_however_many_machines_none_is_drawn_over_another_or_outside(browser, served, width):
    see(browser, served, width=width)
    for workers in CLUSTERS:
        tell(browser, served, build_view(workers))
        assert overlaps(browser) == 0, workers
        assert clipped(browser) == 0, workers


def clipped(browser: Browser) -> int:
    """How many machines are drawn outside of the picture."""
    found: int = browser.run(
        "(() => { const all = document.querySelector('#picture svg').getBoundingClientRect();"
        " return [...document.querySelectorAll('#picture .box')].map((each) => each.getBoundingClientRect())"
        ".filter((box) => box.left < all.left - 1 || box.right > all.right + 1 || box.top < all.top - 1"
        " || box.bottom > all.bottom + 1).length; })()"
    )
    return found


def test_a_worker_machine_shows_its_own_tunnel_and_draws_no_other_as_one_that_is_up(browser, served):
    view = build_view()
    control, hel, ams = view.machines
    unknown = tuple(replace(each, state="unknown", answer_s=None) for each in ams.workers)
    machines = (
        replace(control, tunnel=hel.tunnel),
        replace(hel, tunnel=None),
        replace(ams, tunnel=None, workers=unknown),
    )
    served.view = replace(view, name="hel-2", role="worker", machines=machines, events=None)
    see(browser, served)
    assert text_of(browser, "#verdict") == "All that is known from here is as it should be"
    assert text_of(browser, "#sums div:nth-child(2) dd") == "2 of 2"
    assert labels(browser) == [
        "fra-1; control node; 3 of 3 alive",
        "hel-2; this machine, tunnel up; 4 of 4 alive",
        "ams-3; no tunnel from here; 0 of 4 alive, 4 unknown",
    ]
    links = "[...document.querySelectorAll('#picture .link')]"
    strokes = browser.run(f"{links}.map((each) => getComputedStyle(each).strokeDasharray)")
    assert strokes[0] == "none"
    assert strokes[1] != "none"


def test_dark_is_dark_and_light_is_light(browser, served):
    see(browser, served)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(ground) == "rgb(244, 246, 249)"
    browser.set_media(prefers_color_scheme="dark")
    assert browser.run(ground) == "rgb(15, 20, 27)"


def test_two_thousand_cores_are_all_drawn(browser, served):
    served.view = build_view([16] * 128, silent=(900,))
    see(browser, served)
    cells = browser.run(
        "[...document.querySelectorAll('#picture .fill-a')].reduce((sum, each) =>"
        " sum + each.getAttribute('d').split('M').length - 1, 0)"
    )
    assert cells == 2047
    assert text_of(browser, "#verdict") == "1 worker silent"
    assert browser.run("document.querySelectorAll('*').length") < 12_000
    assert browser.list_complaints() == []
