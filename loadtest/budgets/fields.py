"""What do ten fields of a request under DeepFM cost a server next to the demo's request without any?"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loadtest.budgets import Figure, Sizes, budget
from loadtest.stacks import NotMeasured, predict_body, publish, running, server_cpu_in_turn
from localstack.stack import BUNDLE as DEMO

HEAD = Path(__file__).parents[1] / "fields_head"
"""The demo's state under DeepFM (`model.toml`), ten fields of the request and three of the item (`fields.json`)."""
REQUEST: dict[str, dict[str, Any]] = {
    "user": {"age": "3", "gender": "1", "city": "77", "income": 31000.5},
    "context": {
        "hour": 20,
        "weekday": 6,
        "device": "12",
        "page": "checkout",
        "tags": ["3", "7", "not known"],
        "battery": 55,
    },
}
LONG = 300
"""Events of the user in question."""


def export(folder: Path) -> Path:
    """A bundle of the demo's sizes with fields; untrained, which changes no cost.

    Raises:
        NotMeasured: it could not be exported, as where torch is not installed.
    """
    command = [sys.executable, "-m", "mimn.export", "--untrained", "--items", "3600", "--categories", "40"]
    command += ["--config", str(HEAD / "model.toml"), "--fields", str(HEAD / "fields.json")]
    command += ["--output", str(folder), "--name", "fields", "--version", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"no bundle with fields: {done.stderr[-300:]} (exporting one needs the extra `train`)")
    return folder / "fields" / "1"


@budget("a request of 10 fields under DeepFM over the demo's, server CPU", "x", at_most=1.5)
def request_fields(sizes: Sizes) -> Figure:
    """RTP's CPU time for a whole request with fields over one with the demo's bundle: two stacks on one store, in turn,
    100 candidates each."""
    with tempfile.TemporaryDirectory() as folder:
        made = export(Path(folder))
        with running(bundle=DEMO) as demo, running(bundle=made, redis_url=demo.addresses.redis_url) as fields:
            asked = []
            for stack, more in ((demo, {}), (fields, REQUEST)):
                publish(stack, [("reader", LONG)])
                asked.append((stack, json.dumps(json.loads(predict_body(stack, "reader")) | more).encode()))
            plain, with_fields = server_cpu_in_turn(asked, max(20, sizes.requests // 20), turns=20)
    ratios = [slow / quick for quick, slow in zip(plain, with_fields, strict=True)]
    spent = " over ".join(f"{statistics.median(costs) * 1e3:.3f}" for costs in (with_fields, plain))
    return Figure(statistics.median(ratios), f"{min(ratios):.2f} to {max(ratios):.2f}, {spent} ms")
