"""`make openapi`: schemathesis against a real RTP on a real Valkey, both doors, by what their OpenAPI documents say.

Every check that schemathesis has must hold of every answer: the status is documented, the body fits its schema, no 5xx
but the documented ones, what the schema forbids is refused and what it allows is not, no route is open without the key
that it documents. Seeded, and bounded in cases.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

import redis

from access import Scope, make_key
from fuzz.openapi_hooks import ENOUGH_MS
from fuzz.targets import BUNDLE, TINY
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from support.stored import Stored

PREDICT_PATHS: Final = 2
"""Among which the examples are shared; the other routes take nothing but their path."""
ADMIN_EXAMPLES: Final = 50
TIMEOUT_S: Final = 3600.0
HOOKS: Final = Path(__file__).with_name("openapi_hooks.py")
SETTINGS: Final = f"""
hooks = "{HOOKS}"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 503, 504]
"""
"""503 and 504 are documented; 500 is documented too, and must not happen."""


@contextmanager
def running(folder: Path) -> Iterator[tuple[RtpProcess, str]]:
    """An RTP with some users, and a key that may do everything."""
    secret, key = make_key(set(Scope), "schemathesis")
    keys = folder / "keys"
    keys.write_text(key.line())
    stored = Stored(BUNDLE)
    for user in ("0", "a", "u"):
        stored.state(user, events=7)
    with Valkey(folder / "valkey", appendfsync="off") as server:
        with redis.Redis.from_url(server.address, protocol=2) as client:
            client.mset(cast("dict[str | bytes, bytes]", stored.values))
        told = {
            "RTP_ACCESS__KEYS_FILE": str(keys),
            "RTP_STATE__STALE_AFTER_S": "86400",
            "RTP_DEADLINE__MAX_MS": ENOUGH_MS,
        }
        with RtpProcess("rtp", folder / "rtp", Surroundings("", server.address, TINY, rtp=told)) as process:
            yield process, secret


def ask(url: str, secret: str, examples: int, seed: int, folder: Path) -> tuple[int, str]:
    """Run schemathesis on one door, with so many examples an operation: how many requests that made, and what did not
    hold ("" if all did)."""
    (settings := folder / "schemathesis.toml").write_text(SETTINGS)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings), "run", f"{url}/openapi.json",
        "--checks", "all", "--header", f"Authorization:Bearer {secret}", "--seed", str(seed), "--no-color",
        "--max-examples", str(examples), "--continue-on-failure", "--request-timeout", "20",
        "--generation-database", "none",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=TIMEOUT_S)
    made = re.search(r"(\d+) generated", done.stdout)
    wrong = "" if made and done.returncode == 0 else done.stdout[-6000:] + done.stderr[-2000:]
    return int(made[1]) if made else 0, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask both doors, and say what did not hold: 0 if all did, else 1."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.openapi", description="schemathesis over RTP's OpenAPI.")
    parser.add_argument("--cases", type=int, default=20_000, help="at least, together (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="openapi-") as folder, running(Path(folder)) as (rtp, secret):
        public, wrong = ask(rtp.address, secret, max(1, told.cases // PREDICT_PATHS), told.seed, Path(folder))
        admin, wrong_there = ask(rtp.admin_url, secret, ADMIN_EXAMPLES, told.seed, Path(folder))
        log = rtp.log.read_text()
    if "Traceback" in log:
        wrong += f"RTP's log has a traceback:\n{log[-3000:]}"
    if public + admin < told.cases:
        wrong += f"only {public + admin} cases were made"
    print(f"{public} cases on the public door, {admin} on the admin door")
    print(wrong + wrong_there or "every check held")
    return 1 if wrong or wrong_there else 0


if __name__ == "__main__":
    sys.exit(main())
