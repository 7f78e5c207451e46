"""What wrk writes is read, failures included, and nothing else is taken for it."""

from __future__ import annotations

from loadtest.wrk import Wrk, read

SAID = """Running 3s test @ http://127.0.0.1:47989/predict
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.82ms    3.13ms  36.47ms   89.27%
    Req/Sec     1.61k   297.24     1.92k    80.00%
  Latency Distribution
     50%  840.00us
     75%    1.75ms
     90%    4.53ms
     99%    1.06s
  4814 requests in 3.01s, 418.40KB read
Requests/sec:   1598.67
Transfer/sec:    138.95KB
"""


def test_what_wrk_writes_is_read() -> None:
    assert read(SAID) == Wrk(p50_ms=0.84, p99_ms=1060.0, per_s=1598.67, failed=0)


def test_its_failures_count() -> None:
    said = SAID.replace(
        "Requests/sec",
        "  Socket errors: connect 0, read 1, write 0, timeout 2\n  Non-2xx or 3xx responses: 4\nRequests/sec",
    )
    assert read(said).failed == 7
