"""A version of redis-py that follows redirections otherwise is refused, and what it is repaired for."""

from __future__ import annotations

from threading import RLock
from typing import Any

import pytest
from redis.cluster import ClusterNode, NodesManager, RedisCluster

from process.assumptions import broken
from uic.bulk.commands import namespaces
from uic.errors import UnsuitableClient
from uic.redis_client import ASSUMPTIONS, ClusterClient, check_client


def other(*_: object) -> None:
    """In place of what the library has."""


def test_the_installed_client_meets_every_assumption() -> None:
    assert broken(ASSUMPTIONS) == []


def test_a_client_that_breaks_an_assumption_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RedisCluster, "_execute_command", other)
    [name] = broken(ASSUMPTIONS)
    with pytest.raises(UnsuitableClient, match="redis-py") as refused:
        check_client.__wrapped__()
    assert name in refused.value.detail
    monkeypatch.setenv("UIC_REDIS__URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("UIC_REDIS__MODE", "cluster")
    check_client.cache_clear()
    try:
        assert namespaces.main([]) == 1
    finally:
        check_client.cache_clear()
    assert "redis-py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "host", "port"), [("10.0.0.7:6379", "10.0.0.7", 6379), ("fd00::7:6380", "fd00::7", 6380)]
)
def test_a_node_that_ask_names_is_made_once_and_one_that_is_looked_for_is_not(name: str, host: str, port: int) -> None:
    client: Any = object.__new__(ClusterClient)
    client.nodes_manager = object.__new__(NodesManager)
    vars(client.nodes_manager).update(nodes_cache={}, _lock=RLock())
    assert client.get_node(host, port) is None
    made = client.get_node(node_name=name)
    assert isinstance(made, ClusterNode)
    assert (made.host, made.port, made.server_type) == (host, port, "primary")
    assert client.get_node(node_name=name) is made
    assert client.get_node(host, port) is made
