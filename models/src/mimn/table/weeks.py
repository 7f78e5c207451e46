"""Purchases in each period of seven days. A plan leaves out the busiest period as a sale, and for comparison one with
about as many purchases as the median.

python -m mimn.table.weeks --dataset online_retail [--output models/experiments/weeks]
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import msgspec
import numpy as np

from mimn.config import ConfigError
from mimn.data.events import DataError, Events
from mimn.data_set import load_data
from mimn.run_config import read_config

CONFIGS = Path("models/configs")
OUTPUT = Path("models/experiments/weeks")
DAYS = 7
DAY_MS = 86_400_000


class Week(msgspec.Struct, frozen=True):
    """Seven days, and the purchases in them; a line of the CSV."""

    first_day: date
    purchases: int


def weeks(events: Events) -> list[Week]:
    """Every period of seven days that the events cover, UTC; empty if they cover fewer days."""
    day = events.timestamp * events.unit_ms // DAY_MS
    by_day = np.bincount(day - day.min())
    if len(by_day) < DAYS:
        return []
    sums = np.convolve(by_day, np.ones(DAYS, np.int64), "valid")
    start = date.fromordinal(date(1970, 1, 1).toordinal() + int(day.min()))
    return [Week(start + timedelta(days=day), purchases) for day, purchases in enumerate(sums.tolist())]


def busiest(found: Sequence[Week]) -> Week:
    """The seven days with the most purchases; the first if several are equal."""
    return max(found, key=lambda week: week.purchases)


def median(found: Sequence[Week]) -> int:
    """The median of the purchases in seven days."""
    return sorted(week.purchases for week in found)[(len(found) - 1) // 2]


def read(path: Path) -> list[Week]:
    """The lines of a CSV.

    Raises:
        OSError, msgspec.ValidationError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return msgspec.convert(list(csv.DictReader(file)), list[Week], strict=False)


def main(arguments: list[str] | None = None) -> int:
    """Count a data set's purchases; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m mimn.table.weeks", description="Purchases in seven days.")
    parser.add_argument("--dataset", required=True, help="X of models/configs/X_pooling.toml")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"folder of the CSV (default {OUTPUT})")
    options = parser.parse_args(arguments)
    try:
        config = read_config(CONFIGS / f"{options.dataset}_pooling.toml")
        found = weeks(load_data(msgspec.structs.replace(config.data, fold=0)).events)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    target = options.output / f"{options.dataset}.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Week.__struct_fields__)
        writer.writerows(msgspec.structs.astuple(week) for week in found)
    most = busiest(found)
    print(f"wrote {target}: at most {most.purchases:,} from {most.first_day}, median {median(found):,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
