"""The MIMN authors' own protocol, to compare with their tables: `[protocol] preset = …` in a description.

| | `mimn-paper-taobao` | `mimn-paper-amazon` |
| --- | --- | --- |
| target | the user's last behavior | the user's last review |
| rows | one a user: a coin chooses the real item or a drawn one | two a user: a drawn item, then the real one |
| drawn item | uniformly from all items, not the real one | from all reviews, so by popularity, not the real one |
| history | all earlier behaviors, the latest 199, **followed by the candidate** | the latest 100 earlier reviews |
| users | all | those with at least 20 earlier reviews |
| test | users whose last behavior is later than that of 70 % of the users | one user in ten |

What makes these figures mean less than those of the clean protocol (`mimn.data.instances`), and is kept on purpose:

1. Taobao's candidate is the last element of the history, for both labels. The state then depends on the request, so no
   state that is kept between requests can reproduce the figure.
2. There is no validation part: the authors choose the checkpoint on the test rows.
3. Uniformly drawn items are mostly items that few people touch, so popularity alone separates them from real ones.
4. Ids and drawn items come from train and test users together.

Known differences from the scripts: draws are hashes of (seed, user), so that they are the same everywhere; rows of one
timestamp keep the order of the file; the scripts drop the users after the last whole batch.

Source: the published code of Pi et al., Practice on Long Sequential User Behavior Modeling for Click-Through Rate
Prediction (KDD 2019), and, for Amazon, the scripts of DIEN (Zhou et al., AAAI 2019) that it builds on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mimn.data.description import Protocol
from mimn.data.events import DataError, Events
from mimn.data.instances import Candidates, draw
from mimn.data.split import PARTS, Part
from mimn.data.windows import histories

Ints = NDArray[np.int64]
TAOBAO_LENGTH = 200
"""Elements of a history, the candidate included."""
TAOBAO_TRAIN = 0.7
AMAZON_LENGTH = 100
AMAZON_MIN_HISTORY = 20
AMAZON_TEST_IN = 10
"""One user in so many is tested."""
MAX_ATTEMPTS = 1000


@dataclass(frozen=True)
class PaperInstances:
    """n labelled rows. The history of a row is the latest of the events `begin:end`, see `histories`."""

    part: NDArray[np.int8]
    """[n]: place in `PARTS`, train or test."""
    user_id: Ints
    """[n]"""
    timestamp: Ints
    """[n]: of the real target, in the events' unit."""
    begin: Ints
    """[n]: the user's first event."""
    end: Ints
    """[n]: the first event that is not history."""
    item: Ints
    """[n]: the candidate."""
    category: Ints
    """[n]"""
    label: Ints
    """[n]: 1 for the real next item, 0 for a drawn one."""
    length: int
    """Elements of a history, at most."""
    candidate_last: bool
    """Whether the candidate follows the history, as its last element: the leak of the Taobao script."""

    def __len__(self) -> int:
        return len(self.item)

    def of(self, part: Part) -> PaperInstances:
        """The rows of one part."""
        mask = self.part == PARTS.index(part)
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: a[mask] for name, a in arrays.items() if isinstance(a, np.ndarray)})

    def candidates(self) -> Candidates:
        """The rows as metrics read them, one a row."""
        return Candidates(np.arange(len(self)), self.item, self.category, self.label, self.user_id)

    def histories(
        self, chosen: Ints, event_rows: tuple[Ints, Ints], candidate_rows: tuple[Ints, Ints]
    ) -> tuple[Ints, Ints, Ints]:
        """What a model reads, left-aligned: items [k, T], categories [k, T], lengths [k], with T at most `length`.

        Args:
            chosen: [k] rows.
            event_rows: for each event its item and category, as ids or as rows of tables.
            candidate_rows: for each of the n rows its candidate's, in the same form.
        """
        behind = int(self.candidate_last)
        items, categories, lengths = histories(
            self.begin[chosen], self.end[chosen], *event_rows, length=self.length - behind
        )
        if behind:
            at = np.arange(len(chosen)), lengths
            items, categories = (np.pad(values, ((0, 0), (0, 1))) for values in (items, categories))
            items[at], categories[at] = candidate_rows[0][chosen], candidate_rows[1][chosen]
        return items, categories, lengths + behind


def paper_instances(events: Events, protocol: Protocol) -> PaperInstances:
    """The rows that a preset makes of `events`, by rising user.

    Raises:
        DataError: a part is empty, or there is only one item.
    """
    made = (_taobao if protocol.preset == "mimn-paper-taobao" else _amazon)(events, protocol.seed)
    for part in ("train", "test"):
        if not (made.part == PARTS.index(part)).any():
            raise DataError(f"`[protocol]`: {protocol.preset} leaves no {part} users: the data set is too small")
    return made


def _taobao(events: Events, seed: int) -> PaperInstances:
    last = events.bounds[1:] - 1
    time = events.timestamp[last]
    cut = np.sort(time)[int(len(time) * TAOBAO_TRAIN)]
    catalogue = _Catalogue(events)
    item, category = events.item_id[last].copy(), events.category_id[last].copy()
    label = np.ones(len(last), np.int64)
    for u, (user, row) in enumerate(zip(events.users.tolist(), last.tolist(), strict=True)):
        if draw(f"paper-taobao-coin:{seed}", user, 0, 0, 2):
            place = catalogue.other(f"paper-taobao:{seed}", user, int(events.item_id[row]), by_popularity=False)
            item[u], category[u], label[u] = catalogue.items[place], catalogue.categories[place], 0
    return PaperInstances(
        part=np.where(time > cut, PARTS.index("test"), PARTS.index("train")).astype(np.int8),
        user_id=events.users,
        timestamp=time,
        begin=events.bounds[:-1],
        end=last,
        item=item,
        category=category,
        label=label,
        length=TAOBAO_LENGTH,
        candidate_last=True,
    )


def _amazon(events: Events, seed: int) -> PaperInstances:
    catalogue = _Catalogue(events)
    begin, last = events.bounds[:-1], events.bounds[1:] - 1
    kept = last - begin >= AMAZON_MIN_HISTORY
    if not kept.any():
        raise DataError(f"`[protocol]`: no user has {AMAZON_MIN_HISTORY} reviews before the last one")
    users, begin, last = events.users[kept], begin[kept], last[kept]
    drawn = np.array(
        [
            catalogue.other(f"paper-amazon:{seed}", user, int(events.item_id[row]), by_popularity=True)
            for user, row in zip(users.tolist(), last.tolist(), strict=True)
        ]
    )
    test = np.array([draw(f"paper-amazon-test:{seed}", user, 0, 0, AMAZON_TEST_IN) == 0 for user in users.tolist()])
    return PaperInstances(
        part=np.repeat(np.where(test, PARTS.index("test"), PARTS.index("train")).astype(np.int8), 2),
        user_id=np.repeat(users, 2),
        timestamp=np.repeat(events.timestamp[last], 2),
        begin=np.repeat(begin, 2),
        end=np.repeat(last, 2),
        item=np.stack([catalogue.items[drawn], events.item_id[last]], 1).reshape(-1),
        category=np.stack([catalogue.categories[drawn], events.category_id[last]], 1).reshape(-1),
        label=np.tile([0, 1], len(users)),
        length=AMAZON_LENGTH,
        candidate_last=False,
    )


class _Catalogue:
    """All items of train and test users, with the category of their first event."""

    def __init__(self, events: Events) -> None:
        self._event_items = events.item_id
        order = np.lexsort((events.timestamp, events.item_id))
        ids = events.item_id[order]
        first = order[np.concatenate([[True], ids[1:] != ids[:-1]])]
        self.items, self.categories = events.item_id[first], events.category_id[first]
        if len(self.items) < 2:
            raise DataError("`[protocol]`: all events are of one item, so there is no other one to draw")

    def other(self, what: str, user: int, real: int, *, by_popularity: bool) -> int:
        """The place of a drawn item that is not the real one. It may be in the user's history, as in the scripts."""
        for attempt in range(MAX_ATTEMPTS):
            if by_popularity:
                item = self._event_items[draw(what, user, 0, attempt, len(self._event_items))]
                place = int(np.searchsorted(self.items, item))
            else:
                place = draw(what, user, 0, attempt, len(self.items))
            if self.items[place] != real:
                return place
        raise DataError(f"`[protocol]`: {MAX_ATTEMPTS} draws gave the user's own item: nearly all events are of it")
