"""The lock files: all hashed, no host and no path in them, and what pyproject.toml asks for is what they hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
SERVED = ("llama", "documents", "images", "ocr", "postgresql", "redis", "celery", "s3")
NOT_LOCKED = ("transformers",)  # torch for a CPU comes from elsewhere than torch for a GPU, which is gigabytes

ASKED = {
    "serve": [*PYPROJECT["project"]["dependencies"], *(line for extra in SERVED for line in EXTRAS[extra])],
    "dev": [
        *PYPROJECT["project"]["dependencies"],
        *(line for extra, lines in EXTRAS.items() if extra not in NOT_LOCKED for line in lines),
        *PYPROJECT["dependency-groups"]["dev"],
    ],
}


def locked(name: str) -> list[str]:
    """The requirements of a lock, each on one line with its hashes, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / f"{name}.lock").read_text(), flags=re.MULTILINE)
    return [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def versions(name: str) -> dict[str, set[str]]:
    """What a lock pins; a package may have several versions, for several Pythons."""
    found: dict[str, set[str]] = {}
    for line in locked(name):
        package, version = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", line).groups()  # type: ignore[union-attr]
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


@pytest.mark.parametrize("name", ["serve", "dev", "ministack"])
def test_every_requirement_is_exact_and_hashed(name: str) -> None:
    lines = locked(name)
    assert lines
    for line in lines:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^]]*\])?==[^ ;]+( ; .*?)?\s+--hash=sha256:[0-9a-f]{64}", line), line[:100]


@pytest.mark.parametrize("name", ["serve", "dev", "ministack"])
def test_no_host_and_no_path_of_a_machine_is_in_a_lock(name: str) -> None:
    text = (FOLDER / f"{name}.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*(#\s*)?--?(index|extra-index|find-links|i |f )", text, re.MULTILINE)
    assert not re.search(r"(^|\s)[~/]", text)
    assert "@ file" not in text


@pytest.mark.parametrize("name", ["serve", "dev"])
def test_a_lock_holds_what_is_asked_for(name: str) -> None:
    pinned = versions(name)
    for asked in map(Requirement, ASKED[name]):
        if asked.name == "loquent":
            continue
        held = pinned.get(canonicalize_name(asked.name), set())
        assert held, f"{asked} is not in {name}.lock: run `make lock`"
        for version in held:
            assert asked.specifier.contains(version, prereleases=True), f"{name}.lock pins {asked.name} {version}"


@pytest.mark.parametrize("name", ["serve", "dev"])
def test_a_lock_holds_nothing_that_is_asked_for_no_more(name: str) -> None:
    asked = {canonicalize_name(Requirement(line).name) for line in ASKED[name]}
    blocks = re.split(r"^(?=[a-z0-9])", (FOLDER / f"{name}.lock").read_text(), flags=re.MULTILINE)
    held = {block.partition("==")[0] for block in blocks if "(pyproject.toml" in block}
    assert {canonicalize_name(package.partition("[")[0]) for package in held} == asked - {"loquent"}


def test_tests_run_on_the_versions_that_are_served() -> None:
    served, tested = versions("serve"), versions("dev")
    assert {name: tested.get(name) for name in served} == served


def test_what_builds_the_package_is_locked_too() -> None:
    for asked in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert all(asked.specifier.contains(version) for version in versions("serve")[asked.name])
