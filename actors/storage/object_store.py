"""Get, put, list and conditional writes on any fsspec URL.

This module gives two guarantees that fsspec doesn't: readers see a write whole or not at all, and
`create` and `replace` succeed for only one of several competing writers. S3 provides both through
If-None-Match and If-Match; on a local disk, the module uses fsync, link, rename and a file lock.
"""

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from fsspec.implementations.local import LocalFileSystem

from actors.errors import ConfigError, PreconditionError
from actors.storage.folder_listing import local_folder, remote_folder
from actors.storage.object_info import ObjectInfo, folder_by_folder, is_object, object_info
from actors.storage.request_counts import count_requests
from actors.storage.s3_requests import delete_s3, get_s3, is_lost_condition, s3_options
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import error_code, is_unsupported, storage_error_text
from actors.storage.temporary_file import temporary_file
from actors.storage.uris import plain_uri

_LOCAL_WRITERS = 16
_REMOTE_WRITERS = 64
"""Objects that are written at once. A remote store answers after some time, whatever the size."""


class _LostCondition(Exception):  # noqa: N818
    """Another writer won the conditional write. This exception never leaves this module."""


class ObjectStore:
    """The objects under one URI: a local path, `s3://...`, or any fsspec URL.

    Paths are relative to the URI and use "/". Instances can be pickled; each
    process opens its own connection on first use.

    Raises:
        ConfigError: The URI's protocol is unknown or needs a package that is not installed.
    """

    def __init__(self, uri: str, settings: StorageSettings | None = None) -> None:
        stripped = plain_uri(uri).rstrip("/")
        self.uri = f"{stripped}//" if stripped.endswith(":") else stripped or "/"
        self.settings = settings or StorageSettings()

    def __reduce__(self) -> tuple[type["ObjectStore"], tuple[str, StorageSettings]]:
        return ObjectStore, (self.uri, self.settings)

    def __repr__(self) -> str:
        return f"ObjectStore({self.uri!r})"

    @cached_property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The fsspec filesystem, with this store's credentials and retries."""
        options: dict[str, Any] = {}
        protocol = fsspec.utils.get_protocol(self.uri)
        if protocol in ("s3", "s3a"):
            # The default of 10 connections would make most of the writers of `write_many` wait.
            options = s3_options(self.settings, _REMOTE_WRITERS)
        elif protocol not in ("file", "local", "memory"):
            options = {"use_listings_cache": False}
        try:
            fs = fsspec.filesystem(protocol, **options)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"{self.uri}: can't open this kind of URI: {error}") from error
        if protocol in ("s3", "s3a"):
            count_requests(fs)
        return fs

    @cached_property
    def root(self) -> str:
        """The URI without its protocol, as the filesystem expects it."""
        return str(self.fs._strip_protocol(self.uri)).rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether the objects are files on this machine's disk."""
        return isinstance(self.fs, LocalFileSystem)

    @property
    def is_s3(self) -> bool:
        """Whether the objects are in a store that speaks the protocol of S3."""
        protocol = self.fs.protocol
        return "s3" in (protocol if isinstance(protocol, tuple | list) else (protocol,))

    def full(self, path: str) -> str:
        """Return a path as the filesystem expects it."""
        return f"{self.root}/{path}" if path else self.root or self.fs.root_marker

    def uri_of(self, path: str) -> str:
        """Return the full URI of an object, or the absolute path of a local one."""
        full = self.full(path)
        return full if self.is_local else str(self.fs.unstrip_protocol(full))

    def parent(self) -> tuple["ObjectStore", str]:
        """Return the folder that contains this URI, and the name of the URI in that folder."""
        folder, _, name = self.root.rpartition("/")
        uri = folder or "/" if self.is_local else str(self.fs.unstrip_protocol(folder))
        return ObjectStore(uri, self.settings), name

    # --- reading ---

    def read(self, path: str) -> bytes:
        """Return the whole content. Raises FileNotFoundError."""
        # Otherwise, s3fs asks for the size first, to read large objects in several pieces at once.
        options = {"max_concurrency": 1} if self.is_s3 else {}
        return bytes(self.fs.cat_file(self.full(path), **options))

    def read_start(self, path: str, size_bytes: int) -> bytes:
        """Return the first bytes of an object, or all of it if it is shorter. Raises FileNotFoundError."""
        try:
            return bytes(self.fs.cat_file(self.full(path), start=0, end=size_bytes))
        except OSError as error:
            # S3 answers a request for a range of an empty object with an error.
            if error_code(error) in ("InvalidRange", "416"):
                return b""
            raise

    def read_with_etag(self, path: str) -> tuple[bytes, str]:
        """Return the content and the etag to pass to `replace`. Raises FileNotFoundError."""
        if self.is_s3:
            bucket, key, _ = self.fs.split_path(self.full(path))
            try:
                content, etag = fsspec.asyn.sync(self.fs.loop, get_s3, self.fs, bucket, key)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404"):
                    raise FileNotFoundError(self.full(path)) from error
                raise
            return bytes(content), str(etag)
        content = self.read(path)
        return content, content_etag(content)

    def open(self, path: str, mode: str = "rb", **options: Any) -> IO[bytes]:
        """Open an object as a seekable stream, which reads ahead in blocks on remote stores."""
        return self.fs.open(self.full(path), mode, **options)  # type: ignore[no-any-return]

    def exists(self, path: str) -> bool:
        """Return whether there is an object or a folder of this name."""
        return bool(self.fs.exists(self.full(path)))

    def is_folder(self) -> bool:
        """Return whether the URI is a folder, or a bucket or prefix that contains objects."""
        try:
            return bool(self.fs.info(self.full(""))["type"] == "directory")
        except FileNotFoundError:
            return False

    def list(self, prefix: str = "", sub_folders: bool = True) -> Iterator[ObjectInfo]:
        """Yield every object under a folder: first its own objects by name, then its sub-folders by name.

        Yields nothing if the folder doesn't exist. Folders are visited one at a time, so memory holds one
        listing. Unlike fsspec's `walk` and `find`, this method never mistakes a refusal for an empty folder.

        Raises:
            OSError: A folder can't be listed.
        """
        waiting = [self.full(prefix)]
        while waiting:
            folder = waiting.pop()
            try:
                if self.is_local:
                    objects, folders = local_folder(self.root, folder)
                else:
                    objects, folders = remote_folder(self.fs, self.root, folder)
            except FileNotFoundError:
                continue
            yield from objects
            if not sub_folders:
                return
            waiting.extend(reversed(folders))

    def glob(self, pattern: str) -> Iterator[ObjectInfo]:
        """Yield the objects that match, and those under folders that match, folder by folder.

        Raises:
            OSError: The folder in which the pattern starts doesn't exist or can't be listed.
        """
        self.fs.ls(self.full(""))
        found = self.fs.glob(self.full(pattern), detail=True)
        folders = {str(e["name"]).rstrip("/") for e in found.values() if e["type"] == "directory"}
        for entry in sorted(found.values(), key=folder_by_folder):
            # What lies in a folder that matches too is listed with that folder.
            if not folders.isdisjoint(map(str, PurePosixPath(entry["name"]).parents)):
                continue
            if is_object(entry):
                yield self._to_info(entry)
            elif entry["type"] == "directory":
                yield from self.list(str(entry["name"])[len(self.root) :].strip("/"))

    def _to_info(self, entry: dict[str, Any]) -> ObjectInfo:
        path = str(entry["name"])[len(self.root) :].lstrip("/")
        return object_info(path, entry)

    def info(self, path: str) -> ObjectInfo:
        """Return one object as `list` yields it. Raises FileNotFoundError."""
        return object_info(path, self.fs.info(self.full(path)))

    # --- writing ---

    def write(self, path: str, content: bytes) -> None:
        """Create or overwrite an object. Readers see the old or the new content, never a partial one."""
        if self.is_local:
            target = Path(self.full(path))
            with temporary_file(target, content) as temporary:
                os.replace(temporary, target)
            return
        self.fs.pipe_file(self.full(path), content)

    def upload(self, path: str, source: Path) -> None:
        """Create or overwrite an object with the content of a local file, whole or not at all."""
        if not self.is_local:
            self.fs.put_file(str(source), self.full(path))
            return
        target = Path(self.full(path))
        with temporary_file(target, b"") as temporary:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, target)

    def create(self, path: str, content: bytes) -> str:
        """Write an object that must not exist yet. Only one of several competing writers succeeds.

        Returns:
            The etag to pass to `replace`.

        Raises:
            PreconditionError: The object exists.
            OSError: The store can't be written, or it has no conditional writes (see `is_unsupported`) and
                `storage.allow_unsafe` is off.
        """
        try:
            if self.is_s3:
                return self._put_s3(path, content, {"IfNoneMatch": "*"})
            if self.is_local:
                with temporary_file(Path(self.full(path)), content) as temporary:
                    _link(temporary, self.full(path))
            else:
                self._create_elsewhere(path, content)
        except OSError as error:
            if not (self.settings.allow_unsafe and is_unsupported(error)):
                raise
            return self._write_after_looking(path, content, None)
        return content_etag(content)

    def _create_elsewhere(self, path: str, content: bytes) -> None:
        try:
            self.fs.pipe_file(self.full(path), content, mode="create")
        except FileExistsError as error:
            raise PreconditionError(f"{self.full(path)} exists") from error

    def replace(self, path: str, content: bytes, etag: str) -> str:
        """Overwrite an object that must still have the etag that `read_with_etag` returned.

        Etags identify the content, on S3 too: a writer that restores an earlier content is not noticed.
        Competing writers must therefore write different contents, for example with a counter or the name
        of the writer in them.

        Returns:
            The etag of the new content.

        Raises:
            PreconditionError: The object was changed or deleted in the meantime.
        """
        if not self.is_s3:
            return self._write_after_looking(path, content, etag)
        try:
            return self._put_s3(path, content, {"IfMatch": etag})
        except OSError as error:
            if not (self.settings.allow_unsafe and is_unsupported(error)):
                raise
            return self._write_after_looking(path, content, etag)

    def _write_after_looking(self, path: str, content: bytes, expected: str | None) -> str:
        """Write an object if its etag is the expected one, or if there is none and `expected` is None.

        A file lock makes this safe on a local disk. Elsewhere, another writer can come between.
        """
        with self._lock(path):
            try:
                current = self.read_with_etag(path)[1]
            except FileNotFoundError:
                current = None
            if current != expected:
                raise PreconditionError(f"{self.full(path)} was changed by another writer")
            self.write(path, content)
            return self.read_with_etag(path)[1] if self.is_s3 else content_etag(content)

    def write_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Create or overwrite objects, given as paths and contents, over many connections at once."""
        with ThreadPoolExecutor(_LOCAL_WRITERS if self.is_local else _REMOTE_WRITERS) as pool:
            list(pool.map(lambda file: self.write(*file), files))

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects, on S3 a thousand per request. Objects that don't exist are skipped.

        Raises:
            OSError: An object can't be deleted.
        """
        if self.is_s3:
            delete_s3(self.fs, [self.full(path) for path in paths])
            return
        for path in paths:
            try:
                self.fs.rm_file(self.full(path))
            except FileNotFoundError:
                continue

    def _put_s3(self, path: str, content: bytes, condition: dict[str, str]) -> str:
        bucket, key, _ = self.fs.split_path(self.full(path))
        request = {"Bucket": bucket, "Key": key, "Body": content, **condition}
        try:
            return str(fsspec.asyn.sync(self.fs.loop, self._put_as, request, uuid.uuid4().hex))
        except _LostCondition as error:
            raise PreconditionError(f"{self.full(path)} was written by another writer") from error
        except ClientError as error:
            # Imported here because s3fs takes half a second to import and most workers don't need S3.
            from s3fs.errors import translate_boto_error

            raise translate_boto_error(error) from error
        except BotoCoreError as error:
            raise ConnectionError(storage_error_text(error)) from error

    async def _put_as(self, request: dict[str, Any], writer: str) -> str:
        """Put an object with the name of its writer in the metadata, and return the ETag.

        If an answer is lost, an underlying client sends the request again (aiohttp does so silently), and
        S3 refuses the second request because the first one succeeded. The name of the writer shows
        whether that happened.
        """
        await self.fs.set_session()
        client = await self.fs.get_s3(request["Bucket"])
        try:
            reply = await client.put_object(**request, Metadata={"writer": writer})
        except ClientError as error:
            if not is_lost_condition(error):
                raise
            try:
                found = await client.head_object(Bucket=request["Bucket"], Key=request["Key"])
            except ClientError as unread:
                # Only a 404 proves that our object isn't there. After any other error we can't know.
                if error_code(unread) in ("404", "NoSuchKey"):
                    raise _LostCondition from unread
                raise
            if found.get("Metadata", {}).get("writer") != writer:
                raise _LostCondition from error
            return str(found["ETag"])
        return str(reply["ETag"])

    @contextmanager
    def _lock(self, path: str) -> Iterator[None]:
        if not self.is_local:
            # Plain fsspec has no compare-and-swap. The README names the stores that therefore lack this
            # guarantee.
            yield
            return
        lock = Path(self.full(path)).with_name(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _link(source: Path, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError as error:
        raise PreconditionError(f"{target} exists") from error


def content_etag(content: bytes) -> str:
    """Return the SHA-256 of a content in hexadecimal, which is its etag on stores that have no etags."""
    return hashlib.sha256(content).hexdigest()
