"""A data set as its owner describes it: `dataset.toml`, read strictly into one frozen value.

    name = "my-shop"
    ids = "string"

    [events]
    files = ["events/dt=*/*.parquet"]
    user = "uid"
    item = "sku"
    category = "cat"
    action = "act"
    time = "ts"
    time_unit = "ms"

    [impressions]
    files = ["impressions/*.csv"]
    user = "uid"
    item = "sku"
    time = "shown_at"
    label = "clicked"
    label_time = "clicked_at"
    window = "30m"

    [fields.user.age]
    kind = "categorical"

    [actions]
    buy = { is = "purchase", weight = 3.0 }
    cart = { is = "cart", weight = "embedding" }
    pv = { is = "view", weight = 0.0 }

    [split]
    by = "time"
    train_until = 2024-05-01
    validate_until = 2024-05-08

The names on the left are ours, the values name the owner's files and columns. No data set's name means anything to the
code; whatever distinguishes two data sets stands in their descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from mimn.data.events import DataError
from mimn.state.actions import LARGEST_WEIGHT, ActionName
from mimn.toml_text import parsed

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
FieldKind = Literal["categorical", "multi", "numeric", "cross", "past_rate"]
Transform = Literal["none", "log1p"]
Source = Literal["user", "item", "context"]
SOURCES: tuple[Source, ...] = ("user", "item", "context")
POSITION = "position"
"""The field that `ImpressionsTable.position` makes."""
EMBEDDING: Literal["embedding"] = "embedding"
"""In place of a weight: the action's events get a learned vector."""
ActionRules = Mapping[ActionName, float | Literal["embedding"]]
"""What each action of the wire makes of an event."""


def weights_of(rules: ActionRules) -> dict[ActionName, float]:
    """What each action's events count: its weight, and 1 with a vector."""
    return {name: 1.0 if rule == EMBEDDING else float(rule) for name, rule in rules.items()}


Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Column = Annotated[str, msgspec.Meta(min_length=1)]
Files = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
_DURATION = re.compile(r"^(\d+)\s*(ms|s|m|h|d)$")
_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows are, and how text files are to be read."""

    files: Files
    """Files, folders and globs, relative to the description: Parquet, or CSV, which may be compressed (gzip, bzip2,
    zstd). A file is what its first bytes say."""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    columns: tuple[str, ...] | None = None
    """CSV without a header line: the names of its columns, in order."""
    encoding: str = "utf-8"
    """CSV: the text's encoding."""
    quote: bool = True
    """CSV: whether a field may stand in double quotes."""
    nulls: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan", r"\N")
    """CSV: texts that mean "no value"."""


class TimedTable(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows that happened at a time."""

    user: Column
    item: Column
    time: Column
    time_unit: TimeUnit = "s"
    category: Column | None = None
    """None: the category of the item in `[items]`, or 0 without one."""
    since: datetime | None = None
    """Rows before this time (UTC) are refused and counted. None: 2000-01-01, as in the event's format."""
    until: datetime | None = None
    """Rows at or after this time are refused and counted. None: 2100-01-01."""


class EventsTable(TimedTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[events]`: behaviors, the users' history."""

    item_offset: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] = 0
    """Added to every item id of this table: keeps ids of another kind (brands, articles) apart from those of
    `[impressions]` and `[items]`."""
    action: Column | None = None
    """None: `[actions]` must be absent, all events are alike."""
    together: Column | None = None
    """Events of one user with the same value happened at once (an order, a basket): none is another's past."""
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")] | None = None
    """`Events.sha256` of the events that published figures were made from: others are refused. None: any events."""


class ImpressionsTable(TimedTable, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[impressions]`: what was shown, and whether it was clicked."""

    label: Column
    """0 or 1, or true and false."""
    window: str | None = None
    """How long after its time an impression can still be clicked, such as "30m" or "7d"; or else `window_end`."""
    window_end: Column | None = None
    """Column of the time, in `time_unit`, until which each impression can be clicked: a coupon's last day."""
    label_time: Column | None = None
    """When it was clicked, in `time_unit`; null without a click. A click after the window is none."""
    weight: Column | None = None
    position: Column | None = None
    """Where on the page it stood: a field of training alone, served at its default."""
    request: Column | None = None
    """Impressions of one request share their history and context."""
    slices: tuple[Name, ...] = ()
    """Columns by whose values evaluation also says its figures; no model reads them."""
    negatives_kept: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 1.0
    """Share of the unclicked impressions that the files still hold; scores are corrected by it."""

    @property
    def window_ms(self) -> int:
        """The window in ms, 0 where each impression has its own end."""
        return 0 if self.window is None else duration_ms(self.window)


class SideTable(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[users]` or `[items]`: one row a key, with fields."""

    key: Column
    category: Column | None = None
    """`[items]` alone."""


class MembersTable(Table, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[members]`: what a candidate stands for, one row a pair: a coupon's products, the items of an ad or a bundle."""

    key: Column
    """The candidate, as column `item` of `[impressions]` has it."""
    item: Column
    """One of its members, as column `item` of `[events]` has it."""


class Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[fields.user.NAME]`, `[fields.item.NAME]` or `[fields.context.NAME]`: a model input beside ids and history."""

    kind: FieldKind
    column: Column | None = None
    """None: the field's name."""
    vocabulary: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] | None = None
    """categorical, multi: the values are whole numbers below this. None: they are counted on the training part."""
    min_count: Annotated[int, msgspec.Meta(ge=1)] = 5
    """categorical, multi: rarer values are unknown."""
    buckets: Annotated[int, msgspec.Meta(ge=2, le=1 << 24)] | None = None
    """categorical, multi, cross: hash the values into as many rows. numeric: as many intervals of equal mass."""
    transform: Transform = "none"
    """numeric: applied before it is standardized."""
    of: tuple[str, ...] = ()
    """cross: the names of two or more categorical fields. past_rate: of categorical fields whose values have a rate
    together; none: the user's or the item's own."""
    prior: Annotated[float, msgspec.Meta(gt=0.0)] = 100.0
    """past_rate: how many impressions at the overall rate are added to those that were seen."""

    def __post_init__(self) -> None:
        if self.kind == "cross" and (len(self.of) < 2 or self.buckets is None):
            raise ValueError('a cross needs `of` = ["field", "field"] and `buckets`')
        if self.kind not in ("cross", "past_rate") and self.of:
            raise ValueError('`of` belongs to kinds "cross" and "past_rate"')
        if self.kind == "past_rate" and (self.column, self.vocabulary, self.buckets) != (None, None, None):
            raise ValueError("a past_rate is computed from the labels: it has no `column`, `vocabulary` or `buckets`")
        if self.kind == "numeric" and self.vocabulary is not None:
            raise ValueError("`vocabulary` belongs to categorical and multi fields")
        if self.kind != "numeric" and self.transform != "none":
            raise ValueError("`transform` belongs to numeric fields")
        if self.vocabulary is not None and self.buckets is not None:
            raise ValueError("`vocabulary` and `buckets` exclude each other")


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[actions]`: what a value of the action column means."""

    is_: Literal["view", "click", "cart", "favorite", "purchase"] | None = msgspec.field(name="is", default=None)
    """The action of the wire. None, with weight 0 alone: producers do not send such events."""
    weight: Annotated[float, msgspec.Meta(ge=0.0, le=LARGEST_WEIGHT)] | Literal["embedding"] = 1.0
    """Multiplies the event's vector, and is what the event adds to counters; 0: it is not folded, and is counted.
    "embedding": a learned vector is added to the event's vector."""

    def __post_init__(self) -> None:
        if self.is_ is None and self.weight != 0.0:
            raise ValueError("an action that is folded needs `is`, the action of the wire")


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[fields]`, by where their values come from: `[users]`, `[items]`, and for the context `[impressions]`, or the
    events where negatives are drawn. The order is that of the file."""

    user: dict[Name, Field] = {}
    item: dict[Name, Field] = {}
    context: dict[Name, Field] = {}

    def __bool__(self) -> bool:
        return bool(self.user or self.item or self.context)


class TimeSplit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="time"):
    """Earlier impressions train, later ones validate, the latest test. Times are UTC."""

    train_until: datetime
    validate_until: datetime
    test_until: datetime | None = None
    train_from: datetime | None = None
    """Earlier impressions are in no part, and past rates count them; None: all train."""
    labels_until: datetime | None = None
    """Training uses labels whose window is over by then; None: by `train_until`, as if it ran at that time."""

    def __post_init__(self) -> None:
        cuts = self.train_from, self.train_until, self.validate_until, self.test_until
        ends = [instant_ms(cut) for cut in cuts if cut is not None]
        if ends != sorted(set(ends)):
            raise ValueError("train_from, train_until, validate_until and test_until must rise")


class UserSplit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="user"):
    """Users are disjoint, by a hash of the id (`mimn.data.split`)."""

    fold: Annotated[int, msgspec.Meta(ge=0, le=4)] | None = None


class Protocol(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[protocol]`: make instances as the MIMN authors' published scripts do (`mimn.data.presets`), leaks included."""

    preset: Literal["mimn-paper-taobao", "mimn-paper-amazon"]
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of the drawn negatives, and of Amazon's split."""


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `dataset.toml`."""

    name: Name
    ids: Literal["uint64", "string"] = "uint64"
    """How users, items and categories are named: whole numbers, or strings that become 64 bits (`mimn.data.ids`)."""
    source: str = ""
    """Where the files come from, and under which terms: for people."""
    events: EventsTable
    impressions: ImpressionsTable | None = None
    """None: positives are events and negatives are drawn."""
    users: SideTable | None = None
    items: SideTable | None = None
    members: MembersTable | None = None
    fields: Fields = Fields()
    actions: dict[str, Action] = {}
    split: TimeSplit | UserSplit = UserSplit()
    protocol: Protocol | None = None
    """None: the clean protocol (`mimn.data.instances`), or the labels of `[impressions]`."""

    def __post_init__(self) -> None:
        if self.protocol is not None and self.impressions is not None:
            raise ValueError("`[protocol]` draws negatives: it goes without `[impressions]`")
        if self.events.item_offset and self.ids == "string":
            raise ValueError('`events.item_offset` belongs to `ids = "uint64"`: give strings a prefix in the file')
        if bool(self.actions) != (self.events.action is not None):
            raise ValueError("`events.action` and `[actions]` need each other")
        _ = self.action_rules
        if self.users is not None and self.users.category is not None:
            raise ValueError("`users.category`: only items have a category")
        for source, table in (("user", self.users), ("item", self.items)):
            if table is None and any(field.kind != "past_rate" for field in getattr(self.fields, source).values()):
                raise ValueError(f"`[fields.{source}]` needs a table `[{source}s]`")
        if self.members is not None and self.impressions is None:
            raise ValueError("`[members]` belongs to candidates that were shown: it needs a table `[impressions]`")
        rated = [name for s in SOURCES for name, f in getattr(self.fields, s).items() if f.kind == "past_rate"]
        if rated and self.impressions is None:
            raise ValueError(f"`[fields]`: {rated[0]} is a rate of labels and needs a table `[impressions]`")
        if isinstance(self.split, TimeSplit) and self.impressions is None:
            raise ValueError('`split.by = "time"` needs `[impressions]`: drawn negatives are split by user')
        names = [name for source in SOURCES for name in getattr(self.fields, source)]
        slices = [] if self.impressions is None else self.impressions.slices
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"`[fields]`: {', '.join(repeated)} is named twice; give each field a name of its own")
        if repeated := sorted({name for name in slices if slices.count(name) > 1}):
            raise ValueError(f"`impressions.slices`: {', '.join(repeated)} is named twice")
        if both := sorted(set(slices) & set(names)):
            raise ValueError(
                f"`impressions.slices`: {', '.join(both)} is also a field: leave it out of `slices` (the values of a "
                "categorical field of the context are slices anyway), or give the field another name"
            )
        if self.impressions is not None and self.impressions.position and POSITION in names:
            raise ValueError(
                f"`[fields]`: {POSITION} is what `impressions.position` is called as a field: give the other field "
                "another name, or remove one of the two"
            )
        for source in SOURCES:
            for name, field in getattr(self.fields, source).items():
                if field.kind == "past_rate":
                    self._check_rate(source, name, field)
                for part in field.of:
                    crossed = [getattr(self.fields, s)[part] for s in SOURCES if part in getattr(self.fields, s)]
                    if not crossed or crossed[0].kind != "categorical":
                        raise ValueError(f"`fields.{source}.{name}.of`: {part} is not a categorical field")
        if self.impressions is not None:
            if (self.impressions.window is None) == (self.impressions.window_end is None):
                raise ValueError("`[impressions]` needs either `window` or `window_end`: when a label is known")
            _ = self.impressions.window_ms
            self._check_answers(self.impressions)

    def _check_answers(self, impressions: ImpressionsTable) -> None:
        answers = {getattr(impressions, key): key for key in ("label_time", "label")}
        for name, field in self.fields.context.items():
            column = field.column or name
            if field.kind not in ("cross", "past_rate") and column in answers:
                raise ValueError(
                    f"`fields.context.{name}`: column {column} is `impressions.{answers[column]}`, which says whether "
                    "it was clicked, and no request has it: remove the field, or name another column"
                )

    def _check_rate(self, source: Source, name: str, field: Field) -> None:
        if source == "context" and not field.of:
            raise ValueError(f"`fields.context.{name}.of`: name the categorical fields whose values have a rate")
        for part in field.of:
            item = part in self.fields.item
            if item != (source == "item") or (source == "user" and part not in self.fields.user):
                raise ValueError(
                    f"`fields.{source}.{name}.of`: {part} is a field of another side; a rate of the request is of "
                    "fields of user and context, a rate of the item of the item's"
                )

    @property
    def action_rules(self) -> dict[ActionName, float | Literal["embedding"]]:
        """What each action of the wire makes of an event; empty without `[actions]`.

        Raises:
            ValueError: two values of the column mean one action of the wire with different weights.
        """
        rules: dict[ActionName, float | Literal["embedding"]] = {}
        named: dict[ActionName, str] = {}
        for name, action in self.actions.items():
            if action.is_ is None:
                continue
            if rules.setdefault(action.is_, action.weight) != action.weight:
                raise ValueError(
                    f"`[actions]`: {named[action.is_]} and {name} are both {action.is_} with different weights, and "
                    "events on the wire say no more than that: give them one weight, or leave `is` out of the one with "
                    "weight 0"
                )
            named.setdefault(action.is_, name)
        return rules


def duration_ms(text: str) -> int:
    """Milliseconds of a duration such as "45s", "30m", "12h" or "7d".

    Raises:
        ValueError: it is written otherwise.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f'a duration is a number and one of ms, s, m, h, d, such as "30m", not {text!r}')
    return int(match[1]) * _MS[match[2]]


def instant_ms(value: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC; a time without a zone is UTC."""
    return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1000)


def _dates_as_instants(value: Any) -> Any:
    """A parsed TOML value whose dates became the instants at which they begin, UTC."""
    if isinstance(value, dict):
        return {key: _dates_as_instants(inner) for key, inner in value.items()}
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _with_split_named(value: Any) -> Any:
    """A parsed description whose table `[split]` says `by`, which msgspec needs to know its kind.

    Raises:
        ValueError: it leaves `by` out, and has a key of `by = "time"`.
    """
    split = value.get("split")
    if not isinstance(split, dict) or "by" in split:
        return value
    if timed := sorted(split.keys() & set(TimeSplit.__struct_fields__)):
        raise ValueError(f'`[split]`: {timed[0]} belongs to `by = "time"`, and without `by` users are split: name it')
    return value | {"split": {"by": "user"} | split}


def read_description(path: str | Path) -> Description:
    """The description in the file `path`.

    Raises:
        DataError: the file cannot be read or is not TOML, or a field is unknown, missing, of the wrong type, or
            contradicts another one; the message names the file and the field.
    """
    path = Path(path)
    try:
        written = _dates_as_instants(parsed(path.read_text("utf-8")))
        return msgspec.convert(_with_split_named(written), Description)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
