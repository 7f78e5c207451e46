"""A shop's logs in a layout of its own: texts as ids, CSV with semicolons and quotes, unsorted, times in ms and in s.

    python -m support.foreign_shop --rows 10000000 --folder shop      (from the folder `tests`)

Visitors favor one range of articles: they visit it more often, and click what is shown of it. A quarter of the clicks
come after the window. Files are written in pieces, so any number of rows needs the same memory. One seed gives the same
files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
from numpy.typing import NDArray

PIECE = 500_000
FILES = 4
START_S = 1_700_000_000
DAYS = 60
DAY_S = 86_400
RANGES = 24
DEEDS = ("looked", "teased", "put in cart", "bought", "scrolled")
SHARES = (0.6, 0.1, 0.1, 0.1, 0.1)
SHOWN_FROM = 30
"""Day from which articles are shown."""
EVENTS = 0.8
"""Share of the rows that are visits; the others are what was shown."""

DESCRIPTION = """\
name = "foreign-shop"
ids = "string"

[events]
files = ["visits-*.csv"]
delimiter = ";"
user = "visitor"
item = "article"
category = "range"
action = "deed"
time = "at, in ms"
time_unit = "ms"
IMPRESSIONS
[actions]
looked = { is = "click" }
teased = { is = "view", weight = 0.0 }
"put in cart" = { is = "cart", weight = "embedding" }
bought = { is = "purchase", weight = 3.0 }
scrolled = { weight = 0.0 }
"""
IMPRESSIONS = f"""
[impressions]
files = ["shown-*.csv"]
delimiter = ";"
user = "visitor"
item = "article"
category = "range"
time = "when"
label = "clicked"
label_time = "clicked when"
window = "30m"

[fields.context]
hour = {{ kind = "categorical", vocabulary = 24 }}

[split]
by = "time"
train_until = {(np.datetime64(START_S, "s") + np.timedelta64(50, "D")).astype("datetime64[D]")}
validate_until = {(np.datetime64(START_S, "s") + np.timedelta64(55, "D")).astype("datetime64[D]")}

"""


def visitor(number: int) -> str:
    """A visitor's id: with the delimiter and quotes in it."""
    return f'visitor "{number}"; web'


def article(number: int) -> str:
    """An article's id."""
    return f"Größe {number % 7}/A-{number:07d}"


def write(folder: Path, rows: int, *, labelled: bool, seed: int = 0) -> Path:
    """Write `rows` rows of logs and their description, with `[impressions]` if `labelled`; the description's path."""
    folder.mkdir(parents=True, exist_ok=True)
    visitors, articles = max(rows // 50, 40), max(min(rows // 40, 200_000), RANGES * 4)
    rng = np.random.default_rng(seed)
    favorite = rng.integers(RANGES, size=visitors)
    names = pa.array([visitor(n) for n in range(visitors)]), pa.array([article(n) for n in range(articles)])
    visits = int(rows * EVENTS) if labelled else rows
    _write(folder, "visits", _visits(rng, visits, favorite, articles, names))
    if labelled:
        _write(folder, "shown", _shown(rng, rows - visits, favorite, articles, names))
    path = folder / "dataset.toml"
    path.write_text(DESCRIPTION.replace("IMPRESSIONS\n", IMPRESSIONS if labelled else ""))
    return path


def _visits(
    rng: np.random.Generator, rows: int, favorite: NDArray[np.int64], articles: int, names: tuple[pa.Array, pa.Array]
) -> Iterator[pa.Table]:
    for n in _pieces(rows):
        who = rng.integers(len(favorite), size=n)
        what = _articles(rng, np.where(rng.random(n) < 0.6, favorite[who], rng.integers(RANGES, size=n)), articles)
        deed = rng.choice(len(DEEDS), size=n, p=SHARES)
        at = (START_S * 1000) + rng.integers(DAYS * DAY_S * 1000, size=n)
        yield _table(names, who, what, {"deed": pa.array(DEEDS).take(pa.array(deed)), "at, in ms": pa.array(at)})


def _shown(
    rng: np.random.Generator, rows: int, favorite: NDArray[np.int64], articles: int, names: tuple[pa.Array, pa.Array]
) -> Iterator[pa.Table]:
    for n in _pieces(rows):
        who, group = rng.integers(len(favorite), size=n), rng.integers(RANGES, size=n)
        what = _articles(rng, np.where(rng.random(n) < 0.3, favorite[who], group), articles)
        when = START_S + rng.integers(SHOWN_FROM * DAY_S, DAYS * DAY_S, size=n)
        clicked = rng.random(n) < np.where(what % RANGES == favorite[who], 0.3, 0.03)
        clicked_when = pa.array(when + rng.integers(1, 2400, size=n), mask=~clicked)
        more = {
            "when": pa.array(when),
            "clicked": pa.array(clicked.astype(np.int8)),
            "clicked when": clicked_when,
            "hour": pa.array(when // 3600 % 24),
        }
        yield _table(names, who, what, more)


def _articles(rng: np.random.Generator, group: NDArray[np.int64], articles: int) -> NDArray[np.int64]:
    """An article of each range, the first ones far more often than the last."""
    place = (articles // RANGES * rng.random(len(group)) ** 3).astype(np.int64)
    return place * RANGES + group


def _table(
    names: tuple[pa.Array, pa.Array], who: NDArray[np.int64], what: NDArray[np.int64], more: dict[str, Any]
) -> pa.Table:
    groups = pa.array([f"range {n}" for n in range(RANGES)])
    columns = {
        "visitor": names[0].take(pa.array(who)),
        "article": names[1].take(pa.array(what)),
        "range": groups.take(pa.array(what % RANGES)),
    }
    return pa.table(columns | more)


def _pieces(rows: int) -> Iterator[int]:
    for begin in range(0, rows, PIECE):
        yield min(PIECE, rows - begin)


def _write(folder: Path, name: str, tables: Iterator[pa.Table]) -> None:
    """Deal tables to files, split so that small logs have several files too."""
    writers: list[pcsv.CSVWriter] = []
    options = pcsv.WriteOptions(delimiter=";", quoting_style="needed")
    for table in tables:
        if not writers:
            writers = [
                pcsv.CSVWriter(folder / f"{name}-{n}.csv", table.schema, write_options=options) for n in range(FILES)
            ]
        for n, writer in enumerate(writers):
            writer.write_table(
                table.slice(len(table) * n // FILES, len(table) * (n + 1) // FILES - len(table) * n // FILES)
            )
    for writer in writers:
        writer.close()


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Write a shop's logs in a layout of its own.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--events-only", action="store_true", help="no impressions: negatives are drawn")
    options = parser.parse_args()
    print(write(options.folder, options.rows, labelled=not options.events_only))


if __name__ == "__main__":
    main()
