"""The subcommands: each reads the record, does one thing, and says what came of it. Every one may be run again. The
file is long because all share the record, the store and how they report."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from mimn import release as rollouts
from mimn.release import (
    Announcement,
    Conflict,
    Finding,
    GateClosed,
    NotAllowed,
    Record,
    Release,
    Rollout,
    State,
    free_generation,
    kept_generation,
    leaves_nothing,
    left_behind,
    other_topic,
)
from mimn.release.announcement import LASTS_S
from uic.bulk.errors import BulkRefused
from uic.bulk.namespaces import Namespaces
from uic.errors import StoreUnavailable
from uic.redis_client import FAILURES
from uic.rollout import planning
from uic.rollout.desk import Desk
from uic.rollout.gates import Demands, Gates, Look
from uic.rollout.origins import Origin, origin_of
from uic.rollout.planning import Plan
from uic.rollout.views import counted, finding_view, iso_time, process_view, rollout_view, summary
from uic.settings import ClientSettings
from uic.store_failures import describe, no_answer
from uic.tools.interrupted import says_if_interrupted
from uic.tools.scorers import Scorers

POLL_S: Final = 1.0
FOLLOWED_WITHIN_S: Final = LASTS_S
"""A process follows the record within a second, and one that has ended is not among those that announce themselves
after this time."""
PAUSE_S: Final = 0.25
UNSEEN: Final = "whether every RTP follows it was not seen"
ALL_THE_SAME: Final = "--force"
"""The option by which a rollback takes users to a namespace that lacks partitions."""


class TimedOut(Exception):
    """The rollout is not ready yet; the message says what is closed."""


@dataclass(frozen=True)
class Answer:
    """What a subcommand says: a view for programs, and lines for people."""

    view: dict[str, Any]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] | None = None
    """Of a subcommand that does several things: what it did not do, and why."""


class Verbs:
    """All subcommands of one deployment."""

    def __init__(
        self,
        client: Any,
        settings: ClientSettings,
        demands: Demands,
        *,
        tell: Callable[[str], None] = lambda line: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            client: of the store.
            settings: of the deployment.
            demands: what is asked of a rollout.
            tell: is told what happens while a subcommand goes on.
            sleep, clock: seconds.
        """
        self._settings = settings
        self._desk = Desk(client, settings.redis.prefix)
        self._gates = Gates(client, settings, demands, sleep)
        self._scorers = Scorers(client, settings.redis.prefix, sleep)
        self._namespaces = Namespaces(client, settings.redis.prefix)
        self._tell = tell
        self._sleep = sleep
        self._clock = clock
        self._by = " ".join((f"{_user()}@{socket.gethostname()}", *demands.options))

    # Before

    def plan(self, path: Path, origin: str, generation: int | None, rate: float) -> Answer:
        """What rolling out the bundle at `path` would take."""
        record = self._desk.read()
        planned = self._planned(record, path, origin, generation, rate)
        if planned.findings:
            raise GateClosed(planned.findings, planned.view())
        return Answer(planned.view())

    def start(self, path: Path, origin: str, generation: int | None, rate: float) -> Answer:
        """Begin a rollout, unless the plan has something against it. Writes the record, and for the first one what
        `Scorers.settle` does."""
        record = self._desk.read()
        refused: ResponseError | None = None
        if record is None:
            try:
                self._scorers.require()
            except ResponseError as error:
                refused = error  # told after what speaks against the plan, such as that there is no memory for it
        planned = self._planned(record, path, origin, generation, rate)
        before = planned.replaces
        going = None if record is None else record.open
        if going is None and planned.findings:
            raise GateClosed(planned.findings, planned.view())
        if refused is not None:
            raise refused
        after = rollouts.begin(
            record,
            planned.release,
            serving=before,
            origin=origin,
            salt=secrets.token_hex(8),
            now_ms=self._gates.now_ms(),
            by=self._by,
        )
        self._desk.replace(record, after)
        rollout = after.open
        assert rollout is not None  # noqa: S101 # `begin` has just opened it
        notes = [f"copy the bundle to <bundles folder>/{rollout.release.bundle} of every RTP"]
        if not rollout.head_only:
            how, name = origin_of(origin)
            notes.append(how.instruction(rollout.release, rollout.replaces, path, name))
        notes.append(f"then: rollout wait {rollout.id}")
        return Answer({**rollout_view(after, rollout), "changes": list(planned.changes)}, tuple(notes))

    def _planned(self, record: Record | None, path: Path, origin: str, generation: int | None, rate: float) -> Plan:
        """What `plan` shows, and `start` looks at. Raises: as `check_new`, and as what it reads."""
        how, _ = origin_of(origin)
        serving = record.serving if record is not None else self._configured()
        release, bundle = planning.read_release(path, 0)
        if generation is None:
            # Of the bundle in service, states that are not folded from its log alone are meant to be other states.
            rebuilt = how.other_log or (not how.reads_log and release.manifest == serving.manifest)
            same = release.fingerprint == serving.fingerprint and not rebuilt
            generation = serving.generation if same else self._generation(record, release.fingerprint, how, serving)
            if record is not None and (going := record.open) is not None and going.release.manifest == release.manifest:
                generation = going.release.generation
        release = rollouts.Release(
            release.name, release.version, release.manifest, release.head, release.fingerprint, generation
        )
        rollouts.check_new(record, release, serving=serving)
        planned = planning.plan(
            self._gates,
            self._settings,
            release=release,
            bundle=bundle,
            replaces=serving,
            origin=how,
            topic=other_topic(origin),
            rate=rate,
        )
        others = () if record is not None else tuple(self._serving_another(serving))
        return replace(
            planned,
            findings=(*others, *planned.findings),
            changes=planning.told_changes(self._settings, path, bundle, serving),
        )

    def _generation(self, record: Record | None, fingerprint: str, how: Origin, serving: Release) -> int:
        """The generation of a new namespace, or of one to go on in: a fold of the log goes on with what is there of
        it, where an earlier rollout has left it; a load needs an empty one."""
        there = set(self._namespaces.names())
        if not how.reads_log:
            return free_generation(record, fingerprint, {*there, serving.namespace})
        usable = self._namespaces.usable(self._namespaces.topic(serving.namespace))
        kept = kept_generation(record, fingerprint, usable)
        return free_generation(record, fingerprint, there.difference(usable)) if kept is None else kept

    def _serving_another(self, release: Release) -> Iterator[Finding]:
        """Scoring processes that answer by another release. The first record says what serves, and they follow it: it
        must not move the traffic."""
        self._scorers.settle()
        for told in self._scorers.announced():
            if (finding := rollouts.serves_another(told, release)) is not None:
                yield finding

    def _configured(self) -> Release:
        """What serves before there is a record: the bundle that the settings name."""
        bundle = self._settings.bundle
        if bundle is None:
            raise NotAllowed("there is no rollout yet: set UIC_BUNDLE__PATH to the bundle that is in service now")
        return planning.read_release(bundle.path, bundle.generation)[0]

    # On the way

    def wait(self, identity: str, timeout_s: float) -> Answer:
        """Look at a rollout until it is ready; its state in the record follows what is seen. A store that stops
        answering is asked again; one that did not answer the first time may be that of wrong settings. Users may take
        long to compare, so that is given up when `timeout_s` is over, and leaves the record as it is.

        Raises:
            GateClosed: a gate is closed that time does not open.
            NotAllowed: there is no such rollout, or it has ended.
            TimedOut: it is not ready after `timeout_s`.
            Conflict: another command changed the record meanwhile.
            FAILURES, StoreUnavailable: the store did not answer the first look, or refuses its user.
        """
        deadline = self._clock() + timeout_s
        before = ""
        answered = away = False

        def in_time() -> None:
            if self._clock() > deadline:
                raise TimedOut(f"users of rollout {identity} were still being compared when --timeout was over{before}")

        while True:
            try:
                record, rollout, closed = self._observe(identity, in_time)
            except (*FAILURES, StoreUnavailable) as error:
                failure = error.__cause__ or error if isinstance(error, StoreUnavailable) else error
                if not answered or isinstance(failure, AuthenticationError | NoPermissionError):
                    raise
                seen = no_answer(failure)
                if not away:
                    self._tell(f"{seen}: looking again until --timeout is over")
                away = True
            else:
                if away:
                    self._tell("the store answers again")
                answered, away = True, False
                if _arrived(record, rollout, closed):
                    return Answer(rollout_view(record, rollout))
                seen = f"rollout {identity} is {rollout.state}: {GateClosed(closed)}"
            if self._clock() + POLL_S > deadline:
                raise TimedOut(seen)
            before = f"; the look before: {seen}"
            self._sleep(POLL_S)

    def canary(self, identity: str, percent: float) -> Answer:
        """Answer a share of users with the new release."""
        record, rollout = self._found(identity)
        if rollouts.smaller(record, identity, percent):
            after = rollouts.shrink(record, identity, percent=percent, now_ms=self._gates.now_ms(), by=self._by)
            self._desk.replace(record, after)
            smaller = _of(after, identity)
            with says_if_interrupted("ctr rollout canary", f"the smaller canary is in the record; {UNSEEN}"):
                notes = tuple(self._goes_on(after, smaller))
            return Answer(rollout_view(after, smaller), notes)
        look = self._look(record, rollout)
        with self._noting(record, identity, look):
            after = rollouts.canary(
                record, identity, look.checked, percent=percent, now_ms=self._gates.now_ms(), by=self._by
            )
        return self._replaced(record, after, identity, look)

    def shadow(self, identity: str, percent: float) -> Answer:
        """Score a share of users' requests with the new release as well, without answering."""
        after = self._desk.change(
            lambda record: rollouts.shadow(record, identity, percent=percent, now_ms=self._gates.now_ms(), by=self._by)
        )
        return Answer(rollout_view(after, _of(after, identity)))

    def promote(self, identity: str, keep_s: float, *, dry_run: bool) -> Answer:
        """Answer all users with the new release, if every gate is open for this very revision of the record."""
        record, rollout = self._found(identity)
        if rollout.state is State.SERVING:
            return Answer(rollout_view(record, rollout), ("it serves already",))
        look = self._look(record, rollout)
        with nullcontext() if dry_run else self._noting(record, identity, look):
            after = rollouts.promote(
                record,
                identity,
                look.checked,
                keep_ms=round(keep_s * 1000),
                now_ms=self._gates.now_ms(),
                by=self._by,
            )
        if dry_run:
            return Answer({**rollout_view(record, rollout), **counted(look), "dry_run": True})
        return self._replaced(record, after, identity, look)

    # Ways out

    def abort(self, identity: str, reason: str) -> Answer:
        """Give it up before it serves everybody."""
        after = self._desk.change(
            lambda record: rollouts.abort(record, identity, reason=reason, now_ms=self._gates.now_ms(), by=self._by)
        )
        rollout = _of(after, identity)
        with says_if_interrupted("ctr rollout abort", f"the abort is in the record; {UNSEEN}"):
            notes = list(self._goes_on(after, rollout))
        if not rollout.head_only:
            notes.append(f"stop the UIC workers of {rollout.release.namespace}, then: rollout gc")
        return Answer(rollout_view(after, rollout), tuple(notes))

    def rollback(self, identity: str | None, reason: str, *, force: bool) -> Answer:
        """Answer all users with the previous release again.

        Args:
            identity: None for the rollout that serves, or was just rolled back.
            reason: for the record.
            force: although partitions of the previous release's namespace are lost.

        Raises:
            NotAllowed: the rollout does not serve, or none does, or the release before was given up, or states of it
                are lost.
            Conflict: other commands kept changing the record.
        """
        named = identity or rollouts.to_roll_back(self._desk.existing())
        by = f"{self._by} {ALL_THE_SAME}" if force else self._by

        def back(record: Record) -> Record:
            after = rollouts.rollback(record, named, reason=reason, now_ms=self._gates.now_ms(), by=by)
            if after is not record and not force:
                self._refuse_lost(_of(record, named))
            return after

        after = self._desk.change(back)
        rollout = _of(after, named)
        written = f"the rollback is in the record; {UNSEEN}, nor whether UIC folds {after.serving.namespace}"
        with says_if_interrupted("ctr rollout rollback", written):
            notes = list(self._goes_on(after, rollout))
            notes += self._unfolded(after.serving, watched=not rollout.head_only)
        return Answer(rollout_view(after, rollout), tuple(notes))

    def _goes_on(self, record: Record, rollout: Rollout) -> Iterator[str]:
        """Which RTPs go on answering by a rollout that `record` has taken users from: those that cannot follow the
        record, and those that have not loaded what serves. The record is written by then, so an error of the store is a
        note."""
        silenced = list(self._silenced())  # asked before who is there: the store may take writes again in between
        bad = rollout.release.bundle
        try:
            # In a store that refuses writes no process can say that it follows.
            told = self._scorers.announced() if silenced else self._following(record.revision)
        except FAILURES as error:
            yield f"which RTPs follow the record could not be read ({describe(error)})"
            return
        for one in told:
            if not silenced and (late := rollouts.lags(one, record.revision)) is not None:
                by_it = f"answering by {bad}" if rollouts.answers(one, rollout.release) else "as before"
                yield f"{late.reason}; until it follows the record, it goes on {by_it}"
            back = rollout.state is State.ROLLED_BACK
            if back and (found := rollouts.lacks(one, record.serving)) is not None:
                yield f"{found.reason}; until it has, it goes on answering by {bad}"
        yield from silenced

    def _following(self, revision: int) -> list[Announcement]:
        """What processes announce, once all follow this revision, or after `FOLLOWED_WITHIN_S`."""
        left_s = FOLLOWED_WITHIN_S
        while True:
            told = self._scorers.announced()
            if left_s <= 0 or not any(rollouts.lags(one, revision) for one in told):
                return told
            self._sleep(PAUSE_S)
            left_s -= PAUSE_S

    def _refuse_lost(self, rollout: Rollout) -> None:
        """Refuse the way back to a namespace that has lost partitions. One that cannot be read now is not refused: the
        part of the store that is away may be why the rollout is taken back.

        Raises:
            NotAllowed: it has.
        """
        if rollout.head_only:
            return
        before = rollout.replaces
        try:
            why = self._gates.lost(before)
        except FAILURES:
            return
        if why is not None:
            raise NotAllowed(
                f"namespace {before.namespace} of {before.bundle} has lost states ({why}), and users would be answered "
                f"without them: say {ALL_THE_SAME} to roll back all the same, or build them again first "
                "(docs/runbooks/roll-back.md)"
            )

    def _unfolded(self, release: Release, *, watched: bool) -> Iterator[str]:
        """That a release's states grow old; see `Gates.unfolded`. The rollback is written by then, so an error of the
        store is a note."""
        try:
            why = self._gates.unfolded(release, watched=watched)
        except FAILURES as error:
            yield f"whether UIC folds namespace {release.namespace} could not be read ({describe(error)})"
            return
        if why is not None:
            workers = f"see that UIC workers of namespace {release.namespace} run"
            yield f"states of {release.bundle} grow old where nothing folds them ({why}): {workers}"

    def gc(self) -> Answer:
        """Give up what was kept for long enough, and remove the namespaces that nothing needs. One that is
        still written or read is refused; the others go all the same."""
        now_ms = self._gates.now_ms()
        record = self._desk.read()
        if record is None:
            return Answer({"collected": []}, refused=())
        record = self._desk.change(lambda before: rollouts.retire(before, now_ms=now_ms, by=self._by))
        self._scorers.settle()
        collected, kept = [], []
        for rollout in sorted(record.rollouts, key=leaves_nothing):  # first those whose end makes room
            name = left_behind(record, rollout)
            if name is None and not leaves_nothing(rollout):
                continue
            try:
                removed = 0 if name is None else self._dropped(name)
            except BulkRefused as refused:
                kept.append(f"{rollout.id}: {refused}")
                continue
            self._desk.change(
                lambda before, one=rollout: rollouts.collect(before, one.id, now_ms=now_ms, by=self._by)  # type: ignore[misc]
            )
            collected.append({"rollout": rollout.id, "namespace": name, "keys": removed})
        return Answer({"collected": collected}, refused=tuple(kept))

    def _dropped(self, name: str) -> int:
        """Remove a namespace, unless an earlier run has; how many keys went."""
        known = self._namespaces.exists(name)
        return self._namespaces.drop(name, force=False, after=lambda step: None) if known else 0

    # Looking

    def listing(self) -> Answer:
        """All rollouts of the record, and the scoring processes that announce themselves. Writes no more than a key
        that expires at once (`Scorers.refusal`)."""
        record = self._desk.read()
        notes = tuple(self._silenced())
        told = [process_view(one, record) for one in self._scorers.announced()]
        if record is None:
            return Answer({"serving": None, "rollouts": [], "rtp": told}, notes)
        return Answer(
            {
                "serving": record.serving.bundle,
                "revision": record.revision,
                "rollouts": [summary(one) for one in record.rollouts],
                "rtp": told,
            },
            notes,
        )

    def _silenced(self) -> Iterator[str]:
        """That RTPs are missing among those that announce themselves. For what is done all the same, so an error of the
        store is a note."""
        try:
            refusal = self._scorers.refusal()
        except FAILURES as error:
            yield f"whether RTPs can announce themselves could not be read ({describe(error)})"
            return
        if refusal is not None:
            yield f"{refusal}, so no RTP can announce itself: ask each what it has loaded (/releases)"

    def describe(self, identity: str) -> Answer:
        """One rollout, with every gate as it is now. The record stays as it is; `Scorers.settle` writes a key that
        expires at once, and removes the names of processes that have ended."""
        record, rollout = self._found(identity)
        view = rollout_view(record, rollout)
        if rollout.state in rollouts.OPEN:
            look = self._gates.look(record, rollout)
            closed = rollouts.closed_gates(record, identity, look.checked, now_ms=self._gates.now_ms())
            view |= {"gates": [finding_view(one) for one in closed], **counted(look)}
        return Answer(view)

    def log(self, identity: str | None) -> Answer:
        """What happened, oldest first."""
        record = self._desk.existing()
        entries = [
            {
                "at": iso_time(entry.at_ms),
                "revision": entry.revision,
                "rollout": entry.rollout,
                "state": entry.state.value,
                "reason": entry.reason,
                "by": entry.by,
            }
            for entry in record.log
            if identity in (None, entry.rollout)
        ]
        return Answer({"log": entries})

    # Parts

    def _observe(self, identity: str, proceed: Callable[[], None]) -> tuple[Record, Rollout, tuple[Finding, ...]]:
        """Look once, and note what is seen. Users are compared once the lag was small for long enough; `proceed` as in
        `Gates.look`."""
        record, rollout = self._found(identity)
        look = self._gates.look(record, rollout, users=False, waits=True)
        after, closed = rollouts.observe(record, identity, look.checked, now_ms=self._gates.now_ms(), by=self._by)
        if not rollout.head_only and {one.gate for one in closed} == {rollouts.Gate.DIGEST}:
            look = self._gates.look(record, rollout, waits=True, proceed=proceed)
            after, closed = rollouts.observe(record, identity, look.checked, now_ms=self._gates.now_ms(), by=self._by)
        self._desk.replace(record, after)
        return after, _of(after, identity), closed

    def _look(self, record: Record, rollout: Rollout) -> Look:
        """Look before traffic moves. One that is not ready is refused in any case, so no user is compared for that."""
        ready = rollouts.not_ready(record, rollout) is None
        return self._gates.look(record, rollout, users=ready, patient=True)

    @contextmanager
    def _noting(self, record: Record, identity: str, look: Look) -> Iterator[None]:
        """Note in the record a look that closed a gate."""
        try:
            yield
        except GateClosed:
            now_ms = self._gates.now_ms()
            with suppress(Conflict):
                self._desk.replace(record, rollouts.looked(record, identity, look.checked, now_ms=now_ms, by=self._by))
            raise

    def _replaced(self, before: Record, after: Record, identity: str, look: Look) -> Answer:
        self._desk.replace(before, after)
        return Answer({**rollout_view(after, _of(after, identity)), **counted(look)})

    def _found(self, identity: str) -> tuple[Record, Rollout]:
        record = self._desk.existing()
        return record, _of(record, identity)


def _arrived(record: Record, rollout: Rollout, closed: Sequence[Finding]) -> bool:
    """Whether a rollout is where `wait` brings it.

    Raises:
        GateClosed: a gate is closed that time does not open.
        NotAllowed: it has ended.
    """
    if rollout.state in (State.READY, State.CANARY, State.SERVING) and not closed:
        return True
    if any(not one.passes for one in closed):
        raise GateClosed(closed, rollout_view(record, rollout))
    if rollout.state is State.SERVING or rollout.state in rollouts.OPEN:
        return rollout.state is State.SERVING
    raise rollouts.over(record, rollout)


def _user() -> str:
    """Who runs the command, for the record: a name, or the number where the system has no name for it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return f"uid {os.getuid()}"


def _of(record: Record, identity: str) -> Rollout:
    rollout = record.find(identity)
    if rollout is None:
        known = ", ".join(one.id for one in record.rollouts[-5:]) or "none"
        raise NotAllowed(f"there is no rollout {identity}; the latest are {known}")
    return rollout
