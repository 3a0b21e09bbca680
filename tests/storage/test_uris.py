"""Local paths are written without "..", as the operating system understands them."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ConfigError
from actors.storage.object_store import ObjectStore
from actors.storage.uris import absolute_uri, plain_uri
from jobs.settings import load_settings


@pytest.mark.parametrize(
    "uri", ["in", "/a/b/", "a..b/c", "s3://bucket/a/../b", "memory://a/../b", "in/*.jpg"]
)
def test_other_uris_stay_as_they_are(uri: str):
    assert plain_uri(uri) == uri


def test_a_path_with_dots_becomes_absolute_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    for uri in ("../b/c", f"{tmp_path}/a/../b/c", f"file://{tmp_path}/a/../b/c", f"{tmp_path}/x/y/../../b/c"):
        assert plain_uri(uri) == f"{tmp_path}/b/c"
    assert plain_uri("..") == str(tmp_path)
    assert plain_uri("../b/*.jpg") == f"{tmp_path}/b/*.jpg"
    assert absolute_uri("b") == f"{tmp_path}/a/b"


def test_dots_after_a_link_are_those_of_its_target(tmp_path: Path):
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "far/in").write_text("far")
    (tmp_path / "link").symlink_to(tmp_path / "far/away")
    assert plain_uri(f"{tmp_path}/link/../in") == f"{tmp_path}/far/in"
    # Links after the dots keep the name that was given.
    assert plain_uri(f"{tmp_path}/far/../link") == f"{tmp_path}/link"


def test_a_store_and_the_settings_name_a_place_without_dots(tmp_path: Path):
    store = ObjectStore(f"{tmp_path}/a/../out")
    assert (store.uri, store.uri_of("x")) == (f"{tmp_path}/out", f"{tmp_path}/out/x")
    given = [f"input.uri={tmp_path}/a/../in", f"output.uri={tmp_path}/a/../out"]
    settings = load_settings((), given).settings
    assert (settings.input.uri, settings.output.uri) == (f"{tmp_path}/in", f"{tmp_path}/out")


def test_an_output_in_the_input_is_refused_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for output in ("in/out", "./in/out", f"{tmp_path}/in/out", f"{tmp_path}/x/../in"):
        with pytest.raises(ConfigError, match="lies inside it"):
            load_settings((), ["input.uri=in", f"output.uri={output}"])
