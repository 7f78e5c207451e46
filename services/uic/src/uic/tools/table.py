"""Tables of the commands, as lines: one line a row where the output is not a terminal, so that `awk` can read it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

UNBOUNDED = 100_000
"""Columns: no row is wrapped."""


def table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """`rows` under `heading`, in columns as wide as their cells; None is shown as `-`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = Table(*heading, box=None, pad_edge=False, show_header=bool(any(heading)), padding=(0, 2, 0, 0))
    for row in rows:
        columns.add_row(*(Text("-" if cell is None else str(cell)) for cell in row))
    text = io.StringIO()
    Console(file=text, width=UNBOUNDED, color_system=None, force_terminal=False).print(columns)
    return [line.rstrip() for line in text.getvalue().splitlines()]
