"""A fold on Spark that fails ends in one line with the way out, without Spark here: its errors are texts."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import uic.bulk
from uic.bulk.errors import BulkRefused
from uic.bulk.spark_failures import fold_failed


class SparkError(Exception):
    """As `PySparkException`."""


class JavaError(Exception):
    """As an error that Java gave."""


class Unreachable(JavaError):
    """One whose text only Java has, which has ended."""

    def __str__(self) -> str:
        raise ConnectionRefusedError(111, "Connection refused")


TRACE = (
    "[PYTHON_EXCEPTION] An exception was thrown from the Python worker: Traceback (most recent call last):\n"
    '  File "/app/uic/bulk/spark.py", line 57, in fold\n    written = []\n          ^^\n{}\n SQLSTATE: 38000\n'
)
KILLED = (
    "An error occurred while calling o71.collectToPython.\n: org.apache.spark.SparkException: Job aborted due to stage "
    "failure: Task 0 in stage 0.0 failed 1 times, most recent failure: Lost task 0.0 in stage 0.0 (TID 0): "
    "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed)\n\tat org.apache.spark.Task\n"
)
THROWN = "An error occurred while calling o44.collectToPython.\n: {}\n\tat org.apache.spark.Task\n"
CAUSED = THROWN.format("org.apache.spark.SparkException: Job aborted") + "Caused by: {}\n\tat java.base/java.io\n"
DAEMON_ENDED = (
    "org.apache.spark.SparkException: EOFException occurred while reading the port number from pyspark.daemon's stdout "
    "and terminated with code: {}."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (JavaError(KILLED), "--memory-mib"),
        (JavaError(CAUSED.format(DAEMON_ENDED.format(137))), "--memory-mib"),
        (JavaError(CAUSED.format(DAEMON_ENDED.format(1))), "code 1"),
        (
            JavaError(
                CAUSED.format("java.io.IOException: it is closed") + "Caused by: java.io.IOException: no route\n"
            ),
            "(JavaError: java.io.IOException: no route)",
        ),
        (
            JavaError(THROWN.format("org.apache.spark.SparkException: no class of that name")),
            "(JavaError: org.apache.spark.SparkException: no class of that name)",
        ),
        (SparkError(TRACE.format("uic.bulk.errors.BadArchive: partition 2 has a hole: 5")), "partition 2 has a hole"),
        (SparkError(TRACE.format("ModuleNotFoundError: No module named 'uic'")), "No module named 'uic'"),
        (SparkError("[JAVA_GATEWAY_EXITED] Java gateway process exited"), "Java did not"),
        (PermissionError(13, "No permission", "/opt/bin/spark-submit"), "No permission: '/opt/bin/spark-submit'"),
        (SparkError("[MASTER_URL_INVALID] no such master\nand more"), "[MASTER_URL_INVALID] no such master)"),
        (JavaError("x" * 5000), f"({JavaError.__name__}: {'x' * 300})"),
    ],
)
def test_a_failed_job_is_one_line(error: Exception, said: str) -> None:
    told = fold_failed(error, str(error))
    assert said in told
    assert "\n" not in told
    assert len(told) < 500


class Session:
    """In place of Spark's session and of what builds it: the job fails, and so does stopping if Java is gone."""

    def __init__(self, fails: Exception, stop_fails: Exception | None) -> None:
        self.fails, self.stop_fails = fails, stop_fails

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self

    def collect(self) -> Any:
        """The job."""
        raise self.fails

    def stop(self) -> None:
        """The end of the session."""
        if self.stop_fails is not None:
            raise self.stop_fails


@pytest.mark.parametrize(
    ("fails", "stop_fails", "said"),
    [
        (JavaError(KILLED), None, "a process of Spark that folded was killed"),
        (Unreachable(), None, "Spark's own process ended"),
        (JavaError("Answer from Java side is empty"), ConnectionRefusedError(111, "x"), "Spark's own process ended"),
    ],
)
def test_an_error_of_spark_becomes_a_refusal(
    monkeypatch: pytest.MonkeyPatch, fails: Exception, stop_fails: Exception | None, said: str
) -> None:
    modules: dict[str, dict[str, Any]] = {
        "pyspark": {},
        "pyspark.errors": {"PySparkException": SparkError},
        "pyspark.sql": {"SparkSession": type("SparkSession", (), {"builder": Session(fails, stop_fails)})},
        "py4j": {},
        "py4j.protocol": {"Py4JError": JavaError},
    }
    for name, holds in modules.items():
        module = ModuleType(name)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "uic.bulk.spark", raising=False)
    monkeypatch.setattr(uic.bulk, "spark", None, raising=False)  # the import below sets it, too
    fold_on_spark = import_module("uic.bulk.spark").fold_on_spark
    try:
        with pytest.raises(BulkRefused, match=said):
            next(fold_on_spark(None, "work", []))
    finally:
        sys.modules.pop("uic.bulk.spark", None)
