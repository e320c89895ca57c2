"""The page on metrics, the alert rules and the dashboard: they name what there is, and all of it."""

from __future__ import annotations

import re

import pytest
import yaml

from qmesh.mesh.audit.findings import failed_check_finding
from qmesh.mesh.inventory import list_workers
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.machine_facts.facts import ToldFacts
from qmesh.mesh.metrics.families import METRICS, build_families
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample
from qmesh.mesh.metrics.text_format import render_metrics
from qmesh.mesh.standing_proof.record import ClaimResult, StandingProof
from qmesh.mesh.state import Counters
from tests.support.checkout import CHECKOUT
from tests.support.factories import TUTORIAL
from tests.support.machine_facts import FACTS
from tests.support.prometheus import (
    ALERTS,
    PAGES,
    alert_expressions,
    dashboard_queries,
    metrics_of,
    needs_prometheus,
    run_promtool,
)

CLAIM = ClaimResult(claim="outside", closes=True, words="", state="proved", family="ip")
PAGE = CHECKOUT / "docs/monitoring.md"


def table_rows(first: str) -> list[tuple[str, ...]]:
    """The cells of a table of the page whose header begins with that word, row by row."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n| {first} |")
    lines = rest.split("\n")[2:]
    rows = lines[: next(at for at, line in enumerate(lines) if not line.startswith("|"))]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def test_the_page_has_each_metric_as_it_is():
    assert table_rows("metric") == [
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.on, each.help)
        for each in METRICS
    ]


def test_alerts_and_dashboard_name_metrics_that_there_are_and_all_of_them():
    names = {metric.name for metric in METRICS}
    queries = [*alert_expressions().values(), *dashboard_queries().values()]
    assert {name for query in queries for name in metrics_of(query)} == names


def test_the_page_has_each_alert():
    assert [re.findall(r"`(\w+)`", row[0]) for row in table_rows("alert")] == [
        [name] for name in alert_expressions()
    ]


def test_each_alert_is_tried_both_where_it_comes_and_where_it_does_not():
    tests = yaml.safe_load((PAGES / "alerts.test.yml").read_text(encoding="utf-8"))["tests"]
    tried = [
        (each["alertname"], bool(each["exp_alerts"])) for test in tests for each in test["alert_rule_test"]
    ]
    wanted = {(name, comes) for name in alert_expressions() for comes in (True, False)}
    assert set(tried) == wanted


def test_each_alert_says_what_to_do():
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert re.search(r"\{\{ \$labels\.\w+ \}\}: qmesh \w+$", rule["annotations"]["fix"])
        assert rule["labels"]["severity"] in {"critical", "warning"}


@needs_prometheus
@pytest.mark.parametrize(
    "words",
    [
        ("test", "rules", PAGES / "alerts.test.yml"),
        ("check", "config", PAGES / "prometheus.yml"),
    ],
    ids=lambda words: words[-1].name,
)
def test_prometheus_itself_takes_what_the_pages_have(words):
    done = run_promtool(*words)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_finds_no_fault_in_the_metrics():
    """All of them, of a mesh that is made up; `tests/lab/test_metrics.py` has those of machines."""
    others = TUTORIAL.machines[1:]
    known = Snapshot(
        name="a",
        version="0.1.0",
        inventory=TUTORIAL,
        interface="qmesh0",
        looked_at=1.7e9,
        guard_ok=True,
        dropped={"closed_port": 1},
        counters={each.public_key: Counters(1_700_000_000, 2**40, 1, None) for each in others},
        links=LinkReport(),
        unasked={},
        revisions={each.address: 7 for each in others},
        workers=tuple(WorkerSample(each.machine, each.core, 0.01) for each in list_workers(TUTORIAL)),
        is_dialled=True,
        findings=(failed_check_finding("keys", "", ""),),
        checked_at=1.7e9,
        proof=StandingProof(claims=(CLAIM,), at=1.7e9),
        facts={each.address: ToldFacts(each.address, 1.7e9, FACTS) for each in TUTORIAL.machines},
    )
    families = list(build_families(known))
    assert [family.metric for family in families] == [*METRICS]
    text = render_metrics(families).decode()
    done = run_promtool("check", "metrics", text=text)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert run_promtool("check", "metrics", text=text.replace(" gauge", " gage", 1)).returncode != 0


@needs_prometheus
def test_prometheus_can_read_each_query_of_the_dashboard(tmp_path):
    """That each has an answer, `tests/lab/test_metrics.py` sees, by a Prometheus that runs."""
    rules = [{"record": f"x:{at}", "expr": query} for at, query in enumerate(dashboard_queries().values())]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    done = run_promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
