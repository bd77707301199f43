"""What a release promises about itself: versions, pins, licences, and no trace of the machine it was made on."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_pins_are_exact_public_versions() -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", pin) for pin in PINS.values())
    assert not any("+" in pin for pin in PINS.values())
    assert PINS["torch"] == "2.13.0"


def distributions(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[\[<>=!~ ]", r)[0]) for r in requirements}


def test_every_dependency_is_pinned_and_those_make_installs_are_at_their_pin() -> None:
    extras = PROJECT["optional-dependencies"]
    pins = {canonical(name): pin for name, pin in PINS.items()}
    assert distributions([*PROJECT["dependencies"], *(d for extra in extras.values() for d in extra)]) <= set(pins)
    (installed,) = re.findall(r"--editable '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    for name in distributions([*PROJECT["dependencies"], *(d for e in installed.split(",") for d in extras[e])]):
        assert version(name).split("+")[0] == pins[name]


def test_what_fireworks_needs_of_monty_is_kept() -> None:
    """FireWorks 2.1.4 calls zopen without a mode; monty allows that up to 2025."""
    import warnings

    from monty.io import zopen

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zopen(str(ROOT / "LICENSE")) as f:
            assert f.read()


def test_python_versions_and_licence() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert PROJECT["license"] == "MIT"
    assert PROJECT["scripts"]["selector"] == "selector.cli:main"


def test_tracked_files_name_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    home = re.compile("|".join(["/wo" + "rk/", "/ro" + "ot/", r"\.\./sha" + "red", "pypi" + r"\.org"]))
    for name in filter(None, listed.split("\0")):
        if Path(name).suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt", ".sh", ".j2", ".js", ".css", ""}:
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not home.search(text), name
