"""What a serving process keeps out of its memory, and that everything else finds what it imports."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from process.memory import give_back, left_out, one_arena

TINY = Path(__file__).resolve().parent.parent / "fixtures/bundle_tiny/tiny/1"
STARTS = """
import sys
from {service}.__main__ import NEVER_RUN, main
status = main({arguments})
print(status, *(name for name in (*NEVER_RUN, "click", "cramjam") if name in sys.modules))
"""


def run(program: str, **variables: str) -> str:
    """What `program` writes, in an interpreter of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RTP_", "UIC_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_module_is_left_out_for_a_while_and_found_afterwards() -> None:
    sys.modules.pop("colorsys", None)
    with left_out("colorsys"), pytest.raises(ModuleNotFoundError, match="colorsys"):
        importlib.import_module("colorsys")
    assert importlib.import_module("colorsys").rgb_to_hsv


def test_a_package_is_opened_when_a_name_of_it_is_asked_for() -> None:
    said = run(
        "import sys; from process.memory import opened_late; opened_late('uvicorn', Config='uvicorn.config')\n"
        "import uvicorn.lifespan.off; print('click' in sys.modules)\n"
        "import uvicorn; print('click' in sys.modules, callable(uvicorn.run), 'click' in sys.modules)"
    )
    assert said.split() == ["False", "False", "True", "True"]


def test_rtp_starts_without_what_it_never_runs(tmp_path: Path) -> None:
    # It is refused at the very end of its start, when every route exists.
    said = run(
        STARTS.format(service="rtp", arguments="[]"),
        RTP_BUNDLE__PATH=str(TINY),
        RTP_HTTP__PORT="0",
        RTP_ADMIN__PORT="0",
        RTP_HTTP__TLS_CERT_FILE=str(tmp_path / "absent"),
    )
    assert said.split() == ["2"]


def test_uic_starts_without_what_it_never_runs(tmp_path: Path) -> None:
    said = run(STARTS.format(service="uic", arguments="['serve']"), UIC_BUNDLE__PATH=str(tmp_path / "absent"))
    assert said.split() == ["2"]


def test_the_allocator_is_told_on_every_system() -> None:
    one_arena()
    give_back()
    assert importlib.import_module("colorsys").rgb_to_hsv  # folders are listed again
