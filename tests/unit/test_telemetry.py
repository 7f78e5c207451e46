"""The libraries report nothing about a user of this project to anyone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

USE = """
import {module}
import onnxruntime
from pathlib import Path
from mimn.bundle import load_bundle
from mimn.bundle.graph import open_graph
bundle = load_bundle(Path("models/bundles/online-retail/1"))
open_graph(bundle, bundle.manifest.head)
"""


@pytest.mark.parametrize("module", ["mimn.bundle.graph", "rtp.runtime", "uic.app"])
def test_onnxruntime_sends_nothing_and_keeps_no_device_id(module: str, tmp_path: Path) -> None:
    hidden = ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    told = {name: value for name, value in os.environ.items() if name not in hidden} | {"HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", USE.format(module=module)], env=told, cwd=root, check=True, timeout=120)
    assert not [path for path in tmp_path.rglob("*") if "microsoft" in path.name.lower()]
