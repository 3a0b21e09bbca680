"""A listing of a folder on a disk says what fsspec's says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from actors.storage.flat_listing import list_flat
from actors.storage.folder_listing import local_folder
from actors.storage.object_store import ObjectStore


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inner.bin").write_bytes(b"in a sub-folder")
    (tmp_path / "ünïcode name.bin").write_bytes(b"12345")
    (tmp_path / "empty").touch()
    os.utime(tmp_path / "empty", (1.5, 2_000_000_000.123456))
    (tmp_path / "link").symlink_to("ünïcode name.bin")
    (tmp_path / "to-folder").symlink_to("sub")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def test_entries_are_those_of_fsspec(folder: Path):
    entries = LocalFileSystem().ls(str(folder), detail=True)
    expected = [(Path(e["name"]).name, e["size"], e["mtime"]) for e in entries if e["type"] == "file"]
    objects, folders = local_folder(str(folder), str(folder))
    assert [(info.path, info.size_bytes, info.modified_s) for info in objects] == sorted(expected)
    assert len(expected) == 2
    assert folders == [e["name"] for e in entries if e["type"] == "directory"] == [f"{folder}/sub"]


def test_paths_are_relative_to_the_store(folder: Path):
    objects, _ = local_folder(str(folder), f"{folder}/sub/")
    assert [info.path for info in objects] == ["sub/inner.bin"]
    objects, _ = local_folder("/", f"{folder}")
    assert [f"/{info.path}" for info in objects] == [f"{folder}/empty", f"{folder}/ünïcode name.bin"]


def test_only_what_is_wanted_is_listed_and_asked_about(folder: Path):
    asked = []

    def wanted(path: str) -> bool:
        asked.append(path)
        return path.endswith(".bin")

    found = [info.path for info in list_flat(ObjectStore(str(folder)), "", wanted)]
    assert found == ["ünïcode name.bin", "sub/inner.bin"]
    assert sorted(asked) == ["empty", "sub/inner.bin", "ünïcode name.bin"]


def test_a_listed_object_has_the_etag_of_the_object_alone(folder: Path):
    store = ObjectStore(str(folder))
    listed = list(store.list())
    assert [info.path for info in listed] == ["empty", "ünïcode name.bin", "sub/inner.bin"]
    for info in listed:
        assert store.info(info.path) == info


def test_a_folder_that_is_a_file_is_listed_as_that_file(folder: Path):
    (only,), none = local_folder(str(folder), str(folder / "empty"))
    assert (only.path, only.size_bytes, none) == ("empty", 0, [])
    with pytest.raises(FileNotFoundError):
        local_folder(str(folder), str(folder / "absent"))
