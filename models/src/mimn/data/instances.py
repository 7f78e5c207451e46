"""The clean protocol: from behaviors to positives and negatives that every model, length and seed of a split shares.

A positive is one row of one of a user's last occasions; its history is what the user did before that basket began. How
negatives are drawn is in `mimn.data.negatives`. Each choice is a hash of the instance and of what is chosen, so the
same data gives the same instances on every machine and with every library version. They are still written to a file,
and their hash is in every record.

    draw(what, user, timestamp, attempt, below) =
        first 8 bytes, big-endian, of sha256("instances-v1:what:user:timestamp:attempt"), modulo `below`
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mimn.data.events import DataError, Events
from mimn.data.negatives import NegativeRule, Pool, Sampling
from mimn.data.split import PARTS, Part, parts_of
from mimn.data.vocabulary import Vocabulary, build_vocabulary
from mimn.whole_file import writing

Protocol = Literal["A", "B"]

RULE = "instances-v1"
DEFAULT_RULE = NegativeRule()
MAKE_AGAIN = "delete it, and it is made again"
OCCASIONS = 10
"""Protocol B: targets come from a user's last ten occasions. Protocol A takes only the very last."""
MIN_HISTORY = 20
"""Events that must precede a target, unless a run says otherwise (`min_history` in `[data]`)."""
NEGATIVES = 4
"""Negatives drawn for each positive. The first is the protocol's; all four choose the checkpoint on validation."""
MAX_ATTEMPTS = 1000
TOGETHER = 4096
"""Targets whose negatives are drawn together."""


@dataclass(frozen=True)
class Negatives:
    """The drawn items of n positives."""

    item: NDArray[np.int64]
    """[n, NEGATIVES]: all different, of the train users' items."""
    category: NDArray[np.int64]
    """[n, NEGATIVES]"""


@dataclass(frozen=True)
class Instances:
    """n positives, each with its negatives, in the order of the events. All arrays are int64 except `last`."""

    part: NDArray[np.int64]
    """[n]: place in `PARTS`."""
    user_id: NDArray[np.int64]
    """[n]"""
    timestamp: NDArray[np.int64]
    """[n]: of the target's occasion, as in the events."""
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
    negatives: Mapping[Sampling, Negatives]
    unknown: NDArray[np.int64]
    """[3]: targets of each part that were dropped because no train user has the item."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def samplings(self) -> tuple[Sampling, ...]:
        """How negatives were drawn. The first is what training draws."""
        return tuple(self.negatives)

    def of(self, part: Part, protocol: Protocol = "B") -> Instances:
        """The instances of one part."""
        mask = self.part == PARTS.index(part)
        return self.select(mask & self.last if protocol == "A" else mask)

    def select(self, mask: NDArray[np.bool_]) -> Instances:
        """The instances where the mask is true."""
        rows = {name: getattr(self, name)[mask] for name in POSITIVES}
        negatives = {
            sampling: Negatives(drawn.item[mask], drawn.category[mask]) for sampling, drawn in self.negatives.items()
        }
        return replace(self, **rows, negatives=negatives)

    def candidates(self, sampling: Sampling, negatives: int = 1) -> Candidates:
        """The rows to score: each positive, then its first `negatives` negatives."""
        drawn = self.negatives[sampling]
        item, category = (
            np.concatenate([positive[:, np.newaxis], negative[:, :negatives]], axis=1)
            for positive, negative in ((self.item, drawn.item), (self.category, drawn.category))
        )
        instance = np.repeat(np.arange(len(self)), negatives + 1)
        label = np.zeros((len(self), negatives + 1), np.int64)
        label[:, 0] = 1
        return Candidates(instance, item.reshape(-1), category.reshape(-1), label.reshape(-1), self.user_id[instance])

    @property
    def arrays(self) -> dict[str, NDArray[np.int64] | NDArray[np.bool_]]:
        """All arrays by their names in a file, in the order in which they are hashed."""
        arrays = {name: getattr(self, name) for name in POSITIVES}
        for sampling, drawn in self.negatives.items():
            arrays |= {f"{sampling}_item": drawn.item, f"{sampling}_category": drawn.category}
        return arrays | {"unknown": self.unknown}

    @cached_property
    def sha256(self) -> str:
        """sha256 over `arrays` in their order, little-endian int64."""
        digest = hashlib.sha256()
        for array in self.arrays.values():
            digest.update(np.ascontiguousarray(array, "<i8").tobytes())
        return digest.hexdigest()

    def save(self, path: Path, origin: str) -> None:
        """Write an .npz archive of plain arrays, whole or not at all; `origin` is their `source`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as partial, partial.open("wb") as file:
            whole: dict[str, Any] = {"sha256": np.array(self.sha256), "source": np.array(origin)} | self.arrays
            np.savez_compressed(file, **whole)

    @classmethod
    def load(cls, path: Path, origin: str, rule: NegativeRule = DEFAULT_RULE) -> Instances:
        """The instances that `save` wrote.

        Raises:
            DataError: the file is missing, is not one of ours, was changed, or does not have this `origin`.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                stated, of = str(archive["sha256"]), str(archive["source"])
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            raise DataError(f"{path} holds no instances ({error}): {MAKE_AGAIN}") from error
        if of != origin:
            raise DataError(f"{path} was made from other events or by another rule: {MAKE_AGAIN}")
        try:
            negatives = {
                sampling: Negatives(arrays[f"{sampling}_item"], arrays[f"{sampling}_category"])
                for sampling in rule.samplings
            }
            instances = cls(
                **{name: arrays[name] for name in POSITIVES}, negatives=negatives, unknown=arrays["unknown"]
            )
        except KeyError as error:
            raise DataError(f"{path} holds no instances ({error}): {MAKE_AGAIN}") from error
        if instances.sha256 != stated:
            raise DataError(f"{path} was changed after it was written: {MAKE_AGAIN}")
        return instances


POSITIVES = tuple(field.name for field in fields(Instances) if field.name not in ("negatives", "unknown"))
"""The fields of `Instances` with a row for each positive."""


@dataclass(frozen=True)
class Candidates:
    """Rows to score. All [r] int64."""

    instance: NDArray[np.int64]
    """Index of the instance whose history the row is scored on."""
    item: NDArray[np.int64]
    category: NDArray[np.int64]
    label: NDArray[np.int64]
    """1 = bought, 0 = drawn."""
    user_id: NDArray[np.int64]


def draw(what: str, user_id: int, timestamp: int, attempt: int, below: int) -> int:
    """A number in [0, below) that depends on the arguments alone (see the module's text)."""
    digest = hashlib.sha256(f"{RULE}:{what}:{user_id}:{timestamp}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % below


def build_instances(
    events: Events,
    vocabulary: Vocabulary | None = None,
    fold: int | None = None,
    rule: NegativeRule = DEFAULT_RULE,
    min_history: int = MIN_HISTORY,
) -> Instances:
    """All instances of a data set, all parts of a split, protocol B (`last` marks those of protocol A).

    Two folds have the same positives, except those that one fold's train users do not know; the negatives of a fold are
    drawn from what its own train users did. `min_history` events must precede a target.

    Raises:
        DataError: the data set has no train users, no target with enough history, or too few items.
    """
    part = parts_of(events.users, fold)
    train_users = part == PARTS.index("train")
    if vocabulary is None:
        vocabulary = build_vocabulary(events, train_users)
    rows: list[int] = []
    excluded: list[set[int]] = []
    unknown = [0, 0, 0]
    pools = {sampling: Pool(sampling, events, vocabulary, train_users) for sampling in rule.samplings}
    drawn: dict[Sampling, list[NDArray[np.int64]]] = {sampling: [] for sampling in rule.samplings}

    def draw_negatives() -> None:
        """For the targets since the last call: what they exclude is as large as the data, and is not kept."""
        latest = np.array(rows[len(rows) - len(excluded) :], np.int64)
        for sampling, pool in pools.items():
            drawn[sampling].append(_negatives(events, vocabulary, latest, excluded, pool))
        excluded.clear()

    for u, (begin, end) in enumerate(zip(events.bounds[:-1], events.bounds[1:], strict=True)):
        for row, basket in _targets(events, int(begin), int(end), min_history):
            if vocabulary.item_places(events.item_id[row : row + 1])[0] < 0:
                unknown[part[u]] += 1
                continue
            rows.append(row)
            history = events.item_id[begin : events.history_end[row]].tolist() if rule.exclude == "history" else ()
            excluded.append(basket.union(history))
        if len(excluded) >= TOGETHER:
            draw_negatives()
    draw_negatives()
    if not rows:
        longest = int(last_histories(events).max(initial=0))
        raise DataError(
            f"no target has {min_history} events before it, and no user more than {longest} before the last occasion: "
            f"lower `min_history` in `[data]` (to 1 or more), or add longer histories"
        )
    target = np.array(rows)
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
        negatives={
            sampling: Negatives(vocabulary.items[places], vocabulary.item_category[places])
            for sampling, places in ((sampling, np.concatenate(of)) for sampling, of in drawn.items())
        },
        unknown=np.array(unknown, np.int64),
    )


def last_histories(events: Events) -> NDArray[np.int64]:
    """Events of each user before the last occasion: before no target are there more. [U]"""
    return events.history_end[events.bounds[1:] - 1] - events.bounds[:-1]


def target_rows(events: Events, instances: Instances) -> NDArray[np.int64]:
    """The event that each positive is; the first of several of one item at one time. [n]"""
    user = np.searchsorted(events.users, instances.user_id)
    rows = np.empty(len(instances), np.int64)
    stops, times, items = events.bounds[user + 1].tolist(), events.timestamp, events.item_id
    for i, (begin, stop) in enumerate(zip(instances.begin.tolist(), stops, strict=True)):
        first, end = begin + np.searchsorted(times[begin:stop], [instances.timestamp[i], instances.timestamp[i] + 1])
        rows[i] = first + int(np.argmax(items[first:end] == instances.item[i]))
    return rows


def stored_instances(
    folder: Path,
    events: Events,
    fold: int | None = None,
    rule: NegativeRule = DEFAULT_RULE,
    min_history: int = MIN_HISTORY,
) -> Instances:
    """The instances of `events` and a split: read from their file in `folder`, or made and written there first.

    Raises:
        DataError: the file is damaged or cannot be written, or the data set is too small.
    """
    origin = source(events, fold, rule, min_history)
    path = folder / f"instances-{hashlib.sha256(origin.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        made = build_instances(events, fold=fold, rule=rule, min_history=min_history)
        try:
            made.save(path, origin)
        except OSError as error:
            raise DataError(
                f"instances cannot be kept in {folder} ({error.strerror or error}): choose another folder by CTR_CACHE"
            ) from error
    return Instances.load(path, origin, rule)


def source(
    events: Events, fold: int | None = None, rule: NegativeRule = DEFAULT_RULE, min_history: int = MIN_HISTORY
) -> str:
    """What instances are made from: the rule, the data and the split. Defaults are left out, as in older files."""
    parts = [f"{RULE} of {events.sha256}"]
    if fold is not None:
        parts.append(f"fold {fold}")
    if rule.samplings != DEFAULT_RULE.samplings:
        parts.append(f"samplings {' '.join(rule.samplings)}")
    if rule.exclude != DEFAULT_RULE.exclude:
        parts.append(f"negatives exclude {rule.exclude}")
    if min_history != MIN_HISTORY:
        parts.append(f"{min_history} events before a target")
    return ", ".join(parts)


def _targets(events: Events, begin: int, end: int, min_history: int) -> list[tuple[int, set[int]]]:
    """One row of each of the user's last occasions that have enough history, and all items of its basket."""
    occasion = events.occasion[begin:end]
    starts = begin + np.concatenate([[0], np.flatnonzero(np.diff(occasion)) + 1])
    ends = np.append(starts[1:], end)
    targets = []
    for start, stop in zip(starts[-OCCASIONS:], ends[-OCCASIONS:], strict=True):
        user, timestamp = int(events.user_id[start]), int(events.timestamp[start])
        row = int(start) + draw("target", user, timestamp, 0, int(stop - start))
        if events.history_end[row] - begin < min_history:
            continue
        same_basket = events.basket_id[begin:end] == events.basket_id[row]
        basket = {*events.item_id[start:stop].tolist(), *events.item_id[begin:end][same_basket].tolist()}
        targets.append((row, basket))
    return targets


def _negatives(
    events: Events, vocabulary: Vocabulary, targets: NDArray[np.int64], excluded: list[set[int]], pool: Pool
) -> NDArray[np.int64]:
    """Places in `vocabulary.items` of the negatives of all `targets` (rows), none of them among the target's `excluded`
    items. → [n, NEGATIVES]"""
    first, end = pool.spans(events.timestamp[targets])
    chosen = np.empty((len(targets), NEGATIVES), np.int64)
    for i, row in enumerate(targets.tolist()):
        user, timestamp = int(events.user_id[row]), int(events.timestamp[row])
        found: list[int] = []
        for attempt in range(MAX_ATTEMPTS):
            entries = pool.entries[first[i] : end[i]]
            if not len(entries) or attempt >= MAX_ATTEMPTS // 2:
                # At the start of the data four weeks may hold too few other items: then by popularity.
                entries = vocabulary.event_items
            place = int(entries[draw(pool.sampling, user, timestamp, attempt, len(entries))])
            if place not in found and int(vocabulary.items[place]) not in excluded[i]:
                found.append(place)
                if len(found) == NEGATIVES:
                    break
        else:
            raise DataError(
                f"{MAX_ATTEMPTS} draws gave fewer than {NEGATIVES} items that may be a target's negatives "
                "(data.negatives_exclude): the data set has too few items"
            )
        chosen[i] = found
    return chosen
