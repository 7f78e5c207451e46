"""The same requests for the same seed, whole, and a closed loop that counts what it should."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from loadtest import comparison
from loadtest.bare_loop import saturate
from loadtest.client import Target
from loadtest.population import BUNDLE, Population, measured_bundle
from localstack import stack
from support.wayward_server import server

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"


def test_a_population_is_the_same_for_the_same_seed_and_asks_for_known_items() -> None:
    asking = Population(bundle=TINY, users=5, candidates=7)
    bodies = asking.bodies(20)
    assert bodies == asking.bodies(20)
    assert bodies != Population(bundle=TINY, users=5, candidates=7, seed=1).bodies(20)
    asked = [json.loads(body) for body in bodies]
    assert {len(request["candidates"]) for request in asked} == {7}
    assert {request["user_id"] for request in asked} <= {f"user-{i}" for i in range(5)}
    known = set(np.load(TINY / "items.ids.npy").tolist())
    assert {candidate["item_id"] for request in asked for candidate in request["candidates"]} <= known


def test_what_is_measured_by_default_is_what_is_served() -> None:
    assert BUNDLE == stack.BUNDLE == next(iter(comparison.MODELS.values()))
    assert measured_bundle({}) == measured_bundle({"LOADTEST_BUNDLE": ""}) == BUNDLE


def test_a_variable_names_another_bundle_when_it_is_measured_and_not_when_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOADTEST_BUNDLE", str(TINY))
    assert measured_bundle() == TINY
    assert Population.from_environment().bundle == TINY
    assert BUNDLE != TINY


def test_a_request_is_whole() -> None:
    assert Target("http://h:1/p", 5).request(b"{}") == (
        b"POST /p HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\nx-request-deadline-ms: 5\r\n"
        b"content-length: 2\r\n\r\n{}"
    )


def test_a_population_says_itself_in_variables() -> None:
    asking = Population(bundle=TINY, users=5, pattern="u-{}", candidates=7, seed=3)
    assert Population.from_environment(asking.environment()) == asking
    with pytest.raises(ValueError, match="LOADTEST_USER_PATTERN"):
        Population.from_environment({"LOADTEST_USER_PATTERN": "u"})


def test_a_closed_loop_counts_answers_and_refuses_to_count_errors() -> None:
    heads: list[str] = []
    with server(lambda _: (0.01, 200, False), heads=heads) as url:
        per_s = asyncio.run(saturate(url, [b"{}"], 0.5, connections=1))
        assert per_s * 0.5 == len(heads)
        assert per_s < 101, "the next request waits for the answer, however fast the machine is"
    with server(lambda _: (0.0, 500, False)) as url, pytest.raises(RuntimeError, match="answered 500"):
        asyncio.run(saturate(url, [b"{}"], 0.5, connections=1))
