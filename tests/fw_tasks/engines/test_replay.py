"""Replayed labels."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ase.units import Bohr

from fw_tasks.engines import get_engine
from fw_tasks.engines.base import Calculation, MissingDataset, NotConverged, OddElectrons, TimedOut
from fw_tasks.engines.checks import check_response, primitive_cell
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_datasets import VALENCE_ELECTRONS
from fw_tasks.engines.replay import ReplayEngine, UnknownMaterial
from models.labels import SHIPPED, Label, load_labels
from selector.errors import UsageError

RBF3 = "agm002763063"
BOTH = ("ipa", "rpa")


@pytest.fixture(scope="module")
def engine() -> ReplayEngine:
    return ReplayEngine()


@pytest.fixture(scope="module")
def label() -> Label:
    return load_labels(ids=[RBF3])[0]


def test_the_recorded_result_comes_back(engine: ReplayEngine, label: Label, tmp_path: Path) -> None:
    result = engine.compute(RBF3, label.structure, BOTH, tmp_path, None)
    assert result.sc == pytest.approx(label.sc, abs=1e-6) == pytest.approx(0.175, abs=0.001)
    assert (result.cpu_s, result.gap_ev) == (label.cpu_s, label.gap_ev)
    assert result.wall_s >= result.cpu_s * 0.9
    assert result.details["replayed"] is True
    result.save(tmp_path / "result.npz")
    assert Calculation.load(tmp_path / "result.npz").sc == pytest.approx(label.sc, abs=1e-5)
    assert set(engine.compute(RBF3, label.structure, ("ipa",), tmp_path, None).spectra) == {"ipa"}


def test_ipa_alone_costs_what_its_stages_took(engine: ReplayEngine, label: Label, tmp_path: Path) -> None:
    ipa, both = (engine.compute(RBF3, label.structure, levels, tmp_path, None) for levels in (("ipa",), BOTH))
    *before, response_s = label.details["cpu_stage_s"]
    took, whole = ipa.details["cpu_stage_s"], both.details["cpu_stage_s"]
    assert took[:-1] == before and 0 < took[-1] < response_s == whole[-1]
    assert ipa.cpu_s / both.cpu_s == pytest.approx(ipa.wall_s / both.wall_s) == pytest.approx(sum(took) / sum(whole))
    assert engine.estimate_cpu_h(label.structure, "ipa") < engine.estimate_cpu_h(label.structure)
    with pytest.raises(TimedOut):
        engine.compute(RBF3, label.structure, ("ipa",), tmp_path, 0.9 * ipa.wall_s)
    assert engine.compute(RBF3, label.structure, ("ipa",), tmp_path, 1.01 * ipa.wall_s).wall_s < both.wall_s


def test_it_is_the_kind_of_label_gpaw_makes(engine: ReplayEngine, label: Label, tmp_path: Path) -> None:
    real, result = GPAWEngine("standard"), engine.compute(RBF3, label.structure, BOTH, tmp_path, None)
    assert engine.settings_hash == real.settings_hash == result.settings_hash
    assert result.engine == real.name
    assert engine.settings == real.settings
    assert engine.name == "replay"
    assert engine.estimate_cpu_h(label.structure) == real.estimate_cpu_h(label.structure)


def test_an_unknown_material_is_named(engine: ReplayEngine, label: Label, tmp_path: Path) -> None:
    with pytest.raises(UnknownMaterial, match="agm000000000"):
        engine.compute("agm000000000", label.structure, BOTH, tmp_path, None)


def test_a_recorded_time_over_the_limit(engine: ReplayEngine, label: Label, tmp_path: Path) -> None:
    with pytest.raises(TimedOut) as caught:
        engine.compute(RBF3, label.structure, BOTH, tmp_path, 1.0)
    assert caught.value.wall_s == 1.0


def test_time_scale(label: Label, tmp_path: Path) -> None:
    slow = ReplayEngine(time_scale=0.3 / label.details["wall_s"])
    start = time.monotonic()
    slow.compute(RBF3, label.structure, BOTH, tmp_path, None)
    assert 0.3 <= time.monotonic() - start < 3.0


def test_rehearsed_failures(label: Label, tmp_path: Path) -> None:
    failing = get_engine("replay", failures={RBF3: "NotConverged"})
    with pytest.raises(NotConverged, match="rehearsed") as caught:
        failing.compute(RBF3, label.structure, BOTH, tmp_path, None)
    assert caught.value.wall_s == label.details["wall_s"]


def test_checks_are_those_of_the_engine_behind(engine: ReplayEngine, label: Label) -> None:
    engine.check(label.structure)
    with pytest.raises(OddElectrons):
        engine.check(label.structure.copy().remove_species(["F"]))
    radioactive = label.structure.copy()
    radioactive.replace_species({"Rb": "Fr"})
    with pytest.raises(MissingDataset):
        engine.check(radioactive)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "tight"}, "standard"),
        ({"time_scale": -1.0}, "time_scale"),
        ({"failures": {"a": "Broken"}}, "Broken"),
        ({"failures": {"a": "Spectrum"}}, "Spectrum"),
        ({"labels": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_options(options: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ReplayEngine(**options)


@pytest.mark.slow
def test_every_shipped_label_passes_the_checks_of_the_engines(engine: ReplayEngine) -> None:
    """All but Kramers and Kronig: of the labels' spectra only 0-20 eV exists."""
    for label in load_labels(SHIPPED):
        engine.check(label.structure)
        cell = primitive_cell(label.structure)
        electrons = sum(VALENCE_ELECTRONS[site.specie.symbol] for site in cell)
        assert electrons == pytest.approx(label.details["electrons"])
        check_response({"ipa": label.ipa, "rpa": label.rpa}, label.gap_ev, electrons, cell.volume / Bohr**3)
