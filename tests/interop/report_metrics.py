"""Report a value of every metric to the cluster at an address, until standard input ends."""

from __future__ import annotations

import sys

import ray

from jobs.run.metric_names import METRICS
from jobs.run.metric_sinks import RaySink

if __name__ == "__main__":
    ray.init(address=sys.argv[1], log_to_driver=False)
    sink = RaySink("r1")
    for metric in METRICS:
        take = {"counter": sink.add, "gauge": sink.set, "histogram": sink.observe}[metric.kind]
        take(metric, 2.0, dict.fromkeys(metric.labels, "some"))
    for metric in METRICS:
        sys.stdout.write(f"{metric.name} {metric.kind}\n")
    sys.stdout.write("reported\n")
    sys.stdout.flush()
    sys.stdin.read()
