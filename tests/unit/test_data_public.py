"""The public data sets of the paper, in files written here in their published formats: convert, check, prepare."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from mimn.bundle.fields import code_of
from mimn.data import convert
from mimn.data.__main__ import main
from mimn.data.check import check
from mimn.data.description import read_description
from mimn.data.preparation import prepare
from mimn.data.prepared import Prepared

DATASETS = Path(__file__).parents[2] / "models/datasets"
T = 1_511_600_000
"""2017-11-25, the first day of Taobao."""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A checkout with nothing but the descriptions."""
    shutil.copytree(DATASETS, tmp_path / "models/datasets")
    return tmp_path


def put(place: Path, name: str, text: str | bytes) -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def ready(place: Path, name: str) -> Prepared:
    return prepare(place / f"models/datasets/{name}.toml", place / "cache")


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_description_is_read(path: Path) -> None:
    assert read_description(path).source


# Taobao UserBehavior


def test_taobao_user_behavior_with_its_broken_times_and_lines(place: Path) -> None:
    lines = [
        f"1,2268318,2520377,pv,{T}",
        f"1,2333346,2520771,cart,{T + 60}",
        f"1,2576651,149192,buy,{T + 60}",
        f"2,2268318,2520377,fav,{T + 7}",
        "2,2268318,2520377,pv,-1902556800",  # 1909: the published file has such times
        "2,2268318,2520377,pv,2122867355",  # 2037
        "2,2268318,2520377,pv,1511500000",  # the day before
        "2,2268318,2520377",
    ]
    put(place, "data/taobao/UserBehavior.csv", "\n".join(lines) + "\n")
    data = ready(place, "taobao")
    assert data.events.item_id.tolist() == [2268318, 2333346, 2576651, 2268318]
    assert data.events.action is not None
    assert data.events.action.tolist() == [1, 3, 5, 4]
    assert data.meta.refused == {
        "events: broken line": 1,
        "events: timestamp: not between 2000 and 2100": 1,
        "events: timestamp: before `since`, or not before `until`": 2,
    }
    report = check(place / "models/datasets/taobao.toml")
    assert report.values["users"] == 2
    assert any("1 rows refused, timestamp: not between 2000 and 2100; the first is" in f for f in report.findings)
    assert ready(place, "taobao-paper").folder == data.folder, "the preset does not change the arrays"


# Amazon Books

REVIEW_2014 = {
    "reviewerID": "A10000012B7CGYKOMPQ4L",
    "asin": "000100039X",
    "reviewerName": "Adam",
    "helpful": [0, 0],
    "reviewText": 'Spiritually and mentally inspiring! A book that says "ask" — naïve, yes.',
    "overall": 5.0,
    "summary": "Wonderful!",
    "unixReviewTime": 1355616000,
    "reviewTime": "12 16, 2012",
}
META_2014 = [
    "{'asin': '000100039X', 'salesRank': {'Books': 58368}, 'imUrl': 'http://x/y.jpg', "
    "'categories': [['Books', 'Poetry']], 'title': \"The Prophet's\", 'related': {'also_bought': ['1851686274']}}",
    "{'asin': '0001000000', 'categories': [['Books']], 'price': 12.99, 'description': 'it\\'s \"quoted\"'}",
    "{'asin': '000100039X', 'categories': [['Books', 'Second']]}",
    "{'asin': '0001000001', 'title': __import__('os')}",
    "not a literal at all (",
]


def lines(*records: Any) -> bytes:
    return b"".join((r if isinstance(r, str) else json.dumps(r)).encode() + b"\n" for r in records)


def convert_books(place: Path, reviews: bytes, meta: bytes) -> int:
    files = ["--reviews", str(put(place, "reviews.json.gz", gzip.compress(reviews)))]
    files += ["--meta", str(put(place, "meta.json.gz", gzip.compress(meta)))]
    return main(["convert", "amazon-books", "--json", *files, "--output", str(place / "data/amazon-books")])


def test_amazon_books_of_2014_with_python_literals_for_meta(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = REVIEW_2014 | {"unixReviewTime": 880_000_000, "asin": "0001000000"}  # 1997
    unknown = REVIEW_2014 | {"asin": "B000000000", "unixReviewTime": 1355616001}
    broken = [
        "{'reviewerID': 'single quotes'}",
        REVIEW_2014 | {"unixReviewTime": "12 16, 2012"},
        {k: v for k, v in REVIEW_2014.items() if k != "reviewerID"},
        REVIEW_2014 | {"asin": "\ud800"},
        "[1]",
    ]
    reviews = lines(REVIEW_2014, earlier, unknown, *broken) + b'{"asin": "\xff"}\n\n'
    assert convert_books(place, reviews, lines(*META_2014)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == {"events.parquet": 3}
    assert told["refused"] == {
        "meta.json.gz: neither JSON nor a Python literal": 2,
        "meta.json.gz: book that had a line before": 1,
        "reviews.json.gz: not JSON": 1,
        "reviews.json.gz: unixReviewTime is not a whole number of seconds": 1,
        "reviews.json.gz: no reviewerID of 1 to 128 bytes": 1,
        "reviews.json.gz: no asin of 1 to 128 bytes": 1,
        "reviews.json.gz: not an object": 1,
        "reviews.json.gz: not utf-8": 1,
        "meta.json.gz: no category for the book of a review, default_cat instead": 1,
    }
    assert told["first"]["reviews.json.gz: not JSON"].endswith("reviews.json.gz, line 4")
    events = ready(place, "amazon-books").events
    assert events.item_id.view(np.uint64).tolist() == [code_of(a) for a in ("0001000000", "000100039X", "B000000000")]
    assert events.category_id.view(np.uint64).tolist() == [code_of(c) for c in ("Books", "Poetry", "default_cat")]
    assert check(place / "models/datasets/amazon-books.toml").findings == []


TORN = gzip.compress(lines(*[REVIEW_2014] * 99), mtime=0)[:60]
"""The beginning of a zipped file; the same bytes in every test process."""


@pytest.mark.parametrize(
    ("reviews", "meta", "message"),
    [
        (
            TORN,
            gzip.compress(lines(*META_2014)),
            "download it again",
        ),
        (lines("a", "b"), lines(*META_2014), "none of 2 lines can be used (reviews: not JSON: 2): is it the right"),
        (b"", lines(*META_2014), "none of 0 lines can be used (it is empty)"),
        (lines(REVIEW_2014), lines(REVIEW_2014 | {"asin": 1}), "no asin of 1 to 128 bytes: 1"),
    ],
    ids=["cut-off", "not-json", "empty", "no-asin"],  # gzip holds the time: ids from the bytes would differ
)
def test_a_conversion_that_fails_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], reviews: bytes, meta: bytes, message: str
) -> None:
    files = ["--reviews", str(put(place, "reviews", reviews)), "--meta", str(put(place, "meta", meta))]
    assert main(["convert", "amazon-books", *files, "--output", str(place / "data/x")]) == 1
    assert message in capsys.readouterr().err
    assert not (place / "data").exists() or not list((place / "data").iterdir())


def test_a_file_that_is_still_downloaded_is_refused_and_nothing_stays(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews, meta = put(place, "reviews", lines(REVIEW_2014)), put(place, "meta", lines(*META_2014))
    review = convert._review

    def while_more_comes(line: str) -> tuple[str, str, float | None, int]:
        with reviews.open("ab") as file:
            file.write(b"\n")  # once a line that was there, and none of its own
        return review(line)

    monkeypatch.setattr(convert, "_review", while_more_comes)
    told = ["--reviews", str(reviews), "--meta", str(meta), "--output", str(place / "data/x")]
    assert main(["convert", "amazon-books", *told]) == 1
    assert f"{reviews} changed while it was read: wait until it is whole" in capsys.readouterr().err
    assert not (place / "data").exists() or not list((place / "data").iterdir())


def test_a_line_without_end_does_not_fill_the_memory(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimn.data.convert.MAX_LINE_BYTES", 2048)
    monkeypatch.setattr("mimn.data.convert.ROWS_PER_GROUP", 3)
    reviews = lines(*[REVIEW_2014] * 4, "x" * 10_000, *[REVIEW_2014] * 4)
    assert convert_books(place, reviews, lines(*META_2014)) == 0
    assert pq.ParquetFile(place / "data/amazon-books/events.parquet").metadata.num_rows == 8


# Taobao display ads

ADS = {
    "behavior_log.csv": "user,time_stamp,btag,cate,brand\n"
    "558157,1493741625,pv,6250,91286\n558157,1493741626,cart,6250,91247\n728690,1493776998,buy,11800,62353\n",
    "raw_sample.csv": "user,time_stamp,adgroup_id,pid,nonclk,clk\n"
    "558157,1494137644,1,430548_1007,1,0\n449818,1494638778,3,430539_1007,0,1\n",
    "ad_feature.csv": "adgroup_id,cate_id,campaign_id,customer,brand,price\n"
    "1,6250,83237,1,95471,170.0\n3,6406,83237,1,NULL,199.0\n",
    "user_profile.csv": "userid,cms_segid,cms_group_id,final_gender_code,age_level,pvalue_level,shopping_level,"
    "occupation,new_user_class_level \n558157,0,5,2,5,,3,0,3\n449818,5,2,2,2,1,3,0,\n",
}


def test_taobao_ads_join_behaviors_of_brands_to_impressions_of_ads(place: Path) -> None:
    for name, text in ADS.items():
        put(place, f"data/taobao-ads/{name}", text)
    data = ready(place, "taobao-ads")
    assert data.events.item_id.tolist() == [2**32 + 91286, 2**32 + 91247, 2**32 + 62353]
    shown = data.impressions
    assert shown is not None
    assert shown.category_id.tolist() == [6406, 6250]
    assert shown.label.tolist() == [1, 0]
    assert [data.texts["place"][code] for code in shown.context["place"].tolist()] == ["430539_1007", "430548_1007"]
    users, items = data.side("user"), data.side("item")

    def texts(name: str, codes: Any) -> list[str | None]:
        return [data.texts[name].get(code) for code in codes.tolist()]

    assert texts("city", users.fields["city"]) == [None, "3"]
    assert texts("spending", users.fields["spending"]) == ["1", None]
    assert texts("brand", items.fields["brand"]) == ["95471", None], "NULL is no brand"
    assert items.fields["price"].tolist() == [170.0, 199.0]
    findings = check(place / "models/datasets/taobao-ads.toml").findings
    assert [found for found in findings if "`[split]`" not in found] == []


# MovieLens


def test_movielens_1m_in_latin_1_with_colons_in_titles(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(
        place,
        "ml-1m/ratings.dat",
        "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n2::1::5\n2::x::5::1\n",
    )
    put(
        place,
        "ml-1m/movies.dat",
        "1193::Star Wars: Episode IV (1977)::Action|Sci-Fi\n661::Amélie, Le (2001)::Comedy\n".encode("latin-1"),
    )
    put(place, "ml-1m/users.dat", "1::F::1::10::48067\n2::M::56::16::70072-0001\n")
    output = place / "data/movielens-1m"
    assert main(["convert", "movielens-1m", "--folder", str(place / "ml-1m"), "--output", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["refused"] == {
        "ratings.dat: not 4 fields separated by ::": 1,
        "ratings.dat: an id, a rating or a time is not a whole number": 1,
    }
    assert pq.read_table(output / "movies.parquet")["title"].to_pylist()[1] == "Amélie, Le (2001)"
    data = ready(place, "movielens-1m")
    assert data.events.item_id.view(np.uint64).tolist() == [code_of("1193")] * 2, "three stars are no like"
    assert set(data.events.category_id.view(np.uint64).tolist()) == {code_of("Action|Sci-Fi")}
    ages = data.side("user")
    assert {data.texts["age"][code] for code in ages.fields["age"].tolist()} == {"1", "56"}


# Criteo


def criteo_line(label: int, rng: random.Random) -> str:
    numbers = [rng.choice(["", str(rng.randint(-2, 9000))]) for _ in range(13)]
    values = [rng.choice(["", f"{rng.getrandbits(32):08x}"]) for _ in range(26)]
    return "\t".join([str(label), *numbers, *values])


def test_criteo_is_fields_without_users(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(1)
    rows = [criteo_line(int(i % 4 == 0), rng) for i in range(40)]
    rows[3] = "0\t" + "\t".join(["-2"] + [""] * 12 + ["68fd1e64"] + [""] * 25)
    put(place, "train.txt", "\n".join([*rows, "0\t1"]) + "\n")
    output = place / "data/criteo"
    assert main(["convert", "criteo", "--file", str(place / "train.txt"), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == {"train.txt: not 40 fields": 1}
    data = ready(place, "criteo")
    shown = data.impressions
    assert shown is not None
    assert len(shown) == 40
    assert len(np.unique(shown.user_id)) == 40, "each row is a user of its own"
    assert not np.isin(data.events.user_id, shown.user_id).any(), "so no row has a history"
    assert shown.context["I1"][3] == -2
    assert np.isnan(shown.context["I2"][3])
    assert shown.context["C1"][3] == code_of("68fd1e64")
    assert data.texts["C1"] == {}, "hashed: 34 million texts would not fit into memory"
    assert shown.context["C2"][3] == 0
