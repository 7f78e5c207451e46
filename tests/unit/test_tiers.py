"""The tiers are what CONTRIBUTING.md says: a test without the marker `torch` needs no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = """
import importlib.util, sys
import pytest
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.startswith("torch") else found(name, package)
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_no_test_without_the_marker_imports_torch_when_collected() -> None:
    chosen = ["-m", "not torch", "tests/unit", "tests/contract", "tests/parity"]
    command = [sys.executable, "-c", WITHOUT_TORCH, "--collect-only", "--quiet", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
