"""The bundle and the libraries of this installation: what was found, and what it means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from uic.core.deployment import Finding, fail, ok
from uic.settings import UicSettings
from uic.tools.doctor.versions import version_numbers

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[([A-Za-z0-9,_-]+)\])?(?:[^;]*?([>=]=[0-9][^,;\s]*))?")
ANY = ">=0"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What was learned about the bundle; `error` is why the rest is empty."""

    error: str | None = None
    name: str | None = None
    fingerprint: str | None = None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class Library:
    """A library that UIC needs, and the installed version."""

    name: str
    wanted: str
    """`>=` the oldest accepted version, or `==` the only one."""
    installed: str | None


def gather_model(settings: UicSettings) -> Model:
    """Load the bundle and fold, encode and score its golden cases, as UIC and RTP do."""
    from mimn.bundle.graph import proven_head, proven_step

    try:
        bundle = load_bundle(settings.bundle.path)
        proven_step(bundle)
        proven_head(bundle)
    except (BundleError, GoldenMismatch) as error:
        return Model(error=str(error))
    return Model(name=bundle.name, fingerprint=bundle.manifest.fingerprint, bundle=bundle)


def gather_libraries() -> tuple[Library, ...]:
    """What UIC says it requires, with the extras it asks for, and what is installed."""
    found: dict[str, Library] = {}
    for requirement in metadata.requires("uic") or []:
        name, extras, wanted = _parsed(requirement)
        if "extra ==" in requirement:
            continue
        found[name] = Library(name, wanted, _installed(name))
        for inner in (metadata.requires(name) or []) if found[name].installed and extras else []:
            if any(f'extra == "{extra}"' in inner or f"extra == '{extra}'" in inner for extra in extras):
                inner_name, _, inner_wanted = _parsed(inner)
                found.setdefault(inner_name, Library(inner_name, inner_wanted, _installed(inner_name)))
    return tuple(found.values())


def bundle_loads(path: str, name: str | None, error: str | None) -> Finding:
    """The bundle is complete, and this process computes the same numbers as its exporter."""
    if error is not None:
        return fail("bundle", f"{path}: {error}", "export or copy the bundle again, or correct UIC_BUNDLE__PATH")
    return ok("bundle", f"{name} loads, golden cases pass")


def library(facts: Library) -> Finding:
    """The library is installed, in an accepted version."""
    check = f"library {facts.name}"
    fix = f"pip install '{facts.name}{facts.wanted}'"
    if facts.installed is None:
        return fail(check, "not installed", fix)
    has, wanted = version_numbers(facts.installed), version_numbers(facts.wanted[2:])
    if has < wanted or (facts.wanted.startswith("==") and has != wanted):
        return fail(check, f"{facts.installed}, not {facts.wanted}", fix)
    return ok(check, facts.installed)


def _parsed(requirement: str) -> tuple[str, list[str], str]:
    """Name, extras and the first bound of a requirement such as `redis[hiredis]>=6.0`."""
    match = _REQUIREMENT.match(requirement)
    if match is None:
        return requirement, [], ANY
    return match[1], (match[2] or "").split(",") if match[2] else [], match[3] or ANY


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
