"""The data set of a run with drawn negatives: events, their split and the instances that models are judged on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mimn.data.description import ActionRules, UserSplit
from mimn.data.events import DataError, Events
from mimn.data.instances import Instances, last_histories, stored_instances
from mimn.data.preparation import cache_folder, prepare
from mimn.data.prepared import Prepared
from mimn.data.split import PARTS, Part, parts_of
from mimn.data.vocabulary import TwoCategories, Vocabulary, build_vocabulary
from mimn.run_config import DataSettings


@dataclass(frozen=True)
class DataSet:
    """Everything that training and evaluation need of the data."""

    prepared: Prepared
    events: Events
    train_users: NDArray[np.bool_]
    """[U]"""
    long_enough: Mapping[Part, tuple[int, int]]
    """By part: its users, and those of them with enough events before their last occasion for a target."""
    min_history: int
    """Events that precede a target."""
    vocabulary: Vocabulary
    instances: Instances
    action_rules: ActionRules
    """What each action makes of an event; empty if all events are alike."""

    @property
    def name(self) -> str:
        """As the description says."""
        return self.prepared.description.name


def description_of(run: str, now: Path | None) -> Path:
    """The description of a run's data set: where it is `now`, else where it was in training, `run`.

    Raises:
        DataError: it is not there.
    """
    path = Path(run) if now is None else now
    if not path.exists():
        raise DataError(f"{path}, which the run was trained with, is gone: name the description by --description")
    return path


def load_data(settings: DataSettings, parts: Sequence[Part] = PARTS) -> DataSet:
    """The data set that the settings describe, and its instances of `parts`: all models and seeds of a split share
    these.

    Raises:
        DataError: the description or a file of it cannot be used, or another command trains on it.
    """
    path = Path(settings.description)
    prepared = prepare(path, cache_folder())
    _check_trainable(path, prepared)
    events, split = prepared.events, prepared.description.split
    fold = split.fold if settings.fold is None and isinstance(split, UserSplit) else settings.fold
    part_of_user, long = parts_of(events.users, fold), last_histories(events) >= settings.min_history
    train_users = part_of_user == PARTS.index("train")
    try:
        vocabulary = build_vocabulary(events, train_users)
    except TwoCategories as error:
        table, item = prepared.description.events, prepared.names("item", [error.item])[error.item]
        raise DataError(
            f"`events`, columns {table.item} and {table.category} of {', '.join(table.files)}: item {item} has two "
            "categories: give each item one"
        ) from error
    instances = stored_instances(prepared.folder, events, fold, settings.negatives, settings.min_history)
    wanted = np.isin(instances.part, [PARTS.index(part) for part in parts])
    return DataSet(
        prepared=prepared,
        events=events,
        train_users=train_users,
        long_enough={
            part: (int((part_of_user == i).sum()), int((long & (part_of_user == i)).sum()))
            for i, part in enumerate(PARTS)
        },
        min_history=settings.min_history,
        vocabulary=vocabulary,
        instances=instances if wanted.all() else instances.select(wanted),
        action_rules=prepared.description.action_rules,
    )


def _check_trainable(path: Path, prepared: Prepared) -> None:
    """Raises DataError if positives are not events."""
    described = prepared.description
    if described.impressions is not None:
        raise DataError(f"{path} has `[impressions]`: train on their labels with `ctr impressions train`")
    if described.protocol is not None:
        raise DataError(
            f"{path} has `[protocol]`, the authors' own instances: train on them with `python -m mimn.paper`"
        )
