"""Owners follow from the names of those who hold a lease, and a lease from what a worker can do."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from uic.core.leases import Leases
from uic.core.ports import Owned
from uic.errors import StoreUnavailable
from uic.fold.lease_keeper import LeaseKeeper

WORKERS = st.frozensets(st.text("abc123:", min_size=1, max_size=8), min_size=1, max_size=6)


@given(WORKERS, st.integers(1, 64))
def test_every_partition_has_one_owner(workers: frozenset[str], partitions: int) -> None:
    leases = Leases(workers, joined=False)
    owned = [leases.owned_by(worker, partitions) for worker in workers]
    assert sorted(p for some in owned for p in some) == list(range(partitions))


@given(WORKERS, st.integers(1, 64))
def test_no_worker_has_more_than_its_share(workers: frozenset[str], partitions: int) -> None:
    shares = [len(Leases(workers, joined=False).owned_by(worker, partitions)) for worker in workers]
    assert max(shares) <= -(-partitions // len(workers))


def test_a_newcomer_moves_few_partitions_between_others() -> None:
    before = Leases(frozenset(f"host-{i}" for i in range(4)), joined=False)
    after = Leases(before.workers | {"newcomer"}, joined=False)
    moved = sum(len(before.owned_by(w, 256) - after.owned_by(w, 256)) for w in before.workers)
    assert moved < 256 / 5 * 2, "a fifth is the least"


@given(WORKERS)
def test_one_that_joins_others_owns_nothing_yet(workers: frozenset[str]) -> None:
    assert not Leases(workers | {"newcomer"}, joined=True).owned_by("newcomer", 64)


def test_one_that_is_the_only_one_owns_everything_at_once() -> None:
    assert len(Leases(frozenset({"newcomer"}), joined=True).owned_by("newcomer", 64)) == 64


class Script:
    """A store and a log that write down what happens."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.away = False
        self.renewed = threading.Semaphore(0)

    def renew_lease(self, worker: str, lasts_s: float) -> Leases:
        if self.away:
            raise StoreUnavailable("away")
        return Leases(frozenset({worker}), joined=not self.heard)

    def give_lease_up(self, worker: str) -> None:
        self.heard.append("given up")

    def own(self, owned: Owned) -> None:
        self.heard.append(f"own {len(owned.partitions)}")
        self.renewed.release()

    def disown(self, why: str) -> None:
        self.heard.append(f"disown: {why}")
        self.renewed.release()


def test_a_lease_is_renewed_given_up_when_unfit_and_at_the_end() -> None:
    script, unfit = Script(), [""]
    keeper = LeaseKeeper("me", 0.1, store=script, log=script, partitions=8, unfit=lambda: unfit[0])
    keeper.start()
    assert script.renewed.acquire(timeout=20)
    assert script.renewed.acquire(timeout=20)
    unfit[0] = "stalled"
    while "disown: stalled" not in script.heard:
        assert script.renewed.acquire(timeout=20)
    keeper.leave(20)
    assert script.heard[:2] == ["own 8", "own 8"]
    assert script.heard[-3:] == ["disown: stalled", "given up", "given up"]
