"""MovieLens 100K's preparation, on small files and, where it is installed, on the package that ships it."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mimn.data import movielens
from mimn.data.__main__ import main
from mimn.data.events import Events
from mimn.data.instances import build_instances
from mimn.data.negatives import NegativeRule
from mimn.data.preparation import prepare
from mimn.data.split import PARTS
from support import datasets

RECORDS = Path(__file__).parents[2] / "models/experiments/movielens_100k"
SPEC = importlib.util.find_spec("recbole")
needs_package = pytest.mark.skipif(
    SPEC is None, reason=f"{movielens.PACKAGE} is not installed (make install-dev): MovieLens 100K is not prepared"
)
CONVERT = ["convert", "movielens-100k", "--output"]
RATINGS = (
    b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    b"2\t7\t5\t880000000\n1\t9\t4\t870000005\n1\t8\t3\t870000000\n1\t7\t4\t870000005\n1\t6\t5\t860000000\n"
)
FILMS = (
    b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    b'6\t"Six\t1994\tDrama\n7\tSept, Le\t1995\tComedy Romance\n8\tEight\t\tunknown\n9\tNine\t1996\tAction Drama\n'
)


def test_ratings_of_four_and_more_become_likes_in_the_common_form() -> None:
    table = movielens.events_of(RATINGS, FILMS)
    assert table.column_names == ["user_id", "item_id", "category_id", "timestamp", "basket_id"]
    assert table["user_id"].to_pylist() == [1, 1, 1, 2]
    assert table["timestamp"].to_pylist() == [860_000_000, 870_000_005, 870_000_005, 880_000_000]
    assert table["basket_id"].to_pylist() == [1, 2, 2, 3]
    tie = sorted([7, 9], key=lambda item: hashlib.sha256(f"order-v1:2:{item}".encode()).hexdigest())
    assert table["item_id"].to_pylist() == [6, *tie, 7]


def test_the_category_is_the_first_genre_numbered_by_name() -> None:
    table = movielens.events_of(RATINGS, FILMS)
    found = dict(zip(table["item_id"].to_pylist(), table["category_id"].to_pylist(), strict=True))
    assert found == {6: 3, 7: 2, 9: 1}


def test_without_the_package_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert main([*CONVERT, str(tmp_path / "out")]) == 1
    assert "pip install --no-deps recbole==1.2.1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_source_without_the_files_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nothing", b"")
    for source in (wheel, tmp_path / "absent.whl", tmp_path):
        assert main([*CONVERT, str(tmp_path / "out"), "--from", str(source)]) == 1
        assert "has no ml-100k.inter that can be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def described(folder: Path) -> Events:
    """The events in `folder`/movielens_100k by the committed description, which states their hash."""
    text = (datasets.DATASETS / "movielens-100k.toml").read_text("utf-8").replace("../../data/", "")
    (folder / "dataset.toml").write_text(text, "utf-8")
    return prepare(folder / "dataset.toml", folder / "cache").events


def package() -> Path:
    """The folder that the package `recbole` is installed in."""
    assert SPEC is not None
    assert SPEC.submodule_search_locations is not None
    return Path(next(iter(SPEC.submodule_search_locations))).parent


@needs_package
def test_the_prepared_likes_are_the_published_ones_and_no_film_comes_twice(tmp_path: Path) -> None:
    assert main([*CONVERT, str(tmp_path / "movielens_100k")]) == 0
    events = described(tmp_path)
    assert (len(events.users), len(events), len(np.unique(events.item_id))) == (942, 55_375, 1447)
    assert len(np.unique(np.stack([events.user_id, events.item_id]), axis=1).T) == len(events)
    instances = build_instances(events, rule=NegativeRule(exclude="history"))
    assert [len(instances.of(part)) for part in PARTS] == [4445, 623, 609]
    same = events.basket_id[1:] == events.basket_id[:-1]
    rising = (events.item_id[1:] > events.item_id[:-1])[same]
    assert float(np.mean(rising)) == pytest.approx(0.5, abs=0.02)
