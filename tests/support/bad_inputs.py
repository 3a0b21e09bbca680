"""Builders of good, unusual and broken images and shards. Each returns the same bytes every time."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# --- images ---


def pixels(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """Return a smooth picture that depends on the seed, uint8 in BGR order."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 4, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def jpeg(width: int = 64, height: int = 48, seed: int = 0, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", pixels(width, height, seed), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def png(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return cv2.imencode(".png", pixels(width, height, seed))[1].tobytes()


def webp(width: int = 64, height: int = 48, seed: int = 0, lossless: bool = False) -> bytes:
    return _pillow(width, height, seed, "WEBP", lossless=lossless)


def bmp(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return cv2.imencode(".bmp", pixels(width, height, seed))[1].tobytes()


def gif(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    return _pillow(width, height, seed, "GIF")


def _pillow(width: int, height: int, seed: int, kind: str, **options) -> bytes:
    return saved(Image.fromarray(pixels(width, height, seed)[:, :, ::-1]), kind, **options)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def progressive_jpeg() -> bytes:
    return cv2.imencode(".jpg", pixels(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def restart_jpeg() -> bytes:
    return cv2.imencode(".jpg", pixels(256, 256), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()


def exif_rotated_jpeg(orientation: int = 6) -> bytes:
    """Return a JPEG that is stored as 64x48 and displayed as 48x64 for orientations 5 to 8."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _pillow(64, 48, 0, "JPEG", exif=exif)


def with_second_exif(data: bytes, orientation: int) -> bytes:
    """Return a JPEG with another EXIF segment after its first segment."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = exif.tobytes()
    end = 4 + int.from_bytes(data[4:6], "big")
    return data[:end] + b"\xff\xe1" + (2 + len(content)).to_bytes(2, "big") + content + data[end:]


def jpeg_with_thumbnail() -> bytes:
    """Return a JPEG whose first segment holds another complete JPEG, including its end-of-image marker."""
    inner = jpeg(16, 16)
    segment = b"\xff\xe1" + struct.pack(">H", len(inner) + 8) + b"Exif\0\0" + inner
    whole = jpeg(256, 256)
    return whole[:2] + segment + whole[2:]


def cmyk_jpeg() -> bytes:
    return saved(Image.fromarray(pixels()[:, :, ::-1]).convert("CMYK"), "JPEG")


def grey_jpeg() -> bytes:
    return cv2.imencode(".jpg", pixels()[:, :, 0])[1].tobytes()


def grey_png_16_bit() -> bytes:
    return cv2.imencode(".png", pixels()[:, :, 0].astype(np.uint16) * 257)[1].tobytes()


def png_16_bit() -> bytes:
    return cv2.imencode(".png", pixels().astype(np.uint16) * 257)[1].tobytes()


def transparent_png() -> bytes:
    return cv2.imencode(".png", np.dstack([pixels(), np.full((48, 64), 100, np.uint8)]))[1].tobytes()


def palette_png() -> bytes:
    return saved(Image.fromarray(pixels()[:, :, ::-1]).quantize(16), "PNG")


def animated(kind: str) -> bytes:
    """Return an animation of three frames of different colours, starting with red, as GIF, WEBP or PNG."""
    colours = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
    first, *rest = [Image.new("RGB", (32, 24), colour) for colour in colours]
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(first, kind, save_all=True, append_images=rest, duration=100, **options)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_bomb(width: int = 10_000, height: int = 10_000) -> bytes:
    """Return a PNG of 100 black megapixels that takes only 12 kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    content = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", content) + _png_chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    """Return a small JPEG whose header says 60000x60000."""
    data = bytearray(jpeg())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    return bytes(data)


def with_flipped_byte(data: bytes, at: int, mask: int = 0xFF) -> bytes:
    damaged = bytearray(data)
    damaged[at] ^= mask
    return bytes(damaged)


BAD_IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "empty"),
    "one byte": (lambda: b"\xff", "truncated"),
    "text": (lambda: b"this is no image at all", "not a JPEG"),
    "html": (lambda: b"<html><body>404 Not Found</body></html>", "not a JPEG"),
    "tiff": (lambda: saved(Image.new("RGB", (8, 8)), "TIFF"), "TIFF is not read"),
    "jpeg cut in half": (lambda: jpeg()[: len(jpeg()) // 2], "truncated JPEG"),
    "jpeg cut in its header": (lambda: jpeg()[:100], "truncated JPEG"),
    "jpeg without its last byte": (lambda: jpeg()[:-1], "truncated JPEG"),
    "jpeg without its last marker": (lambda: jpeg()[:-2], "truncated JPEG"),
    "jpeg padded with zeros after a cut": (
        lambda: jpeg()[: len(jpeg()) // 2] + bytes(len(jpeg()) // 2),
        "truncated JPEG",
    ),
    "progressive jpeg cut in half": (
        lambda: progressive_jpeg()[: len(progressive_jpeg()) // 2],
        "truncated JPEG",
    ),
    "jpeg with a thumbnail, cut": (
        lambda: jpeg_with_thumbnail()[: len(jpeg_with_thumbnail()) * 3 // 4],
        "truncated JPEG",
    ),
    "jpeg bomb": (jpeg_bomb, "too large: 60000x60000"),
    "png bomb": (png_bomb, "too large: 10000x10000"),
    "png cut in half": (lambda: png()[: len(png()) // 2], "truncated PNG"),
    "png without IEND": (lambda: png()[:-12], "truncated PNG"),
    "png with a flipped byte": (lambda: with_flipped_byte(png(), len(png()) // 2), "damaged PNG"),
    "webp cut in half": (lambda: webp()[: len(webp()) // 2], "truncated WebP"),
    "webp cut in its header": (lambda: webp()[:20], "truncated WebP"),
    "lossless webp cut": (lambda: webp(lossless=True)[:-10], "truncated WebP"),
    "bmp cut in half": (lambda: bmp()[: len(bmp()) // 2], "truncated BMP"),
    "gif cut in half": (lambda: gif()[: len(gif()) // 2], "truncated GIF"),
}
"""For each name, the builder and a text that the error must contain."""

# --- shards ---

Files = Sequence[tuple[str, bytes]] | Mapping[str, bytes]


def _pairs(files: Files) -> Sequence[tuple[str, bytes]]:
    return list(files.items()) if isinstance(files, Mapping) else files


def tar(files: Files, tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tar_format) as archive:
        for name, content in _pairs(files):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def tar_gz(files: Files) -> bytes:
    return gzip.compress(tar(files), mtime=0)


def zipped(files: Files, compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, content in _pairs(files):
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return sink.getvalue()


def parquet(columns: Mapping[str, object], row_group_size: int = 10) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(dict(columns)), sink, row_group_size=row_group_size)
    return sink.getvalue()


def frames(count: int = 4) -> dict[str, bytes]:
    """Return JPEGs by file name, in sorted order."""
    return {f"frame-{index:03d}.jpg": jpeg(seed=index) for index in range(count)}


def frames_with_sidecars(count: int = 4) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for index, (name, content) in enumerate(frames(count).items()):
        files[name] = content
        document = {"camera": f"cam-{index % 2}", "captured_at": f"2024-05-01T10:00:{index:02d}Z"}
        files[name.replace(".jpg", ".json")] = json.dumps(document).encode()
    return files


def good_tar(count: int = 4) -> bytes:
    return tar(frames_with_sidecars(count))


def tar_member_offsets(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return [member.offset for member in archive]


def tar_cut_at_member_boundary() -> bytes:
    content = tar(frames(8))
    return content[: tar_member_offsets(content)[4]]


def tar_cut_in_header() -> bytes:
    content = tar(frames(8))
    return content[: tar_member_offsets(content)[4] + 200]


def tar_cut_in_member() -> bytes:
    content = tar(frames(8))
    return content[: tar_member_offsets(content)[4] + 512 + 300]


def tar_with_flipped_header_byte() -> bytes:
    content = tar(frames(8))
    return with_flipped_byte(content, tar_member_offsets(content)[4] + 3)


def tar_with_hole() -> bytes:
    """Return a tar of the right size with zeros in the middle, as if a part of it had never arrived."""
    content = tar(frames(8))
    offsets = tar_member_offsets(content)
    return content[: offsets[4]] + bytes(offsets[6] - offsets[4]) + content[offsets[6] :]


BAD_TARS: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "empty object": (lambda: b"", "empty (0 bytes)", 0),
    "not a tar": (lambda: b"<html>" * 1000, "not a tar", 0),
    "short text": (lambda: b"hello", "not a tar", 0),
    "tar without members": (lambda: tar({}), "contains no images (found: nothing)", 0),
    "tar of other things": (
        lambda: tar({"a.txt": b"1", "b.txt": b"2", "c.txt": b"3"}),
        "contains no images (found: .txt x3)",
        0,
    ),
    "cut at a member boundary": (tar_cut_at_member_boundary, "truncated", 4),
    "cut in a header": (tar_cut_in_header, "truncated within a header", 4),
    "cut in a member": (tar_cut_in_member, "truncated", 4),
    "flipped header byte": (tar_with_flipped_header_byte, "no valid header", 4),
    "hole in the middle": (tar_with_hole, "data after the end-of-archive marker", 4),
    "two tars in one file": (lambda: tar(frames(4)) + tar(frames(4)), "data after the end-of-archive", 4),
}
"""For each name, the builder, a text that the error must contain, and the number of good frames before it."""

BAD_GZIPPED_TARS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip cut in half": (lambda: tar_gz(frames(8))[: len(tar_gz(frames(8))) // 2], "truncated"),
    "gzip of half a tar": (lambda: gzip.compress(tar_cut_at_member_boundary()), "truncated"),
    "not gzip": (lambda: tar(frames(2)), "not a tar"),
}

BAD_ZIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty object": (lambda: b"", "empty (0 bytes)"),
    "not a zip": (lambda: b"<html>" * 1000, "not a zip"),
    "cut": (lambda: zipped(frames(8))[:-50], "not a zip, or truncated"),
    "zip without entries": (lambda: zipped({}), "contains no images (found: nothing)"),
    "zip of other things": (
        lambda: zipped({"a.txt": b"1", "b/": b""}),
        "contains no images (found: .txt x1)",
    ),
}

BAD_PARQUETS: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty object": (lambda: b"", "empty (0 bytes)"),
    "not Parquet": (lambda: b"<html>" * 1000, "not Parquet"),
    "cut": (lambda: parquet({"image": [jpeg()]})[:-20], "not Parquet"),
    "without rows": (lambda: parquet({"image": pa.array([], pa.binary())}), "without rows"),
    "without the column": (
        lambda: parquet({"picture": [jpeg()], "label": [1]}),
        "has no column 'image'; set input.image_column to one of: picture, label",
    ),
    "column of numbers": (lambda: parquet({"image": [1, 2]}), "column 'image' holds int64"),
}


def encrypted_zip(files: Files) -> bytes:
    """Return a zip whose entries are only flagged as encrypted, because their content is never read."""
    content = bytearray(zipped(files))
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 8] |= 1
    at = -1
    while (at := content.find(b"PK\x03\x04", at + 1)) >= 0:
        content[at + 6] |= 1
    return bytes(content)


def zip_bomb(size_bytes: int = 200 * 2**20) -> bytes:
    """Return a zip with one entry that inflates to about a thousand times its size."""
    return zipped({"bomb.jpg": bytes(size_bytes)}, zipfile.ZIP_DEFLATED)
