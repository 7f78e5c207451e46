"""How a command that trains ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mimn import train as drawn
from mimn.impressions import __main__ as labelled

pytestmark = pytest.mark.torch

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("module", "verb", "config"),
    [(drawn, [], "recipe.toml"), (labelled, ["train"], "impressions/criteo.toml")],
    ids=["train", "impressions"],
)
def test_ctrl_c_of_a_training_says_how_to_resume(
    module: ModuleType,
    verb: list[str],
    config: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    path = str(ROOT / "models/configs" / config)
    arguments = [*verb, "--config", path, "--description", "dataset.toml", "--output", str(tmp_path / "run")]
    assert module.main(arguments) == 130
    assert capsys.readouterr() == ("", f"interrupted; continue with --resume --output {tmp_path / 'run'}\n")


def test_ctrl_c_of_a_table_says_that_the_same_command_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(labelled, "read_plan", lambda _: None)
    monkeypatch.setattr(labelled, "make", interrupted)
    assert labelled.main(["table", "--plan", "plan.toml"]) == 130
    assert capsys.readouterr() == ("", "interrupted; the same command continues from here\n")


PROGRAMS = [
    ".".join(path.relative_to(ROOT / "models/src").with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "models/src/mimn").rglob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text("utf-8")
]
"""What `python -m` runs."""


def interrupted_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, where Ctrl-C comes while numpy is imported."""
    (folder / "numpy.py").write_text(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.raise_signal(signal.SIGINT)\n"
    )
    path = os.pathsep.join([str(folder), str(ROOT / "models/src")])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_during_the_imports_of_a_command_is_130_without_a_traceback(program: str, tmp_path: Path) -> None:
    done = interrupted_in(tmp_path, "-m", program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_other_errors_of_a_command_keep_their_traceback(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise ZeroDivisionError\n")
    done = interrupted_in(tmp_path, "-c", "import runpy, sys; sys.argv[0] = '-m'; import mimn; import msgspec")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError")
