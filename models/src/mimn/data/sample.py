"""A few rows as a model sees them before ids and values become numbers of tables: history, candidate, fields, label.

With `[impressions]` a row is an impression; with a preset, one of its instances; else an event that happened (label 1).
The history is what happened strictly before it. Ids are shown as the files write them; texts are looked for there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mimn.data.column_values import list_of_text
from mimn.data.description import SOURCES, Field
from mimn.data.events import DataError
from mimn.data.labelled import Labelled
from mimn.data.past_rates import PastRates
from mimn.data.prepared import Impressions, Prepared, Side
from mimn.data.presets import paper_instances
from mimn.state.actions import NAMES

Value = str | float | list[str] | list[str | None] | None
"""A text, a number, the values of a list, those that a cross crosses, or none."""


@dataclass(frozen=True)
class Past:
    """One event of a history."""

    item: str
    category: str
    action: str | None
    """None: the data set has no actions."""
    weight: float | str
    """What the event counts, or "embedding"."""
    age_s: float | None
    """Seconds before the row's time; None for the candidate that a preset appends to the history."""


@dataclass(frozen=True)
class Sample:
    """One row."""

    user: str
    time: str
    """UTC."""
    history_events: int
    """Events before the row; `history` has the latest of them."""
    history: list[Past]
    """Oldest first."""
    item: str
    category: str
    fields: dict[str, dict[str, Value]]
    """By source and name; a hashed value as its code. None: missing."""
    label: int
    position: float | None = None
    """The place on the page, which training alone reads: every score is computed as if it were missing."""


def sample(data: Prepared, rows: int, events: int, seed: int) -> list[Sample]:
    """`rows` random rows with the latest `events` events of each one's history; the same seed gives the same rows.

    Raises:
        DataError: `[protocol]` cannot make rows of the data set.
    """
    return _Sampling(data, events).draw(rows, np.random.default_rng(seed))


def rendered(samples: list[Sample], console: Console) -> None:
    """Print rows as tables."""
    for number, one in enumerate(samples, 1):
        console.print(f"[bold]{number}. user {escape(one.user)}, {one.time}, label {one.label}[/bold]")
        console.print(f"   candidate: item {one.item}, category {one.category}", markup=False)
        for source, values in one.fields.items():
            said = ", ".join(f"{name} {'missing' if v is None else json.dumps(v)}" for name, v in values.items())
            if said:
                console.print(f"   {source} fields: {said}", markup=False)
        if one.position is not None:
            console.print(f"   position {one.position:g}: read in training alone, scores never see it", markup=False)
        table = Table("item", "category", "action", "weight", "age", box=None, padding=(0, 2))
        for past in one.history:
            table.add_row(
                escape(past.item), escape(past.category), past.action or "", f"{past.weight}", age(past.age_s)
            )
        console.print(f"   history: the latest {len(one.history)} of {one.history_events} events")
        console.print(table)


def age(seconds: float | None) -> str:
    """Seconds in the unit that reads best."""
    if seconds is None:
        return "the candidate itself"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:g} s"


class _Asked(NamedTuple):
    """A row by ids; its history is the events `begin:end`."""

    user: int
    time_ms: int
    begin: int
    end: int
    item: int
    category: int
    label: int


class _Drawn(NamedTuple):
    """A row, and what is known of it beside its user and item."""

    asked: _Asked
    context: dict[str, Value]
    rates: Mapping[str, float]
    """Past rates by field, of all sources."""
    position: float | None = None


class _Sampling:
    """One reading of a prepared data set."""

    def __init__(self, data: Prepared, events: int) -> None:
        self._data, self._latest = data, events
        self._described = data.description
        self._names: dict[str, dict[int, str]] = {}
        self._candidate_last = False
        """Whether a preset's histories end with the candidate."""
        self._sides: dict[str, Side] = {"user": data.side("user"), "item": data.side("item")}
        described: list[dict[str, Field]] = [getattr(self._described.fields, source) for source in SOURCES]
        self._lists = {name for of in described for name, field in of.items() if field.kind == "multi"}

    def draw(self, rows: int, rng: np.random.Generator) -> list[Sample]:
        if self._described.protocol is not None:
            drawn = self._of_preset(rows, rng)
        else:
            drawn = self._of_events(rows, rng) if self._data.impressions is None else self._of_impressions(rows, rng)
        self._learn_names([one.asked for one in drawn])
        return [self._sample(one) for one in drawn]

    def _learn_names(self, drawn: list[_Asked]) -> None:
        events = self._data.events
        rows = np.concatenate([np.empty(0, np.int64), *(np.arange(*self._shown(asked)) for asked in drawn)])
        self._names = {
            "user": self._data.names("user", (asked.user for asked in drawn)),
            "item": self._data.names("item", [*(asked.item for asked in drawn), *events.item_id[rows].tolist()]),
            "category": self._data.names(
                "category", [*(asked.category for asked in drawn), *events.category_id[rows].tolist()]
            ),
        }

    def _shown(self, asked: _Asked) -> tuple[int, int]:
        """The events of its history that are shown: first, and first behind the last."""
        return max(asked.begin, asked.end - self._latest), asked.end

    def _of_impressions(self, rows: int, rng: np.random.Generator) -> list[_Drawn]:
        shown = self._data.impressions
        if shown is None:
            raise DataError("the data set has no `[impressions]`")
        picked = np.array(_chosen(len(shown), rows, rng), np.int64)
        rates = PastRates(self._data, shown).of_impressions(picked)
        context = {name: values[picked] for name, values in shown.context.items()}
        arrays = {f.name: getattr(shown, f.name)[picked] for f in fields(shown) if f.name not in ("context", "slices")}
        # The rule of training, on these rows alone.
        chosen = Labelled(
            self._data.events, Impressions(**arrays, context=context, slices={}), np.zeros(len(picked), np.int8)
        )
        shown = chosen.impressions
        samples: list[_Drawn] = []
        for i in range(len(shown)):
            values = {name: self._value(name, of[i]) for name, of in context.items()}
            position = None if np.isnan(shown.position[i]) else float(shown.position[i])
            user, time_ms, begin, end, item, category, label = (
                int(of[i])
                for of in (
                    shown.user_id,
                    shown.time_ms,
                    chosen.begin,
                    chosen.end,
                    shown.item_id,
                    shown.category_id,
                    shown.label,
                )
            )
            asked = _Asked(user, time_ms, begin, end, item, category, label)
            samples.append(_Drawn(asked, values, {name: float(of[i]) for name, of in rates.items()}, position))
        return samples

    def _of_events(self, rows: int, rng: np.random.Generator) -> list[_Drawn]:
        events = self._data.events
        samples: list[_Drawn] = []
        for row in _chosen(len(events), rows, rng):
            user, time_ms = int(events.user_id[row]), int(events.timestamp[row]) * events.unit_ms
            begin, end = self._user(user)[0], int(events.history_end[row])
            item, category = int(events.item_id[row]), int(events.category_id[row])
            context = {name: self._value(name, of[row]) for name, of in self._data.event_context.items()}
            samples.append(_Drawn(_Asked(user, time_ms, begin, end, item, category, 1), context, {}))
        return samples

    def _of_preset(self, rows: int, rng: np.random.Generator) -> list[_Drawn]:
        protocol, events = self._described.protocol, self._data.events
        if protocol is None:
            raise DataError("the data set has no `[protocol]`")
        made = paper_instances(events, protocol)
        self._candidate_last = made.candidate_last
        samples: list[_Drawn] = []
        for row in _chosen(len(made), rows, rng):
            user, begin, end, item, category, label = (
                int(of[row]) for of in (made.user_id, made.begin, made.end, made.item, made.category, made.label)
            )
            time_ms = int(made.timestamp[row]) * events.unit_ms
            samples.append(_Drawn(_Asked(user, time_ms, begin, end, item, category, label), {}, {}))
        return samples

    def _sample(self, drawn: _Drawn) -> Sample:
        asked, events, rules = drawn.asked, self._data.events, self._described.action_rules
        history = []
        for row in range(*self._shown(asked)):
            action = None if events.action is None else NAMES[events.action[row]]
            history.append(
                Past(
                    self._names["item"][int(events.item_id[row])],
                    self._names["category"][int(events.category_id[row])],
                    action,
                    1.0 if action is None else rules[action],
                    (asked.time_ms - int(events.timestamp[row]) * events.unit_ms) / 1000,
                )
            )
        item, category = self._names["item"][asked.item], self._names["category"][asked.category]
        if self._candidate_last and self._latest:
            history = [*history, Past(item, category, None, 1.0, None)][-self._latest :]
        sources = self._with_computed(
            {"user": self._side("user", asked.user), "item": self._side("item", asked.item), "context": drawn.context},
            drawn.rates,
        )
        time = datetime.fromtimestamp(asked.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        return Sample(
            user=self._names["user"][asked.user],
            time=time.replace("+00:00", "Z"),
            history_events=asked.end - asked.begin,
            history=history,
            item=item,
            category=category,
            fields={source: values for source, values in sources.items() if values},
            label=asked.label,
            position=drawn.position,
        )

    def _with_computed(
        self, sources: dict[str, dict[str, Value]], rates: Mapping[str, float]
    ) -> dict[str, dict[str, Value]]:
        """The fields with those that no column holds: past rates, and of crosses the values that they cross."""
        known = {name: value for values in sources.values() for name, value in values.items()}
        made = {source: dict(values) for source, values in sources.items()}
        for source in SOURCES:
            described: Mapping[str, Field] = getattr(self._described.fields, source)
            for name, field in described.items():
                if field.kind == "past_rate" and name in rates:
                    made[source][name] = float(f"{rates[name]:.6g}")
                elif field.kind == "cross" and known.keys() >= set(field.of):
                    made[source][name] = [None if known[part] is None else str(known[part]) for part in field.of]
        return made

    def _side(self, source: str, key: int) -> dict[str, Value]:
        side = self._sides[source]
        row = int(side.rows(np.array([key]))[0])
        return {name: None if row < 0 else self._value(name, values[row]) for name, values in side.fields.items()}

    def _value(self, name: str, value: Any) -> Value:
        if value.dtype.kind == "f":
            return None if np.isnan(value) else float(value)
        code = int(value)
        text = self._data.texts.get(name, {}).get(code, f"#{code:016x}") if code else None
        return list_of_text(text) if text is not None and name in self._lists else text

    def _user(self, user: int) -> tuple[int, int]:
        """The user's rows of the events: first, and first behind the last. Equal without events."""
        ids = self._data.events.user_id
        return int(np.searchsorted(ids, user)), int(np.searchsorted(ids, user, "right"))


def _chosen(there: int, rows: int, rng: np.random.Generator) -> list[int]:
    """Different rows, in order."""
    return sorted(rng.choice(there, min(rows, there), replace=False).tolist())


def as_json(samples: list[Sample]) -> str:
    """Rows as JSON."""
    return json.dumps([asdict(one) for one in samples], indent=2, ensure_ascii=False)
