"""A listing of a folder on a disk says what fsspec's says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from actors.storage.local_listing import local_entries
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
    fs = LocalFileSystem()
    keys = ("name", "type", "size", "mtime")
    expected = {entry["name"]: [entry[key] for key in keys] for entry in fs.ls(str(folder), detail=True)}
    assert len(expected) == 7
    found = local_entries(fs, str(folder))
    assert {entry["name"]: [entry[key] for key in keys] for entry in found} == expected


def test_a_listed_object_has_the_etag_of_the_object_alone(folder: Path):
    store = ObjectStore(str(folder))
    listed = list(store.list())
    assert [info.path for info in listed] == ["empty", "ünïcode name.bin", "sub/inner.bin"]
    for info in listed:
        assert store.info(info.path) == info


def test_a_folder_that_is_a_file_is_listed_as_that_file(folder: Path):
    (only,) = local_entries(LocalFileSystem(), str(folder / "empty"))
    assert only["type"] == "file"
    with pytest.raises(FileNotFoundError):
        local_entries(LocalFileSystem(), str(folder / "absent"))
