"""Numbers of a version."""

from __future__ import annotations


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "7.2.4-rc1" → (7, 2, 4)."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)
