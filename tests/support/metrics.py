"""Read metrics as Prometheus would."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    name: str
    labels: frozenset[tuple[str, str]]


def read_metrics(text: str) -> dict[Sample, float]:
    """Parse the text format of Prometheus; no sample may appear twice."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            key = Sample(sample.name, frozenset(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def total(found: dict[Sample, float], name: str, **labels: str) -> float:
    """Return the sum of a metric over all samples that have these labels."""
    return sum(
        v for key, v in found.items() if key.name == f"shopframe_{name}" and labels.items() <= key.labels
    )
