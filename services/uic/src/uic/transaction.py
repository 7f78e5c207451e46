"""Commits as the store is sent them, and what its replies mean: one transaction for several, each of another partition.
`RedisStore.transact` adds MULTI and EXEC.

    WATCH progress…                    if one of them changes after this, EXEC writes nothing
    MGET progress…                     is each the record that its commit expects?
    SMISMEMBER users user…             did users have a state whose state was not found?
    MULTI                              unless it says OK nothing more is sent: each write would be executed at once

      UNLINK users staged loading      a lineage begins: no user has a state, and a load, which finds the progress
                                       record, ends without having counted
      SADD users user…                 users with their first state
      MSET progress record… state value…
      DEL state…, SREM users user…     erased users
      DEL bad                          if anything was erased: what was set aside may hold copies of it that can
                                       no longer be told apart, so all of that goes with it
    EXEC                               nil: a progress record was changed, nothing is written

A script could do this in one exchange, but the server's Lua hashes every byte of its arguments: with states of 6 KB
that is two thirds of Redis's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hiredis import pack_command
from redis.exceptions import ResponseError

from mimn.state import Keys
from uic.core.commit import ABSENT, Answer, Commit, NoAnswer, Refused, StatesLost, Written
from uic.core.staged_values import StagedValues
from uic.store_failures import describe


class Sent(NamedTuple):
    """Commands as they are sent."""

    pieces: list[bytes]
    """Few, so that the server wakes up for few."""
    replies: int


def commands(*said: tuple[Any, ...]) -> Sent:
    """Some commands, each a tuple of its words."""
    return Sent([_packed(said)], len(said))


def followed(sent: Sent, by: Sent) -> Sent:
    """What is sent, and then more, in no more pieces for it."""
    *pieces, last = sent.pieces
    first, *others = by.pieces
    return Sent([*pieces, b"".join([last, first]), *others], sent.replies + by.replies)


class Names(NamedTuple):
    """The keys of a partition."""

    progress: str
    bad: str
    """What was set aside."""
    users: str
    """Who has a state."""
    staged: str
    """Whose states a load has written."""
    loading: str
    """The claim of a load."""
    state: str
    """How its states' keys begin."""
    state_encoded: bytes


class Transactions:
    """The transactions of one namespace."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._names: dict[int, Names] = {}

    def names(self, partition: int) -> Names:
        """The keys of a partition."""
        found = self._names.get(partition)
        if found is None:
            keys, state = self._keys, self._keys.state(partition, "")
            found = self._names[partition] = Names(
                progress=keys.progress(partition),
                bad=keys.bad(partition),
                users=keys.users(partition),
                staged=keys.staged(partition),
                loading=keys.loading(partition),
                state=state,
                state_encoded=state.encode(),
            )
        return found

    def look(self, commits: Sequence[Commit]) -> Sent:
        """What is asked before anything is written: WATCH, MGET, and SMISMEMBER for each commit with `first` users."""
        progress = [self.names(commit.partition).progress for commit in commits]
        asked: list[tuple[Any, ...]] = [("WATCH", *progress), ("MGET", *progress)]
        asked += [("SMISMEMBER", self.names(c.partition).users, *added) for c in commits if (added := first(c))]
        return commands(*asked)

    def write(self, commits: Sequence[Commit]) -> Sent:
        """What EXEC executes, each of another partition."""
        before: list[tuple[Any, ...]] = []
        after: list[tuple[Any, ...]] = []
        records: list[bytes] = []
        states: list[bytes] = []
        strings = 1
        for commit in commits:
            names, erased = self.names(commit.partition), _erased(commit.values)
            if commit.begins_lineage:
                before.append(("UNLINK", names.users, names.staged, names.loading))
            if added := first(commit):
                before.append(("SADD", names.users, *added))
            if erased:
                after.append(("DEL", *[names.state_encoded + user for user in erased]))
                after.append(("SREM", names.users, *erased))
            if commit.erases:
                after.append(("DEL", names.bad))
            records.append(_string(names.progress.encode()) + _string(commit.progress))
            states += self._states(commit)
            strings += 2 * (1 + len(commit.values) - len(erased))
        mset = b"*%d\r\n$4\r\nMSET\r\n" % strings
        head = b"".join([_packed(before), mset, *records, *states])
        return Sent([head, _packed(after)], len(before) + len(after) + 1)

    def _states(self, commit: Commit) -> list[bytes]:
        """The names and values of a commit's states, as parts of a command."""
        begin, values = self.names(commit.partition).state_encoded, commit.values
        if not isinstance(values, StagedValues):
            return [_string(begin + user.encode()) + _string(value) for user, value in values if value is not None]
        encoded = values.states.encoded
        parts: list[bytes] = []
        for key, row in zip(values.keys, values.rows, strict=True):
            if row >= 0:
                value = encoded[row]
                parts += (b"$%d\r\n%b%b\r\n$%d\r\n" % (len(begin) + len(key), begin, key, len(value)), value, b"\r\n")
        return parts


def first(commit: Commit) -> list[bytes]:
    """The users of a commit who are added to the list of those with a state."""
    n = commit.created + commit.listed
    if not n:
        return []
    if isinstance(commit.values, StagedValues):
        return commit.values.keys[:n]
    return [user.encode() for user, _ in commit.values[:n]]


def refusals(commits: Sequence[Commit], replies: Sequence[Any]) -> dict[int, Answer]:
    """Why some of the commits cannot be written, by partition, given the replies to `Transactions.look`."""
    watched, stored, *known = replies
    for reply in (watched, stored):
        if isinstance(reply, ResponseError):
            return {commit.partition: NoAnswer(describe(reply)) for commit in commits}
    found: dict[int, Answer] = {}
    listed = iter(known)
    for commit, record in zip(commits, stored, strict=True):
        had_state = next(listed) if first(commit) else []
        if isinstance(had_state, ResponseError):
            found[commit.partition] = NoAnswer(describe(had_state))
        elif (record or ABSENT) != commit.expected:
            found[commit.partition] = Refused(record or ABSENT)
        elif 1 in had_state[: commit.created]:
            lost = [commit.values[at][0] for at in range(commit.created) if had_state[at]]
            found[commit.partition] = StatesLost(tuple(lost))
    return found


def executed_as(queued: Sequence[Any], executed: Any) -> Answer:
    """The answer to commits, given the replies to `Transactions.write`: all written, or an error that does not say."""
    replies = [*queued, *(executed if isinstance(executed, list) else [executed])]
    return next((NoAnswer(describe(reply)) for reply in replies if isinstance(reply, ResponseError)), Written())


def _erased(values: Sequence[tuple[str, bytes | None]]) -> list[bytes]:
    if isinstance(values, StagedValues):
        if min(values.rows, default=0) >= 0:
            return []
        return [key for key, row in zip(values.keys, values.rows, strict=True) if row < 0]
    return [user.encode() for user, value in values if value is None]


def _packed(commands: Sequence[tuple[Any, ...]]) -> bytes:
    """Commands without states: hiredis is slow with large values, for it writes into a buffer that grows."""
    return b"".join(map(pack_command, commands))


def _string(value: bytes) -> bytes:
    """As a part of a command."""
    return b"$%d\r\n%b\r\n" % (len(value), value)
