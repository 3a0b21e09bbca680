"""The work of `shopframe gemini` on Ray. Only a run for which persons wait imports this module."""

from __future__ import annotations

import ray

from actors.attributes import AttributeSchema
from actors.commit.committer import Committer
from actors.commit.preview_frames import PreviewFrames
from actors.detect.crops import CropSettings
from actors.detect.restored_crops import CropRestorer
from actors.fingerprint import annotators_in
from actors.gemini.backlog.selection import Backlog
from actors.gemini.gemini_run import GeminiRun
from actors.gemini.quota.quota import Clock
from actors.gemini.settings import ANNOTATOR
from actors.gemini.stage import make_stage
from actors.gemini.stall_watch import StallWatch
from actors.read.settings import InputSettings
from jobs.run.gemini_display import GeminiDisplay
from jobs.run.metrics import finish_measured, run_metrics
from jobs.run.ray_session import ray_failed, ray_session
from jobs.run.run_log import RunLog
from jobs.run.run_record import RunRecord
from jobs.run.stage_resources import uses_cluster
from jobs.settings import Settings


def ask_on_ray(
    settings: Settings, run: RunRecord, backlog: Backlog, opened: RunLog, clock: Clock | None
) -> GeminiRun:
    """Ask Gemini about the persons of a backlog, and return what was done.

    Args:
        settings: The settings.
        run: The run that made the output, with this run's Gemini.
        backlog: The backlog.
        opened: The log of the run, with the terminal.
        clock: The clock that the quota uses, by default that of this machine.

    Raises:
        ConfigError: Ray or the actor can't be started.
        StalledError: Nothing moves, or Ray failed.
    """
    resolved = backlog.resolved
    fingerprints = {
        **{name: run.fingerprints[name] for name in annotators_in(run.fingerprints)},
        ANNOTATOR: resolved.stage_fingerprint,
        "person_json": settings.output.person_json_fingerprint,
    }
    schema = AttributeSchema(settings.attributes)
    frames = PreviewFrames(run.section("input", InputSettings), settings.storage)
    committer = Committer(backlog.store, settings.output, schema, fingerprints, (resolved.pending,), frames)

    def say(line: str) -> None:
        print(line, file=opened.terminal, flush=True)

    try:
        with (
            ray_session(settings),
            run_metrics(settings.metrics, opened.run_id, uses_cluster(settings)) as metrics,
        ):
            stage = make_stage(
                settings.gemini,
                resolved,
                resolved.schema,
                committer,
                _crop_restorer(run, settings),
                clock,
                opened.run_id,
            )
            stage.offer(backlog.at_once())
            stalls = StallWatch(settings.run.stall_warning_s, settings.run.stall_fail_s, say)
            return finish_measured(stage, GeminiDisplay(say), stalls, metrics)
    except ray.exceptions.RayError as error:
        raise ray_failed(error, "while Gemini was asked", opened.uri) from error


def _crop_restorer(run: RunRecord, settings: Settings) -> CropRestorer:
    """Return a restorer with the settings of the run that detected the persons, not those given now."""
    return CropRestorer(
        run.section("input", InputSettings),
        settings.storage,
        run.section("crops", CropSettings),
        run.fingerprints.get("detect"),
    )
