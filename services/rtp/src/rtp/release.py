"""What this process serves: a release, one frozen value that is replaced whole. A reload is one assignment of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mimn.state import Keys, namespace
from rtp.core.fold_progress import FoldProgress
from rtp.core.ports import Model


@dataclass(frozen=True, slots=True)
class Release:
    """A model, where its states are stored, and how far they are folded."""

    model: Model
    keys: Keys
    progress: FoldProgress | None
    """None until the namespace's meta was read for the first time: without N the key of a user's state is unknown."""

    @classmethod
    def of(cls, model: Model, *, prefix: str, generation: int) -> Release:
        """`model` with the namespace that follows from its fingerprint, not read yet."""
        return cls(model, Keys(namespace(model.fingerprint.hex(), generation), prefix), None)


class InService:
    """The one place that says which release is served. Read by every request, written by the progress watcher and by a
    reload, all in the event loop's thread."""

    def __init__(self, release: Release) -> None:
        self.current = release

    def replace(self, release: Release) -> None:
        """Serve this from now on; requests that began before finish with the release they took."""
        self.current = release

    def learn(self, keys: Keys, progress: FoldProgress) -> None:
        """Newer progress of the namespace of `keys`; dropped if another one is served by now."""
        if self.current.keys == keys:
            self.current = replace(self.current, progress=progress)
