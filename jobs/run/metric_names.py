"""The metrics of a run: all of them are defined here, by the naming rules of Prometheus.

Its rules (https://prometheus.io/docs/practices/naming/): counters end in `_total`, and units are base units.
Through Ray each name has the prefix `ray_`, which Ray adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RUN_LABEL = "run"
"""Label of every metric: the id of the run, as in the log."""

STAGE_BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Upper bounds of the seconds that a stage takes for a shard."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: Its name in Prometheus.
        kind: `counter`: it only grows during a run. `gauge`: it is the present value. `histogram`: it counts
            observations, which are seconds, by `STAGE_BUCKETS_S`.
        help: What it measures.
        labels: Its labels, beside `RUN_LABEL`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


SHARDS = Metric(
    "shopframe_shards_total", "counter", "Shards that were done, that failed or were postponed.", ("outcome",)
)
FRAMES = Metric(
    "shopframe_frames_total", "counter", "Frames of committed shards, ok or failed.", ("outcome",)
)
PERSONS = Metric(
    "shopframe_persons_total",
    "counter",
    "Detected persons of committed shards, kept or dropped.",
    ("outcome",),
)
ANNOTATIONS = Metric(
    "shopframe_annotations_total",
    "counter",
    "Persons in the commits of this run by the outcome of an annotator. Gemini's are pending at first.",
    ("annotator", "outcome"),
)
STAGE_SECONDS = Metric(
    "shopframe_stage_duration_seconds", "histogram", "Seconds that a stage took for a shard.", ("stage",)
)
SHARDS_WAITING = Metric(
    "shopframe_shards_waiting", "gauge", "Shards of the plan that have no result and are in no stage."
)
SHARDS_IN_PROGRESS = Metric(
    "shopframe_shards_in_progress", "gauge", "Shards that a worker of the stage processes.", ("stage",)
)
SHARD_RETRIES = Metric(
    "shopframe_shard_retries_total", "counter", "Shards tried again after a fault of the infrastructure."
)
WORKER_DEATHS = Metric(
    "shopframe_worker_deaths_total", "counter", "Workers that died while they processed a shard.", ("stage",)
)
STORE_REQUESTS = Metric(
    "shopframe_store_requests_total",
    "counter",
    "Requests to S3 stores by result: ok, throttled, refused or failed.",
    ("operation", "result"),
)
GEMINI_REQUESTS = Metric(
    "shopframe_gemini_requests_total",
    "counter",
    "Requests to Gemini: answered, rate_limited, refused or unavailable.",
    ("outcome",),
)
GEMINI_TOKENS = Metric(
    "shopframe_gemini_tokens_total", "counter", "Tokens by Google's count, input or output.", ("direction",)
)
GEMINI_COST = Metric("shopframe_gemini_cost_dollars_total", "counter", "Cost of these tokens in US dollars.")
GEMINI_PERSONS = Metric("shopframe_gemini_persons_total", "counter", "Persons that got an outcome of Gemini.")
GEMINI_BACKLOG = Metric(
    "shopframe_gemini_backlog_shards", "gauge", "Shards with persons that wait for Gemini."
)
GEMINI_IN_FLIGHT = Metric("shopframe_gemini_requests_in_flight", "gauge", "Requests that are being answered.")
GEMINI_QUOTA_LEFT = Metric(
    "shopframe_gemini_quota_left_requests", "gauge", "Requests that may still be sent today."
)
GEMINI_BREAKER = Metric(
    "shopframe_gemini_breaker_open",
    "gauge",
    "1 while one request at a time finds out if Gemini answers, else 0.",
)
RUN_ACTIVE = Metric("shopframe_run_active", "gauge", "1 while the run works, 0 after its end.")

METRICS = (
    SHARDS,
    FRAMES,
    PERSONS,
    ANNOTATIONS,
    STAGE_SECONDS,
    SHARDS_WAITING,
    SHARDS_IN_PROGRESS,
    SHARD_RETRIES,
    WORKER_DEATHS,
    STORE_REQUESTS,
    GEMINI_REQUESTS,
    GEMINI_TOKENS,
    GEMINI_COST,
    GEMINI_PERSONS,
    GEMINI_BACKLOG,
    GEMINI_IN_FLIGHT,
    GEMINI_QUOTA_LEFT,
    GEMINI_BREAKER,
    RUN_ACTIVE,
)
