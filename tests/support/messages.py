"""What services and commands say when they refuse: the texts of all errors that the product raises, for review.

    PYTHONPATH=tests python -m support.messages > tests/golden/messages.txt

Tests assert the code, the setting or the path that matters in a message. Whether it reads well is judged by a person,
who sees each change of one in the snapshot's diff.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("access/src", "cli/src", "deploy/localstack", "models/src", "services/rtp/src", "services/uic/src")


def messages() -> str:
    """One a line, by file; `{}` stands for what is filled in."""
    return "".join(
        f"{path.relative_to(ROOT)}: {text}\n"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for text in sorted(set(raised(path.read_text("utf-8"))))
    )


def raised(code: str) -> Iterator[str]:
    """The texts of the errors that a module raises."""
    for statement in ast.walk(ast.parse(code)):
        if isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Call):
            for argument in statement.exc.args:
                if text := template(argument):
                    yield " ".join(text.split())


def template(node: ast.expr) -> str:
    """The text of a string, filled in or put together; empty for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(template(part) if isinstance(part, ast.Constant) else "{}" for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case _:
            return ""


if __name__ == "__main__":
    print(messages(), end="")
