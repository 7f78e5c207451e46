"""How well the tests protect what was once fixed. Past fixes are reverted one at a time, in a copy of the tree, and
those tests of `make test` that could see it run until one is red.

    PYTHONPATH=tests python -m protection choose          # 40 commits, spread over the history: commits.txt
    PYTHONPATH=tests python -m protection [COMMIT ...]    # those of commits.txt that have no result yet, or these anew

A commit counts if the tests that came with it saw the change then. A red test counts if it is red twice with the fix
reverted, and green without. `result.json` has what turned red, and `result.md` is its table. Remove `result.json` to
begin anew.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from protection.choosing import TEST, choose, was_a_fix
from protection.tree import IMPORTS, Tree, git

HERE = Path(__file__).parent
COMMITS, RESULT, PAGE = HERE / "commits.txt", HERE / "result.json", HERE / "result.md"
MINUTES = 15
"""How long the tests of a commit may take."""


def run(named: list[str]) -> None:
    """Measure, and keep each result at once."""
    results: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    chosen = [line.split()[0] for line in COMMITS.read_text().splitlines()]
    with tempfile.TemporaryDirectory(prefix="ctr-protection-") as folder:
        tree = Tree(Path(folder).resolve())
        for commit in named or [one for one in chosen if one not in results]:
            results[commit] = found = measure(tree, commit)
            print(
                commit,
                found["red"] or ("GREEN" if found["fix"] else "no fix"),
                f"{found['seconds']} s: {found['subject']}",
                flush=True,
            )
            results = {one: results[one] for one in dict.fromkeys([*chosen, *results]) if one in results}
            RESULT.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
            PAGE.write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The table."""
    results = {name: one for name, one in results.items() if one["fix"]}
    reds = sum(bool(one["red"]) for one in results.values())
    lines = [
        f"# Protection\n\n{reds} of {len(results)} reverted fixes turned a test red, by `python -m protection`.\n",
        "| commit | measured in | hunks reverted | red | seconds |\n| --- | --- | --- | --- | ---: |",
    ]
    for name, one in results.items():
        cells = [name, one["tree"], one["hunks"], f"`{one['red'] or 'none'}`", str(one["seconds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def measure(tree: Tree, commit: str) -> dict[str, Any]:
    """Revert a fix and look for a test that is red because of it."""
    began, red, seen, doubted = time.monotonic(), None, set[str](), list[str]()
    reverted = tree.revert(commit)
    fix = was_a_fix(commit, reverted)
    for names in select(tree, commit, reverted.before) if fix else ():
        fresh = [one for one in names if one not in seen]
        seen |= {*fresh}
        for marks, count in (("not full and not alone", "-n2"), ("alone and not full", "-n0")):
            while fresh and not red and (left := began + 60 * MINUTES - time.monotonic()) > 0:
                options = ["-m", marks, count, "--dist=loadfile", *(f"--deselect={one}" for one in doubted)]
                _, found = tree.tests(fresh, *options, seconds=left)
                if not found:
                    break
                _, again = tree.tests([found], "-m", marks, "-n0")
                tree.write(reverted.before)
                red = found if again and not tree.tests([found], "-m", marks, "-n0")[1] else None
                tree.write(reverted.after)
                if not red:
                    doubted.append(found)
                    fresh = [one for one in fresh if one != found]
    tree.write(reverted.before)
    return {
        "fix": fix,
        "tree": git("rev-parse", "--short", "HEAD").strip(),
        "subject": git("show", "-s", "--format=%s", commit).strip(),
        "hunks": f"{len(reverted.done)} of {reverted.hunks}",
        "files": sorted(reverted.before),
        "red": red,
        "doubted": doubted,
        "seconds": round(time.monotonic() - began),
    }


def select(tree: Tree, commit: str, paths: Iterable[str]) -> Iterator[list[str]]:
    """Files of tests that could see a change of these files, the quick and near ones first: those that the commit
    touched, that import the module or are named after it; then those of its room; then of the whole part."""
    tests = [one for one in tree.files if re.match(r"tests/.*/test_\w+\.py$", one)]
    texts = {one: f"{one}\n{(tree.folder / one).read_text()}" for one in tests}
    shown = git("show", "--format=", commit, "--", "tests")
    touched = [re.escape(tree.today(one) or one) for one in re.findall(r"^\+\+\+ b/(.*)", shown, re.M)]
    near, rooms, parts = [*touched, rf"def ({'|'.join(TEST.findall(shown)) or 'none'})\("], [], []
    for path in paths:
        root = next(root for root in IMPORTS if path.startswith(f"{root}/"))
        (*packages, name) = path.removeprefix(f"{root}/").removesuffix("/__init__.py").split("/")
        package, stem = ".".join(packages), name.partition(".")[0]
        near += [rf"\b{package}\.{stem}\b", rf"from {package} import [^\n]*\b{stem}\b", rf"_{stem}(_\w+)?\.py\n"]
        rooms.append(rf"\b{'.'.join([*packages, stem][:2])}\b")
        parts.append(rf"\b{[*packages, stem][0]}[._]|support\.(world|rollouts)\b")
    quick = {one for one in tests if one.startswith(("tests/unit/", "tests/contract/", "tests/parity/"))}
    slow = {*tests} - quick
    for names, patterns in ((quick, near), (slow, near), (quick, rooms), (slow, rooms), (slow, parts)):
        yield sorted(one for one in names if re.search("|".join(patterns), texts[one]))


if __name__ == "__main__":
    if sys.argv[1:] == ["choose"]:
        COMMITS.write_text("".join(f"{line}\n" for line in choose()))
    else:
        run(sys.argv[1:])
