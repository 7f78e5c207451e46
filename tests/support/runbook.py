"""Plays a runbook: the commands between its fences of `sh`, in order, as one shell script.

What a runbook leaves to the reader's own tools (`start_workers` and the like) is a function of the test, which the
script calls and waits for.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Tool = Callable[[Mapping[str, str], list[str]], None]
"""What a command of the reader's does, given the script's environment and the command's arguments."""

WITHIN_S = 300.0
"""A whole runbook, tools included."""

_PRELUDE = """
set -euo pipefail
ctr() { "$PYTHON" -m ctr_cli "$@"; }
ask() {
    env -0 > "$CALL/environment"
    printf '%s\\n' "$@" > "$CALL/words"
    printf . >&"$ASK"
    read -r -N 1 -u "$ANSWER"
}
"""


def commands(name: str) -> str:
    """The script in a runbook."""
    text = (ROOT / "docs" / "runbooks" / name).read_text()
    return "\n".join(textwrap.dedent(found[1]) for found in re.finditer(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S))


def play(
    name: str,
    folder: Path,
    environment: Mapping[str, str],
    tools: Mapping[str, Tool],
    more: Mapping[str, str] | None = None,
) -> str:
    """Run the script; its output. It must succeed within `WITHIN_S`, and call every tool. `more`: options by the
    beginning of the commands that get them, for waits that a test shortens."""
    call = folder / "call"
    call.mkdir()
    functions = "".join(f'{tool}() {{ ask {tool} "$@"; }}\n' for tool in tools)
    script = _PRELUDE + functions + commands(name)
    for begin, options in (more or {}).items():
        script, count = re.subn(rf"^( *{re.escape(begin)}.*)$", rf"\1 {options}", script, flags=re.M)
        assert count, f"{name} has no {begin}"
    said = folder / "said.txt"
    called = set()
    until = time.monotonic() + WITHIN_S
    (asked, ask), (answer, answered) = os.pipe(), os.pipe()
    told = {"PYTHON": sys.executable, "CALL": str(call), "ASK": str(ask), "ANSWER": str(answer)}
    with said.open("w") as out:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            env=dict(environment) | told,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(ask, answer),
        )
        os.close(ask)
        os.close(answer)
        try:
            while True:
                ready, _, _ = select.select([asked], [], [], max(0.0, until - time.monotonic()))
                assert ready, f"{name} has not ended after {WITHIN_S:g} s:\n{said.read_text()}"
                if not os.read(asked, 1):  # the shell has ended
                    break
                words = (call / "words").read_text().splitlines()
                lines = (call / "environment").read_text().split("\0")
                called.add(words[0])
                tools[words[0]](dict(line.split("=", 1) for line in lines if "=" in line), words[1:])
                os.write(answered, b".")
            shell.wait(max(0.0, until - time.monotonic()))
        finally:
            os.close(asked)
            os.close(answered)
            shell.kill()
            shell.wait()
    assert shell.returncode == 0, said.read_text()
    assert called == set(tools)
    return said.read_text()
