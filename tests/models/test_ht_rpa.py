"""The published database, in the layout of github.com/magr4826/HT_RPA: written by pymatgen and monty, read by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from monty.json import MontyEncoder
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from models import ht_rpa
from models.ht_rpa import read_database, write_database, write_shards
from models.labels import load_labels
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, similarity
from tests.crystals import face_centred


def lorentzian(centre_ev: float) -> tuple[np.ndarray, np.ndarray]:
    eps = 1.0 + 20.0 / (centre_ev**2 - ENERGY_EV**2 - 0.3j * ENERGY_EV)
    return eps.real, eps.imag


def write(folder, name="agm001", components=("xx",), data=None, parameters=None, arrays=np.asarray, structure=None):
    """One material as the authors' code leaves it: arrays as monty encodes them, NaN as JSON's NaN."""
    folder.mkdir(exist_ok=True)
    structure = structure or face_centred("rocksalt", 4, "Li", "F")
    full = {"mat_id": name, "ipa_indirect_gap": 2.0, "ipa_direct_gap": 2.5, "rpa_similarity": np.array([0.95, 0, 0])}
    for level, shift in (("ipa", 0.0), ("rpa", 0.7)):
        parts = {c: lorentzian(6.0 + shift + k) for k, c in enumerate(components)}
        full[f"{level}_epsR"] = {c: arrays(p[0]) for c, p in parts.items()}
        full[f"{level}_epsI"] = {c: arrays(p[1]) for c, p in parts.items()}
    entry = ComputedStructureEntry(
        structure,
        -7.5,
        parameters={"rpa_kppa": 1500, "rpa_G": np.array([6000, 0, 0]), "rpa_broad": 0.3} | (parameters or {}),
        data=full | (data or {}),
    )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(entry.as_dict(), cls=MontyEncoder))
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "database"


@pytest.mark.parametrize("arrays", [np.asarray, np.ndarray.tolist], ids=["monty arrays", "plain lists"])
def test_a_cubic_crystal_has_three_equal_components(folder, arrays):
    write(folder, arrays=arrays)
    (label,) = read_database(folder).labels
    ipa, rpa = lorentzian(6.0)[1], lorentzian(6.7)[1]
    for k in range(3):
        assert np.allclose(label.ipa.eps[k].imag, ipa, rtol=1e-6)
        assert np.allclose(label.rpa.eps[k].real, lorentzian(6.7)[0], rtol=1e-6)
    assert label.sc == pytest.approx(similarity(rpa, ipa), abs=1e-6)
    assert label.sc_xyz == pytest.approx((label.sc,) * 3, abs=1e-6)
    assert (label.material_id, label.formula, label.engine, label.gap_ev) == ("agm001", "LiF", "ht-rpa", 2.0)
    assert label.settings["kppa_response"] == 1500
    assert label.settings["eta_ev"] == 0.3
    assert label.details["rpa_g_mry"] == [6000, 0, 0]
    assert label.details["energy"] == -7.5
    assert len(label.structure) == 8
    assert math.isnan(label.cpu_s)


def test_an_absent_component_equals_xx(folder):
    write(folder, "agm001", ("xx", "zz"))
    (label,) = read_database(folder).labels
    assert np.array_equal(label.ipa.eps[1], label.ipa.eps[0])
    assert np.allclose(label.ipa.eps[2].imag, lorentzian(7.0)[1], rtol=1e-6)
    mean_ipa = (2 * lorentzian(6.0)[1] + lorentzian(7.0)[1]) / 3
    mean_rpa = (2 * lorentzian(6.7)[1] + lorentzian(7.7)[1]) / 3
    assert label.sc == pytest.approx(similarity(mean_rpa, mean_ipa), abs=1e-6)


@pytest.mark.slow
def test_what_is_left_out_and_why(folder):
    write(folder, "agm001")
    nan = dict.fromkeys(
        ("ipa_epsI", "ipa_epsR", "rpa_epsI", "rpa_epsR", "ipa_indirect_gap", "ipa_direct_gap"), math.nan
    )
    write(folder, "metal", data=nan)
    write(folder, "narrow", data={"ipa_indirect_gap": 0.499})
    write(folder, "wide", data={"ipa_direct_gap": 10.01})
    write(folder, "edge", data={"ipa_indirect_gap": 0.5, "ipa_direct_gap": 10.0})
    write(folder, "hole", data={"rpa_epsI": {"xx": np.where(ENERGY_EV > 3, np.nan, 1.0)}})
    write(folder, "short", data={"rpa_epsI": {"xx": np.ones(100)}, "rpa_epsR": {"xx": np.ones(100)}})
    write(folder, "dark", data={"ipa_epsI": {"xx": np.zeros(2001)}})
    write(folder, "mixed", structure=Structure(Lattice.cubic(4), [{"Li": 0.5, "Na": 0.5}], [[0, 0, 0]]))
    entry = json.loads(write(folder, "ipa-only").read_text())
    entry["data"] = {k: v for k, v in entry["data"].items() if not k.startswith("rpa")}
    (folder / "ipa-only.json").write_text(json.dumps(entry))
    (folder / "broken.json").write_text('{"data": {')
    (folder / "list.json").write_text("[1, 2]")
    found = read_database(folder)
    assert [k.material_id for k in found.labels] == ["agm001", "edge"]
    assert found.left_out == {
        ht_rpa.METAL: ["hole.json", "metal.json"],
        ht_rpa.SMALL_GAP: ["narrow.json"],
        ht_rpa.LARGE_GAP: ["wide.json"],
        ht_rpa.OTHER_GRID: ["short.json"],
        ht_rpa.NO_ABSORPTION: ["dark.json"],
        ht_rpa.NO_RPA: ["ipa-only.json"],
        ht_rpa.DISORDERED: ["mixed.json"],
        "not a readable entry (JSONDecodeError)": ["broken.json"],
        "not a readable entry (TypeError)": ["list.json"],
    }


def test_a_file_can_name_no_class_to_be_made(folder, tmp_path):
    """monty's decoder would call what a file names; it is not used."""
    path = write(folder)
    entry = json.loads(path.read_text())
    trap = {"@module": "pathlib", "@class": "Path", "data": lorentzian(6.0)[1].tolist()}
    entry["data"]["rpa_epsI"]["xx"] = trap
    entry["structure"]["sites"][0]["properties"] = {"x": {"@module": "os", "@class": "system"}}
    path.write_text(json.dumps(entry))
    (label,) = read_database(folder).labels
    assert isinstance(label.rpa.eps, np.ndarray)


def test_the_number_of_g_vectors_is_no_setting_but_the_broadening_is(folder):
    write(folder, "a")
    write(folder, "b", parameters={"rpa_G": [10000, 10000, 10000]})
    write(folder, "c", parameters={"rpa_broad": 0.1})
    a, b, c = read_database(folder).labels
    assert a.settings_hash == b.settings_hash != c.settings_hash


@pytest.mark.slow
def test_shards_hold_the_same_labels(folder, tmp_path, monkeypatch):
    for k in range(5):
        write(folder, f"agm{k}", ("xx", "yy", "zz"), data={"ipa_indirect_gap": 1.0 + k})
    labels = read_database(folder).labels
    monkeypatch.setattr(ht_rpa, "SHARD_LABELS", 2)
    assert len(write_shards(labels, tmp_path / "shards")) == 3
    again = load_labels(tmp_path / "shards")
    assert len(again) == 5
    for a, b in zip(labels, again, strict=True):
        assert np.array_equal(a.ipa.eps, b.ipa.eps)
        assert np.array_equal(a.rpa.eps, b.rpa.eps)
        assert (a.sc, a.sc_xyz, a.settings_hash, a.engine, a.split) == (
            b.sc,
            b.sc_xyz,
            b.settings_hash,
            b.engine,
            b.split,
        )
        assert a.structure == b.structure
        assert a.details == b.details
        assert math.isnan(b.cpu_s)


def test_the_shipped_labels_survive_export_and_import(labels, tmp_path):
    """Identical in the single precision that shards hold; from there on to the last bit."""
    part = labels[:6]
    write_database(part, tmp_path / "out")
    found = read_database(tmp_path / "out")
    assert not found.left_out
    write_shards(found.labels, tmp_path / "shards")
    again = load_labels(tmp_path / "shards", settings_hash=part[0].settings_hash)
    for a, b in zip(part, again, strict=True):
        for level in ("ipa", "rpa"):
            assert np.allclose(getattr(a, level).eps, getattr(b, level).eps, rtol=1e-6, atol=1e-6)
        assert b.sc == pytest.approx(a.sc, abs=1e-7)
        assert b.sc_xyz == pytest.approx(a.sc_xyz, abs=1e-7)
        assert a.structure == b.structure
        facts = ("material_id", "formula", "engine", "settings", "settings_hash", "split", "cpu_s", "gap_ev")
        assert [getattr(a, f) for f in facts] == [getattr(b, f) for f in facts]
    write_database(again, tmp_path / "out2")
    for a, b in zip(again, read_database(tmp_path / "out2").labels, strict=True):
        assert np.array_equal(a.ipa.eps, b.ipa.eps)
        assert np.array_equal(a.rpa.eps, b.rpa.eps)
        assert a.sc == b.sc


def test_the_authors_own_reader_understands_an_export(labels, tmp_path):
    write_database(labels[:1], tmp_path / "out")
    name = labels[0].material_id
    entry = ComputedStructureEntry.from_dict(json.loads((tmp_path / "out" / f"{name}.json").read_text()))
    assert entry.data["mat_id"] == name
    assert entry.structure == labels[0].structure
    assert isinstance(entry.data["rpa_epsI"]["xx"], np.ndarray)
    assert np.allclose(entry.data["rpa_epsI"]["xx"], labels[0].rpa.eps[0].imag)
    assert entry.parameters["rpa_broad"] == labels[0].settings["eta_ev"]
    assert entry.parameters["rpa_G"] == pytest.approx([4000] * 3, rel=1e-3)  # 54.4 eV are 4 Ry


def test_a_component_that_equals_xx_is_not_written(folder, tmp_path):
    write(folder, "agm001", ("xx", "zz"))
    write_database(read_database(folder).labels, tmp_path / "out")
    data = json.loads((tmp_path / "out" / "agm001.json").read_text())["data"]
    assert set(data["ipa_epsI"]) == {"xx", "zz"}


def test_kinds_are_not_mixed(folder, labels, tmp_path):
    write(folder, "agm001")
    theirs = read_database(folder).labels
    write_shards([*theirs, labels[0]], tmp_path / "both")
    with pytest.raises(SelectorError, match="never mixed"):
        load_labels(tmp_path / "both", settings_hash=labels[0].settings_hash)


def test_folders_that_will_not_do(folder, labels, tmp_path):
    with pytest.raises(UsageError, match="no JSON files"):
        read_database(tmp_path)
    write_database(labels[:1], tmp_path / "out")
    with pytest.raises(UsageError, match="choose a new folder"):
        write_database(labels[:1], tmp_path / "out")
    write_shards(labels[:1], tmp_path / "shards")
    with pytest.raises(UsageError, match="choose a new folder"):
        write_shards(labels[:1], tmp_path / "shards")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        write_shards(labels[:1], tmp_path / "file" / "x")
    assert ht_rpa.is_database(tmp_path / "out")
    assert not ht_rpa.is_database(tmp_path / "shards")
