"""Debian's Prometheus, as scripts/install unpacks it, and what docs/monitoring has for it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.support.checkout import CHECKOUT

UNPACKED: Final = CHECKOUT / ".cache/prometheus"
PAGES: Final = CHECKOUT / "docs/monitoring"
ALERTS: Final = PAGES / "alerts.yml"

needs_prometheus = pytest.mark.skipif(
    not (UNPACKED / "promtool").exists(),
    reason="this machine cannot: it has no Prometheus (`sudo ./scripts/install --dev` unpacks one)",
)


def run_promtool(*words: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [UNPACKED / "promtool", *words], input=text, capture_output=True, text=True, check=False
    )


def alert_expressions() -> dict[str, str]:
    """What each alert asks, by its name."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard_queries() -> dict[str, str]:
    """What each panel asks, by its title and the query's letter, with Grafana's variables filled in."""
    panels = json.loads((PAGES / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    return {
        f"{panel['title']}: {target['refId']}": fill_variables(target["expr"])
        for panel in panels
        for target in panel["targets"]
    }


def fill_variables(query: str) -> str:
    filled = query.replace("$instance", ".*").replace("$__rate_interval", "1m")
    assert "$" not in re.sub(r"\$\d", "", filled), query
    return filled


def metrics_of(query: str) -> Iterator[str]:
    """The metrics that a query names."""
    yield from re.findall(r"\b(?:qmesh|wireguard)_[a-z_]+\b(?!\")", query)
