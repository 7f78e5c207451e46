"""`ctr verify`: whether every user who should have a state has one, and with `--repair` those states folded again.

Who should have one is what the store lists. That list may be deleted, too, so it is compared with the states that there
are; with `--repair` their users are listed again.

Works while UIC runs. Of a user whose state is gone, unreadable or marked as incomplete, the tool folds the records that
the log still has, up to the partition's progress. Then it writes the partition's progress as a writer of its own: the
worker that has the partition finds that out at its next commit and waits some seconds, in which progress stands still.
The tool folds what came in the meantime and commits the states over that very progress record, so that no event is
missing or doubled. The worker then takes the partition up again from what is stored.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Final, NamedTuple, TextIO

from mimn.bundle import Bundle, BundleError, load_bundle
from mimn.bundle.graph import open_step
from mimn.state import (
    BeingRemoved,
    CorruptProgress,
    Keys,
    Progress,
    StateError,
    StateHeader,
    UserState,
    decode_progress,
    decode_state,
    encode_progress,
    namespace,
    read_header,
    user_hash,
)
from uic.core.commit import ABSENT, Commit, Refused, Written, answered
from uic.core.held_states import HeldStates
from uic.core.model import Model
from uic.core.ordering import Waiting
from uic.core.records import BatchRecord
from uic.errors import LogUnavailable, StartRefused, StoreUnavailable, UnsuitableTopic
from uic.fold.bundle_model import model_of
from uic.fold.partition import REMOVED
from uic.log.partition_reader import log_reader
from uic.settings import read_settings
from uic.store import RedisStore
from uic.tools.folded_log import AnotherLog, FoldedLog, Span
from uic.tools.in_service import elsewhere, variables

CHUNK: Final = 500
"""Users whose states are read at a time."""
FOLDED_AT_ONCE: Final = 5_000
"""Records."""
TRIES: Final = 5
MAX_STATES: Final = 256
"""Of one commit; more are repaired in several."""
BEGUN_AGAIN: Final = "the partition was begun again in the meantime: run this again"
CUT: Final = "retention removed records that were not read yet: run this again"


class LeftAsItIs(Exception):
    """Something is wrong with a partition besides lost states, so none is repaired; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """One partition."""

    partition: int
    users: int
    """Who should have a state: those whom the store lists, and those who have one."""
    lost: int = 0
    """Whose state is gone or unreadable."""
    incomplete: int = 0
    """Whose state is marked as incomplete."""
    repaired: int = 0
    """States that were folded again and written."""
    left: int = 0
    """Whose state is still gone or unreadable: without a repair, or because the log no longer has their events."""
    lacking: int = 0
    """Whose state still lacks events: without a repair, or because the log no longer has these."""
    why: str = ""
    """Why a repair could not complete them; empty if it was not tried, or if none lacks any."""
    unlisted: int = 0
    """Who have a state and are missing from the store's list. If it were lost, that would not be noticed."""
    listed: int = 0
    """Of these, how many a repair listed again."""
    error: str = ""
    """What else is wrong with the partition; then nothing is repaired."""


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: no state is missing, or none any more; 1: states are missing, something else is wrong, or no
    answer; 2: usage. A state that lacks events does not count as missing: where retention has cut the log there are
    such states at all times, and RTP says so of each."""
    parser = argparse.ArgumentParser(
        prog="ctr verify",
        description="Find users whose state is gone from the store, and fold their events again.",
        epilog="Exit status: 0 no state is missing, or none any more; 1 states are missing, something else is wrong, "
        "or the store or the log did not answer; 2 called wrongly.",
    )
    parser.add_argument("--repair", action="store_true", help="fold lost and incomplete states again from the log")
    parser.add_argument("--partition", type=int, action="append", help="this one only; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object a partition")
    options = parser.parse_args(arguments)
    settings = read_settings()
    if wrong := [p for p in options.partition or () if not 0 <= p < settings.kafka.partitions]:
        parser.error(f"--partition {wrong[0]}: there are partitions 0 to {settings.kafka.partitions - 1}")
    settings.kafka.check_files()
    try:
        bundle = load_bundle(settings.bundle.path)
        keys = Keys(namespace(bundle.manifest.fingerprint, settings.bundle.generation), settings.redis.prefix)
        store = RedisStore(settings.redis, keys)
        store.find_namespace(settings.kafka.partitions, settings.kafka.topic)
        with ExitStack() as closing:
            log = None
            try:
                log = FoldedLog(closing.enter_context(log_reader(settings.kafka)), settings.kafka.partitions)
            except (LogUnavailable, UnsuitableTopic) as error:
                if options.repair:
                    raise
                print(f"ctr verify: progress was not compared with the log: {error}", file=sys.stderr)
            verifier = Verifier(bundle, store, log, repair=options.repair)
            found = [verifier.look(p) for p in options.partition or range(settings.kafka.partitions)]
    except StoreUnavailable as error:
        print(f"ctr verify: {error}; run it again", file=sys.stderr)  # what was repaired stays
        return 1
    except (BundleError, StartRefused, LogUnavailable) as error:
        print(f"ctr verify: {error}", file=sys.stderr)
        return 1
    for row in found:
        if options.json:
            print(json.dumps(asdict(row)), file=out)
        elif row.lost or row.incomplete or row.unlisted or row.error:
            lacking = f"states that still lack events: {row.lacking}, because {row.why}" if row.why else ""
            said = "; ".join(filter(None, (_counted([row]), lacking, _unlisted(row), row.error)))
            print(f"partition {row.partition}: {said}", file=out)
    if not options.json:
        print(_counted(found), file=out)
        for line in _not_repaired(found) if options.repair else ():
            print(line, file=out)
    if (serving := elsewhere(settings.redis, settings.bundle)) is not None:
        print(
            f"ctr verify: this is of namespace {keys.namespace}. {serving.said}: look there with "
            f"{variables(serving.release)}, too",
            file=sys.stderr,
        )
    return 1 if log is None or any(row.error or row.left or row.unlisted > row.listed for row in found) else 0


def _counted(rows: Sequence[Found]) -> str:
    users, lost, incomplete, repaired = (
        sum(getattr(row, name) for row in rows) for name in ("users", "lost", "incomplete", "repaired")
    )
    return f"{users} users, {lost} states lost, {incomplete} incomplete, {repaired} repaired"


def _unlisted(row: Found) -> str:
    """What is said of users who are missing from the list."""
    if not row.unlisted:
        return ""
    said = f"{row.unlisted} users with a state are missing from the list of users, whose key ends in :users"
    if row.listed:
        return f"{said}: {row.listed} are listed again"
    return f"{said}: find out who deleted it, and say --repair to list them again (docs/runbooks/lost-states.md)"


def _not_repaired(rows: Sequence[Found]) -> Iterator[str]:
    """What a repair could not do for want of events. Where something else is wrong, that is told instead."""
    sound = [row for row in rows if not row.error]
    if forgotten := sum(row.left for row in sound):
        yield f"{forgotten} states are still lost: the log no longer has any event of these users"
    if lacking := sum(row.lacking for row in sound):
        yield (
            f"{lacking} states still lack events (`partial`): no repair finds them in the log, a snapshot or an "
            "archive may have them (docs/runbooks/lost-states.md)"
        )


class Verifier:
    """Looks at one partition after the other."""

    def __init__(self, bundle: Bundle, store: RedisStore, log: FoldedLog | None, *, repair: bool) -> None:
        """Nothing is asked yet. Without a log, progress is not compared with it, and nothing is repaired."""
        self._store = store
        self._log = log
        self._repairs = repair
        self._model = model_of(bundle, open_step(bundle))

    @cached_property
    def _unlisted(self) -> dict[int, list[str]]:
        """By partition, who has a state and is not listed, when it was first asked: one look at the whole store."""
        return self._store.unlisted(self._model.fingerprint)

    def look(self, partition: int) -> Found:
        """What is wrong with a partition; with `repair`, after as much as possible was repaired.

        Raises:
            StoreUnavailable, LogUnavailable: no answer.
            UnsuitableTopic: the topic was changed in the meantime.
        """
        try:
            stored, progress = self._progress(partition)
        except LeftAsItIs as error:
            return Found(partition, self._store.listed(partition), error=str(error))
        found, wanted = Found(partition, 0), list[str]()
        fingerprint = self._model.fingerprint
        unlisted = self._store.still_unlisted(partition, self._unlisted.get(partition, ()), fingerprint)
        try:
            found, wanted = self._count(partition, progress, unlisted)
            if self._log is not None:
                self._log.check(partition, stored)
            if found.error or self._log is None or not self._repairs:
                return found
            if unlisted:
                self._store.list_again(partition, unlisted, fingerprint)
                left = self._store.still_unlisted(partition, unlisted, fingerprint)
                found = replace(found, listed=len(unlisted) - len(left))
            if not wanted:
                return found
            done = [
                self._repair(self._log, partition, stored, wanted[at : at + MAX_STATES])
                for at in range(0, len(wanted), MAX_STATES)
            ]
        except (AnotherLog, LeftAsItIs) as error:
            return replace(found, error=str(error))
        lacking = sum(one.lacking for one in done)
        return replace(
            found,
            repaired=sum(one.written for one in done),
            left=sum(one.left for one in done),
            lacking=lacking,
            why=done[-1].why if lacking else "",
        )

    def _progress(self, partition: int) -> tuple[bytes, Progress]:
        """The partition's progress record and its content."""
        stored = self._store.progress_of([partition])[partition]
        return stored, _content(stored)

    def _count(self, partition: int, progress: Progress, unlisted: Sequence[str]) -> tuple[Found, list[str]]:
        """What is wrong with the states, and whose are lost or incomplete."""
        users, ahead, lost, incomplete = 0, 0, list[str](), list[str]()
        everyone = chain(self._store.users(partition), unlisted)
        while some := list(islice(everyone, CHUNK)):
            users += len(some)
            states = list(self._states(partition, progress, some))
            # Read after them, because a worker commits meanwhile.
            _, now = self._progress(partition)
            if (now.lineage, now.era) != (progress.lineage, progress.era):
                raise LeftAsItIs(BEGUN_AGAIN)
            for user, state in states:
                if state is None:
                    lost.append(user)
                    continue
                if state.header.partial:
                    incomplete.append(user)
                ahead += state.header.era == now.era and state.header.last_offset >= now.next_offset
        error = ""
        if ahead:
            error = (
                f"{ahead} states are ahead of progress, as after a restore or if a record of progress was put back: "
                "run this again when UIC has folded up to them (it folds no event twice)"
            )
        found = Found(
            partition,
            users,
            len(lost),
            len(incomplete),
            left=len(lost),
            lacking=len(incomplete),
            unlisted=len(unlisted),
            error=error,
        )
        return found, [*lost, *incomplete]

    def _states(
        self, partition: int, progress: Progress, users: Sequence[str]
    ) -> Iterator[tuple[str, UserState | None]]:
        """The states of users; None where there is none that UIC would go on from."""
        for user, value in zip(users, self._store.stored_values(partition, users), strict=True):
            state = None
            if value is not None:
                try:
                    state = decode_state(value, self._model.fingerprint, self._model.layout, user_hash(user))
                except StateError:
                    state = None
            yield user, state if state is not None and state.header.lineage == progress.lineage else None

    def _repair(self, log: FoldedLog, partition: int, stored: bytes, users: Sequence[str]) -> Repaired:
        """Write the states of users that the log gives better than they are stored."""
        progress = decode_progress(stored)
        again = Refold(self._model, partition, progress, users)
        again.fold(log.folded(partition, stored, again.next_offset))
        for _ in range(TRIES):
            held, progress = self._take_over(partition, progress)
            again.fold(log.folded(partition, held, again.next_offset))
            values, left, lacking = [], 0, 0
            for user, state in self._states(partition, progress, users):
                value = again.values.get(user.encode())
                header = None if state is None else state.header
                if value is not None:
                    folded = read_header(value, self._model.fingerprint, self._model.layout)
                    if _is_better(folded, header):
                        values.append((user, value))
                        header = folded
                left += header is None
                lacking += header is not None and header.partial
            after = progress._replace(writer=secrets.randbits(64) or 1)
            commit = Commit(partition, held, encode_progress(after), tuple(values), listed=len(values))
            if isinstance(self._store.commit([commit])[0], Written):
                return Repaired(len(values), left, lacking, again.why)
        raise LeftAsItIs("the partition's worker was faster each time: try again when fewer events arrive")

    def _take_over(self, partition: int, progress: Progress) -> tuple[bytes, Progress]:
        """Write progress as a writer of our own, so that it stands still for some seconds; its record and content."""
        stored = self._store.progress_of([partition])[partition]
        for _ in range(100 * TRIES):
            now = _content(stored)
            if (now.lineage, now.era) != (progress.lineage, progress.era):
                raise LeftAsItIs(BEGUN_AGAIN)
            ours = now._replace(writer=secrets.randbits(64) or 1)
            record = encode_progress(ours)
            answer = answered(self._store.commit([Commit(partition, stored, record)])[0])
            if isinstance(answer, Written):
                return record, ours
            if not isinstance(answer, Refused):
                raise StoreUnavailable("the store has lost states of the partition")
            stored = answer.stored
        raise LeftAsItIs("the partition's worker was faster each time: try again when fewer events arrive")


class Repaired(NamedTuple):
    """What became of some users' states."""

    written: int
    left: int
    """Users who have none even so."""
    lacking: int
    """States that lack events even so."""
    why: str
    """Why states that were folded again lack events, if they do."""


class Refold:
    """The states of some users of one partition, folded again from the log as UIC folds them."""

    def __init__(self, model: Model, partition: int, progress: Progress, users: Collection[str]) -> None:
        """Nothing is folded yet."""
        self._partition = partition
        self._progress = progress
        self._keys = {user.encode() for user in users}
        self._begins = 0
        """Where the log begins."""
        self._empty = True
        """No record was there."""
        self.next_offset = 0
        """All below it was folded, or is gone."""
        self._held = HeldStates(model)

    @property
    def values(self) -> dict[bytes, bytes]:
        """By user, the state as it is stored."""
        return self._held.of(self._partition)

    @property
    def why(self) -> str:
        """Why a state that was folded here lacks events, if it does."""
        if self._progress.era:
            return "an operator let UIC go on with another log (ctr continue), and what lay before cannot be read"
        if self._empty:
            return "the log has no event of the partition any more"
        if self._begins:
            return f"the log begins at offset {self._begins}, later than their first events"
        return f"events below offset {self._progress.complete_from} are missing from the log"

    def fold(self, span: Span) -> None:
        """Fold more records, in log order: those of the users, and no others.

        Raises:
            LeftAsItIs: between what was folded here and these, some are gone.
        """
        if self.next_offset == 0:  # states are complete only from where the log begins
            self._begins = span.first
            self._progress = self._progress._replace(base=max(self._progress.base, span.first))
        elif self.next_offset < min(span.first, span.end):
            raise LeftAsItIs(CUT)
        waiting: list[BatchRecord] = []
        for record in span.records:
            self._empty = False
            if record.key in self._keys:
                waiting.append(record)
            if len(waiting) >= FOLDED_AT_ONCE:
                self._fold(waiting)
                waiting = []
        self._fold(waiting)
        self.next_offset = max(self.next_offset, span.end)

    def _fold(self, records: list[BatchRecord]) -> None:
        waiting = [Waiting(self._partition, records, 0, {})]
        # What an earlier era folded came from another log, which cannot be read any more.
        self._held.fold(waiting, [self._progress], lacking=self._progress.era > 0)


def _content(stored: bytes) -> Progress:
    """What a progress record says; refuses one that says nothing."""
    if stored == ABSENT:
        raise LeftAsItIs(
            "no progress record: no worker has taken the partition up, or the record is gone, and UIC begins the "
            "partition at the log's beginning (docs/runbooks/store-outage.md)"
        )
    try:
        return decode_progress(stored)
    except BeingRemoved as error:
        raise LeftAsItIs(REMOVED) from error
    except CorruptProgress as error:
        raise LeftAsItIs(f"{error}: see docs/runbooks/broken-log.md") from error


def _is_better(new: StateHeader, stored: StateHeader | None) -> bool:
    """Whether the state that the log gives knows more than the stored one."""
    if stored is None:
        return True
    counts = new.event_count, stored.event_count
    return counts[0] > counts[1] or (counts[0] == counts[1] and stored.partial and not new.partial)
