"""Engines by name."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fw_tasks import engines
from fw_tasks.engines import engine_names, get_engine
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.replay import ReplayEngine
from selector.errors import UsageError


def test_own_engines() -> None:
    assert engine_names()[:3] == ["gpaw", "qe_yambo", "replay"]
    gpaw = get_engine("gpaw", "tight", spin_check=False)
    assert isinstance(gpaw, GPAWEngine)
    assert gpaw.settings["name"] == "tight-1"
    assert gpaw.spin_check is False
    assert get_engine("gpaw", memory_limit_gb=4, python=Path(sys.executable)).memory_limit_gb == 4
    assert isinstance(get_engine("replay"), ReplayEngine)


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("vasp",), {}, "gpaw, qe_yambo, replay"),
        (("gpaw", "fast"), {}, "smoke, standard, tight"),
        (("replay", "smoke"), {}, "standard"),
        (("gpaw",), {"cores": 4}, "'cores'.*python"),
        (("replay",), {"scale": 4}, "'scale'.*time_scale"),
        (("qe_yambo",), {"pw": True}, "option pw: .*valid string, not True"),
        (("qe_yambo",), {"settings": "kppa_scf"}, "option settings: .*dictionary"),
        (("gpaw",), {"memory_limit_gb": "much"}, "option memory_limit_gb: .*number, not 'much'"),
        (("gpaw",), {"max_scf_iterations": 1.5}, "option max_scf_iterations: .*integer, not 1.5"),
        (("gpaw",), {"spin_check": "no"}, "option spin_check: .*boolean, not 'no'"),
    ],
)
def test_what_it_does_not_know_is_named(arguments: tuple, options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        get_engine(*arguments, **options)


def test_plugins_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("mine", "fw_tasks.engines.gpaw:GPAWEngine", engines.ENTRY_POINTS)]
    found.append(EntryPoint("gpaw", "builtins:dict", engines.ENTRY_POINTS))
    monkeypatch.setattr(engines, "entry_points", lambda group: [e for e in found if e.group == group])
    assert engine_names() == ["gpaw", "qe_yambo", "replay", "mine"]
    assert get_engine("mine", "smoke").settings["name"] == "smoke-1"
    assert isinstance(get_engine("gpaw"), GPAWEngine)
