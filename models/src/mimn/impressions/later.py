"""Later data than a run was trained on: whether its model can read it, and how figures and calibrators name it.

The description has to say what the run's says of every input of the model and of the labels. Where files are, how they
are read and how they are split may differ. Nothing of a run is fitted to later data but its calibrator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.config import ConfigError
from mimn.data.description import SOURCES, Description, TimeSplit, instant_ms, read_description
from mimn.data.events import DataError
from mimn.impressions.data import ImpressionData

TABLES = ("events", "impressions", "users", "items", "members")
OF_FILES = ("files", "delimiter", "columns", "encoding", "quote", "nulls", "time_unit", "since", "until", "sha256")
"""Keys of tables: which rows there are, and how they are read."""
COLUMNS = (
    *("user", "item", "time", "category", "action", "together"),
    *("label", "label_time", "window_end", "weight", "position", "request", "key"),
)
"""Keys of tables that name a column: it may be called otherwise, and has to be there or not as in the run's."""
OF_FIGURES = ("slices", "negatives_kept")
"""Keys of `[impressions]` that no input of the model depends on."""


class LaterData(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which data it is."""

    dataset: str
    """The description's `name`."""
    description_sha256: str
    """Of the file."""
    data_sha256: str
    prepared_sha256: str
    validation_ms: tuple[int, int] | None
    """From when to before when there are validation impressions; None: they are those of the validation users."""

    @classmethod
    def of(cls, description: Path, data: ImpressionData) -> LaterData:
        """The data set of the description in a file."""
        validation = None
        if isinstance(data.prepared.description.split, TimeSplit):
            time_ms = data.labelled.impressions.time_ms[data.rows("validation")]
            validation = int(time_ms.min()), int(time_ms.max()) + 1
        return cls(
            dataset=data.prepared.description.name,
            description_sha256=hashlib.sha256(description.read_bytes()).hexdigest(),
            data_sha256=data.sha256,
            prepared_sha256=data.prepared.sha256,
            validation_ms=validation,
        )

    @property
    def key(self) -> str:
        """What its figures are kept under."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    @property
    def validated_until(self) -> str | None:
        """The first full second behind its validation impressions."""
        return None if self.validation_ms is None else _said(-(-self.validation_ms[1] // 1000) * 1000)

    def validates(self, time_ms: NDArray[np.int64]) -> bool:
        """Whether test impressions of these times may be among its validation impressions."""
        if self.validation_ms is None:  # other users
            return False
        first, stop = self.validation_ms
        return bool(((time_ms >= first) & (time_ms < stop)).any())


def check_later(trained: Description, description: Path) -> None:
    """Whether a run can be calibrated and measured on another data set than that of the description `trained`.

    Raises:
        ConfigError: an input would mean something else, or training has learned from labels that would be measured.
        DataError: the description cannot be used.
    """
    later = read_description(description)
    for key, old, new in _differences("", _inputs(trained), _inputs(later)):
        raise ConfigError(
            f"--on: `{key}` is {new} in {description} and {old} in the run's: describe the same inputs, or train on "
            "this data"
        )
    old_split, new_split = trained.split, later.split
    if isinstance(old_split, TimeSplit) and isinstance(new_split, TimeSplit):
        for name in ("train_until", "validate_until"):
            old_cut, new_cut = (instant_ms(getattr(split, name)) for split in (old_split, new_split))
            if new_cut < old_cut:
                raise ConfigError(
                    f"--on: `split.{name}` of {description} is {_said(new_cut)}, and that of the run {_said(old_cut)}: "
                    "training knows labels until then, so move the cut to then or later"
                )
    elif old_split != new_split:
        raise ConfigError(
            f"--on: `[split]` of {description} is not that of the run, so the test impressions may be of those that "
            "trained: give both the same `by`, and the same `fold`"
        )


def check_past(data: ImpressionData, description: Path) -> None:
    """Whether later data holds what its past rates count.

    Raises:
        DataError: it holds no impression before those of the validation.
    """
    described, time_ms = data.prepared.description, data.labelled.impressions.time_ms
    split = described.split
    rated = [
        f"fields.{source}.{name}"
        for source in SOURCES
        for name, field in getattr(described.fields, source).items()
        if field.kind == "past_rate" and source != "item"  # an item's rate is that of the bundle
    ]
    if rated and isinstance(split, TimeSplit) and not bool((time_ms < instant_ms(split.train_until)).any()):
        raise DataError(
            f"--on: `{rated[0]}` counts earlier impressions, and {description} has none before `split.train_until`: "
            "name their files in `[impressions]` as well"
        )


def first_event_ms(data: ImpressionData) -> int:
    """When the first of the events happened."""
    events = data.labelled.events
    return int(events.timestamp.min()) * events.unit_ms


def doubt_of_history(record: dict[str, Any], data: ImpressionData) -> str | None:
    """What is wrong if the events of later data begin after those that the run was trained on, as its `record` says;
    runs of earlier versions do not say it."""
    then, now = record.get("first_event_ms"), first_event_ms(data)
    if then is None or now <= then:
        return None
    return (
        f"events begin at {_said(now)}, and at {_said(then)} in training: histories are shorter than those of served "
        "states, which still hold the earlier events; name the files of all events in `[events]`"
    )


def _inputs(description: Description) -> dict[str, Any]:
    """What a description says of the model's inputs and of labels."""
    said: dict[str, Any] = msgspec.to_builtins(description)
    for key in ("name", "source", "split"):
        del said[key]
    for table in (said[name] for name in TABLES if said[name] is not None):
        for key in OF_FILES:
            table.pop(key, None)
        for key in COLUMNS:
            if table.get(key) is not None:
                table[key] = {}
    if description.impressions is not None:
        for key in OF_FIGURES:
            del said["impressions"][key]
        said["impressions"]["window"] = str(timedelta(milliseconds=description.impressions.window_ms))
    for source in SOURCES:
        for field in said["fields"][source].values():
            del field["column"]
    # Events of the others are not folded.
    said["actions"] = {name: action for name, action in said["actions"].items() if action["is"] is not None}
    return said


def _differences(at: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    """Where two descriptions differ, with what each says there."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(f"{at}.{key}" if at else key, old.get(key), new.get(key))
    elif old != new:
        yield at, _value(old), _value(new)


def _value(value: Any) -> str:
    if value is None:
        return "not given"
    return "described" if isinstance(value, dict) else repr(value)


def _said(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
