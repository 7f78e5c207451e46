"""Why the store gave no answer, in a cluster: the node, and what is behind redis-py's own words."""

from __future__ import annotations

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisClusterException

from rtp.store.commands import reason_of


def test_a_missing_right_to_ask_for_the_slots_is_told_as_what_it_is() -> None:
    error = RedisClusterException("Redis Cluster cannot be connected")
    error.__cause__ = NoPermissionError("User rtp has no permissions to run the 'cluster|slots' command")
    assert reason_of(error) == "the store refuses: NoPermissionError"


def test_the_node_is_named() -> None:
    refused, away = NoPermissionError("no"), RedisConnectionError("Connection closed by server.")
    for error in (refused, away):
        error.add_note("10.0.0.5:6379")
    assert reason_of(refused) == "node 10.0.0.5:6379 of the store refuses: NoPermissionError"
    assert reason_of(away) == "no connection to node 10.0.0.5:6379 of the store (Connection closed by server.)"
