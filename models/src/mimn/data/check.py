"""What a described data set holds, before anything is trained: counts, spans, label rates, and what was refused. The
file is long because one pass over the tables finds all of it.

One pass over each table, by the columns and the functions of preparation: what it would refuse is found here. Memory is
for the distinct ids and values, and eight bytes a row to find rows that repeat another one. Nothing is written.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.fields import FieldEncoder, FieldSpec
from mimn.data.column_values import Wanted
from mimn.data.columns import COMPUTED, TableName, columns_of
from mimn.data.description import (
    SOURCES,
    Description,
    EventsTable,
    Field,
    ImpressionsTable,
    SideTable,
    TimeSplit,
    instant_ms,
    read_description,
)
from mimn.data.events import DataError
from mimn.data.faults import LARGEST_ID, large_id, nothing_folded, nothing_to_learn, weight_not_above_0
from mimn.data.field_tally import FieldTally
from mimn.data.fields_alone import FieldsAlone, Told
from mimn.data.ids import Strings
from mimn.data.labels import known_labels, labels_known
from mimn.data.local_dates import LocalDates
from mimn.data.misread import MisreadIds, misread_values, written_twice
from mimn.data.number_bounds import usual_bounds
from mimn.data.own_events import Distance, OwnEvents
from mimn.data.rounding import WholeTimes
from mimn.data.split import LEFT_OUT, PARTS, parts_of, time_parts
from mimn.data.tables import Columns, TableReader
from mimn.data.tallies import FirstTimes, NumberTally, RepeatedRows, Tally
from mimn.data.zones import Zones

DAY_MS = 86_400_000
MANY_IMPRESSIONS = 50
"""Of so many, some have a user and an item with events, an event before them, and rows in the tables of fields, if ids
and times are the same."""
FEW_WITH_HISTORY = 0.01
"""A smaller share of the impressions of users with events has an event before it: times are not what they seem."""
NO_USER_ROW = "share of impressions whose user has no row in [users]"
BEST_ALONE = "AUC of a field of the context alone, the best"
SHOWN_ALONE = 3
KNOWN_BEFORE = "known before the answer, by --known-before"
TOLD_BY_MISSING = 0.9
"""Shares of missing values that differ by so much tell the answer by themselves."""
STRETCHED = 2.0
"""Numbers that are clipped are a finding where they make the deviation so many times as large."""


@dataclass(slots=True)
class Report:
    """What `check` found. `values` is what is printed, in order; `findings` is what its owner should fix."""

    values: dict[str, Any] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def check(path: Path, now_ms: int | None = None, known_before: Sequence[str] = ()) -> Report:
    """The report of the data set that the description at `path` describes.

    Args:
        path: of the description.
        now_ms: times a day after it cannot be true; the clock's by default.
        known_before: fields, as descriptions name them, that are known before the answer, however well they
            tell it.

    Raises:
        DataError: the description or a whole column cannot be used, or there is no such field; the message names file,
            column and fix.
    """
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    description = read_description(path)
    fields = [f"fields.{source}.{name}" for source in SOURCES for name in getattr(description.fields, source)]
    for name in known_before:
        if name not in fields:
            raise DataError(f"--known-before {name}: {path} has no such field; it has {', '.join(fields) or 'none'}")
    return _Check(description, path.parent, now_ms + DAY_MS, known_before).run()


class _Check:
    """One run of `check`."""

    def __init__(self, description: Description, root: Path, latest_ms: int, known_before: Sequence[str]) -> None:
        self._description, self._root, self._latest_ms = description, root, latest_ms
        self._known_before = known_before
        self._report = Report({"name": description.name})
        self._strings = Strings()
        self._users, self._items = Tally(), Tally()
        self._first_events = FirstTimes()
        self._own_events = OwnEvents()
        self._zones = Zones()
        self._event_days = ("", "")
        """The first and the last day of the events."""
        self._user_keys: NDArray[np.uint64] | None = None
        self._item_keys: NDArray[np.uint64] | None = None
        self._categories_of: list[Columns] = []
        """Keys and categories of `[items]`, if it has categories."""
        self._without_category: dict[str, tuple[int, int]] = {}
        """By table: rows whose item has no category, and the first such item."""

    def run(self) -> Report:
        described, report = self._description, self._report
        if described.users is not None:
            self._user_keys = self._side(described.users, "users")
        if described.items is not None:
            self._item_keys = self._side(described.items, "items")
        self._events(described.events)
        if described.impressions is not None:
            self._impressions(described.impressions)
            if self._zones.both:
                report.values["times with and without a zone"] = self._zones.both
        if described.members is not None:
            for _ in self._read(self._reader("members"), "members"):
                pass
        if described.ids == "string":
            shared = self._strings.collisions
            report.values["strings that share an id"] = shared
            if shared:
                report.findings.append(f"{shared} strings share their 64-bit id with another one: rename them")
        return report

    def _reader(self, name: TableName) -> TableReader:
        described = self._description
        return TableReader(getattr(described, name), self._root, columns_of(described, name), described.ids)

    def _read(self, reader: TableReader, name: TableName) -> Iterator[Columns]:
        """The batches of the table `name`; afterwards its refused rows are in the report.

        Raises:
            DataError: no row can be used.
        """
        used = 0
        large: dict[str, NDArray[np.uint64]] = {}
        signed = {"user", "item", "key", "category"}
        rows = RepeatedRows() if name in ("events", "impressions") else None
        wanted = columns_of(self._description, name)
        numbers = [column for column, want in wanted.items() if want.meaning == "number"]
        infinite = Counter[str]()
        fields = FieldTally(wanted, reader.texts)
        scaled = {column: NumberTally() for column in numbers if self._is_scaled(wanted[column])}
        misread = MisreadIds()
        strings = self._strings if self._description.ids == "string" else None
        for batch in reader.batches(strings=strings, note=misread.add, zones=self._zones):
            used += len(next(iter(batch.values())))
            if rows is not None:
                rows.add(batch)
            for column in numbers:
                infinite[column] += int(np.count_nonzero(np.isinf(batch[column])))
            for column, tally in scaled.items():
                tally.add(batch[column])
            fields.add(batch, reader.text_bytes)
            if self._description.ids == "uint64":
                for column in signed & batch.keys():
                    found = batch[column][batch[column] > LARGEST_ID]
                    large[column] = np.union1d(large.get(column, found), found)[-1:]
            yield batch
        self._report.values[f"rows of [{name}]"] = reader.rows
        if rows is not None:
            self._report.values[f"rows of [{name}] that repeat another one exactly"] = rows.count
        for column, n in infinite.items():
            if n:
                self._report.values[f"values of {wanted[column].said} that are infinite, read as missing"] = n
        self._find_misread(name, reader, wanted)
        for column, first, meaning, n in misread.found:
            self._report.values[f"values of {wanted[column].said} such as {first!r}: {meaning}"] = n
        self._report.findings += fields.findings(name, reader.files)
        for column, tally in scaled.items():
            self._find_clipped(name, reader, wanted[column], tally)
        for column, ids in sorted(large.items()):
            if fault := large_id(wanted[column].column, ids):
                self._report.findings.append(f"`{name}`, {reader.files}: {fault}")
        for reason, n in reader.refused.rows.items():
            first = reader.refused.first[reason]
            self._report.values[f"refused in [{name}], {reason}"] = n
            self._report.findings.append(f"`{name}`: {n} rows refused, {reason}; the first is {first}")
        if not used:
            reasons = "; ".join(f"{reason}: {n}" for reason, n in reader.refused.rows.items()) or "there are none"
            raise DataError(f"`{name}`: none of {reader.rows} rows can be used: {reasons}")

    def _find_misread(self, name: TableName, reader: TableReader, wanted: Mapping[str, Wanted]) -> None:
        """Note texts of fields that may mean something else, and find values that are written in two ways."""
        for column, want in wanted.items():
            field = self._field(want)
            if field is None or field.kind != "categorical" or field.vocabulary is not None:
                continue
            for first, meaning, n in misread_values(reader.texts[column].values()):
                self._report.values[f"values of {want.said} such as {first!r}: {meaning}"] = n
            if twice := written_twice(reader.texts[column].values()):
                ways = " and ".join(f"{text!r} (first in {reader.first_file(column, text)})" for text in twice[0])
                self._report.findings.append(
                    f"`{name}`, column {want.column}: `{want.said}` has {ways} as values of their own, and "
                    f"{len(twice)} values in all that are written in more than one way: write each alike in all files"
                )

    def _field(self, want: Wanted) -> Field | None:
        """The field that a column holds."""
        source, _, of = want.said.removeprefix("fields.").partition(".")
        found: Field | None = getattr(self._description.fields, source, {}).get(of)
        return found

    def _is_scaled(self, want: Wanted) -> bool:
        """Whether a column holds a numeric field without intervals."""
        field = self._field(want)
        return field is not None and field.kind == "numeric" and field.buckets is None

    def _find_clipped(self, name: TableName, reader: TableReader, want: Wanted, tally: NumberTally) -> None:
        """Count the numbers that a model would read as a bound, if all rows were train impressions."""
        field = self._field(want)
        spec = FieldSpec(name="", source="context", kind="numeric", transform=field.transform if field else "none")
        x, weight = FieldEncoder(spec).transformed(tally.numbers), tally.counts
        if not len(x):
            return
        low, high = usual_bounds(x, weight)
        within = (x >= low) & (x <= high)
        clipped = int(weight[~within].sum())
        if not clipped:
            return
        usual, beyond = tally.numbers[within], tally.numbers[~within]
        bounds = f"{usual.min():.3g} to {usual.max():.3g}"
        self._report.values[f"values of {want.said} beyond {bounds}, clipped"] = clipped
        if _deviation(x, weight) > STRETCHED * _deviation(np.clip(x, low, high), weight):
            furthest = beyond[np.argmax(np.abs(beyond))]
            self._report.findings.append(
                f"`{name}`, column {want.column} of {reader.files}: {clipped} rows reach as far as {furthest:.3g}, all "
                f"others from {bounds}: they are clipped to these bounds. Correct them, or set `buckets`"
            )

    def _side(self, table: SideTable, name: TableName) -> NDArray[np.uint64]:
        tally = Tally()
        reader = self._reader(name)
        for batch in self._read(reader, name):
            tally.add(batch["key"])
            if "category" in batch:
                self._categories_of.append({column: batch[column] for column in ("key", "category")})
        repeated = tally.ids[tally.counts > 1]
        if len(repeated):
            first = int(repeated[0])
            self._report.findings.append(
                f"`{name}`, column {table.key} of {reader.files}: {len(repeated)} keys have more than one row, such as "
                f"{reader.text_of('key', first)}: keep one row a key"
            )
        return tally.ids

    def _events(self, table: EventsTable) -> None:
        categories: NDArray[np.uint64] = np.empty(0, np.uint64)
        first, last = np.iinfo(np.int64).max, -1
        whole = WholeTimes()
        dates = LocalDates()
        zero = future = 0
        actions: Counter[int] = Counter()
        reader = self._reader("events")
        for batch in self._read(reader, "events"):
            self._users.add(batch["user"])
            items = batch["item"] + np.uint64(table.item_offset)
            self._items.add(items)
            zero += int(np.count_nonzero(items == 0))
            future += self._in_future(batch)
            self._note_without_category("events", batch["item"], table.item_offset)
            if "category" in batch:
                categories = np.union1d(categories, batch["category"])
            if len(batch["time"]):
                first, last = min(first, int(batch["time"].min())), max(last, int(batch["time"].max()))
                whole.add(batch["time"])
                dates.add(batch["time"])
                if self._description.impressions is not None:
                    self._first_events.add(batch["user"], batch["time"])
                    self._own_events.add_events(batch["user"], items, batch["time"])
            if "action" in batch:
                actions.update(batch["action"].tolist())
        if table.category is None:
            for rows in self._categories_of:
                categories = np.union1d(categories, rows["category"][np.isin(rows["key"], self._items.ids)])
        self._find_without_category("events", reader)
        self._find_item_0("events", table.item, reader, zero)
        self._find_future("events", table.time, reader, future)
        if dates.found is not None and self._description.impressions is not None:
            n, clocks = dates.found
            self._report.findings.append(
                f"`events`, column {table.time} of {reader.files}: {n} times are at {clocks} UTC exactly, as dates of "
                "another time zone are: write dates, or the events' own times. Otherwise an impression's own click "
                "lies before it, in its history"
            )
        texts = reader.texts.get("action", {})
        lengths = self._users.counts
        self._event_days = _day(first), _day(last)
        self._report.values |= {
            "users": len(lengths),
            "items": len(self._items.ids),
            "categories": len(categories),
            "events from": _day(first),
            "events to": _day(last),
            "times of events are whole": _shares(whole.shares),
            "events a user, median": int(np.median(lengths)),
            "events a user, 95th percentile": int(np.percentile(lengths, 95)),
            "events a user, most": int(lengths.max()),
        }
        folded = 0
        for action, n in sorted((texts.get(code, ""), n) for code, n in actions.items()):
            meant = self._description.actions.get(action)
            what = "not described" if meant is None else f"{meant.is_}" if meant.weight else "not folded"
            self._report.values[f"action {action} ({what})"] = n
            folded += n if meant is not None and meant.weight else 0
            if meant is None:
                self._report.findings.append(
                    f"`[actions]` lacks {action!r} ({n} events): give it a line, with weight 0 to leave it out"
                )

        if actions and not folded:
            self._report.findings.append(nothing_folded())

    def _impressions(self, table: ImpressionsTable) -> None:
        shown = clicked = late = without_user = new_item = undated = early = unlabelled = zero = untrained = 0
        future = with_history = no_row = no_user_row = 0
        weights = None
        parts: Counter[tuple[int, int]] = Counter()
        sample = {"user": 0, "item": 0}
        split = self._description.split
        by_day: dict[int, tuple[int, int]] = {}
        reader = self._reader("impressions")
        wanted = columns_of(self._description, "impressions")
        alone = FieldsAlone([name for name in wanted if name.startswith("context.")], self._train)
        for batch in self._read(reader, "impressions"):
            known_ms = labels_known(batch, table.window_ms)
            label = known_labels(batch, known_ms)
            late += int(batch["label"].sum()) - int(label.sum())
            zero += int(np.count_nonzero(batch["item"] == 0))
            future += self._in_future(batch)
            if "weight" in batch:
                weights = weights or weight_not_above_0(table, batch["weight"])
            if "label_time" in batch:
                at = batch["label_time"][label == 1]
                undated += int(np.count_nonzero(at < 0))
                early += int(np.count_nonzero((at >= 0) & (at < batch["time"][label == 1])))
                within = (batch["label_time"] >= batch["time"]) & (batch["label_time"] <= known_ms)
                unlabelled += int(np.count_nonzero(within & (batch["label"] == 0)))
            self._own_events.add_impressions(batch["user"], batch["item"], batch["time"], label == 1)
            shown, clicked = shown + len(label), clicked + int(label.sum())
            days, place = np.unique(batch["time"] // DAY_MS, return_inverse=True)
            of_day = zip(np.bincount(place).tolist(), np.bincount(place, label).tolist(), strict=True)
            for day, (n, k) in zip(days.tolist(), of_day, strict=True):
                before = by_day.get(day, (0, 0))
                by_day[day] = before[0] + n, before[1] + int(k)
            sample = {name: int(batch[name][0]) if len(batch[name]) else one for name, one in sample.items()}
            without_user += _outside(batch["user"], self._users.ids)
            new_item += _outside(batch["item"], self._items.ids)
            with_history += int(np.count_nonzero(self._first_events.before(batch["user"], batch["time"])))
            if self._item_keys is not None:
                no_row += _outside(batch["item"], self._item_keys)
            if self._user_keys is not None:
                no_user_row += _outside(batch["user"], self._user_keys)
            self._note_without_category("impressions", batch["item"])
            if isinstance(split, TimeSplit):
                part = time_parts(split, known_ms, batch["time"])
                if split.train_from is not None:
                    untrained += int(np.count_nonzero(batch["time"] < instant_ms(split.train_from)))
                parts.update(zip(part.tolist(), label.tolist(), strict=True))
                alone.add(batch, label == 1, part == PARTS.index("train"))
            else:
                alone.add(batch, label == 1, np.ones(len(label), np.bool_))
        self._find_without_category("impressions", reader)
        self._find_item_0("impressions", table.item, reader, zero)
        self._find_future("impressions", table.time, reader, future)
        if shown >= MANY_IMPRESSIONS:
            if without_user == shown:
                self._report.findings.append(self._strangers("user", reader, sample["user"]))
            others = self._description.members is not None or self._description.events.item_offset
            if new_item == shown and not others:
                self._report.findings.append(self._strangers("item", reader, sample["item"]))
            if no_row == shown and self._has_columns("item"):
                self._report.findings.append(self._without_row("item", reader, sample["item"]))
            if no_user_row == shown and self._has_columns("user"):
                self._report.findings.append(self._without_row("user", reader, sample["user"]))
        if shown - without_user >= MANY_IMPRESSIONS and with_history < FEW_WITH_HISTORY * (shown - without_user):
            self._report.findings.append(self._without_history(table.time, reader, with_history, shown, sorted(by_day)))
        if distance := self._own_events.distance:
            self._report.findings.append(self._far_events(table.time, reader, distance))
        if told := alone.told:
            self._report.values[BEST_ALONE] = ", ".join(
                f"{wanted[one.column].said} {one.auc:.3f}" for one in told[:SHOWN_ALONE]
            )
        if self._known_before:
            self._report.values[KNOWN_BEFORE] = ", ".join(self._known_before)
        self._report.findings += [
            _answer(wanted[one.column], reader, one)
            for one in told
            if one.answer and wanted[one.column].said not in self._known_before
        ]
        if weights:
            self._report.findings.append(weights)
        self._report.values |= {
            "impressions from": _day(min(by_day) * DAY_MS),
            "impressions to": _day(max(by_day) * DAY_MS),
            "clicked": clicked,
            "click rate": clicked / shown,
            "clicked after the window, counted as not clicked": late,
            "share of impressions whose user has no event": without_user / shown,
            "share of impressions without an event before them": 1.0 - with_history / shown,
            "share of impressions whose item has no event": new_item / shown,
            "share of impressions whose item has no row in [items]": no_row / shown,
            **({} if self._user_keys is None else {NO_USER_ROW: no_user_row / shown}),
            "click rate by day": {_day(day * DAY_MS): (n, k / n) for day, (n, k) in sorted(by_day.items())},
        }
        column = f"`impressions.label_time`, column {table.label_time} of {reader.files}"
        if undated:
            self._report.findings.append(
                f"{column}: {undated} clicks have no time, and count as seen when their window is over: add their times"
            )
        if early:
            self._report.findings.append(
                f"{column}: {early} clicks are before their impression, and count as seen at its time: correct them"
            )
        if unlabelled:
            self._report.findings.append(
                f"{column}: {unlabelled} impressions have a time within their window and label 0, and count as not "
                "clicked: correct the label, or leave the time empty"
            )
        if clicked in (0, shown):
            self._report.findings.append(nothing_to_learn(table, clicked, shown, late))
        if isinstance(split, TimeSplit):
            self._parts(parts, untrained)

    def _train(self, users: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of some different users are of the train part; all where it is one of times."""
        split = self._description.split
        if isinstance(split, TimeSplit):
            return np.ones(len(users), np.bool_)
        of_users: NDArray[np.bool_] = parts_of(users.view(np.int64), split.fold) == PARTS.index("train")
        return of_users

    def _strangers(self, what: Literal["user", "item"], reader: TableReader, shown: int) -> str:
        """What is wrong where no impression's user, or item, has an event; `shown` is one of them."""
        events = self._reader("events")
        of_events = (self._users if what == "user" else self._items).ids[0]
        table = getattr(self._description.impressions, what), getattr(self._description.events, what)
        others = "" if what == "user" else ". If events name other things than candidates, describe them in `[members]`"
        return (
            f"`impressions`, column {table[0]} of {reader.files}: no {what} has an event, such as "
            f"{reader.text_of(what, shown)!r}; column {table[1]} of {events.files} holds ids such as "
            f"{events.text_of(what, int(of_events))!r}: write the same ids in both{others}"
        )

    def _has_columns(self, source: Literal["user", "item"]) -> bool:
        """Whether a table of fields holds some."""
        fields: Mapping[str, Field] = getattr(self._description.fields, source)
        return any(field.kind not in COMPUTED for field in fields.values())

    def _without_row(self, what: Literal["user", "item"], reader: TableReader, shown: int) -> str:
        """What is wrong where no impression's user, or item, has a row in its table; `shown` is one of them."""
        name: Literal["users", "items"] = "users" if what == "user" else "items"
        table, keys = self._reader(name), self._user_keys if what == "user" else self._item_keys
        key = getattr(self._description, name).key
        held = "" if keys is None or not len(keys) else f" such as {table.text_of('key', int(keys[0]))!r}"
        return (
            f"`impressions`, column {getattr(self._description.impressions, what)} of {reader.files}: no {what} has a "
            f"row in `[{name}]`, such as {reader.text_of(what, shown)!r}, so all fields of the {what} are missing; "
            f"column {key} of {table.files} holds keys{held}: write the same ids in both"
        )

    def _without_history(self, column: str, reader: TableReader, rows: int, shown: int, days: list[int]) -> str:
        """What is wrong where no impression, or next to none, has an event before it; `days`: of the impressions, in
        order."""
        said = "no impression has" if not rows else f"only {rows} of {shown} impressions have"
        first, last = self._event_days
        return (
            f"`impressions`, column {column} of {reader.files}: {said} an event before it, so histories are empty: "
            f"events are from {first} to {last}, impressions from {_day(days[0] * DAY_MS)} to "
            f"{_day(days[-1] * DAY_MS)}. Compare year, zone and `time_unit` of the two"
        )

    def _far_events(self, column: str, reader: TableReader, distance: Distance) -> str:
        """What is wrong where the events of clicks are at a distance of time zones."""
        before = distance.minutes < 0
        hours, minutes = divmod(abs(distance.minutes), 60)
        said = f"{hours} h" + (f" {minutes} min" if minutes else "")
        what = "the click is in its own history" if before else "the latest events are not in the history"
        events, (n, clicks), (m, others) = self._reader("events"), distance.clicked, distance.others
        return (
            f"`impressions`, column {column} of {reader.files}: {n} of {clicks} clicked impressions that were looked "
            f"at have an event of their user and item about {said} {'before' if before else 'after'} them; of the "
            f"others, {m} of {others} have. So {what}: compare the zone of the column with that of column "
            f"{self._description.events.time} of {events.files}"
        )

    def _parts(self, parts: Counter[tuple[int, int]], untrained: int) -> None:
        """Report the parts of a split by time. `parts`: impressions by part and label; `untrained` ones are before
        `train_from`."""
        for at, name in enumerate(PARTS):
            rows, clicks = parts[at, 0] + parts[at, 1], parts[at, 1]
            self._report.values[f"impressions of the part {name}"] = rows
            if clicks in (0, rows):
                self._report.findings.append(
                    f"`[split]`: the part {name} has {clicks} clicks in {rows} impressions: move the cuts, so that "
                    "each part has clicked and unclicked impressions"
                )
        if untrained:
            self._report.values["impressions of no part, before `train_from`, which past rates count"] = untrained
        self._report.values["impressions of no part, their label is not known in time"] = (
            parts[LEFT_OUT, 0] + parts[LEFT_OUT, 1] - untrained
        )

    def _note_without_category(self, name: str, items: NDArray[np.uint64], offset: int = 0) -> None:
        """Count the items that need a row in `[items]` for their category, and have none."""
        table, side = getattr(self._description, name), self._description.items
        if table.category is not None or side is None or side.category is None or self._item_keys is None:
            return
        keys, there = self._item_keys, items + np.uint64(offset)
        missing = items[keys.take(keys.searchsorted(there), mode="clip") != there]
        if len(missing):
            before, first = self._without_category.get(name, (0, int(missing[0])))
            self._without_category[name] = before + len(missing), first

    def _find_without_category(self, name: str, reader: TableReader) -> None:
        if name not in self._without_category:
            return
        rows, first = self._without_category[name]
        column, text = getattr(self._description, name).item, reader.text_of("item", first)
        self._report.findings.append(
            f"`{name}`, column {column} of {reader.files}: the items of {rows} rows have no row in `[items]`, or "
            f"one without a category, such as {text}: add them, or name a column `{name}.category`"
        )

    def _find_item_0(self, name: str, column: str, reader: TableReader, rows: int) -> None:
        """Strings never become 0, so only whole numbers can."""
        if rows:
            self._report.findings.append(
                f"`{name}`, column {column} of {reader.files}: {rows} rows have item 0, which events and requests must "
                "not name: number items from 1"
            )

    def _in_future(self, batch: Columns) -> int:
        return int(np.count_nonzero(batch["time"] > self._latest_ms))

    def _find_future(self, name: str, column: str, reader: TableReader, rows: int) -> None:
        """Training reads them, because what it makes of a data set must not depend on the day."""
        if rows:
            self._report.findings.append(
                f"`{name}`, column {column} of {reader.files}: {rows} times are more than a day from now, and "
                "training reads them as they are: correct them, or leave the rows out"
            )


def _outside(ids: NDArray[np.uint64], known: NDArray[np.uint64]) -> int:
    if not len(known):
        return len(ids)
    return int(np.count_nonzero(known.take(known.searchsorted(ids), mode="clip") != ids))


def _answer(want: Wanted, reader: TableReader, told: Told) -> str:
    """What is wrong with a field that tells a click from none by itself."""
    clicks, others = told.missing
    missing = ""
    if abs(clicks - others) >= TOLD_BY_MISSING:
        missing = f". It is missing in {clicks:.1%} of the impressions with a click, and in {others:.1%} of the others"
    return (
        f"`impressions`, column {want.column} of {reader.files}: `{want.said}` alone tells a click from none, with an "
        f"AUC of {told.auc:.3f} on the train part{missing}. Such a value is most likely known only after the answer; "
        "then no request has it: remove the field, or write the value as it was when the impression was shown; if it "
        f"is known before the answer, name it with --known-before {want.said}"
    )


def _deviation(x: NDArray[np.float64], weight: NDArray[np.int64]) -> float:
    """Standard deviation of numbers; infinite or NaN if it is beyond float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.sqrt(np.average((x - np.average(x, weights=weight)) ** 2, weights=weight)))


def _shares(shares: Mapping[str, float]) -> str:
    """Units of times, with the share of each unless there is one alone."""
    if len(shares) == 1:
        return next(iter(shares))
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items())


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).date().isoformat()
