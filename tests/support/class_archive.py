"""The classes of Apache Kafka in a file that a JVM maps: a broker of the tests starts with half the CPU time.

Java calls it a dynamic archive of class data sharing. A JVM that finds it made by another Java, or of other jars, goes
without.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

KEPT = Path(__file__).parents[2] / ".pytest_cache" / "kafka-classes"


def java_options(script: Path) -> str:
    """Options for the Java of the Kafka that `script` starts; the first call makes the archive, in about ten seconds.

    Empty where the script has no jars in `libs/` next to it, because then it may start anything.
    """
    libs = script.resolve().parent / "libs"
    if not libs.is_dir():
        return ""
    known = sha256(str(libs).encode())
    for jar in sorted(libs.iterdir()):
        known.update(f"{jar.name} {jar.stat().st_size} {jar.stat().st_mtime_ns}".encode())
    archive = KEPT / f"{known.hexdigest()[:16]}.jsa"
    KEPT.mkdir(parents=True, exist_ok=True)
    with archive.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            _make(script, archive)
    return f"-XX:+IgnoreUnrecognizedVMOptions -Xshare:auto -XX:SharedArchiveFile={archive}"


def _make(script: Path, archive: Path) -> None:
    """What a broker has loaded when it ends in good order."""
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        made = Path(folder) / "classes.jsa"
        told = {**os.environ, "JAVA_TOOL_OPTIONS": f"-XX:+IgnoreUnrecognizedVMOptions -XX:ArchiveClassesAtExit={made}"}

        def broker(verb: str) -> None:
            command = [str(script), verb, "--data", f"{folder}/cluster"]
            subprocess.run(command, env=told, capture_output=True, timeout=120, check=True)

        broker("start")
        try:
            broker("stop")
        except BaseException:
            broker("kill")
            raise
        made.replace(archive)
