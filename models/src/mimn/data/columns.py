"""What is read of each table that a description names: the same columns by `check`, preparation and imports."""

from __future__ import annotations

from typing import Literal

from mimn.data.column_values import EARLIEST_MS, LATEST_MS, Wanted
from mimn.data.description import (
    Description,
    EventsTable,
    Field,
    ImpressionsTable,
    Source,
    TimedTable,
    instant_ms,
)

TableName = Literal["events", "impressions", "users", "items", "members"]
COMPUTED = ("cross", "past_rate")
"""Kinds of fields without a column."""


def columns_of(description: Description, name: TableName) -> dict[str, Wanted]:
    """What preparation reads of a table, by the name that its arrays have; nothing of a table that is not there."""
    if getattr(description, name) is None:
        return {}
    impressions = description.impressions
    match name:
        case "events":
            context = {} if impressions else field_columns(description, "context", prefix="context")
            return event_columns(description.events) | context
        case "impressions" if impressions is not None:
            sliced = {f"slice.{name}": Wanted(name, "value", "impressions.slices") for name in impressions.slices}
            return impression_columns(impressions) | field_columns(description, "context", prefix="context") | sliced
        case "members" if description.members is not None:
            key, item = description.members.key, description.members.item
            return {"key": Wanted(key, "id", "members.key"), "item": Wanted(item, "id", "members.item")}
        case _:
            table = getattr(description, name)
            wanted = {"key": Wanted(table.key, "id", f"{name}.key")}
            wanted |= field_columns(description, "user" if name == "users" else "item")
            if table.category is not None:
                wanted["category"] = Wanted(table.category, "id", f"{name}.category")
            return wanted


def time_column(table: TimedTable, said: str) -> Wanted:
    """When a row happened, within the table's `since` and `until`."""
    since = EARLIEST_MS if table.since is None else instant_ms(table.since)
    until = LATEST_MS if table.until is None else instant_ms(table.until)
    return Wanted(table.time, "time", said, table.time_unit, since_ms=since, until_ms=until)


def event_columns(table: EventsTable) -> dict[str, Wanted]:
    """What is read of `[events]`."""
    wanted = {
        "user": Wanted(table.user, "id", "events.user"),
        "item": Wanted(table.item, "id", "events.item"),
        "time": time_column(table, "events.time"),
    }
    for name, column, meaning in (
        ("category", table.category, "id"),
        ("together", table.together, "id"),
        ("action", table.action, "value"),
    ):
        if column is not None:
            wanted[name] = Wanted(column, meaning, f"events.{name}")  # type: ignore[arg-type]  # one of the meanings
    return wanted


def impression_columns(table: ImpressionsTable) -> dict[str, Wanted]:
    """What is read of `[impressions]` beside its context fields."""
    wanted = {
        "user": Wanted(table.user, "id", "impressions.user"),
        "item": Wanted(table.item, "id", "impressions.item"),
        "time": time_column(table, "impressions.time"),
        "label": Wanted(table.label, "label", "impressions.label"),
    }
    if table.label_time is not None:
        wanted["label_time"] = Wanted(table.label_time, "optional_time", "impressions.label_time", table.time_unit)
    if table.window_end is not None:
        wanted["window_end"] = Wanted(table.window_end, "time", "impressions.window_end", table.time_unit)
    if table.category is not None:
        wanted["category"] = Wanted(table.category, "id", "impressions.category")
    for name, column in (("weight", table.weight), ("position", table.position)):
        if column is not None:
            wanted[name] = Wanted(column, "number", f"impressions.{name}")
    if table.request is not None:
        wanted["request"] = Wanted(table.request, "id", "impressions.request")
    return wanted


def field_columns(description: Description, source: Source, prefix: str = "field") -> dict[str, Wanted]:
    """The columns that hold the fields of a source, by `<prefix>.<field>`. Crosses and past rates have none."""
    fields: dict[str, Field] = getattr(description.fields, source)
    return {
        f"{prefix}.{name}": Wanted(
            field.column or name,
            "number" if field.kind == "numeric" else "values" if field.kind == "multi" else "value",
            f"fields.{source}.{name}",
            texts=field.buckets is None or field.kind == "multi",  # a hashed value's row is found by its code
        )
        for name, field in fields.items()
        if field.kind not in COMPUTED
    }
