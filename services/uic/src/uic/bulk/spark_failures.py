"""What a fold on Spark that failed says: one line with the way out, of the many that Spark gives.

Spark's errors are texts: of a task, its Python traceback inside the trace of Java. Nothing here needs Spark.
"""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 300
"""Characters of an unknown error that are shown."""
GOES_ON: Final = "run this again; it goes on behind the partitions that are folded"
_OURS: Final = re.compile(r"^(?:\w+\.)*uic\.bulk\.errors\.\w+: (.+)$", re.MULTILINE)
"""What a task refused, as the last line of a Python traceback."""
_RAISED: Final = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)*(\S.*)")
"""The last line of a Python traceback: what a task raised."""
_CAUSED: Final = re.compile(r"^Caused by: (.+)$", re.MULTILINE)
"""The last one is the root cause."""
_THROWN: Final = re.compile(r"^: (.+)$", re.MULTILINE)
"""What Java threw; the line before only says which call of ours that ended."""
_NO_JAVA: Final = ("JAVA_GATEWAY_EXITED", "Java gateway process exited", "UnsupportedClassVersionError")
_KILLED: Final = (
    "Python worker exited unexpectedly",
    "Python worker failed to connect back",
    "ExecutorLostFailure",
    "OutOfMemoryError",
    "Container killed",
)
_DAEMON: Final = re.compile(
    r"reading the port number from pyspark\.daemon's stdout(?: and terminated with code: (\d+))?"
)
"""What starts Python on an executor has ended: killed, where the code is of a signal or Spark knows none."""
_KILLED_CODES: Final = (None, "137", "143")
_NO_DRIVER: Final = ("Answer from Java side is empty", "An error occurred while trying to connect to the Java server")


def fold_failed(error: BaseException, text: str | None) -> str:
    """Why the fold failed, and what to do.

    Args:
        error: Spark's.
        text: what it says; None if only Java knows that, and does not answer.
    """
    if text is None or isinstance(error, ConnectionError) or any(mark in text for mark in _NO_DRIVER):
        return f"Spark's own process ended: see what it wrote above, and {GOES_ON}"
    if refused := _OURS.search(text):
        return refused[1].strip()
    if any(mark in text for mark in _NO_JAVA):
        return "Spark did not start, because Java did not: set JAVA_HOME to Java 17 or newer, or put it in the PATH"
    daemon = _DAEMON.search(text)
    if daemon and daemon[1] not in _KILLED_CODES:
        return f"Python could not start on an executor (code {daemon[1]}): see what that wrote, and {GOES_ON}"
    if daemon or any(mark in text for mark in _KILLED):
        return (
            "a process of Spark that folded was killed, perhaps for lack of memory: lower --memory-mib, or give the "
            f"executors more, and {GOES_ON}"
        )
    found = next(filter(None, (pattern.findall(text) for pattern in (_RAISED, _CAUSED, _THROWN))), None)
    said = found[-1] if found else next((line for line in text.splitlines() if line.strip()), "")
    return f"Spark's job failed ({type(error).__name__}: {said.strip()[:LONGEST]}): correct that, and {GOES_ON}"
