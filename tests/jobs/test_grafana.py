"""The dashboard shows every metric of a run, and nothing that no run reports."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from jobs.run.metric_names import METRICS, RUN_LABEL
from jobs.settings import CONF

DASHBOARD: dict[str, Any] = json.loads((CONF / "grafana" / "shopframe.json").read_text())

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

# The selector of a metric, whatever its prefix, with its matchers of labels.
SELECTOR = re.compile(r'\{__name__=~"\(ray_\)\?(?P<name>\w+)"(?P<matchers>[^}]*)\}')

SERIES = {
    name: metric
    for metric in METRICS
    for name in (
        [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
        if metric.kind == "histogram"
        else [metric.name]
    )
}


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_panels_name_only_metrics_and_labels_that_exist_and_all_metrics_are_shown():
    shown = set()
    for expression in expressions():
        found = list(SELECTOR.finditer(expression))
        assert len(found) == expression.count("shopframe_") > 0, expression
        metrics = [SERIES[match["name"]] for match in found]
        shown |= {metric.name for metric in metrics}
        known = {RUN_LABEL, "le", *itertools.chain(*(metric.labels for metric in metrics))}
        by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        matched = set(re.findall(r"(\w+)[=!]", " ".join(match["matchers"] for match in found)))
        assert by | matched <= known, expression
        assert RUN_LABEL in matched, expression
    assert shown == {metric.name for metric in METRICS}


def test_each_legend_names_the_labels_by_which_its_panel_sums():
    for panel in PANELS:
        for target in panel["targets"]:
            labels = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            by = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) - {"le"}
            assert labels == by, panel["title"]


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
