"""UIC's gRPC service with the log in memory."""

from __future__ import annotations

from typing import Any

from mimn.bundle import Bundle, load_bundle
from support.bundles import TINY
from support.fake_event_log import FakeEventLog
from uic.core.kafka_tools import KafkaTools
from uic.doors.loop import DoorLoop
from uic.doors.publisher import Publisher
from uic.doors.servicer import UserInterestCenter
from uic.metrics import Metrics
from uic.settings import GrpcSettings

TOPIC = "events"
ERASED = f"{TOPIC}.erased"
N = 8
"""Partitions."""
BUNDLE = load_bundle(TINY)


def event_log() -> FakeEventLog:
    return FakeEventLog({TOPIC: N, ERASED: N})


def open_loop() -> DoorLoop:
    """A loop that runs; close it at the end."""
    loop = DoorLoop()
    loop.start()
    return loop


def uic_service(
    settings: GrpcSettings,
    states: Any,
    *,
    log: FakeEventLog | None = None,
    metrics: Metrics | None = None,
    bundle: Bundle = BUNDLE,
    **clocks: Any,
) -> UserInterestCenter:
    return UserInterestCenter(
        publisher=Publisher(log or event_log(), TOPIC, N, KafkaTools("h:9092")),
        states=states,
        bundle=bundle,
        partitions=N,
        metrics=metrics or Metrics(),
        settings=settings,
        **clocks,
    )
