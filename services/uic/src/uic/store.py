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
from contextlib import contextmanager, nullcontext, suppress
from functools import cached_property, partial
from importlib.resources import files
from itertools import islice
from typing import Any, TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoPermissionError, ReadOnlyError, ResponseError

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
from uic.silent_servers import TIMES, SilentServers
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
LOOK_EVERY_S = 1.0
"""How often, at most, a cluster is asked which server has what, while one is left alone; less often if that takes
long."""


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
        self._silent = SilentServers()
        """Of a cluster."""
        self._evicts = ""
        self._eviction_at = 0.0
        """When INFO may be read for the eviction policy."""
        self._look_at = 0.0
        """When it may be asked which server has what, while one is left alone."""

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
            with self._reaching(self._keys.meta):
                stored = self.client.get(self._keys.meta) or self._replace_meta(ABSENT, claim)
                if read_meta(stored) == ours:  # claimed by a version that gave stores no identity
                    stored = self._replace_meta(stored, claim)
            with self._reaching(self._keys.namespaces):
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
                values = self._each(partitions, [partial(self.client.get, name) for name in names])
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
        answers: list[Answer] = []
        if self._clustered:
            for commit in commits:
                answer, _ = self._unless_silent(commit.partition, partial(self._transact, [commit]))
                answers += [answer] if isinstance(answer, NoAnswer) else answer
            return answers
        away: NoAnswer | None = None
        """Each further chunk would wait for the timeout, too."""
        for chunk in _chunks(commits):
            try:
                answers += self._transact(chunk) if away is None else [away] * len(chunk)
            except NoPermissionError as error:  # it does answer
                answers += [NoAnswer(describe(error))] * len(chunk)
            except FAILURES as error:
                away = NoAnswer(describe(error))
                answers += [away] * len(chunk)
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
            clock = self._furthest_clock() if self._clustered else in_ms(self._ask("TIME"))
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
        """Which masters may evict states now, with their count of evicted keys; empty if none may. A server of a
        cluster that is left alone is not asked.

        Raises:
            FAILURES: one does not answer, or refuses INFO.
        """
        found: list[str] = []
        for node in self.client.get_primaries() if self._clustered else [None]:
            if node is not None and self._silent.why(node.name):
                continue
            pool = self.client.connection_pool if node is None else self._pool_of(node)
            # Not `client.info`: a further connection of the pool would look as if the store had been away.
            with self._waiting_for(node) if node is not None else nullcontext(), self._connected_to(pool) as connection:
                replies = _exchange(connection, commands(("INFO", "memory"), ("INFO", "stats")))
            said: dict[str, str] = {}
            for reply in replies:
                if isinstance(reply, ResponseError):
                    raise reply
                said |= dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
            policy = store_policy(said.get("maxmemory_policy"))
            if policy.verdict is Severity.FAIL:
                server = "" if node is None else f"{node.name}: "
                found.append(f"{server}{policy.seen}; evicted_keys is {said.get('evicted_keys')}; {policy.fix}")
        return "; ".join(found)

    def _furthest_clock(self) -> int:
        """Of a cluster: as `clock_ms`, without the servers that are left alone.

        Raises:
            FAILURES: none answers.
        """
        clocks: list[int] = []
        failed: Exception | None = None
        for node in self.client.get_primaries():
            try:
                if why := self._silent.why(node.name):
                    raise RedisConnectionError(why)  # as if it had been asked
                with self._waiting_for(node), self._connected_to(self._pool_of(node)) as connection:
                    [reply] = _exchange(connection, commands(("TIME",)))
                if isinstance(reply, ResponseError):
                    raise reply
                clocks.append(in_ms(reply))
            except FAILURES as error:
                failed = error
        if failed is not None and not clocks:
            raise failed
        return max(clocks)

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

        # MOVED means that the server refused a part of it, so nothing is written.
        return self._at_its_server(partition, exchange, MovedError)

    def _at_its_server(self, partition: int, exchange: Callable[[Any], T], *moved: type[Exception]) -> T:
        """What an exchange with the server of a partition returns; after the failures `moved`, with the one that has it
        now."""
        server = self._server_of(partition)
        try:
            with self._connected_to(self._pool(partition)) as connection:
                return exchange(connection)
        except MovedError:
            self.client.get(self._transactions.names(partition).progress)  # redis-py finds it, and keeps where it is
        except moved:
            self._look_again(server)
            if self._server_of(partition).name == server.name:
                raise
        with self._connected_to(self._pool(partition)) as connection:
            return exchange(connection)

    def _values_of(self, partition: int, names: Sequence[str]) -> list[bytes | None]:
        """The values under some keys of a partition."""
        if not names:
            return []
        asked = commands(("MGET", *names))
        [reply] = self._at_its_server(partition, lambda connection: _exchange(connection, asked), *FAILURES)
        if isinstance(reply, ResponseError):
            raise reply
        found: list[bytes | None] = reply
        return found

    def _each(self, partitions: Iterable[int], asked: Iterable[Callable[[], T]]) -> list[T | NoAnswer]:
        """What each partition's server answers, in a cluster.

        Raises:
            FAILURES: none answers.
        """
        found: list[T | NoAnswer] = []
        failed: Exception | None = None
        for partition, ask in zip(partitions, asked, strict=True):
            answer, error = self._unless_silent(partition, ask)
            failed = error or failed
            found.append(answer)
        if failed is not None and all(isinstance(one, NoAnswer) for one in found):
            raise failed
        return found

    def _unless_silent(self, partition: int, ask: Callable[[], T]) -> tuple[T | NoAnswer, Exception | None]:
        """What the server of a partition answers, in a cluster, or why it does not; and the error of that. One that did
        not answer is left alone for a while, unless another has taken its place."""
        name = ""
        try:
            node = self._server_of(partition)
            if self._silent.why(node.name) and time.monotonic() > self._look_at:
                self._look_again(node)
                node = self._server_of(partition)
            if why := self._silent.why(node.name):
                return NoAnswer(why), RedisConnectionError(why)
            name = f"{node.name}: "
            with self._waiting_for(node):
                return ask(), None
        except FAILURES as error:
            return NoAnswer(f"{name}{describe(error)}"), error

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        """Around calls that are about one key. The server of a cluster that is left alone is not asked.

        Raises:
            RedisConnectionError: it is that one.
        """
        if not self._clustered:
            yield
            return
        node = self.client.get_node_from_key(key)
        if why := self._silent.why(node.name):
            raise RedisConnectionError(why)
        with self._waiting_for(node):
            yield

    @contextmanager
    def _waiting_for(self, node: Any) -> Iterator[None]:
        """Notes whether a server of a cluster answers. An error reply is an answer."""
        began = time.monotonic()
        try:
            yield
        except (ResponseError, NoPermissionError):
            raise
        except FAILURES as error:
            self._silent.gave_no_answer(node.name, f"{node.name}: {describe(error)}", time.monotonic() - began)
            raise
        self._silent.answered(node.name)

    def _look_again(self, failed: Any) -> None:
        """Learn which server has what by now, from others than the one that failed; if none answers, it stays as it
        is."""
        began = time.monotonic()
        with suppress(*FAILURES):
            self.client.look_again(failed.name)
        now = time.monotonic()
        self._look_at = now + max(LOOK_EVERY_S, TIMES * (now - began))

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

    def _pool(self, partition: int) -> Any:
        """Connections to the server that has a partition."""
        if not self._clustered:
            return self.client.connection_pool
        return self._pool_of(self._server_of(partition))

    def _pool_of(self, node: Any) -> Any:
        """Connections to a server of a cluster."""
        return self.client.get_redis_connection(node).connection_pool

    def _ask(self, *command: Any) -> Any:
        """The reply to one command. Whatever the fold thread asks again and again shares a connection: a further one of
        redis-py's pool would look as if the store had been away."""
        with self._connected_to(self.client.connection_pool) as connection:
            [reply] = _exchange(connection, commands(command))
        if isinstance(reply, ResponseError):
            raise reply
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
