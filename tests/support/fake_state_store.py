"""UIC's store in memory, with switches for the ways in which a store fails. It passes the real one's contract suite."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from support.hand_model import WALL_MS
from uic.core.commit import ABSENT, Answer, Commit, NoAnswer, Refused, StatesLost, Written
from uic.errors import NamespaceConflict, StoreUnavailable

Snapshot = tuple[dict[int, bytes], dict[tuple[int, str], bytes], set[tuple[int, str]]]


class FakeStore:
    """`StateStore` in two dictionaries, and switches for the ways in which a store fails."""

    def __init__(self) -> None:
        self.progress: dict[int, bytes] = {}
        self.states: dict[tuple[int, str], bytes] = {}
        self.bad: dict[int, list[bytes]] = {}
        self.users: set[tuple[int, str]] = set()
        """Users with a state."""
        self.meta: tuple[int, str] | None = None
        self.identity = "00112233aabbccdd"
        self.away = False
        """Every call fails, and nothing is written."""
        self.silent: set[int] = set()
        """As in a cluster one of whose servers is away: partitions for which nothing answers."""
        self.fail_commits: list[Literal["lost request", "lost answer"]] = []
        """What happens to the next commits: not executed, or executed without an answer."""
        self.commits: list[Commit] = []
        """Every commit that was executed, including refused ones."""
        self.forbids: set[Literal["TIME", "UNLINK"]] = set()
        """Commands that our user has no right to."""
        self.reads = 0
        self.connections = 1
        self.sentinels: str | None = None
        self.evicts = ""
        self.clock_ms = WALL_MS

    def time_ms(self) -> int:
        self._ask()
        if "TIME" in self.forbids:
            raise StoreUnavailable("NOPERM", answered=True)
        return self.clock_ms

    def check(self) -> None:
        self._ask()

    def claim_namespace(self, partitions: int, topic: str) -> str:
        self._ask()
        self.meta = self.meta or (partitions, topic)
        if self.meta != (partitions, topic):
            raise NamespaceConflict(f"the namespace belongs to {self.meta}")
        return self.identity

    def read_progress(self, partitions: Collection[int]) -> dict[int, bytes | NoAnswer]:
        self._ask(partitions)
        return {p: NoAnswer("silent") if p in self.silent else self.progress.get(p, ABSENT) for p in partitions}

    def load(self, wanted: Sequence[tuple[int, Sequence[str]]]) -> list[list[bytes | None] | NoAnswer]:
        self._ask([p for p, _ in wanted])
        self.reads += sum(len(users) for _, users in wanted)
        return [
            NoAnswer("silent") if p in self.silent else [self.states.get((p, user)) for user in users]
            for p, users in wanted
        ]

    def commit(self, commits: Sequence[Commit]) -> list[Answer]:
        answers: list[Answer] = []
        for commit in commits:
            failure = self.fail_commits.pop(0) if self.fail_commits else None
            if self.away or commit.partition in self.silent or failure == "lost request":
                answers.append(NoAnswer("away"))
                continue
            if "UNLINK" in self.forbids and commit.begins_lineage:
                answers.append(NoAnswer("NOPERM"))
                continue
            answer = self._execute(commit)
            answers.append(NoAnswer("timeout") if failure == "lost answer" else answer)
        return answers

    def set_aside(self, partition: int, values: Sequence[bytes]) -> None:
        self._ask()
        kept = self.bad.setdefault(partition, [])
        kept[:0] = reversed(values)
        del kept[100:]

    def flush(self) -> None:
        """Everything is deleted."""
        self.progress.clear()
        self.states.clear()
        self.users.clear()
        self.meta = None

    def snapshot(self) -> Snapshot:
        """What is stored. The users listed are not those with a state: a new lineage leaves the states before it."""
        return dict(self.progress), dict(self.states), set(self.users)

    def restore(self, snapshot: Snapshot) -> None:
        """Later writes are lost."""
        self.progress, self.states, self.users = dict(snapshot[0]), dict(snapshot[1]), set(snapshot[2])

    def _execute(self, commit: Commit) -> Answer:
        self.commits.append(commit)
        stored = self.progress.get(commit.partition, ABSENT)
        if stored != commit.expected:
            return Refused(stored)
        created = [user for user, _ in commit.values[: commit.created]]
        lost = [user for user in created if (commit.partition, user) in self.users]
        if lost:
            return StatesLost(tuple(lost))
        if commit.begins_lineage:
            self.users = {(p, user) for p, user in self.users if p != commit.partition}
        self.users |= {(commit.partition, user) for user, _ in commit.values[: commit.created + commit.listed]}
        for user, value in commit.values:
            if value is None:
                self.users.discard((commit.partition, user))
                self.states.pop((commit.partition, user), None)
            else:
                self.states[commit.partition, user] = value
        if commit.erases:
            self.bad.pop(commit.partition, None)
        self.progress[commit.partition] = commit.progress
        return Written()

    def _ask(self, partitions: Collection[int] = ()) -> None:
        if self.away or (partitions and self.silent.issuperset(partitions)):
            raise StoreUnavailable("away")
