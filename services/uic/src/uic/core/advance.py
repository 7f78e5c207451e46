"""The next progress record: what holds once a batch is folded, or once an idle partition is known to be caught up."""

from __future__ import annotations

from dataclasses import dataclass

from mimn.state import Progress, witness
from uic.core.event import Record


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Once `end` is reached, progress is as of `as_of_ms`: what was in the log at that time lies below `end`."""

    end: int
    as_of_ms: int


def as_of(asked_ms: int, ahead_ms: int) -> int:
    """When a question was asked, by the store's clock, which all share who write as-of times or judge them: so none of
    their own clocks makes a partition look younger or older than it is.

    Args:
        asked_ms: by our clock.
        ahead_ms: our clock less the store's.
    """
    return asked_ms - ahead_ms


def advance(
    progress: Progress,
    *,
    writer: int,
    last: Record | None,
    position: int | None,
    caught_up: CaughtUp | None,
) -> Progress:
    """The record that follows `progress`.

    Args:
        progress: what is stored.
        writer: the session that writes.
        last: the last record of the batch; None if nothing was read.
        position: where the client reads on, if no fetched record waits after `last`: transaction markers, which are
            never delivered, may lie in between.
        caught_up: what the broker said about the log's end, if `progress` has not reached it yet.
    """
    next_offset = max(progress.next_offset if last is None else last.offset + 1, position or 0)
    as_of_ms = progress.as_of_ms
    if caught_up is not None and next_offset >= caught_up.end:
        as_of_ms = caught_up.as_of_ms  # lower than before if the last writer's clock was ahead
    if last is None:
        return progress._replace(next_offset=next_offset, writer=writer, as_of_ms=as_of_ms)
    return progress._replace(
        next_offset=next_offset,
        last_offset=last.offset,
        witness=witness(last.key, last.value, last.timestamp),
        writer=writer,
        as_of_ms=as_of_ms,
    )
