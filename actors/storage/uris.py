"""Write URIs in one way, so that messages and records name a place as people know it."""

from __future__ import annotations

import os
from typing import Annotated

from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol
from pydantic import AfterValidator


def plain_uri(uri: str) -> str:
    """Return a local path without "..", as an absolute path; any other URI stays as it is.

    Links on the way to the last ".." are followed, because the operating system follows them too.
    """
    if ".." not in uri.split("/") or not is_local_uri(uri):
        return uri
    parts = LocalFileSystem._strip_protocol(uri).split("/")
    last = max(index for index, part in enumerate(parts) if part == "..") + 1
    return os.path.join(os.path.realpath("/".join(parts[:last])), *parts[last:])


def absolute_uri(uri: str) -> str:
    """Return a local path as an absolute one without ".."; any other URI stays as it is."""
    return str(LocalFileSystem._strip_protocol(plain_uri(uri))) if is_local_uri(uri) else uri


PlainUri = Annotated[str, AfterValidator(plain_uri)]
"""A setting that is a URI, written as `plain_uri` writes it."""


def is_local_uri(uri: str) -> bool:
    """Return whether a URI names a path on this machine."""
    return get_protocol(uri) in ("file", "local")
