"""What this process serves now: one frozen value, replaced whole. Reloading is one assignment of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mimn.state import Keys, namespace
from rtp.core.ports import Model
from rtp.core.standing import Standing


@dataclass(frozen=True, slots=True)
class Serving:
    """A model, where its states lie, and how far they are folded."""

    model: Model
    keys: Keys
    standing: Standing | None
    """None until the namespace's meta was read for the first time: without N nobody knows where a user's state lies."""

    @classmethod
    def of(cls, model: Model, *, prefix: str, generation: int) -> Serving:
        """`model` with the namespace that follows from its fingerprint, not yet looked at."""
        return cls(model, Keys(namespace(model.fingerprint.hex(), generation), prefix), None)


class Holder:
    """The one place that says what is served. Read by every request, written by the watcher and by a reload, all in the
    event loop's thread."""

    def __init__(self, serving: Serving) -> None:
        self.current = serving

    def take_up(self, serving: Serving) -> None:
        """Serve this from now on; requests that began before finish with what they took."""
        self.current = serving

    def learn(self, keys: Keys, standing: Standing) -> None:
        """A newer standing of the namespace of `keys`; dropped if another one is served by now."""
        if self.current.keys == keys:
            self.current = replace(self.current, standing=standing)
