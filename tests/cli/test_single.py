"""Commands for one crystal, or a few, without a campaign: `predict` and `compute`."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from models.labels import Label
from tests.conftest import Run


def test_predict_writes_a_row_per_crystal_and_names_what_it_cannot_read(
    selector: Run, folder: Path, labels: list[Label]
) -> None:
    (folder / "cifs" / "broken.cif").write_text("data_x\n_cell_length_a 1\n", encoding="utf-8")
    out_file = folder / "sc.csv"
    code, _, err = selector("predict", folder / "cifs", "--out", out_file)
    assert code == 1
    assert "broken.cif" in err
    with out_file.open(encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0])[2:] == ["sc_mean", "sc_std", "sc_lo", "sc_hi", "p_low", "out_of_domain"]
    assert {row["material_id"] for row in rows} == {label.material_id for label in labels}
    assert all(float(r["sc_lo"]) <= float(r["sc_mean"]) <= float(r["sc_hi"]) <= 1.0 for r in rows)
    one = folder / "cifs" / f"{labels[0].material_id}.cif"
    assert labels[0].formula in selector("predict", one)[1]
    assert len(json.loads(selector("predict", one, "--json")[1])["predictions"]) == 1


def test_compute_writes_both_spectra(selector: Run, folder: Path, labels: list[Label]) -> None:
    out_file = folder / "one.json"
    code, _, err = selector(
        "compute", folder / "cifs" / f"{labels[0].material_id}.cif", "--engine", "replay", "--out", out_file
    )
    assert code == 0, err
    document = json.loads(out_file.read_text(encoding="utf-8"))
    keys = {"material_id", "formula", "sc", "eps_static", "gap_ev", "n_g", "cpu_s", "wall_s", "settings", "spectra"}
    assert keys | {"ladder", "repairs"} <= set(document)
    assert document["sc"] == pytest.approx(labels[0].sc, abs=2e-3)
    assert {len(v) for v in document["spectra"].values()} == {2001}
    assert {len(v) for v in document["directions"].values()} == {3}
    assert set(document["spectra"]) == {"energy_ev", "ipa_im", "ipa_re", "rpa_im", "rpa_re"}


def test_compute_refuses_by_name_before_and_after_computing(selector: Run, folder: Path, labels: list[Label]) -> None:
    good = folder / "cifs" / f"{labels[0].material_id}.cif"
    stranger = folder / "stranger.cif"
    Structure(Lattice.cubic(4), ["Na", "K"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(str(stranger))
    for arguments, code, words in (
        ([good, "--out", "/proc/nowhere/x.json"], 2, ["/proc/nowhere"]),
        ([good, "--out", folder / "x.json", "--engine", "vasp"], 2, ["vasp", "gpaw"]),
        ([good, "--out", folder / "x.json", "--preset", "huge"], 2, ["huge", "standard"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "labels"], 2, ["labels", "KEY=VALUE"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "times=1"], 2, ["times", "time_scale"]),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--option", "time_scale=-1"], 2, ["time_scale -1"]),
        ([folder / "no.cif", "--out", folder / "x.json"], 2, ["no.cif"]),
        ([good, "--out", folder, "--engine", "replay"], 2, ["a folder", "name the file"]),
        ([good, "--out", folder / "x.json", "--engine", "qe_yambo"], 1, ["MissingDataset", "option pseudo_dir"]),
        ([good, "--out", folder / "x.json", "--option", "python=/no/python"], 1, ["ProgramMissing", "option python"]),
        ([good, "--out", folder / "x.json", "--option", "spin_check=perhaps"], 2, ["spin_check", "boolean"]),
        (
            [stranger, "--out", folder / "x.json", "--engine", "replay"],
            1,
            ["stranger.cif: UnknownMaterial", "replay only"],
        ),
        ([good, "--out", folder / "x.json", "--engine", "replay", "--time-limit-s", 1], 1, ["TimedOut", "more time"]),
    ):
        got, _, err = selector("compute", *arguments)
        assert got == code
        assert len(err.strip().splitlines()) == 1
        assert all(word in err for word in words), err
    assert not (folder / "x.json").exists()


def test_what_was_computed_is_kept_when_it_cannot_be_written(
    selector: Run, folder: Path, labels: list[Label], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "temporary"))
    crystal, out = folder / "cifs" / f"{labels[0].material_id}.cif", folder / "one.json"
    code, _, err = selector("compute", crystal, "--engine", "replay", "--out", out)
    assert (code, "TMPDIR" in err) == (1, True)
    (folder / "temporary").mkdir()
    # Where it would be written before it gets its name.
    (folder / f"one.json.{os.getpid()}.part").symlink_to("/dev/full")
    code, _, err = selector("compute", crystal, "--engine", "replay", "--out", out)
    assert code == 2
    assert "one.json cannot be written (No space left on device)" in err
    (kept,) = (folder / "temporary").iterdir()
    assert f"kept in {kept}" in err
    assert not out.exists()
    assert selector("compute", crystal, "--engine", "replay", "--out", out)[0] == 0
    assert list((folder / "temporary").iterdir()) == [kept]


@pytest.mark.gpaw
def test_a_metal_is_refused_by_gpaw(selector: Run, folder: Path) -> None:
    metal = folder / "magnesium.cif"
    Structure(Lattice.from_parameters(3.2, 3.2, 3.2, 60, 60, 60), ["Mg"], [[0, 0, 0]]).to(str(metal))
    code, _, err = selector("compute", metal, "--preset", "smoke", "--out", folder / "x.json")
    assert code == 1
    assert "magnesium.cif: Metallic" in err
    assert "leave it out" in err
    assert len(err.strip().splitlines()) == 1
