"""A version of redis-py that makes TLS connections otherwise is refused."""

from __future__ import annotations

import pytest
from redis.connection import SSLConnection

from process.assumptions import broken
from uic.bulk.commands import namespaces
from uic.errors import UnsuitableClient
from uic.redis_client import ASSUMPTIONS, check_client


def other(*_: object) -> None:
    """In place of what the library has."""


def test_the_installed_client_meets_every_assumption() -> None:
    assert broken(ASSUMPTIONS) == []


def test_a_client_that_breaks_an_assumption_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SSLConnection, "_wrap_socket_with_ssl", other)
    [name] = broken(ASSUMPTIONS)
    with pytest.raises(UnsuitableClient, match="redis-py") as refused:
        check_client.__wrapped__()
    assert name in refused.value.detail
    monkeypatch.setenv("UIC_REDIS__URL", "rediss://127.0.0.1:1/0")
    check_client.cache_clear()
    try:
        assert namespaces.main([]) == 1
    finally:
        check_client.cache_clear()
    assert "redis-py" in capsys.readouterr().err
