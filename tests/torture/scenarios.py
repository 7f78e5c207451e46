"""Everything that `make torture` plays, in its order. Each scenario is one function whose name says what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torture.crashes import STEPS, killed_after_each_protocol_step
from torture.fleet import three_workers_killed_frozen_and_rescaled_at_random
from torture.stage import Size, Stage, Tally
from torture.stale_owners import (
    a_worker_stopped_past_its_session_writes_nothing,
    stale_commits_by_ended_sessions_write_nothing,
)
from torture.stores import the_store_dies_forgets_or_is_damaged

Play = Callable[[Stage, Size], Tally]


@dataclass(frozen=True)
class Part:
    """A piece of a full run whose result is kept, so that a run that was stopped goes on behind it."""

    name: str
    play: Play
    seed: int = 1


@dataclass(frozen=True)
class Scenario:
    """One row of the table. The fast size is one call; the full size is the sum of its parts."""

    play: Play
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """The function's."""
        return str(self.play.__name__)


def _whole(play: Play) -> Scenario:
    return Scenario(play, (Part("whole", play),))


SCENARIOS = (
    Scenario(
        killed_after_each_protocol_step,
        tuple(Part(step, partial(killed_after_each_protocol_step, steps=(step,))) for step in STEPS),
    ),
    Scenario(
        three_workers_killed_frozen_and_rescaled_at_random,
        tuple(
            Part(f"seed-{seed}", three_workers_killed_frozen_and_rescaled_at_random, seed) for seed in (1, 2, 3, 4, 5)
        ),
    ),
    _whole(stale_commits_by_ended_sessions_write_nothing),
    _whole(a_worker_stopped_past_its_session_writes_nothing),
    _whole(the_store_dies_forgets_or_is_damaged),
)
