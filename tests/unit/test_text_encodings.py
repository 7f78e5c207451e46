"""Text files are UTF-8 whatever the locale: everything that runs here says so where it reads or writes one."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("access/src", "models/src", "services/uic/src", "services/rtp/src", "deploy", "cli/src", "loadtest")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
BEFORE = {"read_text": 0, "write_text": 1, "open": 2}
"""By method of a path: how many arguments precede the encoding."""
ENCODED = ast.parse("x.read_text('utf-8'), x.write_text(y, encoding='utf-8'), x.open('rb'), x.open('w', -1, 'utf-8')")
NOT_ENCODED = ast.parse("x.read_text(), x.write_text(y), x.open('w'), open(x), os.fdopen(x, 'w'), os.fdopen(x)")


def left_to_the_locale(tree: ast.AST) -> list[int]:
    """Lines that open a text file without an encoding."""
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and _left_to_the_locale(node)]


def _left_to_the_locale(call: ast.Call) -> bool:
    match call.func:
        case ast.Name("open") | ast.Attribute(ast.Name("os"), "fdopen"):
            name, before, mode_at = "open", 3, 1
        case ast.Attribute(ast.Name("os" | "wave" | "tarfile" | "zipfile"), _):
            return False
        case ast.Attribute(_, ("read_text" | "write_text" | "open") as name):
            before, mode_at = BEFORE[name], 0
        case _:
            return False
    if len(call.args) > before or any(keyword.arg in ("encoding", None) for keyword in call.keywords):
        return False
    if name != "open":
        return True
    given = [*call.args[mode_at : mode_at + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    modes = [mode.value for mode in given if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
    if isinstance(call.func, ast.Attribute) and not modes:
        return False  # of something else than a path, or of a mode that is computed
    return not any("b" in mode for mode in modes)


def test_a_text_file_without_an_encoding_is_found() -> None:
    assert left_to_the_locale(ENCODED) == []
    assert left_to_the_locale(NOT_ENCODED) == [1] * 5


def test_text_files_are_utf_8() -> None:
    found = {str(path.relative_to(ROOT)): left_to_the_locale(ast.parse(path.read_bytes())) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}
