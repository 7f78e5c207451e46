"""Files as their owners' tools write them: types by meaning, times by one rule, and a bad value named with its row."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from mimn.bundle.fields import code_of
from mimn.data.column_values import Meaning, Wanted
from mimn.data.columns import event_columns
from mimn.data.description import Table, TimeUnit, read_description
from mimn.data.events import DataError
from mimn.data.preparation import prepare
from mimn.data.tables import Columns, TableReader
from uic.bulk.described_history import DescribedHistory
from uic.core.event import MAX_KEY_BYTES

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
NOON_MS = 1_714_564_800_000


def read(
    folder: Path, tables: dict[str, pa.Table | str], wanted: dict[str, Wanted], ids: Any = "uint64"
) -> tuple[Columns, TableReader]:
    """All batches of files of one table, and the reader: its counts."""
    for name, table in tables.items():
        if isinstance(table, str):
            (folder / name).write_text(table, "utf-8")
        elif name.endswith(".csv"):
            pcsv.write_csv(table, folder / name)
        else:
            pq.write_table(table, folder / name)
    reader = TableReader(Table(files=tuple(tables)), folder, wanted, ids)
    batches = list(reader.batches())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in wanted}, reader


def one(meaning: Meaning, unit: TimeUnit = "s") -> dict[str, Wanted]:
    return {"x": Wanted("x", meaning, f"events.{meaning}", unit)}


def times(folder: Path, column: pa.Array | list[str], unit: TimeUnit = "s") -> list[int]:
    table: pa.Table | str = (
        "x\n" + "".join(f"{text}\n" for text in column) if isinstance(column, list) else pa.table({"x": column})
    )
    name = "t.csv" if isinstance(table, str) else "t.parquet"
    found, _ = read(folder, {name: table}, {"x": Wanted("x", "time", "events.time", unit, since_ms=-(10**13))})
    ms: list[int] = found["x"].tolist()
    return ms


@given(st.datetimes(datetime(1950, 1, 1), datetime(2099, 1, 1)), st.sampled_from(["us", "ns"]))
def test_timestamps_finer_than_a_millisecond_are_rounded_down(
    tmp_path_factory: pytest.TempPathFactory, time: datetime, unit: str
) -> None:
    folder = tmp_path_factory.mktemp("times")
    expected = (time.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert times(folder, pa.array([time], pa.timestamp(unit))) == [expected]
    assert times(folder, pa.array([time.isoformat()]), "iso") == [expected]
    assert times(folder, [time.isoformat(timespec="microseconds") + "000Z"], "iso") == [expected]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_iso_text_is_read_from_parquet_whatever_its_type_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["2024-05-01T12:00:00Z", "2024-05-01 14:00:00.001+02:00"], kind)
    assert times(tmp_path, texts, "iso") == [NOON_MS, NOON_MS + 1]


def test_a_time_without_a_zone_is_utc_in_every_layout(tmp_path: Path) -> None:
    naive = NOON.replace(tzinfo=None)
    texts = ["2024-05-01T12:00:00", "2024-05-01 12:00:00.000000", "2024-05-01T12:00:00Z", "2024-05-01 07:00-05"]
    assert times(tmp_path, texts, "iso") == [NOON_MS] * 4, "with and without zones in one column"
    assert times(tmp_path, texts) == [NOON_MS] * 4, "text that is no number says itself that it is ISO"
    assert times(tmp_path, pa.array(texts, pa.large_string()), "iso") == [NOON_MS] * 4
    assert times(tmp_path, pa.array([naive])) == [NOON_MS]
    assert times(tmp_path, pa.array([NOON], pa.timestamp("us", "America/New_York"))) == [NOON_MS]
    day = NOON_MS - 12 * 3_600_000
    assert times(tmp_path, ["2024-05-01"], "iso") == times(tmp_path, pa.array([date(2024, 5, 1)])) == [day]


@pytest.mark.parametrize(
    "users",
    [
        ["17850.0", "007", " 12", "0"],
        pa.array([17850.0, 7, 12, 0]),
        pa.array([Decimal(17850), Decimal(7), Decimal(12), Decimal(0)], pa.decimal128(38, 0)),
        pa.array([17850, 7, 12, 0], pa.int32()),
    ],
    ids=["csv", "floats", "decimals", "int32"],
)
def test_an_import_names_users_as_training_and_requests_do(tmp_path: Path, users: list[str] | pa.Array) -> None:
    """Else the imported history is that of a user whom nobody asks for, such as 17850.0."""
    if isinstance(users, list):
        rows = [f"{user},{n + 1},{NOON_MS // 1000 + n}" for n, user in enumerate(users)]
        (tmp_path / "e.csv").write_text("\n".join(["u,i,t", *rows, f",9,{NOON_MS // 1000}"]) + "\n", "utf-8")
    else:
        seconds = pa.array(range(NOON_MS // 1000, NOON_MS // 1000 + 4), pa.int32())
        pq.write_table(pa.table({"u": users, "i": [1, 2, 3, 4], "t": seconds}), tmp_path / "e.csv")
    path = tmp_path / "dataset.toml"
    path.write_text('name = "x"\n[events]\nfiles = ["e.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\n')
    history = DescribedHistory(path)
    events = [(record.key, BehaviorEvent.FromString(record.value or b"")) for record in history.read({})]
    assert [key for key, _ in events] == [b"17850", b"7", b"12", b"0"]
    assert all(event.user_id.encode() == key for key, event in events)
    assert [event.event_time for _, event in events] == [NOON_MS + 1000 * n for n in range(4)]
    assert sum(history.left_out.rows.values()) == (1 if isinstance(users, list) else 0)
    history.close()
    assert sorted(prepare(path, tmp_path / "cache").events.users.tolist()) == [0, 7, 12, 17850]


def test_an_import_names_the_file_and_line_behind_rows_that_the_reader_refuses(tmp_path: Path) -> None:
    at = NOON_MS // 1000
    (tmp_path / "1.csv").write_text(f"u,i,a,t\n1,1,buy,{at}\n2,2,buy,1\n", "utf-8")
    rows = [
        f"3,,buy,{at}",  # no item: the reader's own refusal, and so is the next
        "4,4,buy,1",
        f"5,5,buy,{at + 1}",
        f"-6,6,buy,{at + 2}",
        f"7,0,buy,{at + 3}",
        "8,8,buy,1",
        f"9,9,rate,{at + 4}",
        f"10,10,rate,{at + 5}",
    ]
    (tmp_path / "2.csv").write_text("\n".join(["u,i,a,t", *rows]) + "\n", "utf-8")
    path = tmp_path / "dataset.toml"
    path.write_text(
        'name = "x"\n[events]\nfiles = ["1.csv", "2.csv"]\nuser = "u"\nitem = "i"\naction = "a"\ntime = "t"\n'
        '[actions]\nbuy = { is = "purchase" }\nrate = { weight = 0.0 }\n'
    )
    history = DescribedHistory(path)
    assert history.records == 2
    assert history.left_out.first == {
        reason: f"{tmp_path / name}, line {line}"
        for reason, name, line in (
            ("t: not between 2000 and 2100", "1.csv", 3),
            ("i: empty", "2.csv", 2),
            ("u: negative id", "2.csv", 5),
            ("i: item 0", "2.csv", 6),
            ("a: an action without `is` in `[actions]`", "2.csv", 8),
        )
    }
    assert history.left_out.rows["a: an action without `is` in `[actions]`"] == 2
    history.close()


def refused_or(read: Callable[[Path], list[str]], path: Path) -> list[str] | str:
    """What is read, or why nothing is."""
    try:
        return read(path)
    except DataError as error:
        return str(error)


def trained_users(path: Path) -> list[str]:
    table = read_description(path).events
    reader = TableReader(table, path.parent, event_columns(table), "uint64")
    return [str(user) for batch in reader.batches() for user in batch["user"].tolist()]


def imported_users(path: Path) -> list[str]:
    with closing(DescribedHistory(path)) as history:
        return [record.key.decode() for record in history.read({}) if record.key is not None]


DIGITS = st.integers(0, 2**63 - 1).map(str)
SPELLINGS = st.one_of(
    DIGITS,
    st.builds("{}{}{}{}{}".format, *map(st.sampled_from, (["", " "], ["", "-", "+"], ["", "00"])), DIGITS,
              st.sampled_from(["", ".", ".0", ".00", ".5", "e2", "E+11", " ", "\u00a0"])),
    st.sampled_from(["1e5", "1e+05", "1.23457E+11", "+5", "-5", "-0", "-0.0", "7.", "0x10", "0X10", "inf", "nan",
                     "9007199254740993", "9007199254740991.0", "9007199254740992.0", "x", "1_000", ".0", "1.0.0", "٣"]),
)  # fmt: skip


@given(st.lists(SPELLINGS, min_size=1, max_size=5))
@example(["1e+05", "100000"])
@example(["9007199254740993", "1.0"])
@example(["-0", "7.", "007", " 7"])
@example(["18446744073709551615", "5", "-3.0"])
def test_an_import_names_a_user_by_the_number_that_training_reads_and_refuses_what_training_refuses(
    tmp_path_factory: pytest.TempPathFactory, users: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("spelled")
    rows = "".join(f'"{user}",{n + 1},{NOON_MS // 1000 + n}\n' for n, user in enumerate(users))
    (folder / "e.csv").write_text("u,i,t\n" + rows + f"0,1,{NOON_MS // 1000 + 9}\n", "utf-8")
    path = folder / "dataset.toml"
    path.write_text('name = "x"\n[events]\nfiles = ["e.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\n')
    trained = refused_or(trained_users, path)
    assert refused_or(imported_users, path) == trained
    if isinstance(trained, list):
        read_exactly = [int(user.strip().split(".")[0]) for user in users]
        assert trained == [str(user) for user in [*read_exactly, 0] if user >= 0]


@pytest.mark.parametrize(
    ("user", "fix"),
    [
        ("1e+05", "may have rounded"),
        ("+5", "not whole numbers"),
        ("9007199254740993.0", "not whole numbers that a float holds exactly"),
    ],
)
def test_an_id_of_csv_that_may_have_lost_digits_or_is_a_text_is_refused_with_its_line(
    tmp_path: Path, user: str, fix: str
) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, {"t.csv": table_of(["7", " 007", "7.0", user])}, one("id"))
    assert " in line 5, " in str(refused.value)
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    ("column", "ids", "words"),
    [
        (pa.array([True, False]), "string", "is bool"),
        (pa.array(["1", "2"]), "uint64", "is string, not whole numbers"),
        (pa.array([1.0, 1e17]), "string", "in row 2, not whole numbers that a float holds exactly"),
        (pa.array([1, 2**63], pa.uint64()), "uint64", "has the id 9223372036854775808"),
        (pa.array([b"a", b"\xff"]).view(pa.string()), "string", "holds text that is not UTF-8 in row 2"),
        (pa.array([b"a", b"\xff long for a view"], pa.binary_view()).view(pa.string_view()), "string", "not UTF-8"),
    ],
)
def test_training_and_imports_refuse_a_column_of_users_alike(
    tmp_path: Path, column: pa.Array, ids: str, words: str
) -> None:
    items = pa.array(["1", "2"] if ids == "string" else [1, 2])
    pq.write_table(pa.table({"u": column, "i": items, "t": [NOON_MS // 1000] * 2}), tmp_path / "e.parquet")
    path = tmp_path / "dataset.toml"
    table = '[events]\nfiles = ["e.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    path.write_text(f'name = "x"\nids = "{ids}"\n{table}')
    for reads in (lambda: prepare(path, tmp_path / "cache"), lambda: DescribedHistory(path)):
        with pytest.raises(DataError) as refused:
            reads()
        assert words in str(refused.value)


def test_an_import_leaves_out_the_users_that_training_does(tmp_path: Path) -> None:
    users = ["a" * MAX_KEY_BYTES, "a" * (MAX_KEY_BYTES + 1), "", None, "é", "1e+05"]
    times = [NOON_MS // 1000 + n for n in range(len(users))]
    pq.write_table(pa.table({"u": users, "i": ["x"] * len(users), "t": times}), tmp_path / "e.parquet")
    path = tmp_path / "dataset.toml"
    table = '[events]\nfiles = ["e.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    path.write_text(f'name = "x"\nids = "string"\n{table}')
    with closing(DescribedHistory(path)) as history:
        assert [record.key for record in history.read({})] == [b"a" * MAX_KEY_BYTES, "é".encode(), b"1e+05"]
        left_out = {f"events: {reason}": n for reason, n in history.left_out.rows.items()}
    assert left_out == prepare(path, tmp_path / "cache").meta.refused


Rows = list[str]


def table_of(rows: Rows) -> str:
    return "x\n" + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("meaning", "good", "bad", "words"),
    [
        ("time", "1714564800", "oops", "not a time"),
        ("id", "17", "abc", "not whole numbers"),
        ("label", "true", "maybe", "a label is 0 or 1"),
        ("number", "1.5", "1,5 EUR", "not a number"),
    ],
)
def test_a_bad_value_of_csv_is_named_with_file_column_and_line(
    tmp_path: Path, meaning: Meaning, good: str, bad: str, words: str
) -> None:
    rows = [f'"{good}"'] * 1000
    rows[678] = f'"{bad}"'
    with pytest.raises(DataError) as refused:
        read(tmp_path, {"t.csv": table_of(rows)}, one(meaning))
    said = f"t.csv: column x (`events.{meaning}`) holds {bad!r} in line 680, "
    assert said in str(refused.value)
    assert words in str(refused.value)


def test_numbers_that_are_whole_for_the_first_rows_alone_are_read(tmp_path: Path) -> None:
    """Longer than the block that a reader would guess types from."""
    n = 300_000
    rows = "x,name,other\n" + "".join(f"{k % 7},user-{k:030},{k}\n" for k in range(n)) + "10.5,user,nine\n"
    wanted = one("number") | {"name": Wanted("name", "value", "fields.user.name", texts=False)}
    found, _ = read(tmp_path, {"t.csv": rows}, wanted)
    assert len(rows) > 8 << 20
    assert found["x"][-1] == 10.5
    assert found["x"].dtype == np.float64


def test_a_column_that_is_not_named_cannot_make_a_file_unreadable(tmp_path: Path) -> None:
    rows = b"x,note\n" + b"1,plain\n" * 5 + b"2,\xff\xfe\n"
    (tmp_path / "t.csv").write_bytes(rows)
    reader = TableReader(Table(files=("t.csv",)), tmp_path, one("number"), "uint64")
    assert [batch["x"].tolist() for batch in reader.batches()] == [[1, 1, 1, 1, 1, 2]]


def test_whole_numbers_of_csv_keep_all_their_digits(tmp_path: Path) -> None:
    """No way through a float: it would drop the last digits of nanoseconds and of ids."""
    assert times(tmp_path, ["1714564800000999999"], "ns") == [NOON_MS]
    found, _ = read(tmp_path, {"t.csv": "x\n9007199254740993\n18446744073709551615\n"}, one("id"))
    assert found["x"].tolist() == [9007199254740993, 18446744073709551615]


@given(
    st.integers(-631_152_000_000, 4_102_444_799_998), st.integers(0, 999_999), st.sampled_from(["s", "ms", "us", "ns"])
)
@example(4_102_444_799_998, 999_999, "s")  # a float of the last millisecond may round up to the bound, the year 2100
@example(-66, 0, "s")
def test_a_time_that_pandas_wrote_as_a_float_is_read_in_its_millisecond_and_never_earlier(
    tmp_path_factory: pytest.TempPathFactory, ms: int, ns: int, unit: TimeUnit
) -> None:
    """A column of whole numbers becomes one of floats if one is missing. A click that is read a millisecond too early
    lies before the impression that it was logged with."""
    per_ms = {"s": 1e-3, "ms": 1.0, "us": 1e3, "ns": 1e6}[unit]
    folder = tmp_path_factory.mktemp("floats")
    whole = float(ms * 10**6) if unit == "ns" else ms / 1000 if unit == "s" else ms * per_ms
    assert times(folder, pa.array([whole, None]), unit) == [ms]
    assert times(folder, ["1714564800.5" if unit == "s" else "", repr(whole)], unit)[-1] == ms
    finer = float(ms * 10**6 + ns) if unit == "ns" else (ms + ns / 10**6) * per_ms
    assert times(folder, pa.array([finer, None]), unit)[0] in ([ms, ms + 1] if ns >= 999_000 else [ms])


def test_times_in_half_the_digits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is float, which holds no time exactly: use whole numbers with `time_unit`"):
        times(tmp_path, pa.array([NOON_MS / 1000], pa.float32()))


@pytest.mark.parametrize(("ids", "layout"), [("uint64", "csv"), ("string", "parquet")])
@pytest.mark.parametrize("meaning", ["id", "time", "optional_time", "label", "number", "value", "values"])
def test_a_column_that_is_empty_throughout_a_file_is_empty(
    tmp_path: Path, meaning: Meaning, layout: str, ids: str
) -> None:
    nothing = pa.table({"x": pa.nulls(3), "y": pa.array(["a"] * 3)})
    text = {"id": "7", "time": "1714564800", "optional_time": "1714564800"}.get(meaning, "1")
    filled = pa.table({"x": pa.array([text if layout == "csv" or ids == "string" else 1]), "y": ["a"]})
    if layout == "parquet" and not (meaning == "id" and ids == "string"):
        filled = pa.table({"x": pa.array([int(text)]), "y": ["a"]})
    tables: dict[str, pa.Table | str] = {f"a.{layout}": nothing, f"b.{layout}": filled}
    found, reader = read(tmp_path, tables, one(meaning), ids)
    refused = meaning in ("id", "time", "label")
    assert reader.refused.rows == ({"x: empty": 3} if refused else {})
    assert len(found["x"]) == (1 if refused else 4)


def test_ids_that_pandas_wrote_as_floats_are_whole_numbers(tmp_path: Path) -> None:
    column = pa.array([1.0, None, float("nan"), 2.0])
    for name, table in (("t.parquet", pa.table({"x": column})), ("t.csv", 'x\n1.0\n""\n'.replace('""', "NaN"))):
        found, reader = read(tmp_path, {name: table}, one("id"))
        assert found["x"].tolist()[:1] == [1]
        assert list(reader.refused.rows) == ["x: empty"]
    found, _ = read(tmp_path, {"t.parquet": pa.table({"x": column})}, one("id"), "string")
    assert found["x"].tolist() == [code_of("1"), code_of("2")]
    for ids in ("uint64", "string"):
        with pytest.raises(DataError, match=r"holds '1.5' in row 2, not whole numbers that a float holds exactly"):
            read(tmp_path, {"t.parquet": pa.table({"x": [1.0, 1.5]})}, one("id"), ids)


def test_ids_of_pandas_categories_are_read(tmp_path: Path) -> None:
    numbers = pa.table({"x": pa.array([5, 6, 5]).dictionary_encode()})
    hashed = [code_of(text) for text in ("5", "6", "5")]
    assert read(tmp_path, {"t.parquet": numbers}, one("id"))[0]["x"].tolist() == [5, 6, 5]
    assert read(tmp_path, {"t.parquet": numbers}, one("id"), "string")[0]["x"].tolist() == hashed
    texts = pa.table({"x": pa.array(["5", "6", "5"], pa.large_string()).dictionary_encode()})
    assert read(tmp_path, {"t.parquet": texts}, one("id"), "string")[0]["x"].tolist() == hashed


@pytest.mark.parametrize(
    ("column", "meaning", "ids", "words"),
    [
        (pa.array([b"a"]), "id", "string", "is binary"),
        (pa.array([{"a": 1}]), "value", "uint64", "is struct<a: int64>"),
        (pa.array([{"a": 1}]), "time", "uint64", "is struct<a: int64>"),
        (pa.array([datetime(1600, 1, 1)], pa.timestamp("us")), "time", "uint64", "no time is between"),
    ],
)
def test_a_type_that_cannot_be_used_is_named_with_a_fix_that_is_one(
    tmp_path: Path, column: pa.Array, meaning: Meaning, ids: str, words: str
) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, {"t.parquet": pa.table({"x": column})}, one(meaning), ids)
    assert f"t.parquet: column x (`events.{meaning}`)" in str(refused.value)
    assert words in str(refused.value)


def test_a_name_that_the_header_lacks_is_named_with_those_that_it_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t.csv has no column 'x' \(`events.number`\); its columns are a, b: name one"):
        read(tmp_path, {"t.csv": "a,b\n1,2\n"}, one("number"))


@pytest.mark.parametrize("large", ["key", "category"])
def test_training_and_imports_refuse_a_table_of_items_with_a_large_id_alike(tmp_path: Path, large: str) -> None:
    events = {"u": [1, 2], "i": [1, 2], "t": [NOON_MS // 1000] * 2}
    pq.write_table(pa.table(events), tmp_path / "e.parquet")
    columns = {name: pa.array([1, 2, 2**63 if name == large else 3], pa.uint64()) for name in ("key", "category")}
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    path = tmp_path / "dataset.toml"
    table = '[events]\nfiles = ["e.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    path.write_text(f'name = "x"\n{table}[items]\nfiles = ["i.parquet"]\nkey = "key"\ncategory = "category"\n')
    for reads in (lambda: prepare(path, tmp_path / "cache"), lambda: DescribedHistory(path)):
        with pytest.raises(DataError, match=f"^`items`, i.parquet: column {large} has the id 9223372036854775808: "):
            reads()
