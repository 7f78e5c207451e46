"""When the certificates expire with which a process connects to its servers. They are renewed in place, so their files
are read again and again, on a thread of their own: a mount that hangs stops nothing but that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from access.certificate import validity

EVERY_S: Final = 60.0
"""Between two looks."""


class ClientCertificates:
    """Tells of each file when its certificate ceases to be valid. One that cannot be read says nothing new: connections
    fail then, which is told where they are made."""

    def __init__(self, files: Mapping[str, Path | str | None], tell: Callable[[str, float], None]) -> None:
        """
        Args:
            files: by server, the PEM file of our certificate there; None for a server that asks for none.
            tell:  called with the server and the end (Unix time), on the thread of `watch`.
        """
        self._files = {server: Path(file) for server, file in files.items() if file is not None}
        self._tell = tell
        self._ended = threading.Event()

    def look(self) -> None:
        """Read the files, and tell."""
        for server, file in self._files.items():
            try:
                ends = validity(file.read_bytes()).ends
            except (OSError, ValueError):
                continue
            self._tell(server, ends)

    def watch(self, every_s: float = EVERY_S) -> None:
        """Look now and every `every_s` seconds until `close`, on a thread of its own, if there are files."""

        def run() -> None:
            self.look()
            while not self._ended.wait(every_s):
                self.look()

        if self._files:
            threading.Thread(target=run, name="client certificates", daemon=True).start()

    def close(self) -> None:
        """Stop looking. A look that hangs is left to end with the process."""
        self._ended.set()
