"""Where the metrics of a run can be read: in a text file, at an endpoint, or through Ray."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
    write_to_textfile,
)

from actors.errors import ConfigError
from jobs.run.metric_names import METRICS, RUN_LABEL, STAGE_BUCKETS_S, Metric

log = logging.getLogger("shopframe")

Labels = Mapping[str, str]


class Sink(Protocol):
    """Takes the values of metrics. `labels` has a value for each label of the metric."""

    def add(self, metric: Metric, amount: float, labels: Labels) -> None:
        """Let a counter grow."""

    def set(self, metric: Metric, value: float, labels: Labels) -> None:
        """Set a gauge."""

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """Add an observation to a histogram."""

    def publish(self) -> None:
        """Let readers see what was taken. Called every few seconds, and at the end."""

    def close(self) -> None:
        """Release what the sink holds."""


class PrometheusSink:
    """Keeps metrics for the text file that node_exporter reads, for an endpoint that is scraped, or both.

    Args:
        run_id: Id of the run.
        textfile: The file, or None. It is replaced as a whole, so that nobody reads half of it.
        host: Address of the endpoint.
        port: Port of the endpoint, or None.

    Attributes:
        port: The port at which the endpoint answers.

    Raises:
        ConfigError: The file can't be written, or the port can't be used.
    """

    def __init__(self, run_id: str, textfile: Path | None, host: str, port: int | None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._run_id = run_id
        self._textfile = textfile
        self._metrics: dict[str, Any] = {metric.name: self._made(metric) for metric in METRICS}
        self._warned = False
        if textfile is not None:
            try:
                write_to_textfile(str(textfile), self._registry)
            except OSError as error:
                raise ConfigError(
                    f"metrics.textfile: can't write {textfile}: {error}; name a file in a folder that exists"
                ) from None
        self._server: Any = None
        if port is not None:
            try:
                self._server, self._thread = start_http_server(port, host, self._registry)
            except OSError as error:
                raise ConfigError(
                    f"metrics.port: can't listen on {host}:{port}: {error}; choose another port"
                ) from None
            self.port: int = self._server.server_port

    def add(self, metric: Metric, amount: float, labels: Labels) -> None:
        """Let a counter grow."""
        self._of(metric, labels).inc(amount)

    def set(self, metric: Metric, value: float, labels: Labels) -> None:
        """Set a gauge."""
        self._of(metric, labels).set(value)

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """Add an observation to a histogram."""
        self._of(metric, labels).observe(value)

    def publish(self) -> None:
        """Write the text file. A disk that is full for a while doesn't stop the run."""
        if self._textfile is None:
            return
        try:
            write_to_textfile(str(self._textfile), self._registry)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("metrics.textfile: can't write %s: %s", self._textfile, error)

    def close(self) -> None:
        """Stop the endpoint. The text file stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def _made(self, metric: Metric) -> Counter | Gauge | Histogram:
        labels = (RUN_LABEL, *metric.labels)
        if metric.kind == "histogram":
            return Histogram(
                metric.name, metric.help, labels, buckets=STAGE_BUCKETS_S, registry=self._registry
            )
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, labels, registry=self._registry)

    def _of(self, metric: Metric, labels: Labels) -> Any:
        return self._metrics[metric.name].labels(**{RUN_LABEL: self._run_id}, **labels)


class RaySink:
    """Gives metrics to the Ray that this process is connected to, whose nodes export them for Prometheus.

    Args:
        run_id: Id of the run.
    """

    def __init__(self, run_id: str) -> None:
        from ray.util import metrics

        self._tags = {RUN_LABEL: run_id}
        self._metrics: dict[str, Any] = {}
        for metric in METRICS:
            tags = (RUN_LABEL, *metric.labels)
            if metric.kind == "histogram":
                made: Any = metrics.Histogram(metric.name, metric.help, list(STAGE_BUCKETS_S), tags)
            else:
                kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
                made = kind(metric.name, metric.help, tags)
            self._metrics[metric.name] = made

    def add(self, metric: Metric, amount: float, labels: Labels) -> None:
        """Let a counter grow."""
        self._metrics[metric.name].inc(amount, tags={**self._tags, **labels})

    def set(self, metric: Metric, value: float, labels: Labels) -> None:
        """Set a gauge."""
        self._metrics[metric.name].set(value, tags={**self._tags, **labels})

    def observe(self, metric: Metric, value: float, labels: Labels) -> None:
        """Add an observation to a histogram."""
        self._metrics[metric.name].observe(value, tags={**self._tags, **labels})

    def publish(self) -> None:
        """Do nothing, because Ray exports by itself."""

    def close(self) -> None:
        """Do nothing, because the metrics end with the connection."""
