"""Metrics as the text that Prometheus reads. Source: its "Exposition formats", text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from qmesh.mesh.metrics.families import MetricFamily

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def render_metrics(families: Iterable[MetricFamily]) -> bytes:
    """The text in UTF-8, each line ended. What has no octets there, half of a character, is a `?`."""
    # Family by family: all lines of a large mesh at once would be felt.
    return b"".join("".join(_render_family(family)).encode("utf-8", "replace") for family in families)


def _render_family(family: MetricFamily) -> Iterator[str]:
    metric = family.metric
    yield f"# HELP {metric.name} {metric.help}\n"
    yield f"# TYPE {metric.name} {metric.kind}\n"
    for values, number in family.samples:
        labels = ",".join(
            f'{name}="{value.translate(_ESCAPES)}"' for name, value in zip(metric.labels, values, strict=True)
        )
        shown = f"{metric.name}{{{labels}}}" if labels else metric.name
        yield f"{shown} {_render_number(number)}\n"


def _render_number(number: float) -> str:
    """Whole numbers as such: a counter of octets is exact."""
    return str(int(number)) if number == int(number) else repr(float(number))
