"""RTP under locust, for people who want to click: `locust -f loadtest/locustfile.py --host http://127.0.0.1:8000`.

locust waits for each answer before a user asks again, so it shows throughput and errors; for latencies under a given
rate use `loadtest.open_loop`. The population is set by LOADTEST_* (see `loadtest.population`).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from locust import FastHttpUser, constant_throughput, task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from loadtest.population import Population

BODIES = itertools.cycle(body.decode() for body in Population.from_environment().bodies(1000))


class AdServer(FastHttpUser):
    """Asks for the scores of 100 candidates, 10 times a second."""

    wait_time = constant_throughput(10)

    @task
    def predict(self) -> None:
        """One request; an answer without the user's state counts as a failure that says so."""
        headers = {"content-type": "application/json"}
        with self.client.post("/predict", data=next(BODIES), headers=headers, catch_response=True) as response:
            if response.status_code == 200 and response.json()["state"]["status"] == "unavailable":
                response.failure("state unavailable")
