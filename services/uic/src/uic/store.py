"""The state store on Redis or Valkey: single, behind Sentinel, or a cluster. One class, so the file is long.

Thread-safe: each call takes a separate connection. A transaction never has more than `CHUNK_STATES` states, unless a
single commit does, because the server answers no other client while it executes one.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar, cast

from redis.exceptions import AskError, MovedError, ReadOnlyError, ResponseError

from mimn.release import read_headers
from mimn.state import REMOVAL, CorruptProgress, Keys, decode_progress
from mimn.state.codec import HEADER_BYTES
from uic.core.commit import ABSENT, Answer, Commit, NoAnswer, answered
from uic.core.deployment import Severity, store_policy
from uic.core.leases import Leases
from uic.errors import EvictingStore, NamespaceConflict, StoreUnavailable
from uic.redis_client import FAILURES, in_ms, info, open_client
from uic.sentinels import Sentinels
from uic.settings import RedisSettings
from uic.store_failures import describe, kind_of
from uic.transaction import Sent, Transactions, commands, executed_as, followed, refusals

T = TypeVar("T")
CHUNK_STATES = 256
SCANNED = 1000
"""Keys that the server looks at in one call."""
NAMED = 16 * SCANNED
"""Of these, how many are looked up together, by partition."""
LOOKS = 100
"""At users of a partition that is written meanwhile; a worker commits some twenty times a second."""
IDENTITY = re.compile(r"[0-9a-f]{16}")
REPLACE = files("uic").joinpath("replace.lua").read_text("utf-8")
LEASE = files("uic").joinpath("lease.lua").read_text("utf-8")
NOTHING = commands()
MULTI = commands(("MULTI",))
EXEC = commands(("EXEC",))
CHANGING = NoAnswer("progress records kept changing")
EVICTION_EVERY_S = 10.0
"""How often, at most, INFO is read for the eviction policy."""


class RedisStore:
    """`StateStore` on a redis-py client."""

    def __init__(self, settings: RedisSettings, keys: Keys) -> None:
        """Connects when first used."""
        self._settings = settings
        self._keys = keys
        self._bad_values_kept = settings.bad_values_kept
        self._connections = 0
        self._identity = secrets.token_hex(8)
        """The identity that this process gives to a store without one; later the identity of the store that it saw
        last."""
        self._clustered = settings.mode == "cluster"
        self._idle: list[Any] = []
        """Connections that this store keeps for exchanges; `list` is safe between threads."""
        self._transactions = Transactions(keys)
        self._evicts = ""
        self._eviction_at = 0.0
        """When INFO may be read for the eviction policy."""

    @cached_property
    def client(self) -> Any:
        """The redis-py client. In cluster mode it requests the slots immediately, so this can fail like any call."""
        return open_client(self._settings, self._connected)

    @property
    def connections(self) -> int:
        """See `StateStore`."""
        return self._connections

    def check(self) -> None:
        """See `StateStore`."""
        for said in self.info("memory"):
            found = store_policy(said.get("maxmemory_policy"))
            if found.verdict is Severity.FAIL:
                raise EvictingStore(f"{found.check}: {found.seen}; {found.fix}")

    def claim_namespace(self, partitions: int, topic: str) -> str:
        """See `StateStore`. Each write is one atomic compare-and-set, so a store that is emptied at any time is claimed
        completely or not at all, and a reported conflict is always with what was stored. A store that is emptied while
        this process runs gets its identity back."""
        ours = {"partitions": partitions, "topic": topic}
        claim = ours | {"store": self._identity}
        with _named("claim the namespace"):
            stored = self.client.get(self._keys.meta) or self._replace_meta(ABSENT, claim)
            if read_meta(stored) == ours:  # claimed by a version that gave stores no identity
                stored = self._replace_meta(stored, claim)
            self.client.sadd(self._keys.namespaces, self._keys.namespace)
        said = read_meta(stored)
        identity = said.get("store") if isinstance(said, dict) else None
        if said != ours | {"store": identity} or not isinstance(identity, str) or not IDENTITY.fullmatch(identity):
            raise self._conflict(stored, ours)
        self._identity = identity
        return identity

    def find_namespace(self, partitions: int, topic: str) -> None:
        """Check, and write nothing, that there is this namespace, for this topic.

        Raises:
            NamespaceConflict: there is none, it is almost removed, or it was made for another topic or partition count.
            StoreUnavailable: no answer.
        """
        if self.refuse_another_topic(partitions, topic):
            return
        with _named("read the namespace"):
            mark = self.client.get(self._keys.progress(0)) or b""
        if mark.startswith(REMOVAL):
            raise NamespaceConflict(
                f"namespace {self._keys.namespace} is being removed; if that was interrupted, `ctr namespaces drop` "
                "finishes it"
            )
        raise NamespaceConflict(
            f"there is no namespace {self._keys.namespace} under prefix {self._keys.prefix} in this store: correct "
            "UIC_REDIS__URL, UIC_REDIS__PREFIX, UIC_BUNDLE__PATH or UIC_BUNDLE__GENERATION (ctr namespaces lists "
            "those that there are); if the store was emptied, see docs/runbooks/store-outage.md; if its meta was "
            "deleted, start its workers, or wait some seconds while they run: they write it again"
        )

    def refuse_another_topic(self, partitions: int, topic: str) -> bool:
        """Whether the store has the namespace, for those who only read it or look before they write.

        Raises:
            NamespaceConflict: it is of another topic or partition count.
            StoreUnavailable: no answer.
        """
        ours = {"partitions": partitions, "topic": topic}
        with _named("read the namespace's meta"):
            stored = self.client.get(self._keys.meta)
        said = read_meta(stored)
        if stored is not None and (not isinstance(said, dict) or said | ours != said):
            raise self._conflict(stored, ours)
        return stored is not None

    def _conflict(self, stored: bytes, ours: Mapping[str, object]) -> NamespaceConflict:
        return NamespaceConflict(
            f"namespace {self._keys.namespace} was made for {stored[:200].decode(errors='replace')}, and not for "
            f"{ours}: correct UIC_KAFKA__TOPIC and UIC_KAFKA__PARTITIONS, or raise UIC_BUNDLE__GENERATION to begin a "
            "new namespace"
        )

    def _replace_meta(self, expected: bytes, new: dict[str, object]) -> bytes:
        """Replace the namespace's meta if it is the expected one (`ABSENT`: none); returns what is stored
        afterwards."""
        record = json.dumps(new).encode()
        return replace(self.client, self._keys.meta, expected, record)

    def read_progress(self, partitions: Collection[int]) -> dict[int, bytes | NoAnswer]:
        """See `StateStore`."""
        names = [self._keys.progress(p) for p in partitions]
        self._ask_sentinels()
        with _named("read progress"):
            if self._clustered:
                values = self._each(
                    partitions, [partial(self._record_of, p, name) for p, name in zip(partitions, names, strict=True)]
                )
            else:
                values = self._ask("MGET", *names) if names else []
        return {p: value or ABSENT for p, value in zip(partitions, values, strict=True)}

    def progress_of(self, partitions: Collection[int]) -> dict[int, bytes]:
        """As `read_progress`, of all of them.

        Raises:
            StoreUnavailable: there is one whose server does not answer.
        """
        return {p: answered(record) for p, record in self.read_progress(partitions).items()}

    def stored_values(self, partition: int, users: Sequence[str]) -> list[bytes | None]:
        """As `load`, of one partition.

        Raises:
            StoreUnavailable: its server does not answer.
        """
        return answered(self.load([(partition, users)])[0])

    def load(self, wanted: Sequence[tuple[int, Sequence[str]]]) -> list[list[bytes | None] | NoAnswer]:
        """See `StateStore`."""
        names = [[self._transactions.names(p).state + user for user in users] for p, users in wanted]
        with _named("read states"):
            if self._clustered:  # one MGET per partition: its keys share a slot
                partitions = [partition for partition, _ in wanted]
                asked = [partial(self._values_of, p, some) for p, some in zip(partitions, names, strict=True)]
                return self._each(partitions, asked)
            flat = [name for some in names for name in some]
            values: list[bytes | None] = []
            for begin in range(0, len(flat), 2 * CHUNK_STATES):
                values += self._ask("MGET", *flat[begin : begin + 2 * CHUNK_STATES])
        found = iter(values)
        return [list(islice(found, len(some))) for some in names]

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        """See `StateStore`. In a cluster each commit is a transaction: each partition may be on another node."""
        chunks = [[commit] for commit in commits] if self._clustered else list(_chunks(commits))
        asked = [partial(self._transact, chunk) for chunk in chunks]
        found, _ = self._answers([chunk[0].partition for chunk in chunks], asked)
        answers: list[Answer] = []
        for chunk, some in zip(chunks, found, strict=True):
            answers += [some] * len(chunk) if isinstance(some, NoAnswer) else some
        return answers

    def set_aside(self, partition: int, values: Sequence[bytes]) -> None:
        """See `StateStore`."""
        name = self._keys.bad(partition)
        with _named("set unreadable values aside"):
            self.client.lpush(name, *values)
            self.client.ltrim(name, 0, self._bad_values_kept - 1)

    def users(self, partition: int) -> Iterator[str]:
        """The partition's users who have a state or lost it, in no particular order, each at least once.

        Raises:
            StoreUnavailable: no answer.
        """
        with _named("read who has a state"):
            for user in self.client.sscan_iter(self._keys.users(partition), count=CHUNK_STATES):
                yield user.decode()

    def listed(self, partition: int) -> int:
        """How many users of the partition have a state or lost it.

        Raises:
            StoreUnavailable: no answer.
        """
        with _named("read who has a state"):
            return int(self.client.scard(self._keys.users(partition)))

    def unlisted(self, fingerprint: bytes, proceed: Callable[[], None] = lambda: None) -> dict[int, list[str]]:
        """By partition, the users with a state whom the list of users with a state lacks, as after that list was
        deleted; no partition that has none. For jobs in bulk: the server names all of its keys, `SCANNED` in a call.

        Args:
            fingerprint: that of the states, at least 16 bytes.
            proceed: called before each `NAMED` keys, and raises to end it.

        Raises:
            StoreUnavailable: no answer.
        """
        found: dict[int, list[str]] = defaultdict(list)
        with _named("look for states"):
            keys = self.client.scan_iter(match=self._keys.states, count=SCANNED)
            while some := list(islice(keys, NAMED)):
                proceed()
                users: dict[int, dict[str, None]] = defaultdict(dict)  # SCAN may name a key twice
                for key in some:
                    if (of := self._keys.owner(key)) is not None:
                        users[of[0]][of[1]] = None
                for partition, names in users.items():
                    known = self.lists(partition, list(names))
                    doubtful = [user for user, listed in zip(names, known, strict=True) if not listed]
                    if doubtful := self.still_unlisted(partition, doubtful, fingerprint):
                        found[partition] += doubtful
        return {partition: list(dict.fromkeys(names)) for partition, names in found.items()}

    def still_unlisted(self, partition: int, users: Sequence[str], fingerprint: bytes) -> list[str]:
        """Those of some users of a partition who have a state, of its lineage, and are not listed, all at one moment.

        Raises:
            StoreUnavailable: no answer.
        """
        return self._unlisted_of(partition, users, fingerprint, lists=False)

    def list_again(self, partition: int, users: Sequence[str], fingerprint: bytes) -> int:
        """Add those users to the list of users with a state of whom `still_unlisted` holds; how many.

        Raises:
            StoreUnavailable: no answer.
        """
        return len(self._unlisted_of(partition, users, fingerprint, lists=True))

    def _unlisted_of(self, partition: int, users: Sequence[str], fingerprint: bytes, *, lists: bool) -> list[str]:
        """States and list change together with progress, which is watched: if another has written meanwhile, it is
        asked again, and nothing is listed whose state was just erased."""
        names, found = self._transactions.names(partition), list[str]()
        with _named("read who has a state"):
            for begin in range(0, len(users), CHUNK_STATES):
                some = users[begin : begin + CHUNK_STATES]
                headers = [("GETRANGE", names.state + user, 0, HEADER_BYTES - 1) for user in some]
                asked = [("GET", names.progress), ("SMISMEMBER", names.users, *some), *headers]
                current: list[str] = []

                def then(replies: list[Any], some: Sequence[str] = some, into: list[str] = current) -> Sent:
                    into[:] = _without_entry(replies, some, fingerprint)
                    return commands(("SADD", names.users, *into)) if lists and into else NOTHING

                for _ in range(LOOKS):
                    *_, executed = self.transact(partition, commands(("WATCH", names.progress), *asked), then)
                    if isinstance(executed, list):
                        break
                    if isinstance(executed, ResponseError):
                        raise executed
                else:
                    raise StoreUnavailable(f"partition {partition} is written too often to look at its users")
                found += current
        return found

    def lists(self, partition: int, users: Sequence[str]) -> list[bool]:
        """Which of some users have a state or lost it.

        Raises:
            StoreUnavailable: no answer.
        """
        with _named("read who has a state"):
            known = self.client.smismember(self._keys.users(partition), list(users)) if users else []
        return [bool(one) for one in known]

    def renew_lease(self, worker: str, lasts_s: float) -> Leases:
        """Take or renew a worker's lease on the namespace.

        Args:
            worker: its name, unique among the processes of the namespace.
            lasts_s: how long the lease lasts, in seconds.

        Raises:
            StoreUnavailable: no answer.
        """
        held, *workers = self._lease(worker, lasts_s)
        return Leases(frozenset(name.decode() for name in workers), joined=not held)

    def give_lease_up(self, worker: str) -> None:
        """The worker's partitions go to the others at once. Raises as `renew_lease`."""
        self._lease(worker, 0)

    def _lease(self, worker: str, lasts_s: float) -> list[Any]:
        with _named("renew the lease"):
            replies: list[Any] = self.client.eval(LEASE, 1, self._keys.leases, worker, round(lasts_s * 1000))
        return replies

    def time_ms(self) -> int:
        """See `StateStore`."""
        self._ask_sentinels()
        with _named("read the store's clock"):
            clock = self._furthest_clock()
        if time.monotonic() >= self._eviction_at:
            with suppress(*FAILURES):
                self._evicts = self._evicting_servers()
            self._eviction_at = time.monotonic() + EVICTION_EVERY_S
        return clock

    @property
    def evicts(self) -> str:
        """See `StateStore`."""
        return self._evicts

    def _evicting_servers(self) -> str:
        """Which masters may evict states now, with their count of evicted keys; empty if none may.

        Raises:
            FAILURES: one does not answer, or refuses INFO.
        """
        found: list[str] = []
        for node in self._masters():
            # Not `client.info`: a further connection of the pool would look as if the store had been away.
            replies = self._replies(node, ("INFO", "memory"), ("INFO", "stats"))
            said = dict(line.split(":", 1) for text in replies for line in text.decode().splitlines() if ":" in line)
            policy = store_policy(said.get("maxmemory_policy"))
            if policy.verdict is Severity.FAIL:
                server = "" if node is None else f"{node.name}: "
                found.append(f"{server}{policy.seen}; evicted_keys is {said.get('evicted_keys')}; {policy.fix}")
        return "; ".join(found)

    def _furthest_clock(self) -> int:
        """As `clock_ms`. If a master of a cluster does not answer, the cluster is asked which server has what by now.

        Raises:
            FAILURES: none answers.
        """
        clocks: list[int] = []
        failed: Exception | None = None
        for node in self._masters():
            try:
                clocks.append(in_ms(*self._replies(node, ("TIME",))))
            except FAILURES as error:
                failed = error
        if failed is not None and self._clustered:
            with suppress(*FAILURES):
                self.client.nodes_manager.initialize()
        if failed is not None and not clocks:
            raise failed
        return max(clocks)

    def _masters(self) -> list[Any]:
        """The masters of a cluster; None for a single server."""
        return list(self.client.get_primaries()) if self._clustered else [None]

    @property
    def sentinels(self) -> str | None:
        """See `StateStore`."""
        if self._settings.mode != "sentinel" or "client" not in self.__dict__:
            return None
        asked: Sentinels = self.client.connection_pool.sentinel_manager
        return asked.trouble

    def _ask_sentinels(self) -> None:
        """Progress and clock are read every few seconds, so with them is noticed that the Sentinels name another master
        while the one before goes on answering. If they name none, the one that is known may go on."""
        if self._settings.mode == "sentinel":
            with suppress(*FAILURES):
                self.client.connection_pool.get_master_address()

    def close(self) -> None:
        """Close the connections."""
        if "client" in self.__dict__:
            self.client.close()

    def transact(self, partition: int, look: Sent, then: Callable[[list[Any]], Sent]) -> list[Any]:
        """One transaction on the server that has a partition, in two exchanges; a redirection to another one is
        followed. MULTI goes out with the look, and without its OK nothing follows: a server that refuses it, as it does
        to a user who lacks the right, would execute each command at once, whatever has become of what is watched.

        Args:
            partition: what is read and written is of this one, unless the store is a single server.
            look:      WATCH, and what else is asked first.
            then:      given the replies, what EXEC executes; it may be `NOTHING`. It is called again after a
                       redirection.

        Returns:
            The replies to what `then` said, and EXEC's.

        Raises:
            FAILURES: no answer, or no transaction.
        """

        def exchange(connection: Any) -> list[Any]:
            *replies, begun = _exchange(connection, followed(look, MULTI))
            if begun != b"OK":
                raise begun if isinstance(begun, ResponseError) else ResponseError(f"MULTI: {begun!r}")
            return _exchange(connection, followed(then(replies), EXEC))

        return self._at_its_server(partition, exchange)

    def _at_its_server(self, partition: int, exchange: Callable[[Any], T]) -> T:
        """What an exchange with the server of a partition returns; after MOVED, with the one that has it now. MOVED
        means that the server refused a part, so nothing is written."""
        try:
            with self._connected_to(self._pool(self._server_of(partition))) as connection:
                return exchange(connection)
        except MovedError:
            self.client.get(self._transactions.names(partition).progress)  # redis-py finds it, and keeps where it is
        with self._connected_to(self._pool(self._server_of(partition))) as connection:
            return exchange(connection)

    def _values_of(self, partition: int, names: Sequence[str]) -> list[bytes | None]:
        """The values under some keys of a partition."""
        if not names:
            return []
        [reply] = self._at_its_server(partition, lambda connection: _answers_of(connection, ("MGET", *names)))
        found: list[bytes | None] = reply
        return found

    def _record_of(self, partition: int, name: str) -> bytes | None:
        """What is stored under one key of a partition, also while its slot is on its way."""
        try:
            [value] = self._values_of(partition, [name])
        except AskError:
            return cast("bytes | None", self.client.get(name))  # redis-py follows it
        return value

    def _each(self, partitions: Iterable[int], asked: Iterable[Callable[[], T]]) -> list[T | NoAnswer]:
        """What each partition's server answers, in a cluster.

        Raises:
            FAILURES: none answers.
        """
        found, failed = self._answers(partitions, asked)
        if failed is not None and all(isinstance(one, NoAnswer) for one in found):
            raise failed
        return found

    def _answers(
        self, partitions: Iterable[int], asked: Iterable[Callable[[], T]]
    ) -> tuple[list[T | NoAnswer], Exception | None]:
        """What each partition's server answers, or why it does not, and the last error. A server that did not answer is
        not asked for a further partition in the same call: each would wait for the timeout, too."""
        found: list[T | NoAnswer] = []
        failed: Exception | None = None
        away: dict[str, NoAnswer] = {}
        for partition, ask in zip(partitions, asked, strict=True):
            server = ""
            try:
                node = self._server_of(partition)
                server = "" if node is None else f"{node.name}: "
                found.append(away.get(server) or ask())
            except FAILURES as error:
                failed = error
                found.append(no_answer := NoAnswer(f"{server}{describe(error)}"))
                if not isinstance(error, ResponseError):
                    away[server] = no_answer
        return found, failed

    def _server_of(self, partition: int) -> Any:
        """The server that has a partition, as far as it is known; None if there is a single one."""
        return self.client.get_node_from_key(self._transactions.names(partition).progress) if self._clustered else None

    def _transact(self, commits: Sequence[Commit]) -> list[Answer]:
        """Answers to commits of different partitions that are written together."""
        answers: dict[int, Answer] = {}
        left = list(commits)

        def then(replies: list[Any]) -> Sent:
            nonlocal left
            answers.update(refusals(left, replies))
            left = [commit for commit in left if commit.partition not in answers]
            return self._transactions.write(left) if left else NOTHING

        for _ in range(1 + len(commits)):  # whenever EXEC writes nothing, the next look refuses a commit
            *queued, executed = self.transact(commits[0].partition, self._transactions.look(left), then)
            if not left:
                break
            if executed is not None:
                answer = executed_as(queued, executed)
                answers |= {commit.partition: answer for commit in left}
                break
        return [answers.get(commit.partition, CHANGING) for commit in commits]

    def _pool(self, node: Any) -> Any:
        """Connections to a server of a cluster, or to the single one (None)."""
        return self.client.connection_pool if node is None else self.client.get_redis_connection(node).connection_pool

    def _replies(self, node: Any, *said: tuple[Any, ...]) -> list[Any]:
        """Replies of a server of a cluster, or of the single one (None). Whatever the fold thread asks again and again
        shares a connection: a further one of redis-py's pool would look as if the store had been away."""
        with self._connected_to(self._pool(node)) as connection:
            return _answers_of(connection, *said)

    def _ask(self, *command: Any) -> Any:
        """The reply of the single server to one command."""
        [reply] = self._replies(None, command)
        return reply

    @contextmanager
    def _connected_to(self, pool: Any) -> Iterator[Any]:
        """A connection: the one of an earlier exchange, if it still stands, and to the master that is known; asking the
        pool for it each time costs as much as the exchange."""
        connection = self._idle.pop() if self._idle else None
        if connection is not None and not _stands(connection, pool):
            connection.disconnect()
            pool.release(connection)
            connection = None
        connection = connection or pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # replies that are not read would be taken for those of later commands
            pool.release(connection)
            raise
        if self._clustered:
            pool.release(connection)
        else:
            self._idle.append(connection)

    def info(self, section: str) -> list[dict[str, Any]]:
        """A section of INFO, of each master.

        Raises:
            StoreUnavailable: no answer.
        """
        with _named("read the store's configuration"):
            return info(self.client, section)

    def _connected(self) -> None:
        self._connections += 1


def _without_entry(replies: Sequence[Any], users: Sequence[str], fingerprint: bytes) -> list[str]:
    """Users with a state of the partition's lineage who are not listed, given the replies to WATCH, and to what is
    asked of progress, list and states.

    Raises:
        ResponseError: one of them.
    """
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    _, record, known, *values = replies
    try:
        lineage = decode_progress(record or ABSENT).lineage
    except CorruptProgress:  # none, or the namespace is being removed: no state counts
        return []
    headers = read_headers(values, fingerprint[:16])
    counts = headers["readable"] & (headers["lineage"] == lineage)
    return [user for user, listed, has in zip(users, known, counts, strict=True) if has and not listed]


def read_meta(stored: bytes | None) -> object:
    """The content of a namespace's meta; None if it is not JSON."""
    try:
        said: object = json.loads(stored or b"")
    except (ValueError, RecursionError):
        return None
    return said


def _chunks(commits: Sequence[Commit]) -> Iterator[list[Commit]]:
    """In order, each of different partitions and with at most `CHUNK_STATES` states unless a single commit has more."""
    chunk: list[Commit] = []
    partitions: set[int] = set()
    states = 0
    for commit in commits:
        if chunk and (states + len(commit.values) > CHUNK_STATES or commit.partition in partitions):
            yield chunk
            chunk, partitions, states = [], set(), 0
        chunk.append(commit)
        partitions.add(commit.partition)
        states += len(commit.values)
    if chunk:
        yield chunk


def replace(client: Any, key: str, expected: bytes, new: bytes) -> bytes:
    """Replace a record if it is the expected one (`b""`: none), in one step; returns what is stored afterwards."""
    reply = client.eval(REPLACE, 1, key, expected, new)
    return new if reply == 1 else bytes(reply)


def _stands(connection: Any, pool: Any) -> bool:
    try:
        return bool(pool.owns_connection(connection) and not connection.can_read())
    except FAILURES:
        return False


def _exchange(connection: Any, sent: Sent) -> list[Any]:
    """The replies, error replies among them; MOVED and READONLY are raised, for this is not the server that is wanted.
    redis-py's pipeline costs twice as much, and sends a few kilobytes at a time, for each of which the server wakes up.
    """
    connection.send_packed_command(sent.pieces)
    return [_reply(connection) for _ in range(sent.replies)]


def _answers_of(connection: Any, *said: tuple[Any, ...]) -> list[Any]:
    """The replies to some commands.

    Raises:
        ResponseError: one of them is an error.
    """
    replies = _exchange(connection, commands(*said))
    for reply in replies:
        if isinstance(reply, ResponseError):
            raise reply
    return replies


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except (MovedError, ReadOnlyError):
        raise
    except ResponseError as error:
        return error


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turns redis-py's errors into `StoreUnavailable`, whose message says what was tried."""
    try:
        yield
    except FAILURES as error:
        answered = isinstance(error, ResponseError)
        kind = f"{what}: {kind_of(error)}"
        raise StoreUnavailable(f"cannot {what}: {describe(error)}", answered=answered, kind=kind) from error
