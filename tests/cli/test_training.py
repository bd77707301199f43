"""`selector train`, `import`, `export` and `predict --spectra`, as a user types them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from models import checkpoints
from models.ht_rpa import write_shards
from models.labels import Label, load_labels, read_manifest
from models.spectrum_learning import seen_formulas
from selector.errors import SelectorError
from tests.conftest import Run

MANIFEST = Path(__file__).parents[2] / "benchmarks" / "manifests" / "2026-11-21.json"
SIZES = "tiny: {node: [8], attention: [[8, 2]], output: [16]}\nother: {node: [4], attention: [[4, 2]], output: [8]}\n"
FAST = ("--epochs", 3, "--device", "cpu")


@pytest.fixture(scope="session")
def labels() -> list[Label]:
    return load_labels(ids=read_manifest(MANIFEST)[:24])


@pytest.fixture
def folder(tmp_path: Path, labels: list[Label]) -> Path:
    """Label shards, sizes of small networks, and a crystal."""
    write_shards(labels, tmp_path / "labels")
    (tmp_path / "sizes.yaml").write_text(SIZES)
    labels[0].structure.to(str(tmp_path / "known.cif"))
    return tmp_path


@pytest.fixture
def ipa(selector: Run, folder: Path) -> Path:
    """A small IPA model."""
    stem = folder / "ipa"
    spectrum = ("--target", "spectrum", "--level", "ipa", "--sizes", f"{folder / 'sizes.yaml'}:tiny")
    code, out, err = selector("train", "--labels", folder / "labels", "--out", stem, *spectrum, *FAST)
    assert code == 0, err
    assert "held-out labels SC[predicted; computed] has the median" in " ".join(out.split())
    return stem


def test_a_predictor_that_reads_ipa_spectra_learns_and_goes_on(selector: Run, folder: Path) -> None:
    code, _, err = selector("train", "--labels", folder / "labels", "--network", "with-ipa", "--out", folder / "first")
    assert code == 0, err
    code, _, err = selector(
        "train", "--labels", folder / "labels", "--from", folder / "first", "--out", folder / "next"
    )
    assert code == 0, err
    kind = (checkpoints.SPECTRUM_PREDICTOR_KIND,)
    first, tuned = (checkpoints.load(folder / name, kind) for name in ("first", "next"))
    assert first.reads_spectra
    assert tuned.card["parent"] == first.model_id
    with pytest.raises(SelectorError, match="reads the IPA spectrum beside the structure"):
        first.predict([Structure.from_file(folder / "known.cif")])


def test_a_spectrum_model_then_one_by_transfer(selector: Run, folder: Path, ipa: Path, labels: list[Label]) -> None:
    arguments = ("--target", "spectrum", "--level", "rpa", "--from", ipa, "--labels", folder / "labels")
    code, out, err = selector("train", *arguments, "--out", folder / "rpa.safetensors", "--json", *FAST)
    assert code == 0, err
    answer = json.loads(out)
    assert answer["file"] == str(folder / "rpa.safetensors")
    assert answer["metrics"]["n"] == 2  # a tenth of 24 formulas
    model = checkpoints.load_spectrum_model(folder / "rpa")
    parent = checkpoints.load_spectrum_model(ipa)
    assert (model.level, model.card["parent"], model.model_id) == ("rpa", parent.model_id, answer["model_id"])
    assert model.card["command"].startswith("selector train --target spectrum --level rpa --from")
    # What is held out has been seen neither by the model nor by the one it started from.
    assert len({k.formula for k in labels} - seen_formulas(model)) == 2


@pytest.mark.slow
def test_several_sizes_are_searched(selector: Run, folder: Path) -> None:
    sizes = [a for name in ("tiny", "other") for a in ("--sizes", f"{folder / 'sizes.yaml'}:{name}")]
    arguments = ("train", "--target", "spectrum", "--level", "ipa", "--labels", folder / "labels", *sizes, *FAST)
    assert selector(*arguments, "--out", folder / "best")[0] == 0
    assert checkpoints.load_spectrum_model(folder / "best").network.sizes.output in ((16,), (8,))


@pytest.mark.slow
def test_sc_predictors_are_trained_and_fine_tuned(selector: Run, folder: Path, labels: list[Label]) -> None:
    first, second = folder / "first.json", folder / "second.json"
    first.write_text(json.dumps([k.material_id for k in labels[:18]]))
    second.write_text(json.dumps([k.material_id for k in labels[18:]]))
    few = ("--labels", folder / "labels", "--manifest", first)
    more = ("--labels", folder / "labels", "--manifest", second)
    optimate = ("--network", "optimate", "--sizes", f"{folder / 'sizes.yaml'}:tiny", *FAST)
    for name, options, tuning in (("default", (), ()), ("optimate", optimate, FAST)):
        code, out, err = selector("train", *few, "--out", folder / name, *options)
        assert code == 0, err
        assert "18 labels, held-out MAE" in out
        tuned = folder / f"{name}-tuned"
        assert selector("train", *more, "--from", folder / name, "--out", tuned, *tuning)[0] == 0
        a, b = (checkpoints.load(p) for p in (folder / name, tuned))
        assert b.card["parent"] == a.model_id
        assert len(b.scores) == 24
        code, out, err = selector("predict", folder / "known.cif", "--checkpoint", tuned, "--device", "cpu", "--json")
        assert code == 0, err
        (row,) = json.loads(out)["predictions"]
        assert row["sc_lo"] <= row["sc_mean"] <= row["sc_hi"]


def test_export_then_import_then_train(selector: Run, folder: Path, labels: list[Label]) -> None:
    assert selector("export", folder / "database", "--labels", folder / "labels", "--format", "ht-rpa")[0] == 0
    narrow = json.loads((folder / "database" / f"{labels[0].material_id}.json").read_text())
    narrow["data"]["ipa_indirect_gap"] = 0.3
    (folder / "database" / f"{labels[0].material_id}.json").write_text(json.dumps(narrow))
    (folder / "database" / "broken.json").write_text("{")
    code, out, err = selector("import", folder / "database", "--out", folder / "imported", "--json")
    assert code == 0
    assert "left out: 1: indirect gap under 0.5 eV" in " ".join(err.split())
    answer = json.loads(out)
    assert answer["labels"] == 23
    assert sum(map(len, answer["left_out"].values())) == 2
    again = load_labels(folder / "imported", settings_hash=labels[0].settings_hash)
    assert [k.material_id for k in again] == [k.material_id for k in labels[1:]]
    # The database itself will do, too: one command from the download to a model.
    for source in ("imported", "database"):
        code, out, _ = selector("train", "--labels", folder / source, "--out", folder / source / "model")
        assert code == 0
        assert "23 labels" in out


def test_predicted_spectra(selector: Run, folder: Path, ipa: Path, labels: list[Label]) -> None:
    Structure(Lattice.cubic(2.87), ["Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(folder / "iron.cif"))
    Structure(Lattice.cubic(7.5), ["Ar"], [[0, 0, 0]]).to(str(folder / "lonely.cif"))
    out_file, cifs = folder / "out.csv", [folder / f"{n}.cif" for n in ("known", "iron", "lonely")]
    options = ("--spectra", folder / "spectra", "--spectrum-model", ipa, "--out", out_file, "--device", "cpu")
    code, out, err = selector("predict", *cifs, *options)
    assert code == 0, err
    told = " ".join(err.split())
    assert "iron: no spectrum: the network has no input for Fe" in told
    assert "lonely: an element that" in told
    assert str(folder / "spectra") in out.replace("\n", "")
    assert sorted(p.name for p in (folder / "spectra").iterdir()) == ["known.csv", "lonely.csv"]
    table = np.genfromtxt(folder / "spectra" / "known.csv", delimiter=",", names=True)
    assert table.dtype.names == ("energy_ev", "ipa_im_eps")
    model = checkpoints.load_spectrum_model(ipa)
    crystal = Structure.from_file(folder / "known.cif")
    assert np.allclose(table["ipa_im_eps"], model.predict([crystal])[0], rtol=1e-4, atol=1e-4)
    with out_file.open(newline="") as f:
        rows = {r["material_id"]: r for r in csv.DictReader(f)}
    assert float(rows["known"]["ipa_sc_expected"]) == pytest.approx(model.card["metrics"]["sc_median"], abs=1e-6)
    assert rows["iron"]["ipa_sc_expected"] == rows["lonely"]["ipa_sc_expected"] == ""


def write_ipa(folder: Path, label: Label, name: str, **changes: object) -> None:
    """An IPA spectrum as `selector compute` writes it."""
    folder.mkdir(exist_ok=True)
    eps = label.ipa.eps
    document = {
        "material_id": name,
        "settings_hash": label.settings_hash,
        "spectra": {"energy_ev": label.ipa.energy_ev.tolist()},
        "directions": {"ipa_im": eps.imag.tolist(), "ipa_re": eps.real.tolist()},
    }
    (folder / f"{name}.json").write_text(json.dumps(document | changes))


def test_predict_from_structures_and_ipa_spectra(selector: Run, folder: Path, labels: list[Label]) -> None:
    labels[1].structure.to(str(folder / "second.cif"))
    cifs = (folder / "known.cif", folder / "second.cif")
    write_ipa(folder / "ipa", labels[0], "known")
    code, out, err = selector("predict", *cifs, "--ipa", folder / "ipa", "--json")
    # What has no spectrum is named and left out, as a file that cannot be read is.
    assert code == 1
    assert sum("no IPA spectrum of second in" in line for line in err.splitlines()) == 1
    answer = json.loads(out)
    (row,) = answer["predictions"]
    shipped = checkpoints.load(checkpoints.shipped("sc-ipa-default"), ("sc_spectrum_predictor",))
    assert (answer["model_id"], row["material_id"]) == (shipped.model_id, "known")
    said = shipped.predict([Structure.from_file(folder / "known.cif")], [labels[0].ipa])
    assert row["sc_mean"] == pytest.approx(said.mean[0], abs=1e-6)
    assert row["sc_lo"] <= row["sc_mean"] <= row["sc_hi"]
    write_ipa(folder / "ipa", labels[1], "second", settings_hash="0123456789ab")
    code, out, err = selector("predict", *cifs, "--ipa", folder / "ipa")
    assert code == 0
    assert "1 of 2 IPA spectra are of other settings than the model's" in err
    assert {"p_low", "out_of_domain"} <= set(out.replace("\u2503", " ").split())


def test_what_compute_writes_is_what_predict_reads(selector: Run, folder: Path, labels: list[Label]) -> None:
    crystal = folder / f"{labels[0].material_id}.cif"
    labels[0].structure.to(str(crystal))
    (folder / "ipa").mkdir()
    code, _, err = selector("compute", crystal, "--engine", "replay", "--out", folder / "ipa" / "one.json")
    assert code == 0, err
    code, out, err = selector("predict", crystal, "--ipa", folder / "ipa", "--json")
    assert (code, err.strip()) == (0, "")
    assert len(json.loads(out)["predictions"]) == 1


def test_p_low_is_the_probability_below_the_threshold(selector: Run, folder: Path) -> None:
    def p_low(*options: object) -> float:
        return json.loads(selector("predict", folder / "known.cif", "--json", *options)[1])["predictions"][0]["p_low"]

    mean = json.loads(selector("predict", folder / "known.cif", "--json")[1])["predictions"][0]["sc_mean"]
    assert p_low() == p_low("--threshold", 0.75)
    assert p_low("--threshold", mean) == pytest.approx(0.5, abs=1e-9)
    assert p_low("--threshold", -0.9) < 0.05
    assert p_low("--threshold", 0.999) > 0.95


def test_mistakes_with_ipa_spectra_are_one_line(selector: Run, folder: Path, labels: list[Label]) -> None:
    (folder / "empty").mkdir()
    write_ipa(folder / "good", labels[0], "known")
    write_ipa(folder / "trace", labels[0], "known", directions={})
    write_ipa(
        folder / "nan", labels[0], "known", directions={k: [[float("nan")] * 2001] * 3 for k in ("ipa_im", "ipa_re")}
    )
    write_ipa(folder / "short", labels[0], "known", spectra={"energy_ev": [0.0, 1.0]})
    write_ipa(folder / "narrow", labels[0], "known", spectra={"energy_ev": (0.5 * labels[0].ipa.energy_ev).tolist()})
    write_ipa(folder / "twice", labels[0], "known")
    (folder / "twice" / "again.json").write_text((folder / "twice" / "known.json").read_text())
    shipped = checkpoints.shipped("sc-ipa-default")
    for arguments, code, words in (
        (("--ipa", folder / "empty"), 2, "no JSON files here"),
        (("--ipa", folder / "nowhere"), 2, "no JSON files here"),
        (("--ipa", folder / "trace"), 1, "no 'ipa_re' in it"),
        (("--ipa", folder / "nan"), 1, "is not finite"),
        (("--ipa", folder / "short"), 1, "not a spectrum of `selector compute`"),
        (("--ipa", folder / "narrow"), 1, "0-20 eV are needed"),
        (("--ipa", folder / "twice"), 1, "remove one of the two"),
        (("--ipa", folder / "good", "--checkpoint", checkpoints.default_checkpoint()), 2, "leave out --ipa"),
        (("--checkpoint", shipped), 2, "name their folder with --ipa"),
    ):
        got, out, err = selector("predict", folder / "known.cif", *arguments)
        assert (got, out) == (code, ""), (arguments, err)
        assert words in err, arguments
        assert len(err.strip().splitlines()) == 1, err


def test_the_shipped_models_predict_both_levels(selector: Run, folder: Path) -> None:
    code, out, _ = selector("predict", folder / "known.cif", "--spectra", folder / "spectra", "--json")
    assert code == 0
    (row,) = json.loads(out)["predictions"]
    assert 0.5 < row["rpa_sc_low"] + 0.5 < row["rpa_sc_expected"] + 0.5 < 1.5
    header = (folder / "spectra" / "known.csv").read_text().splitlines()[0]
    assert header == "energy_ev,ipa_im_eps,rpa_im_eps"


def test_mistakes_are_one_line(selector: Run, folder: Path, ipa: Path, labels: list[Label]) -> None:
    selector("train", "--labels", folder / "labels", "--out", folder / "sc")
    (folder / "empty").mkdir()
    write_shards([*labels[:3], relabelled(labels[3])], folder / "mixed")
    (folder / "one.json").write_text(json.dumps([labels[0].material_id]))
    spectrum, own = ("--target", "spectrum", "--level", "rpa"), ("--labels", folder / "labels")
    for arguments, code, words in (
        (("--target", "spectrum", *own), 2, "--level ipa or rpa"),
        (("--level", "ipa", *own), 2, "goes with --target spectrum"),
        ((*spectrum, "--network", "optimate", *own), 2, "--network"),
        ((*spectrum, "--from", ipa, "--sizes", "small", *own), 2, "leave out --sizes"),
        ((*spectrum, "--sizes", "huge", *own), 2, "small, published, or FILE:NAME"),
        ((*spectrum, "--sizes", f"{folder / 'sizes.yaml'}:none", *own), 2, "tiny, other"),
        ((*spectrum, "--sizes", "nowhere.yaml:x", *own), 2, "nowhere.yaml"),
        ((*spectrum, "--from", folder / "sc", *own), 1, "holds a 'sc_predictor' model"),
        ((*spectrum, "--from", folder / "none", *own), 2, "no such file"),
        (("--from", ipa, *own), 1, "holds a 'spectrum_model' model"),
        (("--labels", folder / "nowhere"), 2, "no such folder"),
        (("--labels", folder / "empty"), 2, "no shard-*.npz here"),
        (("--labels", folder / "mixed"), 2, "2 kinds"),
        (("--manifest", folder / "one.json", *own), 1, "5 formulas or more"),
        ((*spectrum, "--manifest", folder / "one.json", *own), 1, "labels of one formula"),
        (("--epochs", "3", *own), 2, "for --network optimate"),
        (("--network", "optimate", "--device", "tpu", *own), 2, "choose auto, cpu or cuda"),
        (("--network", "optimate", "--device", "cpu", "--precision", "mixed", *own), 2, "is for a GPU"),
    ):
        got, _, err = selector("train", "--out", folder / "x", *arguments)
        assert got == code, (arguments, err)
        assert words in " ".join(err.split()), arguments
        assert not (folder / "x.safetensors").exists()
    assert selector("train", "--out", "/proc/nowhere/x")[0] == 2
    assert selector("import", folder / "nowhere", "--out", folder / "y")[0] == 2
    assert selector("import", folder / "empty", "--out", folder / "y")[0] == 2
    assert selector("export", folder / "labels" / "x", "--labels", folder / "nowhere")[0] == 2
    code, _, err = selector("predict", folder / "known.cif", "--spectrum-model", ipa)
    assert (code, "goes with --spectra" in err) == (2, True)
    twice = ("--spectra", folder / "z", "--spectrum-model", ipa, "--spectrum-model", ipa)
    code, _, err = selector("predict", folder / "known.cif", *twice)
    assert (code, "two models of level ipa" in err) == (2, True)


def relabelled(label: Label) -> Label:
    from dataclasses import replace

    return replace(label, settings=label.settings | {"eta_ev": 0.1})


@pytest.mark.slow
@pytest.mark.timed
def test_fine_tuning_on_20_labels_takes_under_a_minute() -> None:
    """On two cores: each kind of model at the size that ships, and the paper's network at its published one."""
    import time

    from models.optimate import OptiMateSizes
    from models.sc_network import FIT, NetworkPredictor
    from models.spectrum_learning import SpectrumLabels, learn
    from models.training import TrainingSettings

    every = load_labels(ids=read_manifest(MANIFEST))
    base, new = every[:75], every[75:]
    assert len(new) == 20
    shipped = [checkpoints.load_spectrum_model(p) for p in checkpoints.shipped_spectrum_models()]
    published = learn(
        SpectrumLabels.of(base[:20], "ipa"), sizes=OptiMateSizes(), settings=TrainingSettings(epochs=1, batch_size=8)
    )
    known = {"engine": "gpaw", "settings_hash": base[0].settings_hash}
    few = FIT.__class__(epochs=1)
    network = NetworkPredictor.fit([k.structure for k in base], [k.sc for k in base], **known, settings=few)
    predictor = checkpoints.load(checkpoints.default_checkpoint())
    crystals, sc = [k.structure for k in new], [k.sc for k in new]
    for name, tune in (
        ("spectra, shipped", lambda: [learn(SpectrumLabels.of(new, m.level), start=m) for m in shipped]),
        ("spectra, published size", lambda: learn(SpectrumLabels.of(new, "rpa"), start=published)),
        ("SC, default", lambda: predictor.fine_tune(crystals, sc)),
        ("SC, published size", lambda: network.fine_tune(crystals, sc)),
    ):
        begin = time.perf_counter()
        tune()
        seconds = time.perf_counter() - begin
        print(f"{name}: {seconds:.1f} s", file=sys.stderr)
        assert seconds < 60.0, name
