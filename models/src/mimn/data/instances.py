"""The clean protocol: from behaviors to positives and negatives that every model, length and seed of a split shares.

A positive is one row of one of a user's last occasions; its history is what the user did before that basket began. Each
choice is a hash of the instance and of what is chosen, so that the same data gives the same instances on every machine
and under every library version; they are written to a file all the same, and their hash stands in every record.

    draw(what, user, timestamp, attempt, below) =
        first 8 bytes, big-endian, of sha256("instances-v1:what:user:timestamp:attempt"), modulo `below`
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mimn.data.events import DataError, Events
from mimn.data.split import PARTS, Part, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary

Sampling = Literal["popularity", "uniform"]
SAMPLINGS: tuple[Sampling, ...] = ("popularity", "uniform")
Protocol = Literal["A", "B"]

RULE = "instances-v1"
OCCASIONS = 10
"""Protocol B: targets come from a user's last ten occasions. Protocol A takes the very last alone."""
MIN_HISTORY = 20
"""Events that must precede a target."""
NEGATIVES = 4
"""Negatives drawn for each positive. The first is the protocol's; all four choose the checkpoint on validation."""
MAX_ATTEMPTS = 1000


@dataclass(frozen=True)
class Instances:
    """n positives, each with its negatives, in the order of the events. All arrays are int64 but for `last`."""

    part: NDArray[np.int64]
    """[n]: place in `PARTS`."""
    user_id: NDArray[np.int64]
    """[n]"""
    timestamp: NDArray[np.int64]
    """[n]: of the target's occasion, in seconds."""
    begin: NDArray[np.int64]
    """[n]: first row of the user's events."""
    end: NDArray[np.int64]
    """[n]: the history is the rows `begin:end`."""
    last: NDArray[np.bool_]
    """[n]: the target is of the user's very last occasion (protocol A)."""
    item: NDArray[np.int64]
    """[n]: the real next item."""
    category: NDArray[np.int64]
    """[n]"""
    popularity_item: NDArray[np.int64]
    """[n, NEGATIVES]: drawn in proportion to train events."""
    popularity_category: NDArray[np.int64]
    """[n, NEGATIVES]"""
    uniform_item: NDArray[np.int64]
    """[n, NEGATIVES]: drawn uniformly from the items of train users."""
    uniform_category: NDArray[np.int64]
    """[n, NEGATIVES]"""
    unknown: NDArray[np.int64]
    """[3]: targets of each part that were dropped because no train user has the item."""

    def __len__(self) -> int:
        return len(self.item)

    def of(self, part: Part, protocol: Protocol = "B") -> Instances:
        """The instances of one part."""
        mask = self.part == PARTS.index(part)
        return self.select(mask & self.last if protocol == "A" else mask)

    def select(self, mask: NDArray[np.bool_]) -> Instances:
        """The instances where the mask is true."""
        rows = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name != "unknown"}
        return replace(self, **rows)

    def candidates(self, sampling: Sampling, negatives: int = 1) -> Candidates:
        """The rows to score: each positive, then its first `negatives` negatives."""
        item, category = (
            np.concatenate([positive[:, np.newaxis], negative[:, :negatives]], axis=1)
            for positive, negative in (
                (self.item, getattr(self, f"{sampling}_item")),
                (self.category, getattr(self, f"{sampling}_category")),
            )
        )
        instance = np.repeat(np.arange(len(self)), negatives + 1)
        label = np.zeros((len(self), negatives + 1), np.int64)
        label[:, 0] = 1
        return Candidates(instance, item.reshape(-1), category.reshape(-1), label.reshape(-1), self.user_id[instance])

    @cached_property
    def sha256(self) -> str:
        """sha256 over the arrays in the order of the fields, little-endian int64."""
        digest = hashlib.sha256()
        for field in fields(self):
            digest.update(np.ascontiguousarray(getattr(self, field.name), "<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path, events: Events, fold: int | None = None) -> None:
        """Write an .npz archive of plain arrays, whole or not at all; `events` are those that the instances are of."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                sha256=np.array(self.sha256),
                source=np.array(source(events, fold)),
                **{f.name: getattr(self, f.name) for f in fields(self)},
            )
        partial.replace(path)

    @classmethod
    def load(cls, path: Path, events: Events, fold: int | None = None) -> Instances:
        """The instances of `events` and a split that `save` wrote.

        Raises:
            DataError: the file is missing, is not one of ours, was changed, or is of other events or another rule.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                instances = cls(**{f.name: archive[f.name] for f in fields(cls)})
                stated, of = str(archive["sha256"]), str(archive["source"])
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{path} holds no instances ({error}): delete it, it is made again") from error
        if instances.sha256 != stated:
            raise DataError(f"{path} was changed after it was written: delete it, it is made again")
        if of != source(events, fold):
            raise DataError(f"{path} is of other events or another rule: delete it, it is made again")
        return instances


@dataclass(frozen=True)
class Candidates:
    """Rows to score. All [r] int64."""

    instance: NDArray[np.int64]
    """Place of the instance whose history the row is scored on."""
    item: NDArray[np.int64]
    category: NDArray[np.int64]
    label: NDArray[np.int64]
    """1 = bought, 0 = drawn."""
    user_id: NDArray[np.int64]


def draw(what: str, user_id: int, timestamp: int, attempt: int, below: int) -> int:
    """A number in [0, below) that depends on the arguments alone (see the module's text)."""
    digest = hashlib.sha256(f"{RULE}:{what}:{user_id}:{timestamp}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % below


def build_instances(events: Events, vocabulary: Vocabulary | None = None, fold: int | None = None) -> Instances:
    """All instances of a data set, all parts of a split, protocol B (`last` marks those of protocol A).

    The positives of two folds are the same but for those that one's train users do not know; the negatives are drawn
    from what each one's train users bought.

    Raises:
        DataError: the data set has no train users, or no target with enough history.
    """
    part = parts_of(events.users, fold)
    if vocabulary is None:
        vocabulary = build_vocabulary(events, part == PARTS.index("train"))
    rows, unknown = [], [0, 0, 0]
    columns: dict[str, list[list[int]]] = {sampling: [] for sampling in SAMPLINGS}
    for u, (begin, end) in enumerate(zip(events.bounds[:-1], events.bounds[1:], strict=True)):
        for row, basket in _targets(events, int(begin), int(end)):
            if vocabulary.item_places(events.item_id[row : row + 1])[0] < 0:
                unknown[part[u]] += 1
                continue
            rows.append(row)
            for sampling in SAMPLINGS:
                columns[sampling].append(_negatives(vocabulary, sampling, events, row, basket))
    if not rows:
        raise DataError(f"no target has {MIN_HISTORY} events before it: the data set is too small")
    target = np.array(rows)
    drawn = {sampling: np.array(chosen) for sampling, chosen in columns.items()}
    last_occasion = events.occasion[events.bounds[1:] - 1]
    return Instances(
        part=part[events.user_index[target]].astype(np.int64),
        user_id=events.user_id[target],
        timestamp=events.timestamp[target],
        begin=events.bounds[events.user_index[target]],
        end=events.history_end[target],
        last=events.occasion[target] == last_occasion[events.user_index[target]],
        item=events.item_id[target],
        category=events.category_id[target],
        popularity_item=vocabulary.items[drawn["popularity"]],
        popularity_category=vocabulary.item_category[drawn["popularity"]],
        uniform_item=vocabulary.items[drawn["uniform"]],
        uniform_category=vocabulary.item_category[drawn["uniform"]],
        unknown=np.array(unknown, np.int64),
    )


def stored_instances(path: Path, events: Events, fold: int | None = None) -> Instances:
    """The instances of `events` and a split: read from `path`, or made and written there first.

    Raises:
        DataError: the file is damaged, or is of other events.
    """
    if not path.exists():
        build_instances(events, fold=fold).save(path, events, fold)
    return Instances.load(path, events, fold)


def source(events: Events, fold: int | None = None) -> str:
    """What instances are made of: the rule, the data and the split."""
    return f"{RULE} of {events.sha256}" + ("" if fold is None else f", fold {fold}")


def _targets(events: Events, begin: int, end: int) -> list[tuple[int, set[int]]]:
    """One row of each of the user's last occasions that have enough history, and all items of its basket."""
    occasion = events.occasion[begin:end]
    starts = begin + np.concatenate([[0], np.flatnonzero(np.diff(occasion)) + 1])
    ends = np.append(starts[1:], end)
    targets = []
    for start, stop in zip(starts[-OCCASIONS:], ends[-OCCASIONS:], strict=True):
        user, timestamp = int(events.user_id[start]), int(events.timestamp[start])
        row = int(start) + draw("target", user, timestamp, 0, int(stop - start))
        if events.history_end[row] - begin < MIN_HISTORY:
            continue
        same_basket = events.basket_id[begin:end] == events.basket_id[row]
        basket = {*events.item_id[start:stop].tolist(), *events.item_id[begin:end][same_basket].tolist()}
        targets.append((row, basket))
    return targets


def _negatives(vocabulary: Vocabulary, sampling: Sampling, events: Events, row: int, basket: set[int]) -> list[int]:
    """Places in `vocabulary.items` of the drawn items, none of them in the basket, all different."""
    user, timestamp = int(events.user_id[row]), int(events.timestamp[row])
    below = len(vocabulary.event_items) if sampling == "popularity" else len(vocabulary.items)
    chosen: list[int] = []
    for attempt in range(MAX_ATTEMPTS):
        place = draw(sampling, user, timestamp, attempt, below)
        if sampling == "popularity":
            place = int(vocabulary.event_items[place])
        if place not in chosen and int(vocabulary.items[place]) not in basket:
            chosen.append(place)
            if len(chosen) == NEGATIVES:
                return chosen
    raise DataError(
        f"no {NEGATIVES} negatives outside one basket in {MAX_ATTEMPTS} draws: the data set has too few items"
    )
