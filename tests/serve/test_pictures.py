"""Pictures: the cache on this machine, crops that were kept, and an output in a bucket."""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import pytest
from PIL import Image

from actors.storage.object_store import ObjectStore
from jobs.serving.picture_cache import PictureCache
from jobs.settings import Settings
from tests.serve.served import LEFT, MIDDLE, Client, served
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, said, write_output
from tests.support.in_process import run_in_process


def test_the_pictures_used_longest_ago_are_deleted_first(tmp_path: Path):
    cache = PictureCache(tmp_path, 1000)
    for number in range(9):
        cache.put(f"a/{number}", bytes(100))
        # The clock of a file system may be too coarse to tell them apart.
        os.utime(tmp_path / "a" / str(number), (number, number))
    assert cache.get("a/0") == bytes(100)
    cache.put("a/9", bytes(200))
    left = {path.name for path in (tmp_path / "a").iterdir()}
    assert left == {"0", "3", "4", "5", "6", "7", "8", "9"}
    assert PictureCache(tmp_path, 1000).get("a/1") is None


def test_nobody_else_can_read_the_pictures(tmp_path: Path):
    PictureCache(tmp_path / "pictures", 1000)
    assert (tmp_path / "pictures").stat().st_mode & 0o777 == 0o700


def test_crops_that_were_kept_are_shown_where_the_input_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    crop = cv2.imencode(".png", bad.pixels(400, 600, 1))[1].tobytes()
    persons = [Found(LEFT, answers={"smolvlm": said()}, crop=crop)]
    settings = Settings.model_validate({"output": {"uri": str(tmp_path / "out")}})
    write_output(ObjectStore(str(tmp_path / "out")), {"a": {"f": persons}}, settings, keep_crops="always")
    assert run_in_process(monkeypatch, "consolidate", "--output", tmp_path / "out") == 0
    with served(ObjectStore(str(tmp_path / "out")), tmp_path / "cache") as client:
        status, _, body = client.get("thumbnails/0")
        assert status == 200
        with Image.open(io.BytesIO(body)) as image:
            assert max(image.size) == 256
        assert client.get("frames/0")[0] == 404


def test_an_output_in_a_bucket_is_served_from_copies_of_its_table(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = ObjectStore(f"{bucket}/out")
    persons = [Found(box, answers={"smolvlm": said({"gender": 0.5})}) for box in (LEFT, MIDDLE)]
    write_output(store, {"a": {"f": persons}, "b": {"f": persons}}, keep_crops="never")
    assert run_in_process(monkeypatch, "consolidate", "--output", store.uri) == 0
    with served(store, tmp_path) as client:
        assert client.ask("persons")["count"] == 4
        client.ask("decide", kind="value", ids=[3], attribute="gender", value="female")
        first = set(tmp_path.rglob("*.parquet"))
        assert run_in_process(monkeypatch, "consolidate", "--output", store.uri) == 0
        assert client.ask("about")["unsaved"] == 0
        assert client.ask("person", id=3)["sources"]["gender"] == "human"
    copies = set(tmp_path.rglob("*.parquet"))
    assert copies != first
    assert len(copies) == len(list(store.list("consolidated"))) - len(
        list(store.list("consolidated/_delta_log"))
    )


def test_pictures_of_an_input_that_was_replaced_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    settings = Settings.model_validate({"input": {"uri": str(source)}, "output": {"uri": str(output)}})
    persons = {"a": {"f": [Found(LEFT, answers={"smolvlm": said()})]}}

    def detect(seed: int) -> None:
        (source / "a.tar").write_bytes(bad.tar({"f.jpg": bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX, seed)}))
        write_output(ObjectStore(str(output)), persons, settings, keep_crops="never")
        assert run_in_process(monkeypatch, "consolidate", "--output", output) == 0

    def shown(client: Client) -> list[bytes]:
        answers = [client.get(f"{what}/0") for what in ("thumbnails", "frames")]
        assert [status for status, _, _ in answers] == [200, 200]
        return [body for _, _, body in answers]

    detect(seed=1)
    with served(ObjectStore(str(output)), tmp_path / "cache") as client:
        first = shown(client)
    detect(seed=2)
    with served(ObjectStore(str(output)), tmp_path / "cache") as client:
        second = shown(client)
        assert [one == other for one, other in zip(first, second, strict=True)] == [False, False]
        detect(seed=1)
        client.ask("about")
        assert shown(client) == first
