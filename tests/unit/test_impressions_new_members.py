"""`--members` takes the members of a description that belongs to the run, and refuses others."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from mimn.bundle import load_bundle
from mimn.impressions.__main__ import main
from mimn.impressions.config import ImpressionConfig
from mimn.impressions.train import train
from support.impression_log import graded, made

pytestmark = pytest.mark.torch

TABLE = '[members]\nfiles = ["members.parquet"]\nkey = "c"\nitem = "m"\n'
PAIRS = [(c, m) for c in range(10, 20) for m in (c - 9, c - 8)]
MODEL = {"variant": "pooling", "memory_induction": False, "utilization": False, "embedding_dim": 4}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run, `run`, on the description `own/dataset.toml`."""
    folder = tmp_path_factory.mktemp("shop")
    settings = {
        "name": "x",
        "model": MODEL | {"head": "wide_deep", "head_units": [8, 4], "member_reads": True, "ledger_buckets": 2},
        "windows": {"length": 16},
        "training": {"epochs": 1, "validation_length": 16},
    }
    config = msgspec.convert(settings, ImpressionConfig)
    train(described(folder / "own", PAIRS), config, folder / "run", cache=folder / "cache")
    return folder


def described(
    folder: Path, pairs: list[tuple[int, int]], *, ids: str = "uint64", renamed: Callable[[int], int] = int
) -> Path:
    """A description of the same log whose candidates have these members; `renamed`: what another shop calls an item."""
    log = made(np.random.default_rng(5), graded, fields=TABLE if pairs else "", top=f'ids = "{ids}"')
    for table in (log.events, log.shown):
        named: NDArray[np.int64] = table["i"]
        table["i"] = [str(one) if ids == "string" else renamed(one) for one in named.tolist()]
        if ids == "string":
            table["u"], table["c"] = ([str(one) for one in table[name].tolist()] for name in "uc")
    path = log.write(folder)
    columns = {name: [str(p[at]) if ids == "string" else p[at] for p in pairs] for at, name in enumerate("cm")}
    pq.write_table(pa.table(columns), folder / "members.parquet")
    return path


def export(shop: Path, description: Path, bundles: Path) -> int:
    run = ["export", "--run", str(shop / "run"), "--cache", str(shop / "cache"), "--name", "shop", "--version", "1"]
    return main([*run, "--members", str(description), "--output", str(bundles)])


def foreign(item: int) -> int:
    return item + 1_000_000


@pytest.mark.parametrize(
    ("pairs", "ids", "renamed", "message"),
    [
        ([], "uint64", int, r"has no `\[members\]`"),
        (PAIRS, "string", int, 'has `ids = "string"`, and .* was trained with "uint64"'),
        ([(foreign(c), foreign(m)) for c, m in PAIRS], "uint64", foreign, r"0 of 11 members in column m of members"),
        ([(foreign(c), m) for c, m in PAIRS], "uint64", int, r"none of 10 candidates in column c of members"),
    ],
    ids=["none", "other kind of ids", "another shop's", "keys of another column"],
)
def test_members_that_are_not_the_runs_are_refused(
    shop: Path,
    pairs: list[tuple[int, int]],
    ids: str,
    renamed: Callable[[int], int],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = described(tmp_path / "other", pairs, ids=ids, renamed=renamed)
    assert export(shop, other, tmp_path / "bundles") == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "bundles").exists()


@pytest.mark.full
def test_members_that_the_run_hardly_knows_are_taken_with_a_warning_that_counts(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = [(10, 1), *((foreign(c), foreign(c)) for c in range(9))]
    assert export(shop, described(tmp_path / "other", mixed), tmp_path / "bundles") == 0
    assert "has few that training knew (1 of 10 candidates, 1 of 10 members)" in caplog.text


def test_new_candidates_of_known_members_are_taken_once_impressions_show_them(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a week of coupons: none is of the training, and all stand for items of the training."""
    new = [(foreign(c), m) for c, m in PAIRS]
    path = described(tmp_path / "later", new)
    shown = pq.read_table(path.parent / "shown.parquet")
    moved = shown.set_column(shown.schema.get_field_index("i"), "i", pa.array(np.asarray(shown["i"]) + foreign(0)))
    pq.write_table(moved, path.parent / "shown.parquet")
    assert export(shop, path, tmp_path / "bundles") == 0
    assert "(0 of 10 candidates)" in caplog.text
    reads = load_bundle(tmp_path / "bundles/shop/1").reads
    assert reads is not None
    assert reads.members is not None
    assert reads.members.index.ids.tolist() == [foreign(c) for c in range(10, 20)]


@pytest.mark.full
def test_the_members_of_the_run_itself_are_taken_without_a_word(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert export(shop, shop / "own/dataset.toml", tmp_path / "bundles") == 0
    assert [one.getMessage() for one in caplog.records if one.name == "mimn.export"] == []


def test_later_data_is_scored_with_the_members_that_are_served(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = described(tmp_path / "later", [(c, 20 - m) for c, m in PAIRS])
    run = shutil.copytree(shop / "run", tmp_path / "run")

    def scores(*members: str) -> list[float]:
        assert main(["evaluate", "--run", str(run), "--cache", str(shop / "cache"), "--on", str(later), *members]) == 0
        (folder,) = (run / "later").iterdir()
        found: list[float] = np.load(folder / "predictions-16.npz")["raw"].tolist()
        return found

    of_run = scores()
    assert scores("--members", str(shop / "own/dataset.toml")) == of_run
    assert scores("--members", str(later)) != of_run
    assert main(["evaluate", "--run", str(run), "--cache", str(shop / "cache"), "--members", str(later)]) == 1
    assert "--members belongs to --on" in capsys.readouterr().err
