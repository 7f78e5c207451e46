"""What fields add, on made-up data: rows with fields against the table's without, heads against the paper's head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mimn.table import fields
from mimn.table import run as table
from support import datasets

pytestmark = pytest.mark.torch

POOLING = 'variant = "pooling"\nmemory_induction = false\nutilization = false\nembedding_dim = 8\n\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of the floors and of sum pooling without fields, and a plan with fields beside them."""
    described = datasets.made_up_with_fields(tmp_path)
    text = datasets.SMOKE.read_text("utf-8").replace("models/datasets", str(tmp_path))
    head, _, rest = text.partition("[model]\n")
    (tmp_path / "synthetic_pooling.toml").write_text(f"{head}[model]\n{POOLING}{rest[rest.index('[windows]') :]}")
    common = f'configs = "{tmp_path}"\nruns = "{tmp_path}/runs"\ntraining = {{ epochs = 1, compile = false }}\n'
    stage = '[[stages]]\ndataset = "synthetic"\nfolds = [0]\nlengths = [20]\n'
    (tmp_path / "table.toml").write_text(
        f'{common}records = "{tmp_path}/records"\n{stage}rows = ["floors", "pooling"]\n'
    )
    (tmp_path / "fields.toml").write_text(
        f'{common}records = "{tmp_path}/records/fields"\n{stage}description = "{described}"\nrows = ["pooling", "fm"]\n'
        '[datasets.synthetic]\ntitle = "Made up"\n'
        '[variations.fm]\nconfig = "pooling"\nname = "FM"\nmodel = { head = "fm" }\n'
    )
    return tmp_path


def test_rows_with_fields_are_compared_with_the_same_rows_without(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--plan", str(folder / "fields.toml"), "--without", str(folder / "records")]
    assert fields.main(command) == 1
    assert "synthetic has no record 'floors': run `python -m mimn.table` first" in capsys.readouterr().err
    assert table.main(["--plan", str(folder / "table.toml")]) == 0
    assert fields.main(command) == 0
    written = json.loads((folder / "records/fields/fields.json").read_text())
    assert [(line["row"], line["against"]) for line in written] == [
        ("fm with fields", "pooling with fields"),
        ("pooling with fields", "pooling"),
    ]
    page = (folder / "records/fields/fields.md").read_text()
    assert page.startswith("# Made up\n")
    assert page.index("## What fields add") < page.index("## Heads over the same state and fields")
    assert "Not run" not in page
    stamp = (folder / "records/fields/synthetic/fm/metrics.json").stat().st_mtime_ns
    assert fields.main(command) == 0
    assert (folder / "records/fields/synthetic/fm/metrics.json").stat().st_mtime_ns == stamp, "nothing is run again"
