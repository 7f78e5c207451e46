"""A UIC process for a test, with the tiny bundle and a channel to its gRPC port."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from kafka import KafkaAdminClient

from ctr.event.v1.behavior_event_pb2 import ACTION_CLICK, BehaviorEvent
from ctr.uic.v1 import uic_service_pb2 as pb
from ctr.uic.v1.uic_service_pb2_grpc import UserInterestCenterStub
from localstack.ports import accepts
from localstack.topics import delete_topics
from localstack.uic_and_rtp import Surroundings, UicWorker
from localstack.wait import until
from localstack.web import web
from support.for_test import RedisForTest, TopicsForTest

BUNDLE = Path(__file__).parents[1] / "fixtures" / "bundle_tiny" / "tiny" / "1"


class RunningUic:
    """The process, and the calls that tests make to it."""

    def __init__(self, worker: UicWorker) -> None:
        self.worker = worker
        self.channel = grpc.insecure_channel(worker.address)
        self.stub = UserInterestCenterStub(self.channel)

    def publish(self, *events: BehaviorEvent, timeout_s: float = 10) -> list[pb.LogPosition]:
        return list(self.stub.PublishBehaviors(pb.PublishBehaviorsRequest(events=events), timeout=timeout_s).positions)

    def erase(self, user: str) -> pb.LogPosition:
        return self.stub.EraseUser(pb.EraseUserRequest(user_id=user), timeout=10).position

    def erase_item(self, user: str, item: int) -> pb.LogPosition:
        return self.stub.EraseItem(pb.EraseItemRequest(user_id=user, item_id=item), timeout=10).position

    def state(self, user: str) -> pb.GetUserStateResponse | None:
        """The stored state, None if there is none."""
        try:
            return self.stub.GetUserState(pb.GetUserStateRequest(user_id=user), timeout=10)
        except grpc.RpcError as error:
            failed: Any = error
            if failed.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def admin(self, path: str) -> dict[str, Any]:
        view: dict[str, Any] = web().get(self.worker.admin_url + path, timeout=10).json()
        return view

    def wait_folded(self, positions: list[pb.LogPosition], within_s: float = 60) -> None:
        """Wait until progress has passed all of `positions`."""

        def passed() -> bool:
            stored = {p["partition"]: p["next_offset"] or 0 for p in self.admin("/partitions")["partitions"]}
            return all(stored.get(at.partition, 0) > at.offset for at in positions)

        until(passed, "the published records are folded", within_s=within_s)


@contextmanager
def running_uic(
    folder: Path,
    redis: RedisForTest,
    topics: TopicsForTest,
    *,
    serving: bool = True,
    bundle: Path = BUNDLE,
    **variables: str,
) -> Iterator[RunningUic]:
    """Start UIC with the test's own topics and keys, and stop it afterwards. `serving`: wait until health is
    SERVING."""
    surroundings = Surroundings(
        bootstrap=topics.bootstrap,
        redis_url=redis.url,
        bundle=bundle,
        topic=topics.events,
        partitions=topics.partitions,
        prefix=redis.prefix,
        uic=variables,
    )
    worker = UicWorker("uic", folder, surroundings)
    worker.spawn()
    try:
        if serving:
            worker.wait_ready()
        else:
            until(lambda: accepts(worker.ports["admin"]), "the admin port answers", within_s=40)
        uic = RunningUic(worker)
        yield uic
        uic.channel.close()
    finally:
        worker.stop()


def delete_and_wait(bootstrap: str, *names: str) -> None:
    """Delete topics, and wait until the broker no longer lists them, which is after its answer."""
    delete_topics(bootstrap, list(names))
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        until(lambda: not set(names) & set(admin.list_topics()), "the topics are gone", within_s=60)
    finally:
        admin.close()


def click(user: str, item: int = 3, **fields: Any) -> BehaviorEvent:
    """A valid event with the current time."""
    return BehaviorEvent(
        user_id=user, item_id=item, action=ACTION_CLICK, event_time=time.time_ns() // 1_000_000, **fields
    )
