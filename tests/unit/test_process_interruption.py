"""Ctrl-C ends a command in order, and at once where that is not possible."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from process.interruption import ends_at_once, ends_in_order, handled

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
woken, waking = os.pipe()
os.set_blocking(waking, False)
signal.set_wakeup_fd(waking)  # so that a read of `woken` ends also with a signal that comes just before it begins
from process.interruption import ends_at_once, ends_in_order

def said(what):
    print(what, flush=True)

def hold():
    while True:
        os.read(woken, 1)

{body}
"""


@contextmanager
def running(body: str) -> Iterator[subprocess.Popen[str]]:
    """A program that says `ready` once it can be interrupted."""
    command = [sys.executable, "-c", PROGRAM.format(body=body)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def test_an_interrupt_that_an_import_would_drop_ends_the_process() -> None:
    dropping = """
with ends_at_once():
    said("ready")
    while True:
        try:
            hold()
        except BaseException:
            pass
"""
    with running(dropping) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
        assert process.stderr
        assert process.stderr.read() == ""


@pytest.mark.parametrize("first", ["pass", "hold()"], ids=["is dropped", "waits on its way out"])
def test_the_second_interrupt_ends_a_process_that_the_first_did_not(first: str) -> None:
    body = f"""
with ends_in_order():
    try:
        said("ready")
        hold()
    except KeyboardInterrupt:
        said("first")
        {first}
    hold()
"""
    with running(body) as process:
        assert process.stdout
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "first\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


def test_an_interrupt_that_is_switched_off_stays_off_and_one_that_is_handled_stays_so() -> None:
    before = signal.getsignal(signal.SIGINT)

    def handler(number: int, frame: object) -> None:
        pass

    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for ends in (ends_at_once, ends_in_order):
            with ends():
                assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, handler)
        with ends_in_order():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    with ends_in_order():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_are_those_from_before_also_where_a_handler_has_raised() -> None:
    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(sign) for sign in signals]
    with pytest.raises(SystemExit), handled(dict.fromkeys(signals, leave)):
        signal.raise_signal(signal.SIGHUP)
    assert [signal.getsignal(sign) for sign in signals] == before


def test_a_command_runs_in_a_thread_that_receives_no_signals() -> None:
    def run() -> str:
        with ends_at_once(), ends_in_order():
            return "ran"

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result(60) == "ran"
