"""What is handed to a model may be wrong: it ends in one line that says so, or in a flagged, wider interval.

Never a silent number. Through the public surface: `selector predict`, `selector train`, and what `models` offers.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from models import checkpoints
from models.labels import Label
from models.optimate import OptiMate, OptiMateSizes
from models.published import import_optimate
from models.sc_network import NetworkPredictor
from models.sc_predictor import SCPredictor
from models.spectrum_learning import SpectrumLabels, learn
from models.spectrum_model import SpectrumModel
from models.training import TrainingSettings
from selector import calibration
from selector.errors import SelectorError
from selector.spectra import Spectrum
from tests.conftest import Run
from tests.crystals import face_centred

TINY = OptiMateSizes(node=(8,), attention=((8, 2),), output=(8,))


def one_line(error: str, *words: str) -> None:
    """An error of the command: one line that names what is wrong."""
    lines = [line for line in error.strip().splitlines() if line.startswith("selector: error")]
    assert len(lines) == 1, error
    assert len(error.strip().splitlines()) == 1, error
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def network(labels: list[Label]) -> NetworkPredictor:
    """The paper's network for SC, small and trained for a moment: it is about what it refuses and flags."""
    part = labels[:60]
    return NetworkPredictor.fit(
        [k.structure for k in part], [k.sc for k in part], engine="gpaw", settings_hash=part[0].settings_hash,
        sizes=TINY, settings=TrainingSettings(epochs=40, learning_rate=0.01),
    )  # fmt: skip


@pytest.fixture(scope="module")
def spectrum_model() -> SpectrumModel:
    torch.manual_seed(0)
    sizes = OptiMateSizes(TINY.node, TINY.attention, TINY.output, n_out=2001)
    return SpectrumModel(OptiMate(sizes), "ipa", {"data": {"elements": ["Mg", "O", "Na", "Cl"]}})


@pytest.fixture(scope="module", params=["default", "network"])
def any_predictor(request: pytest.FixtureRequest, predictor: SCPredictor, network: NetworkPredictor) -> Any:
    return predictor if request.param == "default" else network


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, predictor: SCPredictor) -> Path:
    stem = tmp_path_factory.mktemp("weights") / "good"
    checkpoints.save(predictor, stem)
    return stem


@pytest.fixture
def weights(stored: Path, tmp_path: Path) -> Path:
    """A good checkpoint, to be spoiled."""
    for suffix in checkpoints.SUFFIXES:
        shutil.copy(stored.with_name(stored.name + suffix), tmp_path / f"good{suffix}")
    return tmp_path / "good.safetensors"


@pytest.fixture
def crystal(tmp_path: Path, rocksalt: Structure) -> Path:
    rocksalt.to(str(tmp_path / "rocksalt.cif"))
    return tmp_path / "rocksalt.cif"


def width(predictor: Any, structures: list[Structure]) -> np.ndarray:
    """Of the 90 % interval about 0, where nothing is clipped."""
    spread = predictor.predict(structures).spread
    lo, hi = calibration.interval(np.zeros(len(structures)), spread, predictor.scores)
    return hi - lo


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_good_checkpoint_predicts(selector: Run, weights: Path, crystal: Path) -> None:
    code, out, _ = selector("predict", crystal, "--checkpoint", weights, "--json")
    assert code == 0
    assert len(json.loads(out)["predictions"]) == 1


def test_a_checkpoint_of_another_kind(
    selector: Run, tmp_path: Path, crystal: Path, spectrum_model: SpectrumModel, weights: Path
) -> None:
    checkpoints.save_spectrum_model(spectrum_model, tmp_path / "ipa")
    code, _, err = selector("predict", crystal, "--checkpoint", tmp_path / "ipa.safetensors")
    assert code == 1
    one_line(err, "ipa.safetensors", "spectrum_model", "sc_predictor")
    with pytest.raises(SelectorError, match="sc_predictor"):
        checkpoints.load_spectrum_model(weights)


@pytest.mark.parametrize("suffix", checkpoints.SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint(selector: Run, weights: Path, crystal: Path, suffix: str, share: float) -> None:
    file = weights.with_suffix(suffix)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    code, _, err = selector("predict", crystal, "--checkpoint", weights)
    assert code == 1
    one_line(err, "good")


def _same(a: SCPredictor, b: SCPredictor) -> bool:
    arrays, others = a.to_arrays(), b.to_arrays()
    return a.card == b.card and all(np.array_equal(arrays[k], others[k]) for k in arrays)


@given(part=st.sampled_from(checkpoints.SUFFIXES), where=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=150)
def test_any_bit_that_was_flipped_is_noticed(
    stored: Path, predictor: SCPredictor, tmp_path: Path, part: str, where: float, bit: int
) -> None:
    """In the card a flipped bit may turn one white space into another: then nothing has changed."""
    for suffix in checkpoints.SUFFIXES:
        shutil.copy(stored.with_name(stored.name + suffix), tmp_path / f"flipped{suffix}")
    file = tmp_path / f"flipped{part}"
    content = bytearray(file.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    file.write_bytes(content)
    try:
        loaded = checkpoints.load(tmp_path / "flipped.safetensors")
    except SelectorError as e:
        assert "\n" not in str(e)
        assert "flipped" in str(e)
    else:
        assert _same(loaded, predictor)


class _Bomb:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("dressed_as", ["weights", "card", "torch file"])
def test_a_pickle_posing_as_a_checkpoint_is_not_run(
    selector: Run, weights: Path, crystal: Path, tmp_path: Path, dressed_as: str
) -> None:
    victim = tmp_path / "ran"
    if dressed_as == "torch file":
        torch.save(_Bomb(victim), weights)
    else:
        file = weights if dressed_as == "weights" else weights.with_suffix(".json")
        file.write_bytes(pickle.dumps(_Bomb(victim)))
    code, _, err = selector("predict", crystal, "--checkpoint", weights)
    assert code == 1
    one_line(err, "good")
    with pytest.raises(SelectorError):
        import_optimate(weights if dressed_as != "card" else weights.with_suffix(".json"))
    assert not victim.exists()


def test_scores_or_weights_that_are_not_finite_are_refused(
    selector: Run, predictor: SCPredictor, tmp_path: Path, crystal: Path
) -> None:
    """A checkpoint with a proper digest whose content is nonsense: whoever wrote it wrote NaN."""
    for name in ("scores", "sc", "features", "process"):
        arrays = {k: v.copy() for k, v in predictor.to_arrays().items()}
        arrays[name].flat[0] = np.nan

        class Spoilt:
            card = predictor.card

            def to_arrays(self, arrays: dict[str, Any] = arrays) -> dict[str, Any]:
                return arrays

        checkpoints.save(Spoilt(), tmp_path / name)
        code, out, err = selector("predict", crystal, "--checkpoint", tmp_path / f"{name}.safetensors", "--json")
        assert code == 1, (name, out)
        one_line(err)


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_that_are_not_numbers(labels: list[Label], any_predictor: Any) -> None:
    structures = [k.structure for k in labels[:20]]
    kind = {"engine": "gpaw", "settings_hash": "0123456789ab"}
    for bad in (np.nan, np.inf, 1.5):
        sc = [*(k.sc for k in labels[:19]), bad]
        for attempt in (
            lambda sc=sc: type(any_predictor).fit(structures, sc, **kind),
            lambda sc=sc: any_predictor.fine_tune(structures, sc),
        ):
            with pytest.raises(SelectorError, match="leave this label out") as e:
                attempt()
            assert labels[19].formula in str(e.value)
            assert "\n" not in str(e.value)


def test_one_label_is_too_few_to_begin_and_enough_to_go_on(labels: list[Label], any_predictor: Any) -> None:
    one = labels[40]
    with pytest.raises(SelectorError, match="1 labels of 1 formulas"):
        type(any_predictor).fit([one.structure], [one.sc], engine="gpaw", settings_hash="0123456789ab")
    tuned = any_predictor.fine_tune([one.structure], [one.sc])
    assert np.isfinite(tuned.predict([one.structure]).mean).all()
    with pytest.raises(SelectorError):
        learn(SpectrumLabels.of([one], "ipa"), sizes=TINY, settings=TrainingSettings(epochs=1))


def test_training_on_one_label_is_one_line(selector: Run, labels: list[Label], tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps([labels[0].material_id]), encoding="utf-8")
    for target in (["--target", "sc"], ["--target", "spectrum", "--level", "ipa"]):
        code, _, err = selector("train", *target, "--manifest", tmp_path / "one.json", "--out", tmp_path / "model")
        assert code in (1, 2)
        one_line(err)
    assert not list(tmp_path.glob("model*"))


# -- crystals ---------------------------------------------------------------------------------------------------------


def spread_like(predictor: Any, labels: list[Label]) -> float:
    """How wide the intervals of crystals are that the model knows its way with."""
    return float(np.median(width(predictor, [k.structure for k in labels[:30]])))


def test_an_isolated_atom_is_flagged_with_a_wider_interval(any_predictor: Any, labels: list[Label]) -> None:
    known = spread_like(any_predictor, labels)
    for symbol in ("Mg", "S"):  # elements that the model has learned from
        alone = Structure(Lattice.cubic(15.0), [symbol], [[0, 0, 0]])
        p = any_predictor.predict([alone])
        assert p.out_of_domain[0], symbol
        assert np.isfinite(p.mean[0]) and p.mean[0] <= 1.0
        assert width(any_predictor, [alone])[0] > 1.1 * known


def test_an_unseen_element_is_flagged_with_a_wider_interval(any_predictor: Any, labels: list[Label]) -> None:
    known = spread_like(any_predictor, labels)
    # No label holds xenon, which the paper's network has an input for, or uranium, which it has none for.
    for symbol in ("Xe", "U"):
        foreign = face_centred("fluorite", 5.5, symbol, "O")
        p = any_predictor.predict([foreign])
        assert p.out_of_domain[0], symbol
        assert np.isfinite(p.mean[0]) and p.mean[0] <= 1.0
        assert width(any_predictor, [foreign])[0] > 1.1 * known


def test_a_spectrum_of_an_unseen_element_is_refused_or_flagged(spectrum_model: SpectrumModel) -> None:
    uranium, krypton = (face_centred("rocksalt", 5.0, symbol, "O") for symbol in ("U", "Kr"))
    with pytest.raises(SelectorError, match="U") as e:
        spectrum_model.predict([uranium])
    assert "\n" not in str(e.value)
    assert spectrum_model.out_of_domain([uranium, krypton]).tolist() == [True, True]
    alone = Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]])
    assert spectrum_model.out_of_domain([alone]).tolist() == [True]
    assert np.isfinite(spectrum_model.predict([alone])).all()


def test_five_hundred_atoms_are_the_small_cell_repeated(
    any_predictor: Any, spectrum_model: SpectrumModel, rocksalt: Structure
) -> None:
    large = rocksalt * (4, 4, 4)
    assert len(large) == 512
    start = time.perf_counter()
    said, small = (any_predictor.predict([s]) for s in (large, rocksalt))
    assert said.mean[0] == pytest.approx(small.mean[0], abs=1e-4)
    assert said.spread[0] == pytest.approx(small.spread[0], rel=1e-3)
    assert said.out_of_domain[0] == small.out_of_domain[0]
    spectra = spectrum_model.predict([large, rocksalt])
    np.testing.assert_allclose(spectra[0], spectra[1], rtol=1e-4, atol=1e-6)
    # A fraction of a second each; the bound allows for a busy machine.
    assert time.perf_counter() - start < 20.0


def test_the_predictor_with_the_ipa_spectrum_flags_the_same(labels: list[Label]) -> None:
    part, ipa = labels[:40], labels[0].ipa
    known = {"engine": "gpaw", "settings_hash": part[0].settings_hash}
    predictor = SCPredictor.fit(
        [k.structure for k in part], [k.sc for k in part], spectra=[k.ipa for k in part], **known
    )
    alone = Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]])
    foreign = face_centred("fluorite", 5.5, "U", "O")
    cell = labels[0].structure
    large = cell * (-(-500 // len(cell)), 1, 1)
    assert len(large) >= 500
    p = predictor.predict([cell, large, alone, foreign], [ipa] * 4)
    assert p.out_of_domain.tolist() == [False, False, True, True]
    assert p.mean[1] == pytest.approx(p.mean[0], abs=1e-4)
    # In log(1 - SC), in which it works; there the same spread means the same share of 1 - SC.
    relative = p.spread / (1.0 - p.mean)
    assert relative[2:].min() > 1.1 * relative[0]
    broken = Spectrum(ipa.energy_ev, np.where(ipa.energy_ev > 5.0, np.nan, ipa.eps))
    with pytest.raises(SelectorError, match="not finite"):
        predictor.predict([cell], [broken])
    with pytest.raises(SelectorError, match="give spectra"):
        predictor.predict([cell])


def test_predict_names_what_it_cannot_use_and_flags_what_it_does_not_know(selector: Run, tmp_path: Path) -> None:
    folder = tmp_path / "crystals"
    folder.mkdir()
    salt = face_centred("rocksalt", 5.64, "Na", "Cl")
    salt.to(str(folder / "known.cif"))
    (salt * (4, 4, 4)).to(str(folder / "large.cif"))
    Structure(Lattice.cubic(7.9), ["Ar"], [[0, 0, 0]]).to(str(folder / "argon.cif"))
    Structure(Lattice.cubic(15.0), ["Mg"], [[0, 0, 0]]).to(str(folder / "vacuum.cif"))
    face_centred("fluorite", 5.5, "U", "O").to(str(folder / "uranium.cif"))
    code, out, err = selector("predict", folder, "--json")
    assert code == 1
    assert sum("vacuum.cif" in line for line in err.splitlines()) == 1
    rows = {row["material_id"]: row for row in json.loads(out)["predictions"]}
    assert set(rows) == {"known", "large", "argon", "uranium"}
    assert {k for k, row in rows.items() if row["out_of_domain"]} == {"argon", "uranium"}
    # In log(1 - SC), in which it works; there the same spread means the same share of 1 - SC.
    widths = {k: (row["sc_hi"] - row["sc_lo"]) / (1.0 - row["sc_mean"]) for k, row in rows.items()}
    assert min(widths["argon"], widths["uranium"]) > 1.5 * widths["known"]
    assert widths["large"] == pytest.approx(widths["known"], rel=1e-3)
    for name in ("argon", "uranium"):
        assert sum(line.startswith("selector: warning") and name in line for line in err.splitlines()) == 1
    # The table and the CSV say it, too: standard error is easily lost.
    assert "out_of_domain" in selector("predict", folder)[1]
    selector("predict", folder, "--out", tmp_path / "sc.csv")
    header, *lines = (tmp_path / "sc.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("out_of_domain")
    flags = {line.split(",")[0]: line.split(",")[column] for line in lines}
    assert {k for k, v in flags.items() if v == "True"} == {"argon", "uranium"}


def test_a_crystal_that_cannot_be_described_does_not_take_the_others_along(
    selector: Run, tmp_path: Path, rocksalt: Structure
) -> None:
    folder = tmp_path / "crystals"
    folder.mkdir()
    rocksalt.to(str(folder / "good.cif"))
    (folder / "odd.cif").write_text("data_odd\n", encoding="utf-8")
    disordered = rocksalt.copy()
    disordered.replace(0, {"Mg": 0.5, "Ca": 0.5})
    disordered.to(str(folder / "disordered.cif"))
    code, out, err = selector("predict", folder, "--json")
    assert code == 1
    assert [row["material_id"] for row in json.loads(out)["predictions"]] == ["good"]
    assert sum(line.startswith("selector: error") for line in err.splitlines()) == 2
