"""The load generator tells the truth: a freeze shows at the right percentile, and who cannot keep up is saturated."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from loadtest.bare_loop import saturate
from loadtest.client import Target
from loadtest.open_loop import Result, Schedule, drive, main
from loadtest.population import Population

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
Behave = Callable[[int], tuple[float, int, bool]]
"""Number of the request → seconds to wait before answering it, status, whether to close after it."""


@contextmanager
def server(behave: Behave, *, one_at_a_time: bool = False) -> Iterator[str]:
    """An HTTP server in a thread of its own that behaves as told."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    seen, port = 0, 0
    turn = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:"))
                await reader.readexactly(length)
                wait_s, status, close = behave(seen)
                seen += 1
                if one_at_a_time:
                    async with turn:
                        await asyncio.sleep(wait_s)
                else:
                    await asyncio.sleep(wait_s)
                told = "connection: close\r\n" if close else ""
                writer.write(f"HTTP/1.1 {status} X\r\n{told}content-length: 2\r\n\r\n".encode())
                writer.write(b"{}")
                if close:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        nonlocal port
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        started.set()
        async with listening:
            await ended.wait()

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(5)


def test_requests_are_due_evenly_or_at_random_at_the_rate_that_was_asked_for() -> None:
    assert Schedule(10, 1).due_s().tolist() == pytest.approx([i / 10 for i in range(10)])
    random = Schedule(1000, 20, poisson=True).due_s()
    assert len(random) == 20_000
    assert random[-1] == pytest.approx(20, rel=0.05)
    gaps = np.diff(random)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), (
        "the gaps of a Poisson process spread as far as their mean"
    )


def test_a_quick_server_keeps_up() -> None:
    with server(lambda _: (0.0, 200, False)) as url:
        result = drive(url, [b"{}"], Schedule(200, 1))
    assert (result.count, result.errors, result.saturated) == (200, 0, False)
    assert result.offered_per_s == pytest.approx(200)
    assert "saturated" not in str(result)


def test_a_server_that_freezes_shows_at_the_percentile_that_it_deserves() -> None:
    """One second of 4 is frozen, so a quarter of the requests were due while nobody answered: from 1 s down to 0."""
    freeze = threading.Event()

    def behave(number: int) -> tuple[float, int, bool]:
        if number == 100:
            freeze.set()
            return 1.0, 200, False
        return 0.0, 200, False

    with server(behave, one_at_a_time=True) as url:
        result = drive(url, [b"{}"], Schedule(100, 4))
    assert freeze.is_set()
    assert result.errors == 0
    assert result.quantile_ms(1.0) >= 950
    assert result.quantile_ms(0.9) >= 400, "a tenth waited longer than a closed loop would have noticed"
    assert result.quantile_ms(0.5) < 200


def test_a_server_that_cannot_keep_up_is_saturated() -> None:
    with server(lambda _: (0.02, 200, False), one_at_a_time=True) as url:
        result = drive(url, [b"{}"], Schedule(200, 1))
    assert result.saturated
    assert result.achieved_per_s < 60
    assert "saturated, not a latency" in str(result)


def test_answers_that_are_not_200_are_errors_and_no_latencies() -> None:
    with server(lambda number: (0.0, 503 if number % 4 == 0 else 200, False)) as url:
        result = drive(url, [b"{}"], Schedule(100, 1))
    assert (result.count, result.errors) == (75, 25)


def test_a_server_that_says_close_is_connected_to_again() -> None:
    with server(lambda number: (0.0, 200, number % 3 == 0)) as url:
        result = drive(url, [b"{}"], Schedule(100, 1))
    assert (result.count, result.errors) == (100, 0)


def test_a_closed_loop_counts_answers_and_refuses_to_count_errors() -> None:
    with server(lambda _: (0.01, 200, False)) as url:
        assert 20 < asyncio.run(saturate(url, [b"{}"], 0.5, connections=1)) < 101
    with server(lambda _: (0.0, 500, False)) as url, pytest.raises(RuntimeError, match="answered 500"):
        asyncio.run(saturate(url, [b"{}"], 0.5, connections=1))


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_BUNDLE", str(TINY))
    assert main(["--url", "https://x/predict"]) == 2
    assert "plain http://" in capsys.readouterr().err
    monkeypatch.setenv("LOADTEST_USER_PATTERN", "u")
    assert main([]) == 2
    assert "LOADTEST_USER_PATTERN" in capsys.readouterr().err


def test_an_empty_result_has_no_rate() -> None:
    assert Result(10.0).achieved_per_s == 0.0


def test_a_population_is_the_same_for_the_same_seed_and_asks_for_known_items() -> None:
    population = Population(bundle=TINY, users=5, candidates=7)
    bodies = population.bodies(20)
    assert bodies == population.bodies(20)
    assert bodies != Population(bundle=TINY, users=5, candidates=7, seed=1).bodies(20)
    asked = [json.loads(body) for body in bodies]
    assert {len(request["candidates"]) for request in asked} == {7}
    assert {request["user_id"] for request in asked} <= {f"user-{i}" for i in range(5)}
    known = set(np.load(TINY / "items.ids.npy").tolist())
    assert {candidate["item_id"] for request in asked for candidate in request["candidates"]} <= known


def test_a_request_is_whole() -> None:
    assert Target("http://h:1/p", 5).request(b"{}") == (
        b"POST /p HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\nx-request-deadline-ms: 5\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
