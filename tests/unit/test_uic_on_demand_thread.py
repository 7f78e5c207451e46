"""A thread on demand is there while there is something to do, also after what no one expects."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from localstack.wait import until
from uic.log import on_demand_thread
from uic.log.on_demand_thread import OnDemandThread

NAME = "a test of threads"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_demand_thread, "RETRY_S", 0.005)


def there() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_the_task_is_called_until_it_has_nothing_to_do_and_again_once_it_has() -> None:
    left = iter([0.0, 0.001, None, 0.0, None])
    called: list[float | None] = []

    def task() -> float | None:
        called.append(next(left))
        return called[-1]

    thread = OnDemandThread(NAME, task)
    assert not there()
    thread.ensure_running()
    until(lambda: not there(), "the first thread ends", within_s=30)
    assert called == [0.0, 0.001, None]
    thread.ensure_running()
    until(lambda: not there(), "the second thread ends", within_s=30)
    assert called == [0.0, 0.001, None, 0.0, None]


def test_what_comes_while_the_task_finds_nothing_to_do_is_seen_to() -> None:
    calls = 0

    def task() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            thread.ensure_running()  # as another thread, after the task has looked

    thread = OnDemandThread(NAME, task)
    thread.ensure_running()
    until(lambda: not there(), "the thread ends", within_s=30)
    assert calls == 2


def test_an_unexpected_error_is_logged_and_the_task_called_again(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: Iterator[Exception | None] = iter([ValueError("unforeseen"), None])

    def task() -> None:
        if (error := next(outcomes)) is not None:
            raise error

    OnDemandThread(NAME, task).ensure_running()
    until(lambda: not there(), "the thread ends", within_s=30)
    assert next(outcomes, "none left") == "none left"
    assert caplog.messages == ["a background task failed"]
    assert "ValueError: unforeseen" in caplog.text, "with its traceback"


def test_after_close_the_task_is_not_called_any_more() -> None:
    called = threading.Event()

    def task() -> float:
        called.set()
        return 3600.0

    thread = OnDemandThread(NAME, task)
    thread.ensure_running()
    assert called.wait(30)
    thread.close()
    until(lambda: not there(), "the thread ends", within_s=30)
    called.clear()
    thread.ensure_running()
    until(lambda: not there(), "it has nothing to do", within_s=30)
    assert not called.is_set()
