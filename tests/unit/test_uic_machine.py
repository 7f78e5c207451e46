"""UIC's whole core against a model, as a machine that hypothesis drives: producers, workers, the store, the log and an
operator do what they may, in any order, and after every turn of a worker the store must be right.

The model is the offline replay of the log (`replayed.absorb`). It asks the stored progress only how far a partition is,
and then everything else must follow: each user's event count, digest, last offset and tensors; no byte of a user whose
records were not just absorbed; progress that never goes back within a lineage and era unless the store lost writes. At
rest every partition is at the log's end, and every record that is no event is a dead letter. CI tries some hundred
sequences; `make test-full` 5,000.
"""

from __future__ import annotations

import copy
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mimn.state import StateError, decode_progress, decode_state, partition_of, user_hash
from support.fake_state_store import FakeStore
from support.fake_topics import TOPIC, FakeDeadLetters, FakeErasures, FakeRecord, FakeTopic
from support.fold_worker import Crashed, Worker
from support.hand_model import COMPILED_MODEL, FINGERPRINT, LAYOUT, MODEL, POISON_ITEM, event_value, users_of
from support.replayed import Replayed, absorb
from uic.core.status import Phase
from uic.fold.partition import Resolution

SEQUENCES = 5000 if settings.get_current_profile_name() == "full" else 200
N = 2
USERS = [*users_of(0, N, 3), *users_of(1, N, 3)]
STEPS = ("poll", "decode", "load", "fold", "commit", "advise")
Place = tuple[int, str]
partitions = st.integers(0, N - 1)
workers = st.integers(0, 1)


@dataclass
class View:
    """What the model knows of a partition: what its lineage has absorbed, and what follows."""

    lineage: int
    era: int
    next_offset: int
    gaps: int = 0
    gap_end: int = 0
    states: dict[str, Replayed] = field(default_factory=dict)
    anew: dict[str, dict[str, Replayed]] = field(default_factory=dict)
    """Of users whose stored value was damaged: what there is if they started over, until it is known."""
    incomplete: bool = False
    """Whether events of the lineage are missing, so that states may be `partial`."""
    suspects: set[str] = field(default_factory=set)
    """Users whose value was damaged once: theirs may be too."""


class Life(RuleBasedStateMachine):
    """One sequence."""

    @initialize(chunk=st.integers(1, 6), max_states=st.integers(1, 4), max_waves=st.integers(1, 3))
    def begin(self, chunk: int, max_states: int, max_waves: int) -> None:
        self.topic, self.store = FakeTopic(N), FakeStore()
        self.letters, self.erasures = FakeDeadLetters(), FakeErasures()
        self.told = {"chunk": chunk, "max_states": max_states, "max_waves": max_waves, "misrouted_share": 1.0}
        self.started = 0
        self.workers = [self.start(), self.start()]
        self.owner = {0: 0, 1: 1}
        self.zombies: set[tuple[int, int]] = set()
        self.workers[0].log.assign(0)
        self.workers[1].log.assign(1)
        self.views: dict[int, View] = {}
        self.damaged: set[Place] = set()
        self.bad: set[tuple[int, int]] = set()
        """Records absorbed that are no events."""
        self.kept: Any = None

    def start(self) -> Worker:
        """Every other one with compiled code: all of them must write the same bytes."""
        self.started += 1
        return Worker(
            self.topic, self.store, dead_letters=self.letters, erasures=self.erasures, seed=self.started,
            model=(MODEL, COMPILED_MODEL)[self.started % 2],
            **self.told,  # type: ignore[arg-type]  # settings of the fold among them
        )  # fmt: skip

    # Producers

    @rule(user=st.sampled_from(USERS), item=st.integers(1, 9), times=st.integers(1, 4))
    def events(self, user: str, item: int, times: int) -> None:
        """The same event several times over: a producer that sends twice is folded twice."""
        for _ in range(times):
            self.topic.event(user, item)

    @rule(
        p=partitions,
        kind=st.sampled_from(["junk", "another user", "item 0", "poison", "misrouted", "no key", "an empty key"]),
    )
    def a_record_that_is_no_event(self, p: int, kind: str) -> None:
        here, elsewhere = USERS[3 * p], USERS[3 * (1 - p)]
        record: dict[str, tuple[bytes | None, bytes | None]] = {
            "junk": (here.encode(), b"\xff\xff"),
            "another user": (here.encode(), event_value(elsewhere)),
            "item 0": (here.encode(), event_value(here, item=0)),
            "poison": (here.encode(), event_value(here, item=POISON_ITEM)),
            "misrouted": (elsewhere.encode(), event_value(elsewhere)),
            "no key": (None, event_value(here)),
            "an empty key": (b"", None),
        }
        self.topic.append(p, *record[kind])

    @rule(user=st.sampled_from(USERS))
    def erase(self, user: str) -> None:
        p = partition_of(user.encode(), N)
        self.erasures.notes.setdefault(p, {})[user.encode()] = self.topic.erase(user)

    @rule(p=partitions)
    def a_transaction_ends(self, p: int) -> None:
        self.topic.marker(p)

    # Workers

    @rule(w=workers, times=st.integers(1, 3), chunk=st.integers(1, 6))
    def turn(self, w: int, times: int, chunk: int) -> None:
        self.workers[w].log.chunk = chunk
        for _ in range(times):
            self.one_turn(w)

    @rule(w=workers, step=st.sampled_from(STEPS))
    def crash(self, w: int, step: str) -> None:
        self.workers[w].crash_at = step
        try:
            for _ in range(3):
                self.one_turn(w)
        except Crashed:
            self.looks_right()
            self.workers[w] = self.start()
            self.zombies = {(z, p) for z, p in self.zombies if z != w}
            self.workers[w].log.assign(*(p for p, owner in self.owner.items() if owner == w))
        self.workers[w].crash_at = ""

    @rule(p=partitions)
    def move(self, p: int) -> None:
        """A rebalance of which both hear."""
        self.workers[self.owner[p]].log.revoke(p)
        self.owner[p] = 1 - self.owner[p]
        self.take(p)

    @rule(p=partitions)
    def steal(self, p: int) -> None:
        """A rebalance of which the old owner does not hear: it goes on, and the group refuses its offsets."""
        self.zombies.add((self.owner[p], p))
        self.owner[p] = 1 - self.owner[p]
        self.take(p)

    def take(self, p: int) -> None:
        self.zombies.discard((self.owner[p], p))
        self.workers[self.owner[p]].log.assign(p)
        for w, worker in enumerate(self.workers):
            worker.log.leases_away = any(z == w for z, _ in self.zombies)

    # The store

    @rule(what=st.sampled_from(["lost request", "lost answer"]))
    def a_commit_without_an_answer(self, what: Literal["lost request", "lost answer"]) -> None:
        self.store.fail_commits.append(what)

    @rule(w=workers, times=st.integers(1, 3))
    def the_store_is_away(self, w: int, times: int) -> None:
        self.store.away = True
        for _ in range(times):
            self.one_turn(w)
        self.store.away = False

    @rule()
    def keep(self) -> None:
        """A snapshot of the store that it may fall back to."""
        self.kept = self.store.snapshot(), copy.deepcopy(self.views), set(self.damaged)

    @precondition(lambda self: self.kept is not None)
    @rule()
    def later_writes_are_lost(self) -> None:
        snapshot, views, damaged = self.kept
        self.store.restore(snapshot)
        self.views, self.damaged = copy.deepcopy(views), set(damaged)

    @rule()
    def the_store_is_emptied(self) -> None:
        self.store.flush()
        self.views.clear()
        self.damaged.clear()

    @rule()
    def the_namespaces_meta_is_deleted(self) -> None:
        self.store.meta = None

    @rule(p=partitions)
    def progress_alone_is_deleted(self, p: int) -> None:
        self.store.progress.pop(p, None)
        self.views.pop(p, None)

    @precondition(lambda self: self.store.states)
    @rule(data=st.data())
    def a_state_is_damaged(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.store.states)))
        value = self.store.states[place]
        self.store.states[place] = value[:-1] + bytes([value[-1] ^ 1])
        self.damaged.add(place)
        if (view := self.views.get(place[0])) is not None:
            view.anew[place[1]] = {}
            view.suspects.add(place[1])

    # The log

    @rule(p=partitions, share=st.floats(0, 1))
    def retention(self, p: int, share: float) -> None:
        """The oldest records go, also such that were not folded yet, null records among them."""
        log = self.topic.partitions[p]
        upto = log.start + round(share * (log.end - log.start))
        if upto > log.start:
            self.topic.delete_before(p, upto)

    @rule(
        anew=st.booleans(), cut=st.integers(1, 3), actions=st.tuples(*[st.sampled_from(["continue", "rebuild"])] * N),
        before=st.booleans(),
    )  # fmt: skip
    def the_log_breaks_and_an_operator_decides(
        self, anew: bool, cut: int, actions: tuple[Literal["continue", "rebuild"], ...], before: bool
    ) -> None:
        """The topic is created again, or loses its last records; events come before or after the operator speaks."""
        self.settle()
        self.kept = None  # a store that falls back to another log's states is another fault
        lost_from: dict[int, int] = {}
        if anew:
            self.topic.make_anew()
            self.erasures.notes.clear()
            broken = list(self.views)
        else:
            broken = [p for p, log in self.topic.partitions.items() if log.end - cut >= log.start]
            for p in broken:
                end = lost_from[p] = self.topic.partitions[p].end - cut
                self.topic.truncate(p, end)
                notes = self.erasures.notes.get(p, {})
                for key in [key for key, offset in notes.items() if offset >= end]:
                    del notes[key]
        self.letters.arrived.clear()
        self.bad.clear()
        for p in broken:
            worker = self.workers[self.owner[p]]
            worker.until(lambda p=p, worker=worker: worker.phase(p) is Phase.BROKEN)  # type: ignore[misc]  # bound
            assert not worker.fold.status.serving
            assert p not in worker.log.reading
        if before:
            for user in USERS:
                self.topic.event(user)
        for p in broken:
            outcome: Future[Any] = Future()
            worker = self.workers[self.owner[p]]
            offset = None if anew or actions[p] == "rebuild" else lost_from[p]
            worker.fold._resolutions.append(Resolution(p, actions[p], offset, outcome))
            for _ in range(20):
                self.one_turn(self.owner[p])
            assert outcome.result(0).era == (self.views[p].era if actions[p] == "continue" else 0)

    # What must be

    def one_turn(self, w: int) -> None:
        self.before = dict(self.store.states)
        self.workers[w].turn()
        self.looks_right()

    def looks_right(self) -> None:
        """The store is a consistent snapshot, and only what was just absorbed has changed."""
        changed = {
            place
            for place in self.before.keys() | self.store.states.keys()
            if self.before.get(place) != self.store.states.get(place)
        }
        for p in range(N):
            touched = self.follow(p)
            foreign = {user for q, user in changed if q == p} - touched
            assert not foreign, f"{foreign} changed in partition {p}, where {touched} had records"
            self.compare(p)
        self.before = dict(self.store.states)

    def follow(self, p: int) -> set[str]:
        """Absorb what the stored progress says was absorbed; whose records those were, or whose erasure is left out."""
        stored, view, log = self.store.progress.get(p), self.views.get(p), self.topic.partitions[p]
        if stored is None:
            assert view is None, f"partition {p} has no progress any more"
            return set()
        progress = decode_progress(stored)
        touched: set[str] = set()
        if view is None or view.lineage != progress.lineage:
            assert progress.base <= log.start
            touched |= self.forget(p, 0)
            view = self.views[p] = View(progress.lineage, progress.era, progress.base, incomplete=progress.base > 0)
            view.suspects = {user for q, user in self.damaged if q == p}
        era_begins = progress.era != view.era
        if era_begins:
            assert progress.era == view.era + 1
            touched |= self.forget(p, 0)
            view.era, view.next_offset = progress.era, progress.next_offset
        assert progress.next_offset >= view.next_offset, "progress went back"
        if progress.gaps != view.gaps:
            assert progress.gaps == view.gaps + 1
            # A log that begins where it parted may have parted lower, for all that its broker knows.
            least = view.next_offset if era_begins and view.next_offset == log.start else view.next_offset + 1
            # The end of an earlier gap stays, and a log that lost its tail since may begin below it.
            assert least <= progress.gap_end <= max(log.start, view.gap_end), "a gap where nothing is missing"
            touched |= self.forget(p, view.next_offset)
            view.gaps, view.next_offset, view.incomplete = progress.gaps, min(progress.gap_end, log.start), True
            view.gap_end = progress.gap_end
        for record in self.seen(p):
            if view.next_offset <= record.offset < progress.next_offset:
                if absorb(view.states, record, p, N):
                    assert record.key is not None
                    user = record.key.decode()
                    touched.add(user)
                    if record.value is None:
                        view.anew.pop(user, None)
                        self.damaged.discard((p, user))
                    elif user in view.anew:
                        absorb(view.anew[user], record, p, N)
                elif not any(
                    r.key == record.key and r.value is None and r.offset > record.offset for r in self.seen(p)
                ):
                    self.bad.add((p, record.offset))  # else a replay may leave it out, before its step was tried
        view.next_offset = progress.next_offset
        return touched

    def forget(self, p: int, erased_from: int) -> set[str]:
        """Records were left out: users with a note there have no state any more."""
        users = {key.decode() for key, offset in self.erasures.notes.get(p, {}).items() if offset >= erased_from}
        for user in users:
            self.damaged.discard((p, user))
            if (view := self.views.get(p)) is not None:
                view.states.pop(user, None)
                view.anew.pop(user, None)
        return users

    def seen(self, p: int) -> list[FakeRecord]:
        """The log's records, and those that retention removed after a worker had fetched them."""
        fresh = {r.offset: r for r in self.topic.partitions[p].records}
        history = self.__dict__.setdefault("histories", {}).setdefault((p, self.topic.topic_id), {})
        for offset in [offset for offset in history if offset >= self.topic.partitions[p].end]:
            del history[offset]
        history.update(fresh)
        return [history[offset] for offset in sorted(history)]

    def compare(self, p: int) -> None:
        view = self.views.get(p)
        if view is None:
            return
        ahead = {r.key.decode() for r in self.seen(p) if r.key and r.value is None and r.offset >= view.next_offset}
        found: set[str] = set()
        for (q, user), value in self.store.states.items():
            if q != p:
                continue
            try:
                state = decode_state(value, FINGERPRINT, LAYOUT, user_hash(user))
            except StateError:
                assert (p, user) in self.damaged, f"{user}'s state is unreadable"
                found.add(user)
                continue
            if state.header.lineage != view.lineage:
                continue  # as if absent
            found.add(user)
            if user in ahead:
                continue  # a replay leaves out what it knows to be erased further on
            whole, anew = view.states.get(user), view.anew.get(user, {}).get(user)
            header = state.header
            said = header.event_count, header.digest, header.last_offset
            if anew is not None and said == (anew.count, anew.digest, anew.last_offset):
                assert header.partial or whole is None or whole.count == anew.count
                view.states[user] = want = anew
            else:
                assert whole is not None, f"{user} has a state and no events"
                assert said == (whole.count, whole.digest, whole.last_offset), f"{user}: {said}, {whole}"
                assert header.partial <= (view.incomplete or user in view.suspects)
                want = whole
            view.anew.pop(user, None)
            self.damaged.discard((p, user))
            np.testing.assert_array_equal(state.tensors, want.tensors)
        missing = view.states.keys() - found - ahead
        assert not missing, f"{missing} have events and no state"

    @rule()
    def settle(self) -> None:
        """All is well for a while: everything is folded, and said so."""
        self.store.fail_commits.clear()
        for w, p in self.zombies:
            self.workers[w].log.revoke(p)
        self.zombies.clear()
        for worker in self.workers:
            worker.log.leases_away = False
            worker.now += 10
        for _ in range(200):
            for w in (0, 1):
                self.one_turn(w)
            if self.store.meta == (N, TOPIC) and all(
                p in self.views and self.views[p].next_offset == log.end for p, log in self.topic.partitions.items()
            ):
                break
        else:
            pytest.fail(f"not folded to the end: {[worker.fold.status for worker in self.workers]}")
        arrived = {(letter.partition, letter.offset) for letter in self.letters.arrived}
        assert self.bad <= arrived, "a record that is no event is no dead letter either"
        events = {(p, r.offset) for p in range(N) for r in self.seen(p)} - self.bad_in_log()
        assert not arrived & events, "an event is a dead letter"

    def bad_in_log(self) -> set[tuple[int, int]]:
        return {(p, r.offset) for p in range(N) for r in self.seen(p) if not absorb({}, r, p, N)}

    def teardown(self) -> None:
        if hasattr(self, "topic"):
            self.settle()


@pytest.mark.timeout(3600)
def test_whatever_happens_in_whatever_order_the_store_is_the_replay_of_the_log() -> None:
    run_state_machine_as_test(Life, settings=settings(max_examples=SEQUENCES, stateful_step_count=40, deadline=None))


def test_a_lineage_that_was_seen_and_lost_before_its_claim_was_known_begins_once() -> None:
    life = Life()
    life.begin(chunk=6, max_states=4, max_waves=3)
    life.events(item=1, times=2, user=USERS[0])
    life.a_commit_without_an_answer(what="lost answer")
    life.turn(w=0, times=2, chunk=6)  # its claim of partition 0 is written, and it does not know
    life.steal(p=0)
    life.turn(w=1, times=9, chunk=6)
    assert life.views[0].states, "the other worker has built upon it"
    life.progress_alone_is_deleted(p=0)
    life.turn(w=0, times=9, chunk=6)
    life.teardown()


def test_a_log_that_lost_no_more_than_a_marker_is_broken_too() -> None:
    life = Life()
    life.begin(chunk=1, max_states=1, max_waves=1)
    life.events(item=1, times=1, user=USERS[0])
    life.a_transaction_ends(p=0)
    life.settle()
    life.steal(p=0)
    life.settle()
    life.the_log_breaks_and_an_operator_decides(anew=False, cut=1, actions=("continue", "continue"), before=False)
    life.teardown()
