"""What this process serves: releases, and which of them a user is answered by. A change is one assignment.

Progress belongs to a namespace and not to a release: several releases may read the same states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from mimn.release import SERVING, Buckets, bucket_of, table
from mimn.state import Keys, namespace
from rtp.core.fields import NONE, OfOthers
from rtp.core.fold_progress import FoldProgress
from rtp.core.ports import Model


@dataclass(slots=True, eq=False)
class Namespace:
    """Where states are stored, and how far they are folded as last read."""

    keys: Keys
    progress: FoldProgress | None = None
    """None until the namespace's meta was read for the first time: without N the key of a user's state is unknown."""


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """A model, and the namespace that it reads."""

    model: Model
    namespace: Namespace
    bundle: str = field(init=False)
    """`<name>/<version>`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundle", f"{self.model.name}/{self.model.version}")

    @classmethod
    def of(cls, model: Model, *, prefix: str, generation: int, known: Iterable[Namespace] = ()) -> Release:
        """`model` with the namespace that follows from its fingerprint: one of `known`, or one that is not read yet."""
        keys = Keys(namespace(model.fingerprint.hex(), generation), prefix)
        return cls(model, next((one for one in known if one.keys == keys), Namespace(keys)))

    @property
    def keys(self) -> Keys:
        """Where its states are."""
        return self.namespace.keys

    @property
    def progress(self) -> FoldProgress | None:
        """How far its states are folded."""
        return self.namespace.progress


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Some users, and the release that they are answered by, or that scores their requests in the background."""

    name: str
    release: Release
    buckets: Buckets = ()
    """Empty for the arm that has the rest."""
    of_others: OfOthers = NONE
    """What other releases read of requests, and this one does not."""


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Every arm and shadow at one moment. A request looks at it once, and keeps what it found."""

    arms: tuple[Arm, ...]
    """The first has every user whom no other has."""
    shadows: tuple[Arm, ...] = ()
    salt: bytes = b""
    _arm_of: bytes = field(init=False)
    _shadow_of: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_arm_of", table(arm.buckets for arm in self.arms[1:]))
        object.__setattr__(self, "_shadow_of", self._compared(table(arm.buckets for arm in self.shadows)))

    def _compared(self, shadow_of: bytes) -> bytes:
        """`shadow_of` without the users whom the shadow's own release answers: to score their requests again would
        cost as much, and say of any release that it changes nothing."""
        if not self.shadows:
            return shadow_of
        return bytes(
            shadow if shadow and self.shadows[shadow - 1].release is not self.arms[arm].release else 0
            for arm, shadow in zip(self._arm_of, shadow_of, strict=True)
        )

    def route(self, user_id: str) -> tuple[Arm, Arm | None]:
        """The arm that answers a user, and the shadow that scores the request too, which is of another release."""
        if len(self.arms) == 1 and not self.shadows:
            return self.arms[0], None
        bucket = bucket_of(self.salt, user_id)
        shadow = self._shadow_of[bucket]
        return self.arms[self._arm_of[bucket]], self.shadows[shadow - 1] if shadow else None


class InService:
    """The one place that says what is served. Read by every request, written by the progress watcher, by a reload and
    by the rollout's follower, all in the event loop's thread."""

    def __init__(self, release: Release) -> None:
        self.traffic = Traffic((Arm(SERVING, release),))
        self.standby: tuple[Release, ...] = ()
        """Loaded and not asked: what may have to serve within a second."""

    @property
    def current(self) -> Release:
        """The release of whoever has no other arm."""
        return self.traffic.arms[0].release

    @property
    def answering(self) -> tuple[Release, ...]:
        """The releases that answer users."""
        return tuple(dict.fromkeys(arm.release for arm in self.traffic.arms))

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """Those of every loaded release, each once, what serves first."""
        loaded = [arm.release for arm in (*self.traffic.arms, *self.traffic.shadows)]
        return tuple(dict.fromkeys(release.namespace for release in (*loaded, *self.standby)))

    def replace(self, release: Release) -> None:
        """Answer everybody by this from now on; requests that began before finish with the release they took."""
        self.assign(Traffic((Arm(SERVING, release),)))

    def assign(self, traffic: Traffic, standby: Sequence[Release] = ()) -> None:
        """Serve this from now on; requests that began before finish as they began."""
        self.traffic, self.standby = traffic, tuple(standby)

    def learn(self, keys: Keys, progress: FoldProgress) -> None:
        """Newer progress of the namespace of `keys`; dropped if no loaded release reads it by now."""
        for one in self.namespaces:
            if one.keys == keys:
                one.progress = progress
