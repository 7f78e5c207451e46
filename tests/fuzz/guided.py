"""One target under libFuzzer: inputs that reach new lines of Python, ours or a library's, are kept and changed again.

A process of its own, because libFuzzer takes the process over and ends it (`python -m fuzz.guided TARGET …`). Code that
is not Python (msgspec, protobuf's parser, pydantic) is not seen from inside: there the seeds must do, and the
structure of `fuzz.mutation`, which half of the changes here come from too.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["access", "mimn", "rtp", "uic", "google.protobuf.json_format", "json"]):
    from fuzz.mutation import Mutator
    from fuzz.targets import TARGETS
    from fuzz.trial import MEASURE_MEMORY_EVERY, Failure, attempt

SUSPECT = "suspect-"
MEMORY_MB = 2048
"""That fuzzing may take, beside the peak of the process that started this one: libFuzzer judges by the peak, and Linux
hands it on to a child."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fuzz one target, and end the process: 0, or libFuzzer's status for a finding, which lies in the folder."""
    parser = argparse.ArgumentParser(prog="python -m fuzz.guided")
    parser.add_argument("target", choices=[target.name for target in TARGETS])
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True, help="inputs that were worth keeping, and findings")
    told = parser.parse_args(arguments)
    target = next(target for target in TARGETS if target.name == told.target)
    kept = told.folder / "inputs"
    kept.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate((*target.seeds, *target.corpus.values())):
        (kept / f"seed-{i}").write_bytes(seed)
    mutator = Mutator(target, told.seed)
    tried = 0

    def one(data: bytes) -> None:
        nonlocal tried
        tried += 1
        try:
            attempt(target, data, memory=tried % MEASURE_MEMORY_EVERY == 0)
        except Failure:  # instrumented code is slow: whoever called us tries it again without
            (told.folder / f"{SUSPECT}{tried}").write_bytes(data)

    def change(data: bytes, max_bytes: int, seed: int) -> bytes:
        if seed % 2:
            mutator.numbers = random.Random(seed)
            return mutator.mutated(data)[:max_bytes]
        return bytes(atheris.Mutate(data, len(data)))

    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    options = {"max_total_time": told.seconds, "max_len": target.max_bytes, "seed": told.seed, "timeout": 10,
               "rss_limit_mb": peak_mb + MEMORY_MB, "print_final_stats": 1, "verbosity": 0,
               "artifact_prefix": f"{told.folder}/"}  # fmt: skip
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *flags, str(kept)], one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
