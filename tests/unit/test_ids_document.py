"""`docs/formats/ids.md`: the test vectors are right, and every snippet of it gives them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mimn.bundle.fields import code_of

DOCUMENT = (Path(__file__).parents[2] / "docs/formats/ids.md").read_text()
VECTORS = {json.loads(text): int(number) for text, number in re.findall(r'^\| `("[^|]*")` \| `(\d+)`', DOCUMENT, re.M)}


def snippet(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT, re.M | re.S)
    assert found is not None
    return found[1]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def escaped(text: str) -> str:
    """As a literal of Java or JavaScript, whatever the source's encoding."""
    return json.dumps(text, ensure_ascii=True)


def test_vectors_are_what_the_code_computes_and_reach_every_branch() -> None:
    assert {text: code_of(text) for text in VECTORS} == VECTORS
    lengths = {len(text.encode()) for text in VECTORS}
    assert {31, 32, 33, 128} <= lengths
    assert any(n % 8 >= 5 for n in lengths), "a group of four bytes and single ones"
    assert "15154266338359012955" in DOCUMENT


def test_the_hex_column_is_the_same_number() -> None:
    for number, digits in re.findall(r"\| `(\d+)` \| `([0-9a-f]{16})` \|$", DOCUMENT, re.M):
        assert int(number) == int(digits, 16)


def test_the_python_snippet() -> None:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)  # noqa: S102 (our own document)
    assert {text: names["string_id"](text) for text in VECTORS} == VECTORS


def test_the_javascript_snippet(tmp_path: Path) -> None:
    node = program("node")
    lines = [f"console.log(String(stringId({escaped(text)})));" for text in VECTORS]
    (tmp_path / "ids.js").write_text(snippet("javascript") + "\n".join(lines))
    shown = subprocess.run([node, tmp_path / "ids.js"], capture_output=True, text=True, check=True).stdout
    assert list(map(int, shown.split())) == list(VECTORS.values())


def test_the_java_snippet(tmp_path: Path) -> None:
    javac, java = program("javac"), program("java")
    calls = "".join(f"System.out.println(Long.toUnsignedString(Ids.stringId({escaped(text)})));\n" for text in VECTORS)
    (tmp_path / "Ids.java").write_text(snippet("java"))
    (tmp_path / "Main.java").write_text(f"class Main {{ public static void main(String[] args) {{\n{calls}}} }}\n")
    for command in ([javac, "Ids.java", "Main.java"], [java, "-cp", ".", "Main"]):
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    assert list(map(int, ran.stdout.split())) == list(VECTORS.values())
