"""A data set that its owner describes is read as it is, and what cannot be used is named: file, column, row and fix."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.bundle.fields import code_of
from mimn.data import preparation
from mimn.data.__main__ import main
from mimn.data.check import check
from mimn.data.description import UserSplit, read_description
from mimn.data.events import DataError
from mimn.data.ids import Strings, string_ids, xxh64
from mimn.data.preparation import prepare
from mimn.data.prepared import Prepared
from mimn.data.sorting import SortingWriter
from uic.bulk.commands import import_history

T = 1_600_000_000

EVENTS: dict[str, list[Any]] = {
    "uid": [7, 7, 3, 7],
    "sku": [10, 11, 10, 12],
    "cat": [1, 1, 1, 2],
    "ts": [T + 5, T, T + 3, T + 9],
}
IMPRESSIONS: dict[str, list[Any]] = {
    "uid": [3, 7, 7],
    "sku": [12, 11, 10],
    "cat": [2, 1, 1],
    "ts": [T + 10, T + 20, T + 6],
    "clicked": [1, 0, 1],
    "clicked_at": [T + 70, None, T + 60],
    "hour": [1, 2, 1],
    "price": [1.5, None, 2.0],
}
TOML = """
name = "shop"
[events]
files = ["events.parquet"]
user = "uid"
item = "sku"
category = "cat"
time = "ts"
[impressions]
files = ["impressions.parquet"]
user = "uid"
item = "sku"
category = "cat"
time = "ts"
label = "clicked"
label_time = "clicked_at"
window = "1m"
[fields.context.hour]
kind = "categorical"
[fields.context.price]
kind = "numeric"
"""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(toml: str = TOML, **tables: dict[str, list[Any]]) -> Path:
        for name, columns in ({"events": EVENTS, "impressions": IMPRESSIONS} | tables).items():
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        (tmp_path / "dataset.toml").write_text(toml, "utf-8")
        return tmp_path / "dataset.toml"

    return made


def prepared(path: Path) -> Prepared:
    return prepare(path, path.parent / "cache")


def columns_of(data: Prepared) -> dict[str, bytes]:
    """All columns, by path."""
    return {str(path.relative_to(data.folder)): path.read_bytes() for path in data.folder.rglob("*.npy")}


def zeroed(content: bytes) -> bytes:
    """With its last bytes as a block has them that never reached the disk."""
    return content[:-8] + bytes(8)


@pytest.mark.parametrize("file", ["impressions/label.npy", "texts.json", "prepared.json"])
@pytest.mark.parametrize("what", [zeroed, lambda content: content[: len(content) // 2], None])
def test_a_damaged_cache_is_named_and_prepared_again(
    make: Make, caplog: pytest.LogCaptureFixture, file: str, what: Callable[[bytes], bytes] | None
) -> None:
    path = make()
    before = prepared(path)
    whole, sha256, texts = columns_of(before), before.sha256, before.texts
    damaged = before.folder / file
    content = damaged.read_bytes()
    damaged.unlink()  # what is mapped stays what it was
    if what is not None:
        damaged.write_bytes(what(content))
    after = prepared(path)
    (told,) = caplog.messages
    assert str(damaged) in told
    assert (columns_of(after), after.sha256, after.texts) == (whole, sha256, texts)
    assert list(after.folder.parent.iterdir()) == [after.folder]
    caplog.clear()
    assert prepared(path).sha256 == sha256
    assert not caplog.messages


def test_the_hash_of_a_data_set_is_that_of_its_columns_by_path(make: Make) -> None:
    """Runs of earlier versions are compared with it."""
    data = prepared(make())
    digest = hashlib.sha256()
    for column in sorted(data.folder.rglob("*.npy")):
        sha256 = hashlib.sha256(column.read_bytes()).hexdigest()
        digest.update(f"{column.relative_to(data.folder).as_posix()} {sha256}\n".encode())
    assert data.sha256 == digest.hexdigest()


def test_a_preparation_that_was_killed_blocks_no_later_one_of_its_process_number(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the command is process 1 each time."""
    path = make()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    killed = os.fork()
    if not killed:
        monkeypatch.setattr(preparation, "_check_events", lambda *_: signal.raise_signal(signal.SIGKILL))
        prepared(path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
    assert len(list((path.parent / "cache").iterdir())) == 1
    data = prepared(path)
    assert data.events.users.tolist() == [3, 7]
    assert list(data.folder.parent.iterdir()) == [data.folder]


def test_events_and_impressions_come_out_sorted_with_labels_that_the_window_allows(make: Make) -> None:
    data = prepared(make())
    assert data.events.user_id.tolist() == [3, 7, 7, 7]
    assert data.events.item_id.tolist() == [10, 11, 10, 12]
    assert data.events.timestamp.tolist() == [T + 3, T, T + 5, T + 9]
    shown = data.impressions
    assert shown is not None
    assert shown.user_id.tolist() == [3, 7, 7]
    assert shown.time_ms.tolist() == [(T + 10) * 1000, (T + 6) * 1000, (T + 20) * 1000]
    assert shown.label.tolist() == [1, 1, 0], "60 s after it is within the minute"
    assert [data.texts["hour"][code] for code in shown.context["hour"].tolist()] == ["1", "1", "2"]
    assert np.array_equal(shown.context["price"], [1.5, 2.0, np.nan], equal_nan=True)


def test_a_split_that_does_not_say_by_what_is_by_user(make: Make) -> None:
    assert read_description(make(TOML + "[split]\nfold = 2\n")).split == UserSplit(fold=2)
    with pytest.raises(DataError, match=r'train_until belongs to `by = "time"`'):
        read_description(make(TOML + "[split]\ntrain_until = 2020-09-23\nvalidate_until = 2020-09-28\n"))


def test_the_time_until_which_a_coupon_can_be_clicked_may_be_a_field(make: Make) -> None:
    """It is known when the coupon is shown."""
    toml = TOML.replace('window = "1m"', 'window_end = "ends"') + '[fields.context.ends]\nkind = "numeric"\n'
    shown = prepared(make(toml, impressions=IMPRESSIONS | {"ends": [T + 70, T + 80, T + 66]})).impressions
    assert shown is not None
    assert shown.label.tolist() == [1, 1, 0]
    assert shown.context["ends"].tolist() == [T + 70, T + 66, T + 80]


def test_a_folder_that_is_prepared_is_not_read_again_until_a_file_changes(make: Make) -> None:
    path = make()
    first = prepared(path)
    assert prepared(path).folder == first.folder
    longer = {name: [*values, values[-1]] for name, values in EVENTS.items()}
    again = prepared(make(events=longer))
    assert again.folder != first.folder
    assert len(again.events) == 5


@settings(max_examples=25)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12),
            st.integers(0, 5),
            st.integers(0, 1_000_000),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_csv_with_quotes_and_strings_gives_what_parquet_gives(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("layouts")
    columns: dict[str, list[Any]] = {
        "who": [user for user, _, _ in rows],
        "what": [f"item {item}" for _, item, _ in rows],
        "when": [(T * 1000 + ms) * 1000 for _, _, ms in rows],
    }
    pq.write_table(pa.table(columns), folder / "events.parquet")
    with (folder / "events.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", quoting=csv.QUOTE_ALL)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    found = []
    for name, more in (("events.parquet", ""), ("events.csv", 'delimiter = ";"')):
        (folder / "dataset.toml").write_text(
            f'name = "x"\nids = "string"\n[events]\nfiles = ["{name}"]\nuser = "who"\nitem = "what"\ntime = "when"\n'
            f'time_unit = "us"\n{more}\n'
        )
        found.append(prepared(folder / "dataset.toml").events)
    assert found[0].sha256 == found[1].sha256
    assert sorted(set(found[0].user_id.view(np.uint64).tolist())) == sorted({code_of(u) for u in columns["who"]})


ACTIONS = """
[actions]
buy = { is = "purchase", weight = 3.0 }
pv = { is = "view", weight = 0.0 }
"""


def with_actions(toml: str = TOML) -> str:
    return toml.replace('time = "ts"', 'time = "ts"\naction = "act"', 1) + ACTIONS


def test_actions_weigh_events_and_weight_0_leaves_them_out(make: Make) -> None:
    path = make(with_actions(), events=EVENTS | {"act": ["buy", "pv", "buy", "buy"]})
    data = prepared(path)
    assert data.events.item_id.tolist() == [10, 10, 12]
    assert data.events.action is not None
    assert data.events.action.tolist() == [5, 5, 5]
    assert data.description.action_rules == {"purchase": 3.0, "view": 0.0}
    assert data.meta.refused == {"events: action of weight 0, not folded": 1}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('gift = { is = "purchase", weight = 2.0 }', "buy and gift are both purchase"),
        ('like = { is = "favorite", weight = 9.0 }', "<= 8.0"),
        ('like = { is = "wish" }', "Invalid enum value 'wish'"),
        ("like = { weight = 1.0 }", "an action that is folded needs `is`"),
    ],
)
def test_an_action_that_cannot_be_served_is_an_error_of_the_description(make: Make, line: str, says: str) -> None:
    path = make(with_actions() + line + "\n", events=EVENTS | {"act": ["buy", "pv", "buy", "buy"]})
    with pytest.raises(DataError) as refused:
        prepared(path)
    assert str(path) in str(refused.value)
    assert says in str(refused.value)


def test_events_that_are_left_out_do_not_join_others_into_baskets(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `together` every event is a basket of its own, in whichever batch it is read."""
    monkeypatch.setattr("mimn.data.files.BATCH_ROWS", 2)
    events = {"uid": [7] * 6, "sku": list(range(6)), "cat": [1] * 6, "ts": [T + i for i in range(6)]}
    path = make(with_actions(), events=events | {"act": ["pv", "buy", "pv", "buy", "buy", "buy"]})
    data = prepared(path)
    assert data.events.alone
    assert data.events.history_end.tolist() == [0, 1, 2, 3]


def test_times_are_read_in_any_unit_and_type(make: Make) -> None:
    expected = prepared(make()).events.timestamp * 1000
    written: list[tuple[str, list[Any]]] = [
        ("ms", [t * 1000 for t in EVENTS["ts"]]),
        ("ns", [t * 10**9 for t in EVENTS["ts"]]),
        ("iso", [datetime.fromtimestamp(t, UTC).isoformat() for t in EVENTS["ts"]]),
        ("ms", [datetime.fromtimestamp(t, UTC) for t in EVENTS["ts"]]),
    ]
    for unit, ts in written:
        toml = TOML.replace('time = "ts"', f'time = "ts"\ntime_unit = "{unit}"', 1)
        assert prepared(make(toml, events=EVENTS | {"ts": ts})).events.timestamp.tolist() == expected.tolist()


SIDES = (
    TOML.replace('category = "cat"\ntime = "ts"\nlabel', 'time = "ts"\nlabel')
    + """
[users]
files = ["users.parquet"]
key = "uid"
[items]
files = ["items.parquet"]
key = "sku"
category = "cat"
[fields.user.age]
kind = "categorical"
[fields.item.tags]
kind = "multi"
"""
)
USERS = {"uid": [7, 3], "age": ["old", None]}
ITEMS = {"sku": [12, 11, 10], "cat": [2, 1, 1], "tags": [["a", "b"], [], None]}


def test_fields_of_users_and_items_stand_by_key(make: Make) -> None:
    data = prepared(make(SIDES, users=USERS, items=ITEMS))
    ages = data.side("user")
    assert ages.key.tolist() == [3, 7]
    assert ages.rows(np.array([7, 4, 3])).tolist() == [1, -1, 0]
    assert [data.texts["age"].get(code) for code in ages.fields["age"].tolist()] == [None, "old"]
    tags = data.side("item").fields["tags"]
    assert [data.texts["tags"].get(code) for code in tags.tolist()] == [None, "[]", '["a", "b"]']
    assert data.impressions is not None
    assert data.impressions.category_id.tolist() == [2, 1, 1]


@pytest.mark.parametrize(
    ("toml", "tables", "message"),
    [
        (TOML.replace('user = "uid"', 'user = "user"', 1), {}, r"no column 'user' \(`events.user`\)"),
        (
            TOML.replace('item = "sku"', 'item = "act"', 1),
            {"events": EVENTS | {"act": list("abcd")}},
            r"column act \(`events.item`\) .*set `ids = \"string\"`",
        ),
        (TOML, {"events": EVENTS | {"ts": [t * 1000 for t in EVENTS["ts"]]}}, r"set `time_unit = \"ms\"`"),
        (TOML, {"events": EVENTS | {"uid": [-1, -2, -3, -4]}}, r"uid: negative id: 4"),
        (
            TOML,
            {"events": EVENTS | {"uid": pa.array([2**63 + 1] * 4, pa.uint64())}},
            r"^`events`, events.parquet: column uid has the id 9223372036854775809",
        ),
        (
            TOML,
            {"impressions": IMPRESSIONS | {"cat": pa.array([1, 2, 2**64 - 1], pa.uint64())}},
            r"^`impressions`, impressions.parquet: column cat has the id 18446744073709551615",
        ),
        (
            TOML,
            {"impressions": IMPRESSIONS | {"clicked": [1, 1, 1], "clicked_at": [T + 11, T + 21, T + 7]}},
            r"3 of 3 impressions are clicked",
        ),
        (TOML, {"impressions": IMPRESSIONS | {"clicked": ["yes", "no", "no"]}}, r"`impressions.label`\) is string"),
        (TOML, {"impressions": IMPRESSIONS | {"price": ["1", "2", "3"]}}, r"`fields.context.price`\) is string"),
        (TOML, {"impressions": IMPRESSIONS | {"hour": [1.5, 2.0, 1.0]}}, r"holds fractions"),
        (
            with_actions(),
            {"events": EVENTS | {"act": ["buy", "pv", "rent", "buy"]}},
            r"`\[actions\]` lacks 'rent', which column act holds",
        ),
        (
            TOML.replace('window = "1m"', 'window = "1m"\nweight = "price"'),
            {"impressions": IMPRESSIONS | {"price": [1.5, 0.0, 2.0]}},
            r"column price of impressions.parquet has the weight 0.0",
        ),
        (
            SIDES,
            {"users": USERS | {"uid": [7, 7]}, "items": ITEMS},
            r"column uid of users.parquet: key 7 has more than one row, the usable rows 1 and 2",
        ),
        (
            SIDES,
            {"users": USERS, "items": ITEMS | {"sku": [13, 11, 10]}},
            r"column sku of impressions.parquet: item 12 has no row in `\[items\]`",
        ),
        (TOML.replace("events.parquet", "event*.csv"), {}, r"`files`: nothing matches event\*.csv"),
    ],
)
def test_what_cannot_be_used_leaves_nothing_half_written(
    make: Make, toml: str, tables: dict[str, Any], message: str
) -> None:
    path = make(toml, **tables)
    with pytest.raises(DataError, match=message):
        prepared(path)
    cache = path.parent / "cache"
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('window = "1m"', 'windw = "1m"'), r"unknown field `windw` - at `\$.impressions`"),
        (('window = "1m"', 'window = "soon"'), r"a duration is a number and one of ms, s, m, h, d"),
        (("[fields.context.hour]", "[fields.user.hour]"), r"`\[fields.user\]` needs a table `\[users\]`"),
        (('kind = "categorical"', 'kind = "cross"'), r"a cross needs `of`"),
        (('time = "ts"', 'time = "ts"\naction = "act"'), r"`events.action` and `\[actions\]` need each other"),
        (('name = "shop"', 'name = "../shop"'), r"`str` matching regex"),
        (
            ('window = "1m"\n[fields.context.hour]', 'window = "1m"\nposition = "p"\n[fields.context.position]'),
            r"`impressions.position`",
        ),
        (
            ('kind = "categorical"', 'kind = "categorical"\ncolumn = "clicked"'),
            r"`fields.context.hour`: column clicked is `impressions.label`",
        ),
        (("[fields.context.price]", "[fields.context.clicked_at]"), r"column clicked_at is `impressions.label_time`"),
    ],
)
def test_a_description_is_read_strictly(make: Make, change: tuple[str, str], message: str) -> None:
    path = make(TOML.replace(*change, 1))
    with pytest.raises(DataError, match=rf"dataset.toml: .*{message}"):
        read_description(path)


def test_check_counts_and_its_command_says_what_to_fix(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    path = make(events=EVENTS | {"uid": [7, 7, -3, None]})
    assert main(["check", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["values"]["users"] == 1
    assert report["values"]["click rate"] == pytest.approx(2 / 3)
    assert report["values"]["share of impressions whose user has no event"] == pytest.approx(1 / 3)
    assert any("uid: negative id; the first is" in text and "row 3" in text for text in report["findings"])
    assert main(["check", str(path)]) == 1
    assert "2 to fix" in capsys.readouterr().out
    assert main(["check", str(make())]) == 0
    assert "nothing to fix" in capsys.readouterr().out
    assert main(["check", str(path.with_name("absent.toml"))]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_broken_csv_lines_are_counted_and_the_first_is_shown(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(f"1,2,{T}\n1,2\n1,3,{T},9\n1,4,{T}\n")
    (tmp_path / "dataset.toml").write_text(
        'name = "x"\n[events]\nfiles = ["events.csv"]\ncolumns = ["u", "i", "t"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    )
    data = prepared(tmp_path / "dataset.toml")
    assert data.events.item_id.tolist() == [2, 4]
    assert data.meta.refused == {"events: broken line": 2}
    assert any("line 2, 2 fields in place of 3: '1,2'" in text for text in check(tmp_path / "dataset.toml").findings)


def test_the_rule_of_string_ids_has_fixed_vectors() -> None:
    # Any implementation of XXH64 with seed 0 gives these.
    assert code_of("") == 0xEF46DB3751D8E999
    assert code_of("a") == 0xD24EC4F1A98C6E5B
    assert code_of("abc") == 0x44BC2CF5AD770999
    assert string_ids(["a", "abc"]).tolist() == [code_of("a"), code_of("abc")]


@pytest.mark.parametrize("pending", [1, 3, 1 << 22])
def test_strings_that_share_an_id_are_counted(monkeypatch: pytest.MonkeyPatch, pending: int) -> None:
    monkeypatch.setattr("mimn.data.ids.PENDING", pending)
    seen = Strings()
    for ids, seconds in (([1, 1, 2], [5, 5, 6]), ([2, 3], [7, 9]), ([1, 2], [5, 6])):
        seen.add(np.array(ids, np.uint64), np.array(seconds, np.uint64))
    assert seen.collisions == 1, "2 is the id of two strings, 1 that of one string which came three times"
    none = Strings()
    none.add(string_ids(["a", "b", "a"]), string_ids(["c", "d", "c"]))
    assert none.collisions == 0


@given(texts=st.lists(st.binary(max_size=300), max_size=30), seed=st.sampled_from([0, 1, 2**63]))
def test_many_strings_are_hashed_at_once_as_one_by_one(texts: list[bytes], seed: int) -> None:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    data = np.frombuffer(b"".join(texts), np.uint8)
    assert xxh64(data, offsets, seed).tolist() == [xxhash.xxh64_intdigest(text, seed) for text in texts]


def test_texts_of_a_slice_and_with_nulls_get_the_ids_of_their_own(tmp_path: Path) -> None:
    texts = ["x", "ab", None, "", "Größe", "a" * 129, "ab"]
    column = pa.array(texts, pa.large_string()).slice(1)
    pq.write_table(pa.table({"u": column, "i": ["1"] * 6, "t": [T] * 6}), tmp_path / "e.parquet")
    (tmp_path / "dataset.toml").write_text(
        'name = "x"\nids = "string"\n[events]\nfiles = ["e.parquet"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    )
    data = prepared(tmp_path / "dataset.toml")
    expected = [code_of("ab"), code_of("ab"), code_of("Größe")]
    assert sorted(data.events.user_id.view(np.uint64).tolist()) == sorted(expected)
    assert data.meta.refused == {"events: u: empty": 1, "events: u: empty, or longer than 128 bytes": 2}


def test_a_value_that_is_not_utf_8_is_named(make: Make) -> None:
    bad = pa.array([b"ok", b"\xff", b"ok"], pa.binary()).view(pa.string())
    path = make(impressions=IMPRESSIONS | {"hour": bad})
    with pytest.raises(DataError, match=r"column hour .* holds text that is not UTF-8"):
        prepared(path)


def test_only_the_named_texts_mean_no_value(tmp_path: Path) -> None:
    rows = ["1,2,1600000000,1,NA,1.5", "1,2,1600000001,0,NULL,NULL", '1,2,1600000002,0,"",-', "1,2,1600000003,0,,2"]
    (tmp_path / "e.csv").write_text("u,i,t,y,country,price\n" + "\n".join(rows) + "\n")
    table = 'files = ["e.csv"]\nuser = "u"\nitem = "i"\ntime = "t"\n'
    fields = '[fields.context]\ncountry = { kind = "categorical" }\nprice = { kind = "numeric" }\n'
    shown = f'name = "x"\n[events]\n{table}[impressions]\n{table}label = "y"\nwindow = "1s"\n'
    path = tmp_path / "dataset.toml"
    path.write_text(shown + fields)
    with pytest.raises(DataError, match=r"column price \(`fields.context.price`\) holds '-' in line 4, not a number"):
        prepared(path)
    path.write_text(f'{shown}nulls = ["", "NULL", "-"]\n{fields}')
    data = prepared(path)
    assert data.impressions is not None
    codes = data.impressions.context["country"].tolist()
    assert [data.texts["country"].get(code) for code in codes] == ["NA", None, "", None], "Namibia is a country"
    assert np.array_equal(data.impressions.context["price"], [1.5, np.nan, np.nan, 2.0], equal_nan=True)


def test_times_outside_of_since_and_until_are_refused_and_counted(make: Make) -> None:
    until = datetime.fromtimestamp(T + 9, UTC).isoformat()
    path = make(
        TOML.replace('time = "ts"', f'time = "ts"\nsince = {datetime.fromtimestamp(T + 3, UTC)}\nuntil = {until}', 1)
    )
    data = prepared(path)
    assert data.events.timestamp.tolist() == [T + 3, T + 5]
    assert data.meta.refused == {"events: ts: before `since`, or not before `until`": 2}
    first = f"{path.parent}/events.parquet, row 2"
    assert any(found.endswith(f"the first is {first}") for found in check(path).findings)


def test_a_time_before_2000_needs_since(make: Make) -> None:
    old = EVENTS | {"ts": [800_000_000, T, T + 1, T + 2]}
    assert len(prepared(make(events=old)).events) == 3
    assert (
        len(prepared(make(TOML.replace('time = "ts"', 'time = "ts"\nsince = 1995-01-01', 1), events=old)).events) == 4
    )


def test_an_offset_keeps_items_of_behaviors_apart(make: Make) -> None:
    toml = TOML.replace('item = "sku"', 'item = "sku"\nitem_offset = 1000', 1)
    path = make(toml)
    assert prepared(path).events.item_id.tolist() == [1010, 1010 + 1, 1010, 1012]
    assert check(path).values["share of impressions whose item has no event"] == 1.0
    with pytest.raises(DataError, match=r"`events.item_offset` belongs to `ids = \"uint64\"`"):
        read_description(make(f'ids = "string"\n{toml}'))


def test_an_import_of_a_file_that_is_still_written_appends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], closed_port: str
) -> None:
    """It is refused before the brokers are asked for anything: here there is none."""
    file, path = tmp_path / "events.csv", tmp_path / "d.toml"
    file.write_text(f"uid,sku,ts\n1,2,{T}\n")
    path.write_text('name = "s"\n[events]\nfiles = ["events.csv"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n')
    add = SortingWriter.add

    def while_more_comes(writer: SortingWriter, columns: Any) -> None:
        with file.open("a") as more:
            more.write(f"1,3,{T}\n")
        add(writer, columns)

    monkeypatch.setattr(SortingWriter, "add", while_more_comes)
    monkeypatch.setenv("UIC_KAFKA__BOOTSTRAP_SERVERS", closed_port)
    assert import_history.main(["--description", str(path)]) == 1
    assert f"ctr import: {file} changed while it was read" in capsys.readouterr().err
