"""The requests of a load: user ids, and bodies whose candidates are items of a bundle's vocabulary."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mimn.bundle import load_bundle

BUNDLE = Path("models/bundles/online-retail-ledger/2")
"""What `make up` and `make demo` serve (`localstack.stack`)."""


def measured_bundle(env: Mapping[str, str] = os.environ) -> Path:
    """What is measured unless an option says otherwise: the bundle that LOADTEST_BUNDLE names, else `BUNDLE`."""
    return Path(env.get("LOADTEST_BUNDLE") or BUNDLE)


@dataclass(frozen=True)
class Population:
    """A seeded stream of requests. The same population always gives the same bodies."""

    bundle: Path
    users: int = 1000
    pattern: str = "user-{}"
    """Format of a user id; `{}` is the user's number, from 0."""
    candidates: int = 100
    seed: int = 0

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Population:
        """The defaults, changed by LOADTEST_BUNDLE, _USERS, _USER_PATTERN, _CANDIDATES and _SEED.

        Raises:
            ValueError: a number is not one, or the pattern has no place for the number.
        """
        population = cls(
            bundle=measured_bundle(env),
            users=int(env.get("LOADTEST_USERS", cls.users)),
            pattern=env.get("LOADTEST_USER_PATTERN", cls.pattern),
            candidates=int(env.get("LOADTEST_CANDIDATES", cls.candidates)),
            seed=int(env.get("LOADTEST_SEED", cls.seed)),
        )
        if "{}" not in population.pattern:
            raise ValueError(f"LOADTEST_USER_PATTERN is {population.pattern!r}: it needs a {{}} for the user's number")
        return population

    def environment(self) -> dict[str, str]:
        """The variables that make `from_environment` give this population."""
        return {
            "LOADTEST_BUNDLE": str(self.bundle.resolve()),
            "LOADTEST_USERS": str(self.users),
            "LOADTEST_USER_PATTERN": self.pattern,
            "LOADTEST_CANDIDATES": str(self.candidates),
            "LOADTEST_SEED": str(self.seed),
        }

    def bodies(self, count: int) -> list[bytes]:
        """`count` request bodies of users drawn at random, each with candidates of its own.

        Raises:
            BundleError: the bundle cannot be used.
            ValueError: `users` is below 1, or `candidates` below 0.
        """
        bundle = load_bundle(self.bundle)
        random = np.random.default_rng(self.seed)
        items = random.choice(bundle.items.ids, (count, self.candidates))
        categories = random.choice(bundle.categories.ids, (count, self.candidates))
        users = random.integers(self.users, size=count)
        return [
            json.dumps(
                {
                    "user_id": self.pattern.format(user),
                    "candidates": [
                        {"item_id": int(item), "category_id": int(category)}
                        for item, category in zip(items[i], categories[i], strict=True)
                    ],
                }
            ).encode()
            for i, user in enumerate(users)
        ]
