"""A group as the broker describes it that coordinates the group now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import GroupIdNotFoundError, NoError, for_code
from kafka.protocol.metadata import CoordinatorType


def find_coordinator(admin: KafkaAdminClient, group: str) -> int:
    """The node that coordinates a group, as a broker says now.

    The library asks once for each group, and keeps the answer for as long as the client lives. A coordinator moves
    whenever its broker restarts.

    Raises:
        KafkaError: no answer, or there is none now.
    """
    admin._manager.cluster._coordinators.pop((CoordinatorType.GROUP, group), None)
    node: int = admin._manager.run(admin._find_coordinator_id, group)
    return node


def describe_group(admin: KafkaAdminClient, group: str, coordinator: int) -> Mapping[str, Any]:
    """What the node `coordinator` says of a group. One that it does not know is `Dead` and without members.

    The library makes words of a refusal, which look like a description that is empty.

    Raises:
        KafkaError: no answer, or it is refused, as by a node that does not coordinate the group.
    """
    described: Mapping[str, Any] = admin._manager.run(_described, admin, group, coordinator)
    return described


async def _described(admin: KafkaAdminClient, group: str, coordinator: int) -> Any:
    answer = await admin._manager.send(admin._describe_groups_request([group]), node_id=coordinator)
    [found] = answer.groups
    error = for_code(found.error_code)
    if error not in (NoError, GroupIdNotFoundError):
        raise error(group)
    return admin._describe_groups_process_response(answer)[group]
