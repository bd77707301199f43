from __future__ import annotations

import json

import numpy as np
import pytest

from models import train_spectra
from models.checkpoints import load_spectrum_model, shipped_spectrum_models
from models.labels import read_manifest
from models.spectrum_learning import SpectrumLabels, settings_for
from models.train_default import ROOT, demo_formulas

pytestmark = pytest.mark.filterwarnings("ignore:Issues encountered while parsing CIF:UserWarning")


@pytest.fixture
def one_epoch(monkeypatch):
    monkeypatch.setattr(
        train_spectra, "settings_for", lambda n, transfer, **kw: settings_for(n, transfer, epochs=1, device="cpu", **kw)
    )
    monkeypatch.setattr(train_spectra, "N_FOLDS", 2)


@pytest.mark.slow
def test_the_whole_chain_is_trained_saved_and_named(one_epoch, tmp_path, capsys, labels):
    manifest = tmp_path / "few.json"
    manifest.write_text(json.dumps([k.material_id for k in labels[:16]]))
    train_spectra.main(["--manifest", str(manifest), "--out", str(tmp_path), "--seed", "3"])
    ipa, rpa = (load_spectrum_model(tmp_path / name) for name in ("ipa-default", "rpa-default"))
    assert (ipa.level, rpa.level) == ("ipa", "rpa")
    assert rpa.card["parent"] == ipa.model_id
    printed = capsys.readouterr().out
    for model in (ipa, rpa):
        assert model.model_id in printed
        assert model.card["metrics"]["n"] == model.card["data"]["n"] <= 16
        assert set(model.card["data"]["formulas"]).isdisjoint(demo_formulas())
        assert (model.card["seed"], model.card["manifest"]) == (3, "few.json")
        assert "--manifest few.json --exclude configs/demo --seed 3" in model.card["command"]
        assert str(tmp_path) not in json.dumps(model.card)
        assert np.isfinite(model.predict([labels[0].structure])).all()


def test_no_formula_is_judged_by_a_chain_that_saw_it(monkeypatch, labels):
    both = {level: SpectrumLabels.of(labels[:30], level) for level in ("ipa", "rpa")}
    trained = []

    def train_chain(data: dict[str, SpectrumLabels], seed: int) -> dict[str, str]:
        trained.append(set(data["rpa"].formulas))
        return dict.fromkeys(data, "model")

    monkeypatch.setattr(train_spectra, "train_chain", train_chain)
    judged = []

    def judge(model, part: SpectrumLabels) -> np.ndarray:
        assert trained[-1].isdisjoint(part.formulas)
        judged.extend(part.material_ids)
        return np.full(len(part), 0.5)

    monkeypatch.setattr(train_spectra, "agreement", judge)
    monkeypatch.setattr(train_spectra, "mean_error", judge)
    metrics = train_spectra.held_out(both, 0)
    assert len(trained) == 10
    # Every label once for each level and each of the two figures.
    assert sorted(judged) == sorted(4 * [k.material_id for k in labels[:30]])
    assert {level: m["sc_median"] for level, m in metrics.items()} == {"ipa": 0.5, "rpa": 0.5}


def test_the_models_that_ship_are_those_of_the_script():
    assert train_spectra.MANIFEST.is_file()
    for path in shipped_spectrum_models():
        card = load_spectrum_model(path).card
        assert card["manifest"] == str(train_spectra.MANIFEST.relative_to(ROOT))
        assert set(card["data"]["material_ids"]) <= set(read_manifest(train_spectra.MANIFEST))
        assert set(card["data"]["formulas"]).isdisjoint(demo_formulas())


def test_errors_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as e:
        train_spectra.main(["--manifest", str(tmp_path / "none.json")])
    assert e.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
