"""The pure parts: what is said of a state, when the store is left alone, who is admitted, what the head reads."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimn.bundle.fields import FieldSpec, Kind
from mimn.bundle.request_fields import RequestFields
from mimn.state import Progress, StateHeader, UserState, encode_progress
from rtp.core.admission import FOR_THE_LINE, IN_A_ROW_S, Admission
from rtp.core.circuit_breaker import CircuitBreaker
from rtp.core.fields import fields_of, of_others, request_vector
from rtp.core.fold_progress import FoldProgress, PartitionProgress, Status, fold_progress
from rtp.core.handover import Coverage, objections
from rtp.core.request import FieldValue, ScoreRequest
from rtp.errors import DeadlineMissed, Draining, InvalidRequest, Overloaded
from rtp.head_queue import HeadQueue

NOW_MS = 1_700_000_000_000


def progress(*, age_ms: int = 0, base: int = 0, gap_end: int = 0, lineage: int = 7) -> Progress:
    return Progress(
        partitions=2,
        next_offset=100,
        last_offset=99,
        lineage=lineage,
        writer=1,
        base=base,
        gap_end=gap_end,
        as_of_ms=NOW_MS - age_ms,
    )


def state(*, last_offset: int = 50, partial: bool = False, lineage: int = 7) -> UserState:
    header = StateHeader(1, lineage, 0, last_offset, 12, NOW_MS, bytes(8), partial)
    return UserState(header, np.zeros(3, np.float32))


def read(records: Sequence[bytes | None], last: FoldProgress | None = None, now_ms: int = NOW_MS) -> FoldProgress:
    """What the records say to a reader that believes times up to 5 s ahead of its clock."""
    return fold_progress(records, "t", last, now_ms, 5_000)[0]


def report(user_state: UserState | None, record: Progress | None, stale_after_ms: float = 60_000) -> tuple[object, ...]:
    stored = None if record is None else encode_progress(record)
    said = read([stored]).report(user_state, 0, NOW_MS, stale_after_ms)
    return said.status, said.events, said.age_ms, said.partial


# What is said of a state


def test_a_state_of_an_up_to_date_partition_is_warm() -> None:
    assert report(state(), progress(age_ms=60_000)) == (Status.WARM, 12, 60_000, False)


def test_a_state_of_a_lagging_partition_is_stale() -> None:
    assert report(state(), progress(age_ms=60_001)) == (Status.STALE, 12, 60_001, False)


def test_a_writer_whose_clock_is_ahead_does_not_give_a_negative_age() -> None:
    assert report(state(), progress(age_ms=-5_000)) == (Status.WARM, 12, 0, False)


def test_a_user_without_a_state_is_cold() -> None:
    assert report(None, progress(age_ms=3)) == (Status.COLD, 0, 3, False)


@pytest.mark.parametrize("lost", [{"base": 51}, {"gap_end": 51}])
def test_a_state_older_than_a_gap_is_partial(lost: dict[str, int]) -> None:
    assert report(state(last_offset=50), progress(**lost)) == (Status.WARM, 12, 0, True)
    assert report(state(last_offset=51), progress(**lost)) == (Status.WARM, 12, 0, False)


def test_the_flag_of_the_state_itself_is_kept() -> None:
    assert report(state(partial=True), progress()) == (Status.WARM, 12, 0, True)


def test_a_user_without_a_state_in_a_partition_that_lost_its_beginning_is_partial() -> None:
    assert report(None, progress(base=1)) == (Status.COLD, 0, 0, True)


def test_a_state_of_another_lineage_is_stale_and_partial() -> None:
    assert report(state(lineage=8), progress()) == (Status.STALE, 12, 0, True)


def test_without_a_progress_record_age_and_completeness_are_unknown() -> None:
    assert report(state(), None) == (Status.STALE, 12, None, True)
    assert report(None, None) == (Status.COLD, 0, None, True)


def test_a_partition_that_never_caught_up_has_no_age() -> None:
    assert report(state(), progress(age_ms=NOW_MS)) == (Status.STALE, 12, None, False)
    assert report(None, progress(age_ms=NOW_MS)) == (Status.COLD, 0, None, False)
    never = encode_progress(progress(age_ms=NOW_MS))
    found = read([never, encode_progress(progress(age_ms=900))])
    assert found.oldest_ms(NOW_MS) is None
    found = read([encode_progress(progress(age_ms=5)), encode_progress(progress(age_ms=900))], found)
    assert found.oldest_ms(NOW_MS) == 900


def known(record: Progress) -> PartitionProgress:
    return PartitionProgress(record, record.as_of_ms)


def test_progress_is_what_the_records_say() -> None:
    first, second = progress(), progress(age_ms=900)
    found, unreadable = fold_progress([encode_progress(first), encode_progress(second)], "t", None, NOW_MS, 5_000)
    assert found == FoldProgress((known(first), known(second)), "t")
    assert unreadable == 0
    assert found.oldest_ms(NOW_MS) == 900


def test_an_unreadable_record_keeps_the_last_good_one_and_is_counted() -> None:
    good = encode_progress(progress())
    flipped = good[:30] + bytes([good[30] ^ 1]) + good[31:]
    before = FoldProgress((known(progress(age_ms=1)), known(progress(age_ms=2))), "t")
    kept = FoldProgress((known(progress(age_ms=1)), known(progress())), "t")
    assert fold_progress([flipped, good], "t", before, NOW_MS, 5_000) == (kept, 1)
    lost = FoldProgress((None, known(progress())), "t")
    assert fold_progress([flipped, good], "t", None, NOW_MS, 5_000) == (lost, 1)


def test_a_record_that_is_gone_is_gone() -> None:
    before = FoldProgress((known(progress()), known(progress())), "t")
    found = read([None, encode_progress(progress())], before)
    assert found == FoldProgress((None, known(progress())), "t")
    assert found.oldest_ms(NOW_MS) is None


def test_another_partition_count_forgets_what_was_known() -> None:
    before = FoldProgress((known(progress()), known(progress())), "t")
    found, unreadable = fold_progress([b"x", b"x", b"x"], "t", before, NOW_MS, 5_000)
    assert found == FoldProgress((None, None, None), "t")
    assert unreadable == 3


# Clocks that differ


def test_an_as_of_time_ahead_of_the_readers_clock_is_not_believed() -> None:
    assert report(state(), progress(age_ms=-5_001)) == (Status.STALE, 12, None, False)
    assert report(None, progress(age_ms=-5_001)) == (Status.COLD, 0, None, False)
    found = read([encode_progress(progress(age_ms=-3_600_000)), encode_progress(progress())])
    assert found.ahead_ms(NOW_MS) == 3_600_000
    assert found.oldest_ms(NOW_MS) is None


def test_a_time_that_was_not_believed_stays_so() -> None:
    ahead = encode_progress(progress(age_ms=-3_600_000))
    found = read([ahead])
    later = NOW_MS + 3_600_000
    found = read([ahead], found, later)
    assert found.report(state(), 0, later, 60_000).status is Status.STALE
    found = read([encode_progress(progress(age_ms=-3_600_001))], found, later)
    assert found.report(state(), 0, later, 60_000).status is Status.WARM


@given(
    ahead_ms=st.integers(-10_000_000, 10_000_000),
    reads=st.lists(st.integers(0, 20_000), min_size=1, max_size=300),
    stale_after_ms=st.integers(1, 120_000),
)
def test_a_dead_partition_is_never_warm_for_longer_than_promised(
    ahead_ms: int, reads: list[int], stale_after_ms: int
) -> None:
    """The last record is written at NOW_MS by a clock that is `ahead_ms` ahead; the reader reads it again and again."""
    record = encode_progress(progress(age_ms=-ahead_ms))
    found, now_ms = None, NOW_MS
    first_read_ms = NOW_MS + reads[0]
    for passed_ms in reads:
        now_ms += passed_ms
        found = read([record], found, now_ms)
        said = found.report(state(), 0, now_ms, stale_after_ms)
        if said.status is Status.WARM:
            assert now_ms - first_read_ms <= stale_after_ms
            assert said.age_ms is not None
            assert said.age_ms >= now_ms - first_read_ms
        elif ahead_ms == 0:
            assert now_ms - NOW_MS > stale_after_ms


# Which release may replace another


def grown(*ages_ms: int | None, topic: str = "t") -> FoldProgress:
    records = [None if age_ms is None else encode_progress(progress(age_ms=age_ms)) for age_ms in ages_ms]
    return fold_progress(records, topic, None, NOW_MS, 5_000)[0]


@pytest.mark.parametrize(
    ("old", "new", "coverage", "words"),
    [
        (grown(0, 0), grown(0, 0), Coverage(1000, 990), []),
        (grown(0, 0), grown(0, 0), Coverage(1000, 989), ["989 of 1000 sampled users"]),
        (grown(0, 0), grown(0, 0), Coverage(0, 0, whole=True), []),
        (grown(0, 0), grown(0, 0), Coverage(0, 0), ["no state"]),
        (grown(0, 0), grown(0, None), Coverage(9, 9), ["no progress"]),
        (grown(0, 0), grown(0, 60_001), Coverage(9, 9), ["60 s ago"]),
        (grown(0, 0), grown(0, -60_000), Coverage(9, 9), ["clock"]),
        (grown(0, 0), grown(0, NOW_MS), Coverage(9, 9), ["1 of its 2 partitions"]),
        (grown(0, 0), grown(0), Coverage(9, 9), ["1 partitions"]),
        (grown(0, 0), grown(0, 0, topic="u"), Coverage(9, 9), ["topic u"]),
        (None, grown(0, 0), Coverage(0, 0, whole=True), []),
        (grown(0, 0), grown(None, topic="u"), Coverage(9, 0), ["topic u", "1 partitions", "no progress", "0 of 9"]),
    ],
)
def test_a_release_replaces_another_only_if_users_keep_their_states(
    old: FoldProgress | None, new: FoldProgress, coverage: Coverage, words: list[str]
) -> None:
    against = list(objections(old, new, coverage, now_ms=NOW_MS, stale_after_ms=60_000, least_coverage=0.99))
    assert len(against) == len(words)
    for objection, word in zip(against, words, strict=True):
        assert word in objection


# The circuit breaker


def test_the_store_is_left_alone_after_so_many_late_replies_and_tried_now_and_then() -> None:
    breaker = CircuitBreaker(failures_to_pause=3, retry_every_s=1.0)
    for _ in range(2):
        breaker.late(10.0)
    assert breaker.may_ask(10.0)
    breaker.late(10.0)
    assert [breaker.may_ask(now) for now in (10.5, 11.0, 11.0, 11.9, 12.0)] == [False, True, False, False, True]
    breaker.answered()
    assert [breaker.may_ask(12.0) for _ in range(3)] == [True] * 3


def test_no_connection_pauses_at_once() -> None:
    breaker = CircuitBreaker(failures_to_pause=3, retry_every_s=1.0)
    breaker.away(10.0)
    assert not breaker.may_ask(10.99)
    assert breaker.may_ask(11.0)


def test_one_answer_between_late_replies_starts_the_count_again() -> None:
    breaker = CircuitBreaker(failures_to_pause=2, retry_every_s=1.0)
    breaker.late(0.0)
    breaker.answered()
    breaker.late(0.0)
    assert not breaker.paused


@given(
    st.lists(st.tuples(st.floats(0, 0.3), st.sampled_from(["ask", "late", "away"])), max_size=60),
    st.integers(1, 4),
)
def test_while_paused_at_most_one_request_asks_in_each_interval(steps: list[tuple[float, str]], failures: int) -> None:
    breaker = CircuitBreaker(failures, retry_every_s=1.0)
    now, asked = 0.0, []
    for wait, step in steps:
        now += wait
        if step == "ask" and breaker.paused:
            if breaker.may_ask(now):
                asked.append(now)
        elif step == "late":
            breaker.late(now)
        elif step == "away":
            breaker.away(now)
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(asked))


# Admission


def test_what_could_not_end_before_its_deadline_is_refused() -> None:
    admission = Admission(max_in_flight=100)
    admission.admit(0.4, 1.0)
    with pytest.raises(Overloaded):
        admission.admit(0.3, 1.0)
    admission.admit(0.1, 1.0)


def test_who_is_let_in_before_his_cost_is_known_counts_until_he_is_admitted() -> None:
    admission = Admission(max_in_flight=100)
    admission.admit(0.1, 0.5)
    for _ in range(3):
        admission.expect(0.9, 0.0)
    with pytest.raises(Overloaded):
        admission.expect(0.9, 0.0)
    admission.admitting()
    for _ in range(3):
        admission.admit(0.1, 0.9)
    with pytest.raises(Overloaded):
        admission.expect(0.9, 0.0)
    for _ in range(4):
        admission.leave(0.1)
    admission.expect(0.001, 0.0)
    with pytest.raises(Overloaded):
        admission.expect(0.001, 0.0)


@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.floats(1e-5, 2 * IN_A_ROW_S) | st.floats(1e-5, 0.1),
    st.floats(0.0, 0.3),
    st.floats(0.0, 2 * IN_A_ROW_S) | st.floats(0.0, 2.0),
)
def test_who_is_let_in_is_not_refused_after_a_pass_of_the_loop(
    line: int, come: int, cost: float, age: float, to_spare: float
) -> None:
    runs = min(line, max(1, int(IN_A_ROW_S / cost)))
    remaining = ((line + 1) * cost + age) / FOR_THE_LINE + to_spare
    admission = Admission(max_in_flight=100)
    for _ in range(line):
        admission.admit(cost, 100.0)
    let_in = 0
    for _ in range(come):
        with suppress(Overloaded):
            admission.expect(remaining, age)
            let_in += 1
    enough = (1 + 1 / FOR_THE_LINE) * max(cost, IN_A_ROW_S) + 1e-9
    assert let_in or to_spare < enough, "there is time for the runs of a pass as well"
    for _ in range(runs):
        admission.leave(cost)
    admission.admitting()
    for _ in range(let_in):
        admission.admit(cost, remaining - runs * cost, age + runs * cost)


def test_the_share_of_refusals_is_of_those_that_came_since_it_was_asked() -> None:
    admission = Admission(max_in_flight=3)
    assert admission.refused_share() == 0.0
    for _ in range(3):
        admission.admit(0.001, 0.5)
    with pytest.raises(Overloaded):
        admission.expect(0.5, 0.0)
    with pytest.raises(DeadlineMissed):
        admission.expect(0.0, 0.0)
    assert admission.refused_share() == 0.25
    assert admission.refused_share() == 0.0
    with pytest.raises(Overloaded):
        admission.admit(0.001, 0.5)
    assert admission.refused_share() == 1.0


def test_a_request_alone_is_let_in_and_admitted_however_long_it_is_thought_to_take() -> None:
    admission = Admission(max_in_flight=100)
    admission.admit(9.0, 0.5)
    admission.leave(9.0)
    admission.expect(0.5, 0.0)
    admission.admitting()
    admission.admit(9.0, 0.5)
    assert admission.in_flight == 1


def test_a_deadline_that_has_passed_and_a_process_that_ends_admit_nothing() -> None:
    admission = Admission(max_in_flight=100)
    with pytest.raises(DeadlineMissed):
        admission.admit(0.1, 0.0)
    admission.draining = True
    with pytest.raises(Draining):
        admission.admit(0.1, 1.0)
    assert admission.in_flight == 0


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.3), st.floats(0.001, 1.0), st.floats(0.0, 0.3)), max_size=80))
def test_no_request_is_admitted_to_a_line_longer_than_its_share(
    steps: list[tuple[bool, float, float, float]],
) -> None:
    admission = Admission(max_in_flight=5)
    inside: list[float] = []
    for leaves, cost, remaining, age in steps:
        if leaves and inside:
            admission.leave(inside.pop(0))
            continue
        try:
            admission.admit(cost, remaining, age)
        except Overloaded:
            continue
        assert len(inside) < 5
        assert not inside or sum(inside) + age + cost <= FOR_THE_LINE * remaining + 1e-9
        inside.append(cost)
    for cost in inside:
        admission.leave(cost)
    assert (admission.in_flight, admission.ahead_s) == (0, 0.0)


@dataclass
class Line:
    """A server in virtual time: one request after another, each admitted or refused when it comes."""

    admission: Admission
    thought_s: float
    """What the server takes a request to cost."""
    takes_s: float
    """What it costs."""
    deadline_s: float
    answered: int = 0
    in_time: int = 0
    refused: int = 0
    free_at: float = 0.0
    waiting: deque[float] = field(default_factory=deque)

    def work_until(self, now: float) -> None:
        while self.waiting and max(self.free_at, self.waiting[0]) <= now:
            came = self.waiting.popleft()
            begins = max(self.free_at, came)
            if begins + self.thought_s <= came + self.deadline_s:
                self.free_at = begins + self.takes_s
                self.answered += 1
                self.in_time += self.free_at <= came + self.deadline_s
            self.admission.leave(self.thought_s)

    def come(self, now: float) -> None:
        self.work_until(now)
        age_s = now - self.waiting[0] if self.waiting else 0.0
        try:
            self.admission.admit(self.thought_s, self.deadline_s, age_s)
        except Overloaded:
            self.refused += 1
        else:
            self.waiting.append(now)


@given(
    overload=st.floats(1.2, 10.0),
    thought=st.floats(0.5, 1.5),
    deadline=st.floats(20.0, 100.0),
    seed=st.integers(0, 2**16),
)
def test_goodput_holds_under_overload_even_if_costs_are_thought_too_low(
    overload: float, thought: float, deadline: float, seed: int
) -> None:
    takes_s = 0.005
    line = Line(Admission(max_in_flight=10_000), thought * takes_s, takes_s, deadline * takes_s)
    random = np.random.default_rng(seed)
    now = 0.0
    for gap in random.exponential(takes_s / overload, 1500):
        now += gap
        line.come(now)
    line.work_until(math.inf)
    assert line.in_time >= 0.9 * now / takes_s - 1


@given(thought=st.floats(0.5, 1.5), deadline=st.floats(20.0, 100.0))
def test_no_request_is_refused_below_the_knee(thought: float, deadline: float) -> None:
    line = Line(Admission(max_in_flight=100), thought * 0.005, 0.005, deadline * 0.005)
    for i in range(500):
        line.come(i * 0.006)
    assert line.refused == 0


# The line before the head


def none_refused() -> float:
    return 0.0


def turns(costs: list[float], *, apart: bool) -> str:
    """Who runs the head in which pass of the loop: names by a to z, passes divided by `|`. `apart`: each comes a pass
    after the one before."""

    async def play() -> list[str]:
        line, loop = HeadQueue(none_refused, lambda: 0.0), asyncio.get_running_loop()
        passes: list[str] = []

        async def one(number: int, cost: float) -> None:
            if apart:
                for _ in range(number):
                    await asyncio.sleep(0)
            await line.turn(0.0, cost)
            passes.append(chr(ord("a") + number))

        def tick() -> None:
            passes.append("|")
            loop.call_soon(tick)

        loop.call_soon(tick)
        await asyncio.gather(*(one(number, cost) for number, cost in enumerate(costs)))
        return passes

    return "".join(asyncio.run(play()))


@given(st.lists(st.floats(1e-6, 3 * IN_A_ROW_S), min_size=1, max_size=20), st.booleans())
def test_a_pass_of_the_loop_has_one_turn_or_a_few_short_ones_and_the_first_comes_first(
    costs: list[float], apart: bool
) -> None:
    said = turns(costs, apart=apart)
    assert said.replace("|", "") == "".join(chr(ord("a") + i) for i in range(len(costs)))
    for taken in said.split("|"):
        run = [costs[ord(name) - ord("a")] for name in taken]
        assert len(run) <= 1 or sum(run) <= IN_A_ROW_S * (1 + 1e-9)


def test_short_turns_that_wait_together_share_a_pass() -> None:
    assert "abcd|" in turns([IN_A_ROW_S / 4] * 9, apart=False)
    assert "efgh|" in turns([IN_A_ROW_S / 4] * 9, apart=False)


@given(takes=st.floats(2e-4, 0.01), thought=st.floats(0.5, 2.0), others=st.floats(0.0, 0.02), refused=st.floats(0, 1))
def test_heads_run_for_as_long_as_refusals_took_however_long_that_is(
    takes: float, thought: float, others: float, refused: float
) -> None:
    """With costs that are estimated wrong, too: what heads took is measured."""

    async def play() -> list[int]:
        now, heads = 0.0, [0]
        line, loop = HeadQueue(lambda: refused, lambda: now), asyncio.get_running_loop()

        async def one() -> None:
            nonlocal now
            await line.turn(now, takes * thought)
            now += takes
            line.ran(takes)
            heads[-1] += 1

        def refuse() -> None:
            nonlocal now
            now += others
            heads.append(0)
            if len(heads) < 10:
                loop.call_soon(refuse)

        loop.call_soon(refuse)
        waiting = [asyncio.create_task(one()) for _ in range(2_000)]
        while len(heads) < 10:
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        return heads

    least = max(others * refused, IN_A_ROW_S) / (takes * thought)
    for heads in asyncio.run(play())[4:9]:
        assert max(1, math.floor(least * (1 - 1e-6))) <= heads <= max(1, math.floor(least * (1 + 1e-6)))


def test_a_head_that_runs_after_a_while_knows_nothing_of_what_was_before() -> None:
    async def play() -> tuple[float, list[float]]:
        now, shares = 0.0, [1.0, 0.0, 1.0]
        line = HeadQueue(lambda: shares.pop(0), lambda: now)
        await line.turn(now, 0.001)
        now = 0.02
        await asyncio.sleep(0)
        return line.share_s, shares

    assert asyncio.run(play()) == (IN_A_ROW_S, [1.0]), "refusals from before the first turn do not count"


def test_the_line_is_as_old_as_the_first_in_it() -> None:
    async def play() -> list[float]:
        line = HeadQueue(none_refused)
        ages = [line.age_s(5.0)]
        waiting = [asyncio.create_task(line.turn(since, 0.1)) for since in (1.0, 2.0, 3.0)]
        await asyncio.sleep(0)  # the first has its turn, the others wait
        ages.append(line.age_s(5.0))
        await asyncio.gather(*waiting)
        return [*ages, line.age_s(5.0)]

    assert asyncio.run(play()) == [0.0, 3.0, 0.0]


def test_a_request_that_gives_up_in_the_line_delays_no_other() -> None:
    async def play() -> None:
        line = HeadQueue(none_refused)
        await line.turn(0.0, 0.1)
        first, second = (asyncio.create_task(line.turn(0.0, 0.1)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(60):
            await second
            for _ in range(3):
                await line.turn(0.0, 0.1)

    asyncio.run(play())


# Features


def numbers(*names: str) -> RequestFields:
    """The features that a manifest of schema 1 names."""
    specs = [FieldSpec(name=name, source="context", kind="numeric") for name in names]
    return RequestFields(specs, {}, np.empty((0, 1), np.float32))


def asking(**context: FieldValue) -> ScoreRequest:
    return ScoreRequest("u", np.ones(1, np.uint64), np.zeros(1, np.uint64), context=context)


def test_context_is_read_by_name_in_the_order_of_the_manifest_and_0_if_left_out() -> None:
    read = request_vector(numbers("hour", "price", "day"), asking(price=2.5, hour=3))
    assert read.values.tolist() == [3.0, 2.5, 0.0]
    assert read.missing == ["day"]
    assert request_vector(numbers(), asking()).values.shape == (0,)


def test_a_feature_that_the_model_does_not_read_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_vector(numbers("hour", "price"), asking(hour=1, hours=2, x=3))
    assert [fault.field for fault in refused.value.faults] == ["context.hours", "context.x"]
    assert "hour, price" in refused.value.faults[0].message


def test_a_value_that_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        request_vector(numbers("hour"), asking(hour=-1e39))
    assert [fault.field for fault in refused.value.faults] == ["context.hour"]


@pytest.mark.parametrize(
    ("own", "other", "value", "ignored"),
    [
        ("numeric", "categorical", "high", True),
        ("numeric", "categorical", 3, False),
        ("categorical", "numeric", 2.5, True),
        ("categorical", "multi", ["a"], True),
        ("multi", "categorical", "a", False),
    ],
)
def test_a_value_of_a_kind_that_only_another_release_reads(
    own: Kind, other: Kind, value: FieldValue, ignored: bool
) -> None:
    def fields(kind: Kind) -> RequestFields:
        tabled = kind != "numeric"
        spec = FieldSpec(name="bid", source="context", kind=kind, rows=12 * tabled, hashed=tabled)
        return RequestFields([spec], {}, np.ones((spec.rows, 2), np.float32))

    model = fields(own)
    others = of_others(fields_of(fields(other).specs), fields_of(model.specs))
    read = request_vector(model, asking(bid=value), others)
    assert read.ignored == ["bid"] * ignored
    assert read.missing == ["bid"] * ignored
    if ignored:
        with pytest.raises(InvalidRequest, match=r"context\.bid"):
            request_vector(model, asking(bid=value))
    with pytest.raises(InvalidRequest, match=r"context\.bids"):
        request_vector(model, asking(bid=value, bids=1), others)


@pytest.mark.parametrize("value", ["3", True, [1.0]])
def test_a_number_is_not_read_from_anything_else(value: FieldValue) -> None:
    with pytest.raises(InvalidRequest, match=r"context\.hour"):
        request_vector(numbers("hour"), asking(hour=value))
