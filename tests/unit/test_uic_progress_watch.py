"""A process whose threads stand still ends, and one whose threads wait as long as they may does not."""

from __future__ import annotations

import subprocess
import sys

from uic.progress_watch import FAILED, PATIENCE_S, ProgressWatch


def looked(watch: ProgressWatch, times: int) -> None:
    for _ in range(times):
        watch.look()


def test_a_thread_that_stands_still_ends_the_process() -> None:
    ended: list[int] = []
    watch = ProgressWatch(ended.append)
    looked(watch, 2 * PATIENCE_S)
    watch.expect("fold")
    looked(watch, PATIENCE_S)
    assert not ended, "its time is not over"
    watch.look()
    assert ended == [FAILED]


def test_each_sign_begins_the_time_again() -> None:
    ended: list[int] = []
    watch = ProgressWatch(ended.append)
    for _ in range(5):
        watch.expect("fold", 10)
        looked(watch, 10)
    watch.rests("fold")
    looked(watch, 100)
    assert not ended


def test_the_process_really_ends_and_says_of_what() -> None:
    script = (
        "from uic.logs import configure; from uic.progress_watch import ProgressWatch; "
        "configure('info', 'json'); watch = ProgressWatch(); watch.start(); watch.expect('the fold', 0); watch.join(60)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == FAILED
    assert "no progress" in done.stderr
