"""Servers of this machine are asked directly, whatever proxy the environment names; others as gRPC asks them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread

import grpc
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from localstack.uic_and_rtp import grpc_serves
from localstack.web import open_client, web
from support import proxies
from support.wayward_server import server
from uic.tools import state
from uic.tools.proxies import proxy_variable


@pytest.fixture(params=["http_proxy", "ALL_PROXY"])
def _dead_proxy(request: pytest.FixtureRequest, closed_port: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One variable of a proxy. The shared client is made in this environment."""
    monkeypatch.setenv(request.param, proxies.naming(closed_port)[request.param])
    web.cache_clear()
    yield
    web.cache_clear()


@pytest.mark.usefixtures("_dead_proxy")
def test_servers_of_this_machine_are_asked_over_http_without_the_proxy() -> None:
    with server(lambda _: (0.0, 200, False)) as url:
        assert web().post(url, content=b"{}").status_code == 200
        with open_client(base_url=url) as client:
            assert client.post("/predict", content=b"{}").status_code == 200


@pytest.fixture
def healthy() -> Iterator[str]:
    """The address of a gRPC server that serves the standard health service."""
    served = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), served)
    port = served.add_insecure_port("127.0.0.1:0")
    served.start()
    yield f"127.0.0.1:{port}"
    served.stop(None)


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_servers_of_this_machine_are_asked_over_grpc_without_the_proxy(
    name: str, healthy: str, closed_port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, f"http://{closed_port}")
    assert grpc_serves(healthy)
    for host in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104 - what UIC_GRPC__HOST may name
        assert state.main(["ann", "--grpc", f"{host}:{healthy.rpartition(':')[2]}"]) == 1
        assert "(UNIMPLEMENTED)" in capsys.readouterr().err, "the server itself answered"


@pytest.fixture
def proxy() -> Iterator[tuple[str, SimpleQueue[str]]]:
    """A proxy that reaches nothing: its URL, and the first lines of what it was asked."""
    asked: SimpleQueue[str] = SimpleQueue()

    class Refusing(StreamRequestHandler):
        def handle(self) -> None:
            asked.put(self.rfile.readline().decode())
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")

    with ThreadingTCPServer(("127.0.0.1", 0), Refusing) as listening:
        thread = Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", asked
        finally:
            listening.shutdown()
            thread.join()


def test_a_proxy_that_does_not_reach_uic_is_named(
    proxy: tuple[str, SimpleQueue[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = proxy
    monkeypatch.setenv("http_proxy", url)
    assert state.main(["ann", "--grpc", "uic.internal:8001"]) == 1
    assert asked.get(timeout=60).startswith("CONNECT uic.internal:8001 ")
    assert "; http_proxy is set: does that proxy reach it? NO_PROXY names hosts" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize(
    ("excepted", "address", "variable"),
    [
        ("", "uic.internal:8001", "https_proxy"),
        (".internal", "uic.internal:8001", ""),
        ("other.internal", "uic.internal:8001", "https_proxy"),
        ("*", "10.0.0.9:8001", ""),
        ("", "[::1]:8001", ""),
    ],
)
def test_no_proxy_names_hosts_that_are_asked_directly(
    name: str, excepted: str, address: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://10.0.0.1:3128")
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    monkeypatch.setenv(name, excepted)
    assert proxy_variable(address) == variable
