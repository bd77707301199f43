"""The document of `selector compute`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fw_tasks.engines.as_json import calculation_to_json
from fw_tasks.engines.base import Calculation
from fw_tasks.engines.replay import ReplayEngine
from models.labels import load_labels
from selector.optics import QUANTITIES


@pytest.fixture(scope="module")
def calculation(tmp_path_factory: pytest.TempPathFactory) -> Calculation:
    (label,) = load_labels(ids=["agm002763063"])
    return ReplayEngine().compute(
        label.material_id, label.structure, ("ipa", "rpa"), tmp_path_factory.mktemp("w"), None
    )


def test_keys_and_values(calculation: Calculation) -> None:
    document = json.loads(json.dumps(calculation_to_json("RbF3-file", "RbF3", calculation), allow_nan=False))
    assert {
        "material_id", "formula", "sc", "eps_static", "gap_ev", "n_g", "cpu_s", "wall_s", "settings", "spectra"
    } <= document.keys()  # fmt: skip
    assert (document["material_id"], document["formula"]) == ("RbF3-file", "RbF3")
    spectra = {k: np.array(v) for k, v in document["spectra"].items()}
    assert set(spectra) == {"energy_ev", "ipa_im", "ipa_re", "rpa_im", "rpa_re"}
    assert all(len(v) == 2001 for v in spectra.values())
    # SC by hand from what stands in the document: IPA divides.
    change = np.trapezoid(abs(spectra["rpa_im"] - spectra["ipa_im"]), spectra["energy_ev"])
    sc = 1 - change / np.trapezoid(abs(spectra["ipa_im"]), spectra["energy_ev"])
    assert document["sc"] == pytest.approx(sc, abs=1e-9) == pytest.approx(0.175, abs=0.001)
    assert document["eps_static"] == {"ipa": spectra["ipa_re"][0], "rpa": spectra["rpa_re"][0]}
    recorded = calculation.details["eps0"]
    assert [document["eps_static"][k] for k in ("ipa", "rpa")] == pytest.approx(recorded, abs=1e-4)


def test_optics_are_those_of_the_traces(calculation: Calculation) -> None:
    document = json.loads(json.dumps(calculation_to_json("x", "RbF3", calculation), allow_nan=False))
    assert set(document["optics"]) == {f"{level}_{name}" for level in ("ipa", "rpa") for name in QUANTITIES}
    for level in ("ipa", "rpa"):
        n, k = (np.array(document["optics"][f"{level}_{name}"]) for name in ("n", "k"))
        spectra = {part: np.array(document["spectra"][f"{level}_{part}"]) for part in ("re", "im")}
        np.testing.assert_allclose((n + 1j * k) ** 2, spectra["re"] + 1j * spectra["im"], rtol=1e-12, atol=1e-12)


def test_how_the_result_came_about(calculation: Calculation) -> None:
    ladder = [
        {"axes": "xyz", "cutoff_ev": 0.01, "n_g": 1, "sc": 1.0},
        {"axes": "xyz", "cutoff_ev": 55.2, "n_g": 15, "sc": 0.2},
    ]
    facts = {"ladder": ladder, "repairs": ["mixer: Pulay, 0.02"]}
    told = calculation_to_json("x", "RbF3", Calculation(**{**calculation.__dict__, "details": facts}))
    assert {key: told[key] for key in facts} == facts
    # A label of the shipped ones knows neither.
    replayed = calculation_to_json("x", "RbF3", calculation)
    assert (replayed["ladder"], replayed["repairs"]) == ([], [])


def test_one_level_has_no_sc(calculation: Calculation) -> None:
    alone = Calculation(**{**calculation.__dict__, "spectra": {"ipa": calculation.spectra["ipa"]}})
    document = calculation_to_json("x", "RbF3", alone)
    assert document["sc"] is None
    assert set(document["spectra"]) == {"energy_ev", "ipa_im", "ipa_re"}
    assert {key.split("_")[0] for key in document["optics"]} == {"ipa"}
