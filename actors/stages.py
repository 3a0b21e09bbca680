"""The stages as Ray Data runs them: one block in, one block out, whatever happens to the shard."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray

from actors.commit.committer import Committer, ShardSummary
from actors.cuda import require_cuda
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.errors import ConfigError, CropRestoreError, ShardError
from actors.shard_block import ShardBlock
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.commit_record import CommitRecord, Counts, read_record
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from actors.storage.tables import from_parquet

log = logging.getLogger(__name__)

_REPORT_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every stage needs: the run's tracker (an actor's handle) and how often a shard may kill."""

    tracker: Any
    max_attempts: int

    def require_cuda(self, setting: str) -> None:
        """See that this worker finds its GPU; otherwise the driver learns why before the worker ends.

        Raises:
            ConfigError: It finds none.
        """
        try:
            require_cuda(setting)
        except ConfigError as error:
            ray.get(self.tracker.refuse.remote(str(error)))
            raise

    def run(self, name: str, block: ShardBlock, work: Callable[[ShardBlock], None]) -> ShardBlock:
        """Do a stage's work on a block; whatever goes wrong becomes the block's error."""
        if block.error is not None:
            return block
        shard_id = block.task.shard.shard_id
        times = ray.get(self.tracker.start.remote(name, shard_id))
        started = time.perf_counter()
        if times > self.max_attempts:
            block.error = (
                f"{name}: its worker died {self.max_attempts} times on this shard (killed for memory, or "
                "a crash in native code); look for what is special about it, then run again"
            )
        else:
            try:
                work(block)
            except ShardError as error:
                block.error = str(error)
                block.keep_previous_commit = isinstance(error, CropRestoreError)
            except STORAGE_ERRORS as error:
                block.error = f"{name}: {storage_error_text(error)}"
            except Exception as error:  # the boundary where one shard's trouble stays its own
                log.exception("%s failed on shard %s", name, shard_id)
                block.error = f"{name}: {type(error).__name__}: {error}"
        block.timings_s[name] = round(time.perf_counter() - started, 3)
        self.tracker.finish.remote(name, shard_id)
        return block


class DetectStage:
    """Reads a shard and finds its people, or fetches what was committed of them before."""

    def __init__(
        self, context: StageContext, detector: ShardDetector, crop_restorer: CropRestorer, output: ObjectStore
    ) -> None:
        if detector.detector.device != "cpu":
            context.require_cuda("detector.device")
        self._context = context
        self._detector = detector
        self._detector.report_progress = _Meter(context.tracker)
        self._crop_restorer = crop_restorer
        self._output = output

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One shard to the same shard with frames and persons."""
        return self._context.run("detect", ShardBlock.from_arrow(batch), self._detect).to_arrow()

    def _detect(self, block: ShardBlock) -> None:
        if block.task.work == "detect":
            self._detector.detect(block)
            return
        record = load_committed(block, self._output)
        if block.task.work == "annotate":
            self._crop_restorer.fill_crops(block, record)


class AnnotateStage:
    """Asks a local model about the kept people of a shard."""

    def __init__(self, context: StageContext, annotator: ShardAnnotator) -> None:
        if annotator.settings.gpus_per_actor > 0:
            context.require_cuda("smolvlm.gpus_per_actor")
        self._context = context
        self._annotator = annotator

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One shard to the same shard with answers."""
        block = ShardBlock.from_arrow(batch)
        if block.task.work == "write":
            return batch
        return self._context.run("annotate", block, self._annotator.annotate).to_arrow()


def commit_stage(batch: pa.Table, context: StageContext, committer: Committer) -> pa.Table:
    """One shard to one summary row; what can't be committed is said and stays to do."""
    block = ShardBlock.from_arrow(batch)
    shard_id = block.task.shard.shard_id
    ray.get(context.tracker.start.remote("commit", shard_id))
    try:
        summary = committer.commit(block)
    except STORAGE_ERRORS as error:
        summary = ShardSummary(shard_id, "unrecorded", error=f"commit: {storage_error_text(error)}")
    except Exception as error:  # the boundary where one shard's trouble stays its own
        log.exception("commit failed on shard %s", shard_id)
        summary = ShardSummary(shard_id, "unrecorded", error=f"commit: {type(error).__name__}: {error}")
    context.tracker.finish.remote("commit", shard_id)
    return summary_to_arrow(summary)


def load_committed(block: ShardBlock, output: ObjectStore) -> CommitRecord:
    """Fill a block from what its shard's commit record names, and return the record.

    Raises:
        ShardError: The record is gone, was replaced, or names an object that isn't there.
    """
    found = read_record(output, block.task.shard.shard_id)
    if found is None or found[1] != block.task.record_etag:
        raise ShardError("its commit record was changed by another run; run again")
    record = found[0]
    for entry in record.objects:
        kind, _, annotator = entry.kind.partition("/")
        if kind not in ("frames", "persons", "annotations"):
            continue
        try:
            table = from_parquet(output.read(entry.path))
        except FileNotFoundError as error:
            raise ShardError(
                f"{entry.path} is named by its commit record and missing; use --force"
            ) from error
        if kind == "annotations":
            block.annotations[annotator] = table
        else:
            setattr(block, kind, table)
    return record


def summary_to_arrow(summary: ShardSummary) -> pa.Table:
    """A summary as one row of one JSON column."""
    content = {**asdict(summary), "counts": summary.counts.model_dump()}
    return pa.table({"summary": [json.dumps(content)]})


def summary_from_json(text: str) -> ShardSummary:
    """Read back what `summary_to_arrow` wrote."""
    content = json.loads(text)
    return ShardSummary(**{**content, "counts": Counts(**content["counts"])})


class _Meter:
    """Adds up progress and reports it to the tracker every so often."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self._frames = 0
        self._persons = 0
        self._reported = time.monotonic()

    def __call__(self, frames: int, persons: int) -> None:
        self._frames += frames
        self._persons += persons
        if time.monotonic() - self._reported >= _REPORT_EVERY_S:
            self._tracker.report_progress.remote(self._frames, self._persons)
            self._frames = self._persons = 0
            self._reported = time.monotonic()
