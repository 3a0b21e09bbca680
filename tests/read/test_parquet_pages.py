"""Parquet of any writer is read within the limits on pages, and only the columns of frames are read."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator

import deltalake
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.errors import ShardError
from actors.read.compact_thrift import (
    UNCOUNTED,
    ThriftError,
    TooLongThriftError,
    TruncatedThriftError,
    read_struct,
)
from actors.read.parquet_frames import read_parquet
from actors.read.settings import InputSettings
from actors.records import Frame, Shard
from tests.support import thrift_compact as t
from tests.support.parquet_bytes import (
    DELTA_LENGTHS,
    DELTA_PREFIXES,
    chunk,
    file_of,
    lengths_of,
    levels,
    page,
    plain,
)

ROWS = 50
IMAGES = [bytes([number]) * (100 + number) for number in range(ROWS)]
KEYS = [f"camera/{number:04d}" for number in range(ROWS)]


def frames_of(content: bytes, first_frame: int = 0, **options: object) -> list[Frame]:
    def read() -> Iterator[Frame]:
        shard = Shard("x", "x.parquet", "parquet", "e", len(content), first_frame=first_frame)
        return read_parquet(io.BytesIO(content), shard, InputSettings.model_validate(options))

    return list(read())


def written(columns: dict[str, object], **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("encoding", [None, "PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_all_encodings_codecs_and_versions_of_pages_are_read(encoding, codec, version):
    how = {"use_dictionary": True} if encoding is None else {"use_dictionary": False}
    if encoding is not None:
        how["column_encoding"] = {"image": encoding, "key": encoding}
    content = written(
        {"image": IMAGES, "key": KEYS},
        compression=codec,
        data_page_version=version,
        data_page_size=500,
        write_batch_size=7,
        row_group_size=30,
        **how,
    )
    found = frames_of(content, key_column="key")
    assert [(frame.key, frame.data, frame.error) for frame in found] == [
        (key, image, None) for key, image in zip(KEYS, IMAGES, strict=True)
    ]
    rest = frames_of(content, 37, key_column="key")
    assert [frame.key for frame in rest] == KEYS[37:]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_files_of_duckdb_are_read(version, tmp_path):
    images = pa.table({"image": IMAGES, "key": KEYS})  # noqa: F841  DuckDB finds it by its name.
    path = tmp_path / "x.parquet"
    duckdb.sql(f"copy (from images) to '{path}' (format parquet, parquet_version {version})")
    found = frames_of(path.read_bytes(), key_column="key")
    assert sorted((frame.key, frame.data) for frame in found) == list(zip(KEYS, IMAGES, strict=True))


def test_thousands_of_small_row_groups_are_read():
    assert len(frames_of(written({"image": IMAGES * 20}, row_group_size=1))) == 20 * ROWS


def test_a_key_of_a_list_is_refused_by_its_setting():
    with pytest.raises(ShardError, match=r"column 'key' holds list.*set input\.key_column"):
        frames_of(written({"image": IMAGES[:1], "key": [["a"]]}), key_column="key")


def test_long_keys_are_replaced_by_the_number_of_the_row():
    content = written({"image": IMAGES[:2], "key": ["k" * 5000, "k" * 4096]})
    found = frames_of(content, key_column="key")
    assert [frame.key for frame in found] == ["000000000", "k" * 4096]
    assert found[0].note == "row 0: column 'key' has 5000 characters, the row's number is the key"


def test_of_a_struct_only_the_image_and_its_path_are_read():
    rows = [{"path": None, "bytes": image, "boxes": [[1.0] * 4] * 9} for image in IMAGES[:3]]
    assert [frame.data for frame in frames_of(written({"image": rows}))] == IMAGES[:3]


def test_names_of_columns_are_listed_shortly():
    columns = {"n" * 10_000: [1], **{f"c{number}": [1] for number in range(30)}}
    with pytest.raises(ShardError) as raised:
        frames_of(written(columns))
    assert "n" * 200 + ", c0, " in str(raised.value)
    assert str(raised.value).endswith("c18 and 11 others")
    assert len(str(raised.value)) < 1000


def noise(count: int, size: int) -> list[bytes]:
    """Return values that can't be compressed and share 20 bytes, as JPEGs of one camera do."""
    generator = np.random.default_rng(5)
    return [b"the header of a JPEG" + generator.bytes(size - 20) for _ in range(count)]


@pytest.mark.parametrize("rows", [None, 10, 1])
def test_footers_of_delta_tables_have_whole_images_and_are_read(rows, tmp_path):
    images = noise(20, 700_000)
    how = deltalake.WriterProperties(compression="ZSTD", max_row_group_size=rows)
    deltalake.write_deltalake(tmp_path, pa.table({"image": images}), writer_properties=how)
    (path,) = tmp_path.glob("*.parquet")
    content = path.read_bytes()
    assert int.from_bytes(content[-8:-4], "little") > 1_400_000
    assert sorted(frame.data for frame in frames_of(content)) == sorted(images)


@pytest.mark.parametrize("kind", [0, 3])
def test_the_least_and_the_greatest_image_in_the_header_of_a_page_are_read(kind):
    (image,) = noise(1, 1_400_000)
    # Version 2 has the length of its levels in the header.
    level = levels(1) if kind == 0 else levels(1)[4:]
    data = level + plain(image)
    header, start = t.decode(page(data, 1, kind=kind))
    statistics = (t.STRUCT, {5: (t.BINARY, image), 6: (t.BINARY, image)})
    if kind == 0:
        header[5][1][5] = statistics
    else:
        header[8][1].update({5: (t.I32, len(level)), 8: statistics})
    pages = t.encode(header) + data
    assert start < 100 < 2_800_000 < len(pages) - len(data)
    assert [frame.data for frame in frames_of(file_of(pages, [chunk(pages, 1)], 1))] == [image]


def test_keys_that_are_uuids_and_cameras_in_json_are_read():
    numbers = [uuid.UUID(int=n + 2**100) for n in range(3)]
    keys = pa.array([number.bytes for number in numbers], pa.uuid())
    cameras = pa.array(['"till"', None, '{"a": 1}'], pa.json_())
    found = frames_of(written({"image": IMAGES[:3], "key": keys, "camera": cameras}), key_column="key")
    assert [frame.key for frame in found] == [str(number) for number in numbers]
    assert [frame.camera for frame in found] == ['"till"', None, '{"a": 1}']
    assert [frame.note for frame in found] == [None] * 3


def test_texts_that_are_not_utf8_are_read_in_any_type():
    text = pa.array([b"a\xff"]).cast(pa.string(), safe=False)
    for camera in (text, text.dictionary_encode(), pa.json_().wrap_array(text)):
        (frame,) = frames_of(written({"image": IMAGES[:1], "camera": camera}))
        assert (frame.data, frame.camera) == (IMAGES[0], r"a\udcff")
    path = pa.StructArray.from_arrays([pa.array([None], pa.binary()), text], ["bytes", "path"])
    (frame,) = frames_of(written({"image": path}))
    assert "only a path" in frame.error


def test_a_column_whose_name_begins_as_that_of_the_image_is_not_read():
    beside = {"image.boxes": [[1, 2]] * 3, "image.bytes": [[b"x"] * 2] * 3, "key.of": [[1, 2]] * 3}
    content = written({"image": IMAGES[:3], "key": KEYS[:3], **beside})
    assert [frame.data for frame in frames_of(content, key_column="key")] == IMAGES[:3]
    rows = [{"bytes": image, "path": "x"} for image in IMAGES[:3]]
    content = written({"image": rows, "key": KEYS[:3], **beside})
    assert [frame.data for frame in frames_of(content, key_column="key")] == IMAGES[:3]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_large_pages_of_images_that_share_a_prefix_are_read(version):
    images = noise(40, 300_000)
    content = written(
        {"image": images},
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
        data_page_version=version,
        data_page_size=2**26,
        compression="zstd",
    )
    assert [frame.data for frame in frames_of(content)] == images


def test_large_pages_of_images_that_are_all_the_same_are_read():
    images = noise(1, 10_000_000) * 3 + noise(2, 100)[1:] * 1000 + noise(1, 300_000) * 200
    content = written(
        {"image": images},
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
        data_page_size=2**30,
    )
    assert len(content) < 2**24
    assert [frame.data for frame in frames_of(content)] == images


@pytest.mark.parametrize("number", [1, 20])
@pytest.mark.parametrize("codec", ["lz4 of hadoop", "lz4_raw"])
@pytest.mark.parametrize("encoding", [DELTA_LENGTHS, DELTA_PREFIXES])
def test_lz4_of_hadoop_is_read_with_and_without_its_sizes(encoding, codec, number):
    images = [bytes(range(100)) * 3] * number
    lengths = lengths_of(300, *[300] * number)
    ends = lengths_of(0, *[0] * number) + lengths if encoding == DELTA_PREFIXES else lengths
    data = levels(number + 1) + ends + b"".join(images) + images[0]
    pages = page(data, number + 1, encoding, codec=codec)
    says = {"encoding": encoding, "codec": "lz4 of hadoop"}
    content = file_of(pages, [chunk(pages, number + 1, **says)], number + 1)
    assert [frame.data for frame in frames_of(content)] == [*images, images[0]]


# --- the reader of Thrift ---


def test_a_struct_is_read_as_far_as_it_is_wanted():
    inner: t.Struct = {1: (t.I32, -7), 2: (t.LIST, (t.BINARY, [b"abc"] * 20))}
    struct: t.Struct = {
        1: (t.I32, 5),
        2: (t.I64, 2**40),
        3: (t.BINARY, b"text"),
        4: (t.TRUE, None),
        20: (t.STRUCT, inner),
        21: (t.LIST, (t.STRUCT, [inner, {}])),
        22: (t.DOUBLE, bytes(8)),
    }
    data = b"before" + t.encode(struct)
    wanted = {1: t.I32, 2: t.I64, 3: t.BINARY, 4: t.TRUE, 20: {1: t.I32}, 21: [{1: t.I32}], 22: t.I32}
    found, end = read_struct(data + b"after", wanted, 6)
    assert end == len(data)
    assert found == {1: 5, 2: 2**40, 3: 4, 4: True, 20: {1: -7}, 21: [{1: -7}, {}]}
    assert read_struct(data, {}, 6) == ({}, end)


def test_a_struct_has_as_many_bytes_as_it_may_have_without_uncounted_texts():
    data = t.encode(
        {1: (t.STRUCT, {2: (t.LIST, (t.BINARY, [bytes(900)] * 2))}), 2: (t.BINARY, bytes(50)), 3: (t.I32, 1)}
    )
    counted = len(data) - 1800
    assert read_struct(b"  " + data, {1: UNCOUNTED, 3: t.I32}, 2, counted) == ({3: 1}, len(data) + 2)
    for wanted, most in (({1: UNCOUNTED}, counted - 1), ({2: UNCOUNTED}, counted), ({}, len(data) - 1)):
        with pytest.raises(TooLongThriftError):
            read_struct(data, wanted, most_bytes=most)


def test_a_struct_that_is_cut_anywhere_is_truncated():
    data = t.encode(
        {1: (t.I32, 300), 2: (t.LIST, (t.STRUCT, [{3: (t.BINARY, b"abc")}])), 9: (t.DOUBLE, bytes(8))}
    )
    for length in range(len(data)):
        with pytest.raises(TruncatedThriftError):
            read_struct(data[:length], {})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x1c" * 1000 + b"\0" * 1000, "nested too deep"),
        (b"\x19\x19" + b"\x19" * 1000, "nested too deep"),
        (b"\x15\x02\x05\x02\x02\0", "out of order"),
        (b"\x15" + b"\xff" * 11 + b"\0\0", "64 bits"),
        (b"\x1b\0\0", "type 11"),
        (b"\x1e\0\0", "type 14"),
    ],
)
def test_what_no_writer_writes_is_refused(data, says):
    with pytest.raises(ThriftError, match=says):
        read_struct(data, {1: t.I32})
