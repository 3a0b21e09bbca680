"""Choose how the per-person JSON is written where `output.person_json` is `auto`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.records import Shard
from jobs.run.frame_estimate import estimated_frames
from jobs.run.run_record import RunRecord
from jobs.run.words import counted
from jobs.settings import Settings

_MOST_FRAMES = 2000
"""Number of frames up to which each person gets an object of its own."""


def choose_person_json(
    settings: Settings, before: RunRecord | None, shards: Sequence[Shard]
) -> tuple[Settings, str | None]:
    """Return the settings with `files`, `tar` or `none`, and why it was chosen if it was `auto`.

    An output keeps what it has, so that a few more frames don't rewrite the documents of all.

    Args:
        settings: The settings of a run.
        before: The output's last run, or None.
        shards: The shards of the input; none if they don't matter because there is a last run.
    """
    if settings.output.person_json != "auto":
        return settings, None
    mode, reason = _mode_of(before), "as in the last run"
    if mode not in ("files", "tar"):
        frames = sum(map(estimated_frames, shards))
        mode = "files" if frames <= _MOST_FRAMES else "tar"
        reason = f"the input has about {counted(frames, 'frame')}, by its size"
    what = "one document per person" if mode == "files" else "one tar of documents per shard"
    output = settings.output.model_copy(update={"person_json": mode})
    return settings.model_copy(update={"output": output}), f"{what} in json/ ({reason})"


def _mode_of(before: RunRecord | None) -> Any:
    return None if before is None else before.config["output"]["person_json"]
