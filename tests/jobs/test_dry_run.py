"""A dry run draws the ROI on a sample of frames, and reports zones of cameras that the sample lacks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from actors.detect.settings import resolve_detector
from actors.read.listing import list_shards
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.dry_run import draw_roi
from jobs.settings import load_settings
from tests.support import job
from tests.support.job import Models


@pytest.mark.slow
def test_a_sample_is_drawn_and_counted_and_zones_of_absent_cameras_are_named(models: Models, tmp_path):
    job.write_shards(tmp_path / "in", "abcdefgh", frames=2)
    given = [option for option in models.options(smolvlm=False) if option != "--set"]
    zones = (
        "[{camera: till, mode: exclude, rectangle: [0, 0, 1, 1]}, {mode: include, rectangle: [0, 0, 1, 1]}]"
    )
    settings = load_settings((), [*given, f"input.uri={tmp_path / 'in'}", f"roi.static={zones}"]).settings
    output = ObjectStore(str(tmp_path / "out"))
    output.write(layout.dry_run_path("a", "frame-of-an-earlier-dry-run"), b"stale")
    output.write(layout.preview_path("a", "001-0123abcd", "frame-of-a-run"), b"kept")
    shards = list(list_shards(settings.input, settings.storage))
    tried = draw_roi(settings, resolve_detector(settings.detector, settings.storage), output, shards)
    # The sample has four of the eight shards, evenly spaced, and both frames of each.
    assert {path.rpartition("/")[2].partition(".")[0] for path in tried.pictures} == set("aceg")
    assert len(tried.pictures) == 8
    for path in tried.pictures:
        assert cv2.imdecode(np.frombuffer(output.read(path), np.uint8), cv2.IMREAD_COLOR).shape[2] == 3
    assert {o.path for o in output.list(layout.DRY_RUN)} == set(tried.pictures)
    assert output.read(layout.preview_path("a", "001-0123abcd", "frame-of-a-run")) == b"kept"
    first, reuse, second = tried.lines(settings)
    assert "8 frames of 4 shards" in first
    # roi.max_persons is 2, so at most two persons are kept in each of the 8 frames.
    assert 0 < tried.kept <= 16
    assert f"{tried.kept:,} kept + {tried.dropped.total():,} dropped (" in first
    assert "no frame of these shards is of camera till" in second
    assert "names camera and time" in reuse
    assert not (tmp_path / "out/commits").exists()
