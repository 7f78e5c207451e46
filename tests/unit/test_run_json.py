"""JSON files of a run folder that several commands update at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mimn import run

UPDATES = """
import sys
from pathlib import Path
from mimn.run import update_json

for i in range(50):
    update_json(Path(sys.argv[1]), lambda record: record.update({f"{sys.argv[2]}-{i}": i}))
"""


def test_processes_that_update_a_file_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    run.write_json(path, {"name": "x"})
    each = [subprocess.Popen([sys.executable, "-c", UPDATES, str(path), str(one)]) for one in range(4)]
    assert [one.wait(60) for one in each] == [0] * 4
    expected = {f"{one}-{i}": i for one in range(4) for i in range(50)}
    assert json.loads(path.read_text()) == {"name": "x"} | expected


def test_an_update_that_fails_leaves_the_file_and_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    run.write_json(path, {"name": "x"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        run.update_json(path, lambda record: record.update(new=object()))
    assert json.loads(path.read_text()) == {"name": "x"}
    run.update_json(path, lambda record: record.update(new=1))
    assert json.loads(path.read_text()) == {"name": "x", "new": 1}
