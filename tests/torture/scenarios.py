"""Everything that the torture plays, in its order. Each scenario is one function whose name says what is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torture.archives import ARCHIVE, IMPORT, archive_and_import_killed_at_each_step_are_finished_by_the_next_run
from torture.bulk_jobs import bulk_jobs_killed_at_each_step_are_finished_by_the_next_run
from torture.clusters import a_cluster_whose_slots_move_and_whose_masters_fail
from torture.crashes import STEPS, killed_after_each_protocol_step
from torture.every_fault import workers_go_on_after_each_fault
from torture.floods import a_flood_in_one_partition_delays_no_other
from torture.leavers import clients_that_go_away_leave_nothing_behind
from torture.logs import (
    another_log_under_the_same_name_is_never_folded_into_the_old_states,
    brokers_that_die_or_restart_in_turn_cost_no_event,
    what_retention_removed_is_a_gap_and_nothing_else_is_missing,
)
from torture.malformed import every_malformed_record_is_a_dead_letter_and_no_event_is_lost
from torture.outages import answers_go_on_while_the_store_is_away_slow_or_fails_over
from torture.overload import five_times_the_knee_costs_no_goodput
from torture.rebalances import (
    producers_that_misroute_stop_uic_by_name,
    workers_that_come_and_go_stop_nobody_for_long,
)
from torture.restarts import (
    a_bundle_is_swapped_under_load_and_no_request_fails,
    rtp_processes_on_one_socket_restart_in_turn_and_no_request_fails,
    uic_workers_restart_in_turn_and_no_event_is_lost,
)
from torture.rollout_tool import the_rollout_tool_killed_at_each_write_is_run_again_and_finishes
from torture.rollouts import a_rollout_goes_on_while_workers_and_the_store_die
from torture.soak import nothing_grows_and_nothing_slows_down
from torture.stage import Size, Stage, Tally
from torture.stale_owners import (
    a_worker_stopped_past_its_lease_writes_nothing,
    stale_commits_by_ended_sessions_write_nothing,
)
from torture.stores import the_store_dies_forgets_or_is_damaged

Play = Callable[[Stage, Size], Tally]


@dataclass(frozen=True)
class Part:
    """A piece of a scenario in full, which can run beside others."""

    name: str
    play: Play
    seed: int = 1


@dataclass(frozen=True)
class Scenario:
    """One row of the table. The fast size is one call; the full size is the sum of its parts."""

    play: Play
    parts: tuple[Part, ...]
    alone: bool = False
    """It judges times, in full."""

    @property
    def name(self) -> str:
        """The function's."""
        return str(self.play.__name__)


def _whole(play: Play, *, alone: bool = False) -> Scenario:
    return Scenario(play, (Part("whole", play),), alone)


SCENARIOS = (
    Scenario(
        killed_after_each_protocol_step,
        tuple(Part(step, partial(killed_after_each_protocol_step, steps=(step,))) for step in STEPS),
    ),
    Scenario(
        workers_go_on_after_each_fault,
        tuple(Part(f"seed-{seed}", workers_go_on_after_each_fault, seed) for seed in (1, 2, 3)),
    ),
    _whole(stale_commits_by_ended_sessions_write_nothing),
    _whole(a_worker_stopped_past_its_lease_writes_nothing),
    _whole(the_store_dies_forgets_or_is_damaged),
    _whole(a_cluster_whose_slots_move_and_whose_masters_fail),
    _whole(brokers_that_die_or_restart_in_turn_cost_no_event),
    _whole(another_log_under_the_same_name_is_never_folded_into_the_old_states),
    _whole(what_retention_removed_is_a_gap_and_nothing_else_is_missing),
    _whole(workers_that_come_and_go_stop_nobody_for_long),
    _whole(a_flood_in_one_partition_delays_no_other, alone=True),
    _whole(producers_that_misroute_stop_uic_by_name),
    _whole(every_malformed_record_is_a_dead_letter_and_no_event_is_lost),
    _whole(uic_workers_restart_in_turn_and_no_event_is_lost),
    _whole(rtp_processes_on_one_socket_restart_in_turn_and_no_request_fails),
    _whole(a_bundle_is_swapped_under_load_and_no_request_fails),
    _whole(a_rollout_goes_on_while_workers_and_the_store_die),
    _whole(the_rollout_tool_killed_at_each_write_is_run_again_and_finishes),
    _whole(answers_go_on_while_the_store_is_away_slow_or_fails_over, alone=True),
    Scenario(
        archive_and_import_killed_at_each_step_are_finished_by_the_next_run,
        tuple(
            Part(step, partial(archive_and_import_killed_at_each_step_are_finished_by_the_next_run, steps=(step,)))
            for step in (*ARCHIVE, *IMPORT)
        ),
    ),
    _whole(bulk_jobs_killed_at_each_step_are_finished_by_the_next_run),
    _whole(clients_that_go_away_leave_nothing_behind),
    _whole(five_times_the_knee_costs_no_goodput, alone=True),
    _whole(nothing_grows_and_nothing_slows_down, alone=True),
)

SMALL = (
    killed_after_each_protocol_step,
    workers_go_on_after_each_fault,
    a_worker_stopped_past_its_lease_writes_nothing,
    the_store_dies_forgets_or_is_damaged,
    answers_go_on_while_the_store_is_away_slow_or_fails_over,
)
"""Those that `make test` plays in the fast size: kills, freezes, stale owners, lost writes and outages."""
