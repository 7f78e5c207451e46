"""Real users of Online Retail for the demo: their events before an occasion, and what they bought then.

They are the users of the test part, so no model of this repository was trained on them, and a history ends before the
basket that is asked about (`mimn.data.instances` has the protocol).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimn.data.events import DataError, Events
from mimn.data.instances import Instances, build_instances
from mimn.data.preparation import cache_folder, prepare
from mimn.data.split import PARTS, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary

DATA = Path("models/datasets/online-retail.toml")
"""The description of the demo's data set."""


@dataclass(frozen=True)
class Shopper:
    """One user's history, and the question to ask after it."""

    user_id: str
    rows: range
    """Rows of the events, oldest first: all of them strictly before the occasion."""
    item_id: int
    """What they bought next."""
    category_id: int
    others: tuple[tuple[int, int], ...]
    """Item and category of the other candidates: drawn in proportion to popularity, none of them in the basket."""


def shoppers(events: Events, *, candidates: int) -> list[Shopper]:
    """The test users and the last occasion of each, shortest history first; `candidates` counts the real item too."""
    part = parts_of(events.users)
    vocabulary = build_vocabulary(events, part == PARTS.index("train"))
    asked = build_instances(events, vocabulary).of("test", protocol="A")
    found = [_shopper(events, vocabulary, asked, i, candidates - 1) for i in range(len(asked))]
    return sorted(found, key=lambda shopper: (len(shopper.rows), shopper.user_id))


def read_events(description: Path = DATA) -> Events:
    """The events of a described data set; the hash of this repository's is checked.

    Raises:
        DataError: there is no such file, or it cannot be used.
    """
    if not description.is_file():
        raise DataError(f"{description} is not here: run it at the repository's root")
    return prepare(description, cache_folder()).events


def _shopper(events: Events, vocabulary: Vocabulary, asked: Instances, i: int, negatives: int) -> Shopper:
    user, begin, end = int(asked.user_id[i]), int(asked.begin[i]), int(asked.end[i])
    later = slice(end, int(events.bounds[np.searchsorted(events.users, user) + 1]))
    basket = {*events.item_id[later][events.timestamp[later] == asked.timestamp[i]].tolist(), int(asked.item[i])}
    random = np.random.default_rng(user)
    chosen: dict[int, int] = {}
    while len(chosen) < negatives:
        place = int(vocabulary.event_items[random.integers(len(vocabulary.event_items))])
        item = int(vocabulary.items[place])
        if item not in basket:
            chosen[item] = int(vocabulary.item_category[place])
    return Shopper(str(user), range(begin, end), int(asked.item[i]), int(asked.category[i]), tuple(chosen.items()))
