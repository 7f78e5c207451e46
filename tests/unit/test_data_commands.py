"""What cannot be used is found by `check`, and refused by `prepare` and `sample` in the same words; nothing is left."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mimn.bundle.fields import MAX_FIELDS_BYTES, MAX_LIST
from mimn.data.__main__ import main
from mimn.data.check import check
from mimn.data.events import DataError
from mimn.data.past_rates import PastRates
from mimn.data.preparation import prepare
from mimn.data.sample import sample

T = 1_600_000_000
TOML = """
name = "shop"
[events]
files = ["events.parquet"]
user = "uid"
item = "sku"
time = "ts"
[impressions]
files = ["impressions.csv"]
user = "uid"
item = "sku"
time = "ts"
label = "clicked"
label_time = "at"
window = "1m"
[users]
files = ["users.parquet"]
key = "uid"
[items]
files = ["items.parquet"]
key = "sku"
category = "cat"
[split]
by = "time"
train_until = 2020-09-14
validate_until = 2020-09-15
"""
DAY = 86_400
EVENTS: dict[str, list[Any]] = {"uid": [1, 2], "sku": [5, 6], "ts": [T, T + 1]}
USERS: dict[str, list[Any]] = {"uid": [1, 2]}
ITEMS: dict[str, list[Any]] = {"sku": [5, 6], "cat": [1, 1]}
IMPRESSIONS = "uid,sku,ts,clicked,at\n" + "".join(
    f"{1 + i % 2},{5 + i % 2},{T + day * DAY + i},{i % 2},{T + day * DAY + i + 30 if i % 2 else ''}\n"
    for day in range(4)
    for i in range(4)
)


@pytest.fixture
def shop(tmp_path: Path) -> Callable[..., Path]:
    def made(
        toml: str = TOML,
        impressions: str = IMPRESSIONS,
        events: dict[str, list[Any]] = EVENTS,
        users: dict[str, list[Any]] = USERS,
        items: dict[str, list[Any]] = ITEMS,
    ) -> Path:
        for name, columns in (("events", events), ("users", users), ("items", items)):
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        (tmp_path / "impressions.csv").write_text(impressions)
        (tmp_path / "dataset.toml").write_text(toml)
        return tmp_path / "dataset.toml"

    return made


def ran(capsys: pytest.CaptureFixture[str], path: Path, command: str) -> tuple[int, str]:
    cache = [] if command == "check" else ["--cache", str(path.parent / "cache")]
    status = main([command, str(path), *cache])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"impressions": IMPRESSIONS.replace("clicked", "klicked")}, ["impressions.csv", "'clicked'", "klicked"]),
        (
            {"impressions": IMPRESSIONS.replace(f"{T}", "30.11.2026 23:30:15 UTC", 1)},
            ["impressions.csv", "column ts", "30.11.2026 23:30:15 UTC"],
        ),
        ({"users": {"uid": [1, 1]}}, ["column uid of users.parquet", "more than one row"]),
        ({"items": {"sku": [5], "cat": [1]}}, ["column sku of events.parquet", " 6", "events.category"]),
        ({"impressions": IMPRESSIONS.replace(",1,", ",3,", 1)}, ["column clicked", "the label 3", "0 or 1"]),
        ({"toml": TOML.replace('"1m"', '"20s"')}, ["all 8 clicks came after the window", "impressions.label_time"]),
        (
            {
                "toml": TOML + '[fields.item.since]\nkind = "categorical"\n',
                "items": ITEMS | {"since": pa.array([0, 1], pa.date32())},
            },
            ["fields.item.since", "date32[day]"],
        ),
        ({"toml": TOML.replace('label = "clicked"', 'label = "clicked"\nslices = ["place"]')}, ["impressions.slices"]),
        (
            {
                "toml": TOML.replace('label = "clicked"', 'label = "clicked"\nslices = ["place"]')
                + '[fields.context.place]\nkind = "categorical"\n'
            },
            ["`impressions.slices`: place is also a field"],
        ),
        (
            {
                "toml": TOML.replace('time = "ts"', 'time = "ts"\naction = "act"', 1)
                + "[actions]\nlook = { weight = 0.0 }\n",
                "events": EVENTS | {"act": ["look", "look"]},
            },
            ["no event has an action of weight above 0"],
        ),
        (
            {"toml": TOML + '[members]\nfiles = ["items.parquet"]\nkey = "sku"\nitem = "product"\n'},
            ["`members.item`"],
        ),
    ],
)
def test_what_prepare_refuses_check_finds_and_nothing_is_half_written(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str], change: dict[str, Any], words: list[str]
) -> None:
    path = shop(**change)
    for command in ("check", "prepare", "sample"):
        status, said = ran(capsys, path, command)
        assert status == 1, command
        assert [word for word in words if word not in said] == [], f"{command} said {said}"
    cache = path.parent / "cache"
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize("command", ["prepare", "sample"])
def test_a_cache_that_cannot_be_written_is_named(
    shop: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    folder = tmp_path / "a file"
    folder.touch()
    monkeypatch.setenv("CTR_CACHE", str(folder))
    for options, named in ((["--cache", str(folder)], folder), ([], folder / "data")):
        assert main([command, str(shop()), *options]) == 1
        assert f"error: prepared data cannot be kept in {named}" in capsys.readouterr().err


def test_check_counts_rows_that_repeat_another_one_in_every_column(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, rows = IMPRESSIONS.partition("\n")
    fields = '[fields.context.place]\nkind = "numeric"\n'
    with_place = [f"{row},{n % 2}" for n, row in enumerate(rows.splitlines() * 3)]
    path = shop(
        TOML + fields,
        impressions="\n".join([f"{head},place", *with_place, with_place[0][:-1] + "2"]) + "\n",
        events={name: values * 3 for name, values in EVENTS.items()},
    )
    status, said = ran(capsys, path, "check")
    assert status == 0, said
    assert re.search(r"rows of \[events\] that repeat another one exactly +4\n", said)
    assert re.search(r"rows of \[impressions\] that repeat another one exactly +32\n", said)


def test_check_counts_texts_that_no_number_of_a_request_has(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, rows = IMPRESSIONS.partition("\n")
    texts = ["True,1.0,21.0,1.2E+11", "False,2.0,,1234e567", "True,,3.0,1e+05", "False,2.0,4,1e+05"]
    lines = [f"{row},{texts[n % 4]}" for n, row in enumerate(rows.splitlines())]
    fields = (
        '[fields.context]\nmember = { kind = "categorical" }\ngroup = { kind = "categorical" }\n'
        'hour = { kind = "categorical", vocabulary = 24 }\ncode = { kind = "categorical" }\n'
    )
    path = shop(TOML + fields, impressions="\n".join([f"{head},member,group,hour,code", *lines]) + "\n")
    status, said = ran(capsys, path, "check")
    assert status == 0, "whether requests send texts is for their caller to know"
    what = "texts, which a request has to send as texts +2\n"
    assert re.search(rf"values of fields.context.member such as 'False': {what}", said)
    assert re.search(rf"values of fields.context.group such as '1.0': {what}", said)
    rounded = "texts, of numbers that a spreadsheet or R may have rounded +2\n"
    assert re.search(rf"values of fields.context.code such as '1.2E\+11': {rounded}", said)
    assert "fields.context.hour" not in said, "with a vocabulary 21.0 is 21"


@pytest.mark.parametrize(
    ("of_csv", "of_parquet", "found"),
    [
        (["true", "false"], pa.array([True, False]), "'0'"),
        (["True", "False"], pa.array(["true", "x"]), "'True'"),
        (["21.0", "3.5"], pa.array([21.0, 22.0]), "'21'"),
        (["21", "22"], pa.array([21.0, 22.0]), None),
        (["021", "7.50"], pa.array(["21", "7.5"]), None),
    ],
    ids=["bool", "case", "floats", "alike", "other texts"],
)
def test_check_finds_values_that_files_write_in_two_ways(
    shop: Callable[..., Path], of_csv: list[str], of_parquet: pa.Array, found: str | None
) -> None:
    toml = MANY["toml"].replace("impressions.csv", "shown/*") + '[fields.context]\nmember = { kind = "categorical" }\n'
    path = shop(**MANY | {"toml": toml})
    (folder := path.parent / "shown").mkdir()
    head, *rows = SHOWN.splitlines()
    lines = [f"{row},{of_csv[n % 2]}" for n, row in enumerate(rows)]
    (folder / "a.csv").write_text("\n".join([f"{head},member", *lines, ""]))
    second: dict[str, Any] = {"uid": [1, 2], "sku": [5, 6], "ts": [T + 9, T + 10], "clicked": [0, 1], "at": [0, T + 20]}
    pq.write_table(pa.table(second | {"member": of_parquet}), folder / "b.parquet")
    said, _ = checked(path)
    assert (said == "") == (found is None)
    for named in () if found is None else (f"`fields.context.member` has {found}", "a.csv", "b.parquet"):
        assert named in said


def test_check_counts_texts_that_may_mean_that_there_is_no_value_and_numbers_that_are_none(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, rows = IMPRESSIONS.partition("\n")
    texts = ["None,inf", "n/a,2.5", "green,-inf", "nones,1"]
    lines = [f"{row},{texts[n % 4]}" for n, row in enumerate(rows.splitlines())]
    fields = '[fields.context]\ncolor = { kind = "categorical" }\nprice = { kind = "numeric" }\n'
    path = shop(TOML + fields, impressions="\n".join([f"{head},color,price", *lines]) + "\n")
    status, said = ran(capsys, path, "check")
    assert status == 0, "what a text means is for its owner to know"
    assert re.search(
        r"values of fields.context.color such as 'None': values, not missing, unless `nulls` names them +2\n", said
    )
    infinite = sum(line.endswith("inf") for line in lines)
    assert re.search(rf"values of fields.context.price that are infinite, read as missing +{infinite}\n", said)


def test_check_counts_numbers_that_are_clipped_and_finds_those_that_stretch_the_scale(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    head, _, rows = IMPRESSIONS.partition("\n")
    lines = rows.splitlines() * 20
    fields = '[fields.context.price]\nkind = "numeric"\n'

    def checked(numbers: list[float], fields: str = fields) -> tuple[int, str]:
        told = [f"{row},{number}" for row, number in zip(lines, numbers, strict=True)]
        return ran(capsys, shop(TOML + fields, impressions="\n".join([f"{head},price", *told]) + "\n"), "check")

    usual = [float(n % 10) for n in range(len(lines))]
    status, said = checked(usual)
    assert (status, "clipped" in said) == (0, False)
    status, said = checked([*usual[:-1], 20.0])
    assert (status, len(re.findall(r"values of fields.context.price beyond 0 to 9, clipped +1\n", said))) == (0, 1)
    status, said = checked([*usual[:-2], -1e300, 5.0])
    assert status == 1
    assert "column price of impressions.csv: 1 rows reach as far as -1e+300" in said
    status, said = checked([*usual[:-2], -1e300, 5.0], fields + "buckets = 4\n")
    assert (status, "clipped" in said) == (0, False)


def with_columns(names: str, *values: str) -> str:
    """The impressions with more columns, the same values in each row."""
    head, _, rows = IMPRESSIONS.partition("\n")
    return "\n".join([f"{head},{names}", *(",".join([row, *values]) for row in rows.splitlines())]) + "\n"


KINDS = {
    "kept": 'kind = "categorical"',
    "hashed": 'kind = "categorical"\nbuckets = 9',
    "tags": 'kind = "multi"',
    "price": 'kind = "numeric"',
}


def context_fields(names: Iterable[str]) -> str:
    return "".join(f"[fields.context.{name}]\n{KINDS[name]}\n" for name in names)


def test_check_finds_fields_whose_column_is_empty_in_all_rows(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    toml = TOML + context_fields(KINDS)
    status, said = ran(capsys, shop(toml, with_columns(",".join(KINDS), "", "", "|", "")), "check")
    assert status == 1
    for name in KINDS:
        assert f"column {name} of impressions.csv: no row has a value" in said
    status, said = ran(capsys, shop(toml, with_columns(",".join(KINDS), "red", "red", "a|b", "0")), "check")
    assert (status, "no row has a value" in said) == (0, False)


def test_check_counts_lists_that_are_longer_than_a_request_may_have(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fields = '[fields.context.tags]\nkind = "multi"\n'
    longest = "|".join(f"t{n}" for n in range(MAX_LIST))
    status, said = ran(capsys, shop(TOML + fields, with_columns("tags", longest)), "check")
    assert (status, "the lists of" in said) == (0, False)
    lines = with_columns("tags", longest).splitlines()
    lines[1:4] = [f"{line}|one more" for line in lines[1:4]]
    status, said = ran(capsys, shop(TOML + fields, "\n".join(lines) + "\n"), "check")
    assert status == 1
    assert "column tags of impressions.csv: the lists of 3 rows have more than 64 values, as many as 65" in said


@pytest.mark.parametrize("long", ["kept", "tags"])
def test_check_counts_rows_whose_fields_are_longer_than_a_request_may_be(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str], long: str
) -> None:
    of_others = {"kept": "", "hashed": "", "tags": "a|b", "price": "1.25"}
    said_by_a_request = {"kept": None, "hashed": None, "tags": "a|b", "price": 1.25, long: ""}
    there = {name: value for name, value in said_by_a_request.items() if value is not None}
    room = MAX_FIELDS_BYTES - len(json.dumps(there, separators=(",", ":")))
    fits = of_others | {long: "ü" + "w" * (room - 2)}  # two bytes of UTF-8
    toml = TOML + context_fields(KINDS)
    _, said = ran(capsys, shop(toml, with_columns(",".join(KINDS), *fits.values())), "check")
    assert "more than 8192 bytes" not in said
    lines = with_columns(",".join(KINDS), *fits.values()).splitlines()
    lines[1:4] = [line.replace("ü", "üx") for line in lines[1:4]]
    path = shop(toml, "\n".join([*lines, lines[1].replace(f",{T}", ",0"), ""]))  # the last is refused
    status, said = ran(capsys, path, "check")
    assert status == 1
    assert "the fields of 3 rows take more than 8192 bytes of JSON, as many as 8193" in said
    assert f"column {long}" in said


def test_check_finds_item_0_which_the_wire_refuses(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    toml, items = TOML.replace('item = "sku"', 'item = "sku"\nitem_offset = 0', 1), {"sku": [0, 6], "cat": [1, 1]}
    path = shop(toml, IMPRESSIONS.replace(",5,", ",0,"), EVENTS | {"sku": [0, 6]}, items=items)
    status, said = ran(capsys, path, "check")
    assert status == 1
    assert "`events`, column sku of events.parquet: 1 rows have item 0" in said
    assert "`impressions`, column sku of impressions.csv: 8 rows have item 0" in said
    path = shop(toml.replace("item_offset = 0", "item_offset = 5"), events=EVENTS | {"sku": [0, 1]})
    status, said = ran(capsys, path, "check")
    assert status == 0, said


def test_check_finds_times_of_the_future_and_says_from_when_to_when_impressions_are(
    shop: Callable[..., Path],
) -> None:
    path = shop(events=EVENTS | {"ts": [T, T + 4 * DAY]})
    today = check(path, now_ms=(T + 2 * DAY) * 1000)
    assert (today.values["impressions from"], today.values["impressions to"]) == ("2020-09-13", "2020-09-16")
    said = "\n".join(today.findings)
    assert "column ts of events.parquet: 1 times are more than a day from now" in said
    assert "column ts of impressions.csv: 3 times are more than a day from now" in said
    assert not any("from now" in one for one in check(path, now_ms=(T + 4 * DAY) * 1000).findings)


def text(ids: list[int]) -> list[str]:
    return [f'Größe "{one}"; [x]' for one in ids]


STRINGS: dict[str, Any] = {
    "toml": TOML.replace('name = "shop"', 'name = "shop"\nids = "string"'),
    "impressions": "uid,sku,ts,clicked,at\n"
    + "".join(
        f'"Größe ""{1 + i % 2}""; [x]","Größe ""{5 + i % 2}""; [x]",{at},{i % 2},{at + 30}\n'
        for day in range(4)
        for i in range(4)
        for at in [T + day * DAY + i]
    ),
    "events": EVENTS | {"uid": text([1, 2]), "sku": text([5, 6])},
    "users": {"uid": text([1, 2])},
    "items": {"sku": text([5, 6]), "cat": ["shoes", "shoes"]},
}


def test_a_sample_shows_the_texts_that_are_ids(shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    status, said = ran(capsys, shop(**STRINGS), "sample")
    assert status == 0, said
    assert re.search(r'user Größe "[12]"; \[x\], 2020', said)
    assert re.search(r'candidate: item Größe "[56]"; \[x\], category shoes', said)
    assert re.search(r'\n +Größe "[56]"; \[x\] +shoes +1.0 ', said), "in a history"


@pytest.mark.parametrize(("hours", "found"), [((22, 23), True), ((0, 0), False), ((21, 22, 23), False)])
def test_check_finds_dates_of_another_time_zone_which_would_put_a_click_before_its_impression(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str], hours: tuple[int, ...], found: bool
) -> None:
    times = [T // 86_400 * 86_400 + 86_400 * day + 3600 * hours[day % len(hours)] for day in range(100)]
    path = shop(events={"uid": [1] * 100, "sku": [5] * 100, "ts": times})
    status, said = ran(capsys, path, "check")
    assert (status == 1) is found, said
    assert ("as dates of another time zone are" in said) is found


def test_check_finds_an_empty_part_and_counts_labels_that_come_too_late(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = ran(capsys, shop(TOML.replace("2020-09-15", "2020-12-24")), "check")
    assert status == 1
    assert "the part test has 0 clicks in 0 impressions: move the cuts" in said
    status, said = ran(capsys, shop(TOML.replace('"1m"', '"20s"')), "check")
    assert re.search("clicked after the window, counted as not clicked +8\n", said)
    assert status == 1, "and then nothing is clicked"
    status, said = ran(
        capsys, shop(TOML.replace("2020-09-14\n", "2020-09-13T12:26:42Z\nlabels_until = 2020-09-14\n")), "check"
    )
    assert status == 0, said


def test_a_label_is_of_no_part_while_its_window_is_open(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    # The first day's impressions are at 12:26:40 to 12:26:43; the cut is 12:27:41, 61 seconds behind the first.
    _, said = ran(capsys, shop(TOML.replace("2020-09-14\n", "2020-09-13T12:27:41Z\n")), "check")
    assert re.search("impressions of the part train +2\n", said)
    assert re.search("impressions of no part, their label is not known in time +2\n", said)


@pytest.mark.parametrize(
    ("events", "shown"),
    [(lambda n: f"{n}.0", str), (lambda n: f"{n} ", str), (str, lambda n: f"{n:03d}")],
    ids=["floats", "blanks", "zeros-of-impressions"],
)
@pytest.mark.parametrize("what", ["uid", "sku"])
def test_check_finds_ids_that_events_and_impressions_write_in_two_ways(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    events: Callable[[int], str],
    shown: Callable[[int], str],
    what: str,
) -> None:
    """Every history is empty then, and a model of nothing but fields and ids trains without a word."""
    users = [n % 7 + 1 for n in range(120)]
    columns = {"uid": users, "sku": [5 + n % 2 for n in range(120)], "ts": [T + 7 * n for n in range(120)]}
    for name, of, more in (("events", events, {}), ("shown", shown, {"y": [n % 2 for n in range(120)]})):
        written = {c: [of(n) if c == what else str(n) for n in columns[c]] for c in ("uid", "sku")}
        pq.write_table(pa.table({**written, "ts": columns["ts"], **more}), tmp_path / f"{name}.parquet")
    (tmp_path / "d.toml").write_text(
        'name = "x"\nids = "string"\n[events]\nfiles = ["events.parquet"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\n'
        '[impressions]\nfiles = ["shown.parquet"]\nuser = "uid"\nitem = "sku"\ntime = "ts"\nlabel = "y"\n'
        'window = "1s"\n'
    )
    kind = "user" if what == "uid" else "item"
    status, said = ran(capsys, tmp_path / "d.toml", "check")
    assert status == 1, said
    assert said.count("has an event, such as") == 1
    assert f"column {what} of shown.parquet: no {kind} has an event, such as '" in said
    if events(1) == "1.0":
        n = len(set(columns[what]))
        assert re.search(rf"values of events.{kind} such as '\d\.0': texts, which .+ +{n}\n", said), said
    pq.write_table(pq.read_table(tmp_path / "shown.parquet").slice(0, 49), tmp_path / "shown.parquet")
    assert "has an event" not in ran(capsys, tmp_path / "d.toml", "check")[1], "so few may all be new"


N = 120
SHOWN = "uid,sku,ts,clicked,at\n" + "".join(
    f"{1 + n % 7},{5 + n % 2},{T + 3600 * n + 9},{n % 2},{T + 3600 * n + 20 if n % 2 else ''}\n" for n in range(N)
)
MANY: dict[str, Any] = {
    "toml": TOML.partition("[split]")[0].replace('category = "cat"\n', "")
    + '[fields.item]\nbrand = { kind = "categorical", min_count = 1 }\n'
    + '[fields.user]\nplan = { kind = "categorical", min_count = 1 }\n',
    "impressions": SHOWN,
    "events": {"uid": [1 + n % 7 for n in range(N)], "sku": [5 + n % 2 for n in range(N)]}
    | {"ts": [T + 3600 * n for n in range(N)]},
    "users": {"uid": list(range(1, 8)), "plan": list("abababa")},
    "items": {"sku": [5, 6], "brand": ["x", "y"]},
}
"""A log of which each user has a history, and rows with fields of users and items."""
A_YEAR = 365 * DAY


def checked(made: Path) -> tuple[str, dict[str, Any]]:
    """What `check` finds, in one text, and its values."""
    report = check(made)
    return "\n".join(report.findings), report.values


def test_check_finds_events_that_all_lie_behind_the_impressions(shop: Callable[..., Path]) -> None:
    """An error of the year, of a zone or of a unit: every history is empty, and a model trains without a word."""
    found, values = checked(shop(**MANY))
    assert found == ""
    share = "share of impressions without an event before them"
    assert values[share] == pytest.approx(0.0)
    later = MANY["events"] | {"ts": [at + A_YEAR for at in MANY["events"]["ts"]]}
    found, values = checked(shop(**MANY | {"events": later}))
    assert "column ts of impressions.csv: no impression has an event before it" in found
    assert "events are from 2021-09-13 to 2021-09-18" in found
    assert values[share] == 1.0
    one_before = MANY["events"] | {"ts": [T, *later["ts"][1:]]}
    found, values = checked(shop(**MANY | {"events": one_before, "impressions": SHOWN + SHOWN.partition("\n")[2] * 20}))
    assert "no impression" not in found
    assert values[share] == pytest.approx(1 - 18 / N), "user 1 alone"
    few = {"impressions": "uid,sku,ts,clicked,at\n" + SHOWN.partition("\n")[2] + f"9,5,{T + 2},0,\n"}
    early = {name: [*values, more] for (name, values), more in zip(later.items(), (9, 5, T), strict=True)}
    assert "only 1 of 121 impressions have an event before it" in checked(shop(**MANY | few | {"events": early}))[0]


@pytest.mark.torch
@pytest.mark.parametrize(("table", "column", "field"), [("items", "sku", "brand"), ("users", "uid", "plan")])
def test_check_finds_a_table_of_fields_that_shares_no_key_with_the_impressions_and_training_names_the_cause(
    shop: Callable[..., Path], tmp_path: Path, table: str, column: str, field: str
) -> None:
    kind = table[:-1]
    others = {name: [1000 + v for v in values] if name == column else values for name, values in MANY[table].items()}
    path = shop(**MANY | {table: others})
    found, values = checked(path)
    assert f"column {column} of impressions.csv: no {kind} has a row in `[{table}]`, such as '" in found
    assert f"column {column} of {table}.parquet holds keys such as '10" in found
    assert values[f"share of impressions whose {kind} has no row in [{table}]"] == 1.0
    from mimn.impressions.data import ImpressionData

    data = ImpressionData.load(path, tmp_path / "cache")
    cause = rf"`fields.{kind}.{field}`: no train impression is of a {kind} with a row in `\[{table}\]`"
    with pytest.raises(DataError, match=cause):
        data.fit_fields()
    one = {name: [*values, MANY[table][name][0]] for name, values in others.items()}
    assert checked(shop(**MANY | {table: one}))[0] == ""


@pytest.mark.torch
def test_a_field_whose_values_no_train_impression_shows_is_not_told_to_lower_its_count(
    shop: Callable[..., Path], tmp_path: Path
) -> None:
    items = {"sku": [5, 6, 77], "brand": [None, None, "x"]}
    from mimn.impressions.data import ImpressionData

    data = ImpressionData.load(shop(**MANY | {"items": items}), tmp_path / "cache")
    with pytest.raises(DataError, match=r"`fields\.item\.brand`: no train impression has a value: fill the column"):
        data.fit_fields()


def test_check_counts_times_of_clicks_within_the_window_with_label_0(shop: Callable[..., Path]) -> None:
    wrong = SHOWN.replace(",0,\n", f",0,{T - DAY}\n", 1)  # before its impression: no click of its window
    found, _ = checked(shop(**MANY | {"impressions": wrong}))
    assert found == ""
    lines = SHOWN.splitlines()
    lines[2] = lines[2].replace(",1,", ",0,")
    lines[4] = lines[4].replace(",1,", ",0,")
    found, _ = checked(shop(**MANY | {"impressions": "\n".join([*lines, ""])}))
    assert "column at of impressions.csv: 2 impressions have a time within their window and label 0" in found


def test_a_sample_shows_past_rates_and_crosses_and_says_that_scores_see_no_position(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = SHOWN.splitlines()
    shown = "\n".join([f"{rows[0]},page,place", *(f"{row},p{n % 3},{n % 4}" for n, row in enumerate(rows[1:]))])
    toml = MANY["toml"].replace('label = "clicked"', 'label = "clicked"\nposition = "place"') + (
        'clicks = { kind = "past_rate" }\n[fields.context]\npage = { kind = "categorical" }\n'
        'plan_page = { kind = "cross", of = ["plan", "page"], buckets = 8 }\n'
        'of_page = { kind = "past_rate", of = ["page"] }\n'
    )
    path = shop(**MANY | {"impressions": shown + "\n", "toml": toml})
    data = prepare(path, path.parent / "cache")
    assert data.impressions is not None
    rates = PastRates(data, data.impressions).of_impressions()
    samples = sample(data, N, 2, 0)
    assert len(samples) == N
    for row, one in enumerate(samples):
        user, context = one.fields["user"], one.fields["context"]
        assert user["clicks"] == pytest.approx(rates["clicks"][row], rel=1e-5)
        assert context["of_page"] == pytest.approx(rates["of_page"][row], rel=1e-5)
        assert context["plan_page"] == [user["plan"], context["page"]]
        assert "position" not in context
        assert one.position in (0.0, 1.0, 2.0, 3.0)
    status, said = ran(capsys, path, "sample")
    assert status == 0
    assert re.search(r"\n +position \d: read in training alone, scores never see it\n", said)


def test_ids_that_mean_that_there_is_none_are_counted(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = shop(
        toml=TOML.replace('name = "shop"', 'name = "shop"\nids = "string"'),
        events={"uid": ["nan", "None", "nan", "anna"], "sku": ["5"] * 4, "ts": [T] * 4},
    )
    _, said = ran(capsys, path, "check")
    assert re.search(r"values of events.user such as 'nan': values, not missing, .+ +2\n", said), said


@pytest.mark.parametrize("written", [False, True], ids=["of items", "of events"])
def test_check_counts_categories_wherever_they_are_written(
    shop: Callable[..., Path], capsys: pytest.CaptureFixture[str], written: bool
) -> None:
    """Item 7 has no event, so its category is not counted."""
    toml = TOML.replace('time = "ts"', 'time = "ts"\ncategory = "cat"', 1) if written else TOML
    events = {"uid": [1, 2, 1], "sku": [5, 6, 5], "ts": [T, T + 1, T + 2], "cat": [3, 4, 3]}
    status, said = ran(capsys, shop(toml=toml, events=events, items={"sku": [5, 6, 7], "cat": [3, 4, 9]}), "check")
    assert status == 0, said
    assert re.search(r"\ncategories +2\n", said), said
