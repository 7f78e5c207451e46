"""Why a door cannot listen is told by its cause."""

from __future__ import annotations

import socket

import pytest

from localstack.ports import LOOPBACK
from uic.doors.listening import cannot_listen, why_not


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_cannot_be_a_name_is_a_cause_like_others(host: str) -> None:
    error = why_not(host, 8001)
    assert error is not None
    said = f"cannot listen on {host}:8001 (no host can have this name): correct UIC_GRPC__HOST and UIC_GRPC__PORT"
    assert cannot_listen(host, 8001, error, "UIC_GRPC") == said


def test_a_port_that_is_taken_is_to_be_freed() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        error = why_not(LOOPBACK, port)
    assert error is not None
    assert "free the port, or set UIC_ADMIN__HOST" in cannot_listen(LOOPBACK, port, error, "UIC_ADMIN")
