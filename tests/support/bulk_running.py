"""Commands of bulk work for tests: run here, or as processes that kill themselves just after a step."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from uic.bulk.backfill_job import STATES
from uic.bulk.folder import Folder
from uic.bulk.saved_states import states_file

KILLED = -signal.SIGKILL

_DRIVER = """
import os, signal, sys
from importlib import import_module
from uic.bulk import importing
importing.TRANSACTION = 100
verb, step, count, *arguments = sys.argv[1:]
left = int(count)
def after(done):
    global left
    if done == step:
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.exit(import_module("uic.bulk.commands." + verb).main(arguments, None, after))
"""
"""A command that kills itself after a step; its imports take several transactions."""

_HELD = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from ctr_cli.__main__ import main
from support.bulk_running import held_task
from uic.bulk import pool
pool.fold_task = held_task
sys.exit(main(sys.argv[1:]))
"""
"""`ctr` with tasks that do not end."""

_HELD_AT = """
import sys
from functools import partial
from importlib import import_module
from threading import Event
from ctr_cli.__main__ import main
module, step, *arguments = sys.argv[1:]
command = import_module(f"uic.bulk.commands.{module}")
def after(done):
    if done == step:
        print("held", flush=True)
        while not Event().wait(0.05):  # Python hears a signal that comes just before a wait when that wait ends
            pass
command.main = partial(command.main, after=after)
sys.exit(main(arguments))
"""
"""`ctr` with a command that stops after a step."""


@contextmanager
def held_at(environment: Mapping[str, str], module: str, step: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ctr` with a command of `uic.bulk.commands` in a process that has done a step and goes no further."""
    command = ["env", "--default-signal=INT,TERM,HUP", sys.executable, "-c", _HELD_AT, module, step, *arguments]
    own, pipe = _process_environment(environment), subprocess.PIPE
    with subprocess.Popen(command, env=own, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def run(
    environment: Mapping[str, str], verb: str, *arguments: str, after: Callable[[str], None] | None = None
) -> tuple[int, str]:
    """Exit status and output of `verb`, a module of `uic.bulk.commands`, in this process. `after` is called after each
    of its steps."""
    main = import_module(f"uic.bulk.commands.{verb}").main
    return run_main(main if after is None else partial(main, after=after), environment, *arguments)


def run_main(main: Callable[..., int], environment: Mapping[str, str], *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command of UIC in this process, under the settings of `environment` alone."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("UIC_"):
                patch.delenv(name)
        for name, value in environment.items():
            if name.startswith("UIC_"):
                patch.setenv(name, value)
        return main(arguments, out), out.getvalue()


def cut_log(bootstrap: str, topic: str, ends: dict[int, int]) -> None:
    """Remove each partition's records below an offset, as retention does. Needs Apache Kafka."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.delete_records({TopicPartition(topic, p): end for p, end in ends.items()})
    admin.close()


def done(environment: Mapping[str, str], verb: str, *arguments: str) -> str:
    """The output of a command that must succeed."""
    code, said = run(environment, verb, *arguments)
    assert code == 0, said
    return said


def finished(environment: Mapping[str, str], verb: str, *arguments: str) -> None:
    """Run in a process, which must succeed: for tests that run several at once."""
    status = killed(environment, verb, "", 0, *arguments)
    if status:
        raise AssertionError(f"{verb} ended with {status}")


def killed(environment: Mapping[str, str], verb: str, step: str, count: int, *arguments: str) -> int:
    """Run in a process that is killed after `step` was done `count` more times; its exit status."""
    ended = subprocess.run(
        [sys.executable, "-c", _DRIVER, verb, step, str(count), *arguments],
        env=_process_environment(environment),
        check=False,
        capture_output=True,
        timeout=240,
    )
    print(ended.stderr.decode())
    return ended.returncode


def in_process(environment: Mapping[str, str], verb: str, *arguments: str) -> tuple[int, str]:
    """Exit status and stderr of `verb` in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-c", _DRIVER, verb, "", "0", *arguments],
        env=_process_environment(environment),
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return ended.returncode, ended.stderr


def kill(environment: Mapping[str, str], verb: str, step: str, count: int, *arguments: str) -> None:
    """As `killed`, for a kill that must happen."""
    status = killed(environment, verb, step, count, *arguments)
    if status != KILLED:
        raise AssertionError(f"{verb} ended with {status} and not by its fault after {step}")


def killed_task(*_: object) -> None:
    """In place of `uic.bulk.pool.fold_task`: the kernel kills the process for memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def held_task(job: Any, work: str, task: Any) -> None:
    """In place of `uic.bulk.pool.fold_task`: one that takes hours and has written half a file."""
    with Folder(work).below(STATES).writing(states_file(task.partitions[0])) as (file, _):
        file.write(b"half")
        Event().wait()


@contextmanager
def held_backfill(environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ctr backfill` in a process, with tasks as `held_task`; its processes are killed at the end."""
    command = [sys.executable, "-c", _HELD, str(Path(__file__).parents[1]), "backfill", *arguments]
    own = _process_environment(environment)
    with subprocess.Popen(command, env=own, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # and its processes end with it


def _process_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, with the settings of `environment` alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("UIC_")}
    return inherited | {name: value for name, value in environment.items() if name.startswith("UIC_")}
