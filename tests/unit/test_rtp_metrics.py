"""RTP's metrics: what a scrape costs stays the same over the years, and requests go on meanwhile."""

from __future__ import annotations

import asyncio

from prometheus_client.openmetrics.exposition import generate_latest

from rtp.core.lingering import Lingering
from rtp.metrics import KEPT_S, Metrics

CANARY, SHADOW = ("canary", "shop/2"), ("shadow", "shop/2")


def series(metrics: Metrics) -> set[str]:
    """The series of arms and shadows."""
    lines = generate_latest(metrics.registry).decode().splitlines()  # type: ignore[no-untyped-call]
    return {line.rpartition(" ")[0] for line in lines if line.startswith(("rtp_arm_", "rtp_shadow_"))}


def test_what_was_not_named_for_long_is_over_and_what_comes_back_stays_as_long_again() -> None:
    lingering = Lingering[str](10.0)
    assert lingering.over(["a", "b"], {"a", "b"}, 0.0) == []
    assert lingering.over(["a", "b"], {"a"}, 10.0) == []
    assert lingering.over(["a", "b"], {"a"}, 11.0) == ["b"]
    assert lingering.over(["a"], {"a"}, 12.0) == []
    assert lingering.over(["a", "b"], {"a"}, 13.0) == []
    assert lingering.over(["a", "b"], {"a"}, 23.0) == []
    assert lingering.over(["a", "b"], (), 24.0) == ["b"]
    assert lingering.over(["a", "b"], (), 25.0) == [], "it was seen for the first time"


def test_series_that_requests_in_flight_begin_again_go_as_well() -> None:
    metrics, now_s = Metrics(), 0.0
    before = series(metrics)
    metrics.of_arm(*CANARY)
    metrics.of_shadow(*SHADOW)
    metrics.keep({CANARY}, {SHADOW}, now_s)
    for _ in range(2):
        metrics.of_arm(*CANARY).count_failure(KeyError())
        metrics.count_shed(*SHADOW, "busy")
        metrics.keep((), (), now_s)
        with_both = series(metrics)
        metrics.keep((), (), now_s := now_s + KEPT_S)
        assert series(metrics) == with_both > before
        metrics.keep((), (), now_s := now_s + 1)
        assert series(metrics) == before


def test_a_scrape_gives_what_the_library_gives_and_others_have_their_turn_between_metrics() -> None:
    metrics = Metrics()
    metrics.of_arm(*CANARY).head_seconds.observe(0.002)
    metrics.of_shadow(*SHADOW).correlation.observe(0.5)
    metrics.bundle.labels('a "name"\n', "1", "ab-0", "uic").set(1)

    async def scrape() -> tuple[bytes, int]:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        going = asyncio.create_task(others())
        text = await metrics.render()
        going.cancel()
        return text, turns

    def lasting(text: bytes) -> list[bytes]:
        return [line for line in text.splitlines(keepends=True) if not line.startswith(b"process_")]

    text, turns = asyncio.run(scrape())
    assert lasting(text) == lasting(generate_latest(metrics.registry))  # type: ignore[no-untyped-call]
    assert turns >= len(list(metrics.registry.collect()))
