"""A group is asked about where it is coordinated now, and what a broker refuses to say of it is no description."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient
from kafka.cluster import ClusterMetadata
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupAuthorizationFailedError,
    GroupIdNotFoundError,
    NotCoordinatorError,
    for_code,
)
from kafka.protocol.admin import DescribeGroupsResponse
from kafka.protocol.metadata import FindCoordinatorRequest, FindCoordinatorResponse

from uic.log.broker_view import BrokerView, GroupView

GROUP = "group"
NO_ONE = GroupView(stable=False, members={})


class Brokers:
    """Says who coordinates the group, and describes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.coordinator = 1
        self.finding: Any = for_code(0)
        self.describing: Any = for_code(0)
        self.state = "Empty"
        self.asked: list[int] = []
        admin: Any = object.__new__(KafkaAdminClient)
        versions = SimpleNamespace(api_version=lambda request: 4)
        admin._manager = SimpleNamespace(
            cluster=ClusterMetadata(),
            broker_version_data=versions,
            run=lambda coroutine, *given: asyncio.run(coroutine(*given)),
            send=self._send,
        )
        monkeypatch.setattr("uic.log.broker_view.open_kafka_client", lambda kind, **options: admin)
        self.view = BrokerView({}, "events", GROUP)

    async def _send(self, request: Any, node_id: int | None = None) -> Any:
        if isinstance(request, FindCoordinatorRequest):
            row = FindCoordinatorResponse.Coordinator(
                key=GROUP, node_id=self.coordinator, host="broker", port=9092, error_code=self.finding.errno
            )
            return FindCoordinatorResponse(coordinators=[row])
        assert node_id is not None
        self.asked.append(node_id)
        found = DescribeGroupsResponse.DescribedGroup(
            group_id=GROUP, group_state=self.state, members=[], error_code=self.describing.errno
        )
        return DescribeGroupsResponse(groups=[found])


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> Brokers:
    return Brokers(monkeypatch)


def test_a_group_is_asked_about_where_it_is_coordinated_now(brokers: Brokers) -> None:
    for brokers.coordinator in (1, 2, 2, 1):
        assert brokers.view.group() == NO_ONE
    assert brokers.asked == [1, 2, 2, 1]


@pytest.mark.parametrize("error", [NotCoordinatorError, CoordinatorNotAvailableError, CoordinatorLoadInProgressError])
def test_a_coordinator_on_the_move_gives_no_answer(brokers: Brokers, error: Any) -> None:
    brokers.describing, brokers.state = error, ""
    with pytest.raises(error):
        brokers.view.group()


def test_where_there_is_no_coordinator_there_is_no_answer(brokers: Brokers) -> None:
    assert brokers.view.group() == NO_ONE
    brokers.finding = CoordinatorNotAvailableError
    with pytest.raises(CoordinatorNotAvailableError):
        brokers.view.group()


def test_a_group_that_its_coordinator_does_not_have_is_one_without_members(brokers: Brokers) -> None:
    brokers.describing, brokers.state = GroupIdNotFoundError, "Dead"
    assert brokers.view.group() == NO_ONE


def test_that_we_may_not_ask_is_no_view(brokers: Brokers) -> None:
    brokers.describing, brokers.state = GroupAuthorizationFailedError, ""
    assert brokers.view.group() is None


def test_that_we_may_not_ask_who_coordinates_the_group_is_no_view(brokers: Brokers) -> None:
    brokers.finding = GroupAuthorizationFailedError
    assert brokers.view.group() is None
