"""A small synthetic data set with a preference to learn: for smoke tests, where a real one would take too long.

    python -m mimn.data convert synthetic --output data/synthetic

Each user has a favorite category and often buys from it: a target is of that category with probability `LOYALTY`,
which popularity cannot know and a history shows. Seeded; unrelated to any real data.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mimn.arrow import pa
from mimn.data.convert import Converted, new_folder, write_tables
from mimn.data.events import COLUMNS, Events

USERS, CATEGORIES, ITEMS_PER_CATEGORY = 400, 8, 12
OCCASIONS, BASKET = 14, 4
LOYALTY = 0.8


def make(seed: int = 0, users: int = USERS) -> Events:
    """`users` users with 14 baskets of 4 different items each."""
    rng = np.random.default_rng(seed)
    columns: list[tuple[int, int, int, int, int]] = []
    for user in range(1, users + 1):
        favorite = int(rng.integers(CATEGORIES))
        start = int(rng.integers(86400))
        for occasion in range(OCCASIONS):
            taken: set[int] = set()
            while len(taken) < BASKET:
                category = favorite if rng.random() < LOYALTY else int(rng.integers(CATEGORIES))
                taken.add(category * ITEMS_PER_CATEGORY + int(rng.integers(ITEMS_PER_CATEGORY)) + 1)
            time, basket = 1_577_836_800 + start + 86400 * occasion, user * 1000 + occasion
            columns += [(user, item, (item - 1) // ITEMS_PER_CATEGORY + 1, time, basket) for item in sorted(taken)]
    table = np.array(columns, np.int64)
    user_id, item_id, category_id, timestamp, basket_id = np.ascontiguousarray(table.T)
    return Events(user_id, item_id, category_id, timestamp, basket_id)


def convert(output: Path, users: int = USERS) -> Converted:
    """Write `events.parquet` into the new folder `output`.

    Raises:
        DataError: `output` exists.
    """
    events = make(users=users)
    with new_folder(output) as folder:
        return write_tables(folder, {"events": pa.table({name: getattr(events, name) for name in COLUMNS})})
