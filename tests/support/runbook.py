"""Plays a runbook: the commands between its fences of `sh`, in order, as one shell script.

What a runbook leaves to the reader's own tools (`start_workers` and the like) is a function of the test, which the
script calls and waits for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Tool = Callable[[Mapping[str, str], list[str]], None]
"""What a command of the reader's does, given the script's environment and the command's arguments."""

_PRELUDE = """
set -euo pipefail
ctr() { "$PYTHON" -m ctr_cli "$@"; }
uic() { "$PYTHON" -m uic "$@"; }
calls=0
ask() {
    calls=$((calls + 1))
    env -0 > "$CALLS/$calls.env"
    printf '%s\\n' "$@" > "$CALLS/$calls.words"
    touch "$CALLS/$calls.asked"
    until [ -e "$CALLS/$calls.done" ]; do sleep 0.02; done
}
"""


def commands(name: str) -> str:
    """The script in a runbook."""
    text = (ROOT / "docs" / "runbooks" / name).read_text()
    return "\n".join(textwrap.dedent(found[1]) for found in re.finditer(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S))


def play(name: str, folder: Path, environment: Mapping[str, str], tools: Mapping[str, Tool]) -> str:
    """Run the script; its output. It must succeed, and call every tool."""
    calls = folder / "calls"
    calls.mkdir()
    functions = "".join(f'{tool}() {{ ask {tool} "$@"; }}\n' for tool in tools)
    script = _PRELUDE + functions + commands(name)
    told = dict(environment) | {"PYTHON": sys.executable, "CALLS": str(calls)}
    said = folder / "said.txt"
    called = set()
    with said.open("w") as out:
        shell = subprocess.Popen(["bash", "-c", script], env=told, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        try:
            while shell.poll() is None:
                for asked in sorted(calls.glob("*.asked")):
                    words = asked.with_suffix(".words").read_text().splitlines()
                    lines = asked.with_suffix(".env").read_text().split("\0")
                    asked.unlink()
                    called.add(words[0])
                    tools[words[0]](dict(line.split("=", 1) for line in lines if "=" in line), words[1:])
                    asked.with_suffix(".done").touch()
                time.sleep(0.02)
        finally:
            shell.kill()
            shell.wait()
    assert shell.returncode == 0, said.read_text()
    assert called == set(tools)
    return said.read_text()
