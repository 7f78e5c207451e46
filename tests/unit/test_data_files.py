"""Files as other tools write them: read by what they hold, whatever they are called, or refused with the fix."""

from __future__ import annotations

import bz2
import errno
import gzip
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.bundle.fields import code_of
from mimn.data.column_values import Meaning, Wanted
from mimn.data.description import Table, TimeUnit
from mimn.data.events import DataError
from mimn.data.tables import TableReader

TABLE = pa.table({"uid": [7, 8, 9], "act": ["buy", "view", "buy"]})
TEXT = b"uid,act\n7,buy\n8,view\n9,buy\n"


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def reader_of(folder: Path, *files: str, meaning: Meaning = "id", column: str = "uid", **layout: object) -> TableReader:
    table = Table(files=files, **layout)  # type: ignore[arg-type]  # keys of a description
    return TableReader(table, folder, {"x": Wanted(column, meaning, f"events.{meaning}")}, "uint64")


def ids_of(folder: Path, *files: str, **layout: object) -> list[int]:
    return [one for batch in reader_of(folder, *files, **layout).batches() for one in batch["x"].tolist()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["e.PARQUET", "000000_0", "e.csv"])
def test_parquet_is_known_by_its_first_bytes_and_not_by_its_name(tmp_path: Path, name: str) -> None:
    put(tmp_path, {name: parquet(TABLE)})
    assert ids_of(tmp_path, name) == [7, 8, 9]


@pytest.mark.parametrize("name", ["E.CSV.GZ", "part-00000"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, zstd])
def test_text_is_decompressed_whatever_its_name_is(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    put(tmp_path, {name: compress(TEXT)})
    assert ids_of(tmp_path, name) == [7, 8, 9]


def test_logs_that_were_compressed_one_after_another_into_one_file_are_read_to_the_end(tmp_path: Path) -> None:
    put(tmp_path, {"e.gz": gzip.compress(TEXT) + gzip.compress(b"10,buy\n")})
    assert ids_of(tmp_path, "e.gz") == [7, 8, 9, 10]


def test_a_folder_of_spark_is_read_without_the_marks_of_its_writer(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "e.parquet/dt=2024-05-01/part-00000.snappy.parquet": parquet(TABLE.slice(0, 1)),
            "e.parquet/dt=2024-05-02/part-00000.snappy.parquet": parquet(TABLE.slice(1)),
            "e.parquet/dt=2024-05-02/.part-00000.snappy.parquet.crc": b"crc",
            "e.parquet/_temporary/0/part-00000.snappy.parquet": parquet(TABLE),
            "e.parquet/_SUCCESS": b"",
        },
    )
    for files in ("e.parquet", "e.parquet/*", "e.parquet/**", "*", "e.parquet/dt=*/*", "**/*.parquet"):
        assert ids_of(tmp_path, files) == [7, 8, 9], files
    with pytest.raises(DataError, match=r"nothing matches e.parquet/_\* in"):
        ids_of(tmp_path, "e.parquet/_*")


def test_a_name_with_an_underscore_is_read_if_the_description_says_it(tmp_path: Path) -> None:
    put(tmp_path, {"_export/e.csv": TEXT, "_e.csv": TEXT})
    assert ids_of(tmp_path, "_export/*.csv", "_e.csv") == [7, 8, 9, 7, 8, 9]


def rows(*ids: int) -> bytes:
    return "".join(["uid\n", *(f"{one}\n" for one in ids)]).encode()


def link(name: Path, to: str) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    name.symlink_to(to)


@pytest.mark.parametrize("files", ["e", "e/*", "**/*.csv"])
def test_links_are_followed_and_what_has_several_names_is_read_once(tmp_path: Path, files: str) -> None:
    far = tmp_path / "far"
    put(far, {"dt=2/p.csv": rows(2), "dt=3/deep/p.csv": rows(3), "p.csv": rows(4), "_old/p.csv": rows(9)})
    owned = tmp_path / "owned"
    put(owned, {"e/dt=1/p.csv": rows(1)})
    link(owned / "e/dt=2", "../../far/dt=2")
    link(owned / "e/dt=3", str(far / "dt=3"))
    link(owned / "e/dt=4/p.csv", "../../../far/p.csv")
    link(owned / "e/current", "dt=1")
    link(owned / "e/_old", "../../far/_old")
    link(owned / "e/.broken", "nowhere")
    link(owned / "e/dt=1/up", "../../e")
    link(owned / "e/dt=1/round", ".")
    assert sorted(ids_of(owned, files)) == [1, 2, 3, 4]
    assert owned / "e/dt=1/p.csv" in reader_of(owned, files).paths


def test_a_file_that_two_patterns_name_is_read_once_and_in_the_place_of_the_first(tmp_path: Path) -> None:
    put(tmp_path, {"a.csv": rows(1), "b.csv": rows(2), "[c]/c.csv": rows(3)})
    link(tmp_path / "z.csv", "a.csv")
    assert ids_of(tmp_path, "b.csv", "*.csv", "z.csv") == [2, 1]
    assert ids_of(tmp_path / "[c]", "*.csv") == [3]
    assert ids_of(tmp_path, str(tmp_path / "b.csv"), f"{tmp_path}/**/a*") == [2, 1]


@pytest.mark.parametrize("files", ["e", "e/z.csv", "e/*"])
def test_a_link_to_nothing_is_refused_by_name(tmp_path: Path, files: str) -> None:
    put(tmp_path, {"e/p.csv": rows(1)})
    link(tmp_path / "e/z.csv", "/nonexistent")
    with pytest.raises(DataError, match=r"`files`: .*/e/z\.csv is a link to /nonexistent, where nothing is: correct"):
        ids_of(tmp_path, files)
    link(tmp_path / "round.csv", "round.csv")
    with pytest.raises(DataError, match=r"round\.csv is a link to round\.csv, where nothing is"):
        ids_of(tmp_path, "round.csv")


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"e/p.csv": rows(1), "e/closed/p.csv": rows(2)})
    listed = Path.iterdir

    def refused(folder: Path) -> Iterator[Path]:  # root may read everything
        if folder.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(DataError, match=r"`files`: .*/e/closed cannot be read: Permission denied"):
        ids_of(tmp_path, "e")


def test_a_header_is_read_as_csv_is(tmp_path: Path) -> None:
    put(tmp_path, {"e.csv": b'\xef\xbb\xbf"a;\n""b""";uid\r\nx;7\r\n'})
    assert ids_of(tmp_path, "e.csv", delimiter=";") == [7]
    put(tmp_path, {"e.csv": "uid,straße\n7,ä\n".encode("utf-16")})
    assert ids_of(tmp_path, "e.csv", encoding="utf-16") == [7]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("e.csv", b"", "e.csv is empty"),
        ("e.csv", b"PK\x03\x04" + bytes(100), "a zip archive or a spreadsheet"),
        ("e.csv", b"Obj\x01\x04\x14avro" + bytes(100), "neither Parquet nor text"),
        ("e.csv", b"a\0b,uid\n7,8\n", "byte 2 is NUL"),
        ("e.csv", TEXT.decode().encode("utf-16"), 'set `encoding = "utf-16"`'),
        ("e.csv", TEXT.decode().encode("utf-16-be"), 'set `encoding = "utf-16-be"`'),
        ("e.csv", TEXT.decode().encode("utf-32"), 'set `encoding = "utf-32"`'),
        ("e.parquet", TEXT, "begin as Parquet does"),
        ("e.jsonl", b'{"uid": 7, "act": "buy"}\n', "JSON"),
        ("e.csv", TEXT.replace(b",", b";"), 'set `delimiter = ";"`'),
        ("e.csv", TEXT.replace(b",", b"\t"), r'set `delimiter = "\t"`'),
        ("uid=7/e.csv", b"act\nbuy\n", "uid is a part of its folder's name"),
        ("e.csv", b"uid,act,uid\n7,buy,8\n", "column uid (`events.id`) is there 2 times"),
        ("e.csv", b'uid,"' + b"x" * 200_000 + b'"\n', "no header of CSV"),
    ],
    ids=[
        "empty",
        "zip",
        "avro",
        "nul",
        "utf-16",
        "utf-16-be",
        "utf-32",
        "parquet",
        "json",
        "semicolon",
        "tab",
        "folder",
        "twice",
        "header",
    ],
)
def test_what_is_no_table_is_refused_with_the_fix(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    put(tmp_path, {name: data})
    with pytest.raises(DataError) as refused:
        ids_of(tmp_path, name)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_the_encoding_that_a_refusal_names_is_read(tmp_path: Path, encoding: str) -> None:
    put(tmp_path, {"e.csv": TEXT.decode().encode(encoding)})
    assert ids_of(tmp_path, "e.csv", encoding=encoding) == [7, 8, 9]


def test_a_nul_byte_in_an_id_is_told_with_its_line(tmp_path: Path) -> None:
    row = 70_000
    lines = [f"user {i}," for i in range(1, 80_000)]
    lines[row - 1] = f"us\0er {row},"
    put(tmp_path, {"e.csv": "\n".join(["uid,act", *lines, ""]).encode()})
    reader = TableReader(Table(files=("e.csv",)), tmp_path, {"x": Wanted("uid", "id", "events.user")}, "string")
    with pytest.raises(DataError, match=rf"e\.csv: column uid has a NUL byte in line {row + 1}"):
        list(reader.batches())


@pytest.mark.parametrize("second", ["label_time", "window_end"])
def test_two_columns_of_times_in_two_units_need_one_and_the_advice_does_not_go_round(
    tmp_path: Path, second: str
) -> None:
    put(tmp_path, {"t.parquet": parquet(pa.table({"shown": [1_714_564_800_000], "at": [1_714_564_830]}))})

    def read_in(unit: TimeUnit) -> None:
        meaning: Meaning = "optional_time" if second == "label_time" else "time"
        wanted = {
            "time": Wanted("shown", "time", "impressions.time", unit),
            second: Wanted("at", meaning, f"impressions.{second}", unit),
        }
        list(TableReader(Table(files=("t.parquet",)), tmp_path, wanted, "uint64").batches())

    with pytest.raises(DataError, match=r"column shown .* set `time_unit = \"ms\"`"):
        read_in("s")
    with pytest.raises(DataError, match=rf"column at \(`impressions.{second}`\): .* is 2024-05-01 in s: "):
        read_in("ms")


def test_a_column_of_timestamps_does_not_say_which_unit_another_has(tmp_path: Path) -> None:
    shown = pa.array([1_714_564_800_000], pa.timestamp("ms"))
    put(tmp_path, {"t.parquet": parquet(pa.table({"shown": shown, "at": [1_714_564_830_000]}))})
    wanted = {
        "time": Wanted("shown", "time", "impressions.time", "s"),
        "label_time": Wanted("at", "optional_time", "impressions.label_time", "s"),
    }
    with pytest.raises(DataError, match=r"set `time_unit = \"ms\"`"):
        list(TableReader(Table(files=("t.parquet",)), tmp_path, wanted, "uint64").batches())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gz.csv", gzip.compress(TEXT)[:-9]),
        ("bz2.csv", bz2.compress(TEXT)[:-9]),
        ("zst.csv", pa.Codec("zstd").compress(TEXT).to_pybytes()[:-2]),
        ("t.parquet", parquet(TABLE)[:-9]),
    ],
    ids=["gzip", "bzip2", "zstd", "Parquet"],
)
def test_a_file_that_was_cut_is_said_to_be_written_again(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, {name: content})
    with pytest.raises(DataError, match=f"{name} cannot be read: .*the file is damaged.*: write it again"):
        ids_of(tmp_path, name)


def test_another_encoding_is_named_as_the_fix(tmp_path: Path) -> None:
    put(tmp_path, {"e.csv": "uid,act\n7,café\n".encode("latin-1")})
    with pytest.raises(DataError, match='set `encoding`, such as "latin-1"'):
        list(reader_of(tmp_path, "e.csv", meaning="value", column="act").batches())
    assert ids_of(tmp_path, "e.csv", encoding="latin-1") == [7]
    with pytest.raises(DataError, match=r"`encoding`: klingon is no encoding of text"):
        ids_of(tmp_path, "e.csv", encoding="klingon")


def read(folder: Path, column: pa.Array, meaning: Meaning, ids: str = "uint64") -> tuple[list[object], TableReader]:
    pq.write_table(pa.table({"x": column}), folder / "t.parquet")
    wanted = {"x": Wanted("x", meaning, f"events.{meaning}")}
    reader = TableReader(Table(files=("t.parquet",)), folder, wanted, ids)  # type: ignore[arg-type]
    return np.concatenate([batch["x"] for batch in reader.batches()]).tolist(), reader


@given(
    st.sampled_from((pa.decimal32(9, 0), pa.decimal64(18, 2), pa.decimal128(38, 4), pa.decimal256(60, 1))).flatmap(
        lambda kind: st.tuples(
            st.lists(st.integers(0, min(2**63, 10 ** (kind.precision - kind.scale)) - 1), min_size=1, max_size=20),
            st.just(kind),
        )
    )
)
def test_decimals_of_a_warehouse_are_the_whole_numbers_that_they_stand_for(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[list[int], pa.DataType]
) -> None:
    folder, (numbers, kind) = tmp_path_factory.mktemp("decimals"), drawn
    whole, decimals = pa.array(numbers, pa.uint64()), pa.array(list(map(Decimal, numbers)), kind)
    assert read(folder, decimals, "id")[0] == numbers
    assert read(folder, decimals, "id", "string")[0] == [code_of(str(one)) for one in numbers]
    of_decimals, of_whole = read(folder, decimals, "value"), read(folder, whole, "value")
    assert of_decimals[0] == of_whole[0]
    assert of_decimals[1].texts == of_whole[1].texts
    assert of_decimals[1].texts_of("x", []) == {}


@pytest.mark.parametrize(
    ("kind", "meaning"),
    [
        (pa.string_view(), "id"),
        (pa.dictionary(pa.int32(), pa.string()), "value"),
        (pa.large_list(pa.large_string()), "values"),
    ],
    ids=str,
)
def test_a_nul_byte_in_parquet_is_told_with_its_row(tmp_path: Path, kind: pa.DataType, meaning: Meaning) -> None:
    texts: list[Any] = [None, *(f"x{i}" for i in range(140_000))]
    texts[139_000] = "x\0"
    if meaning == "values":
        texts = [None if text is None else ["a", text] for text in texts]
    with pytest.raises(DataError, match=r"t\.parquet: column x has a NUL byte in row 139001, as text never has"):
        read(tmp_path, pa.array(texts, kind), meaning, "string")


def test_decimals_may_be_prices_labels_and_times(tmp_path: Path) -> None:
    price = pa.array([Decimal("12.50"), None], pa.decimal128(10, 2))
    assert read(tmp_path, price, "number")[0][0] == 12.5
    assert read(tmp_path, pa.array([Decimal(1), Decimal(0)], pa.decimal128(38, 0)), "label")[0] == [1, 0]
    assert read(tmp_path, pa.array([Decimal(1714564800)], pa.decimal128(38, 0)), "time")[0] == [1_714_564_800_000]
    with pytest.raises(DataError, match=r"holds '12.5' in row 1, not whole numbers"):
        read(tmp_path, price, "id")
    with pytest.raises(DataError, match="holds fractions"):
        read(tmp_path, price, "value")


def test_an_id_of_decimals_is_found_again_for_messages(tmp_path: Path) -> None:
    _, reader = read(tmp_path, pa.array([Decimal(7), Decimal(10**30)], pa.decimal128(38, 0)), "id", "string")
    assert reader.text_of("x", code_of(str(10**30))) == str(10**30)


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.float64()])
def test_seconds_of_any_width_are_the_same_time(tmp_path: Path, kind: pa.DataType) -> None:
    assert read(tmp_path, pa.array([1_714_564_800], kind), "time")[0] == [1_714_564_800_000]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.float64()])
def test_a_time_of_0_is_none_where_there_may_be_none(tmp_path: Path, kind: pa.DataType) -> None:
    """Protocol buffers and many logs write 0 for a time that is not set."""
    unset = [0, 0] if kind == pa.uint32() else [0, -1]
    found, reader = read(tmp_path, pa.array([*unset, 1_714_564_800], kind), "optional_time")
    assert found == [-1, -1, 1_714_564_800_000]
    assert not reader.refused.rows
    found, reader = read(tmp_path, pa.array([*unset, 1_714_564_800], kind), "time")
    assert found == [1_714_564_800_000]
    assert reader.refused.rows == {"x: not between 2000 and 2100": 2}


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.float64()])
def test_a_unit_is_found_even_where_the_stated_one_exceeds_64_bits(tmp_path: Path, kind: pa.DataType) -> None:
    for unit, factor in (("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        column = pa.array(np.array([1_714_564_800, 1_714_564_801]) * factor).cast(kind, safe=False)
        with pytest.raises(DataError, match=rf"is 2024-05-01 in {unit}: set `time_unit = \"{unit}\"`"):
            read(tmp_path, column, "time")


@pytest.mark.parametrize(
    "text",
    ["2024-05-01 12:00:00.000000 UTC", "2024-05-01T12:00:00 GMT", "2024-05-01 12:00:00,000"],
)
def test_times_as_warehouses_and_logs_write_them_are_read(tmp_path: Path, text: str) -> None:
    put(tmp_path, {"t.csv": f'x\n"{text}"\n'.encode()})
    units: tuple[TimeUnit, ...] = ("iso", "s")
    for unit in units:
        wanted = {"x": Wanted("x", "time", "events.time", unit)}
        reader = TableReader(Table(files=("t.csv",)), tmp_path, wanted, "uint64")
        assert [batch["x"].tolist() for batch in reader.batches()] == [[1_714_564_800_000]]


def test_the_null_of_hive_and_mysql_is_no_value(tmp_path: Path) -> None:
    put(tmp_path, {"t.csv": b"uid,act\n7,\\N\n8,buy\n"})
    reader = reader_of(tmp_path, "t.csv", meaning="value", column="act")
    codes = [one for batch in reader.batches() for one in batch["x"].tolist()]
    assert codes[0] == 0
    assert list(reader.texts["x"].values()) == ["buy"]


@pytest.mark.parametrize(
    ("table", "change", "changed"),
    [("csv", "longer", "first"), ("csv.gz", "as long", "last"), ("parquet", "longer", "last")],
)
def test_a_file_that_changes_while_its_table_is_read_is_refused(
    tmp_path: Path, table: str, change: str, changed: str
) -> None:
    """Whichever of the files it is: one that was read already had perhaps not all of its rows yet."""
    kind = {"csv": TEXT, "csv.gz": gzip.compress(TEXT), "parquet": parquet(TABLE)}[table]
    put(tmp_path, {f"first.{table}": kind, f"last.{table}": kind})
    reader = reader_of(tmp_path, "*")
    batches = reader.batches()
    next(batches), next(batches)
    file = tmp_path / f"{changed}.{table}"
    if change == "longer":
        with file.open("ab") as more:
            more.write(TEXT)
    else:
        os.utime(file, ns=(0, 1))
    with pytest.raises(DataError, match=rf"{file} changed while it was read"):
        list(batches)


def test_a_file_that_is_cut_while_it_is_read_is_not_told_as_damaged(tmp_path: Path) -> None:
    put(tmp_path, {"e.gz": gzip.compress(TEXT)})
    reader = reader_of(tmp_path, "e.gz")
    (tmp_path / "e.gz").write_bytes(gzip.compress(TEXT)[:-9])
    with pytest.raises(DataError, match=r"e\.gz changed while it was read"):
        list(reader.batches())


def test_a_file_that_changed_before_its_table_is_read_again_is_read(tmp_path: Path) -> None:
    put(tmp_path, {"e.csv": TEXT})
    assert ids_of(tmp_path, "e.csv") == [7, 8, 9]
    put(tmp_path, {"e.csv": TEXT + b"10,buy\n"})
    assert ids_of(tmp_path, "e.csv") == [7, 8, 9, 10]


def test_a_damaged_parquet_file_is_told_in_one_line(tmp_path: Path) -> None:
    whole = parquet(pa.table({"uid": np.arange(10_000)}))
    put(tmp_path, {"e.parquet": whole[:4] + b"\xff" * 40 + whole[44:]})
    with pytest.raises(DataError, match=r"e\.parquet cannot be read: ") as refused:
        ids_of(tmp_path, "e.parquet")
    assert "\n" not in str(refused.value)
