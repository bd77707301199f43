from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition

from models.labels import SHIPPED, Label, canonical_settings, grouped_folds, load_labels, read_manifest, reduced_formula
from selector.errors import SelectorError, UsageError
from selector.spectra import ENERGY_EV, settings_hash, similarity

STANDARD = {
    "name": "standard-1", "xc": "PBE", "pw_ev": 350.0, "kppa_scf": 100, "kppa_response": 300, "emax_c_ev": 35.0,
    "ecut_ev": 54.4, "closed_shell": True, "eta_ev": 0.3, "domega0_ev": 0.1,
}  # fmt: skip


def raw_records() -> dict[str, dict]:
    """The shards' own metadata, read without the loader."""
    out = {}
    for shard in SHIPPED.glob("shard-*.npz"):
        with np.load(shard) as z:
            out |= {r["mat_id"]: r for r in json.loads(str(z["meta"]))}
    return out


def write_shard(folder: Path, labels: list[Label], change=lambda meta, arrays: None) -> Path:
    """A small shard in the shipped format, altered by `change`."""
    wanted, meta, parts = {k.material_id for k in labels}, [], {"omega": [], "ipa": [], "rpa": []}
    for source in sorted(SHIPPED.glob("shard-*.npz")):
        with np.load(source) as z:
            for k, record in enumerate(json.loads(str(z["meta"]))):
                if record["mat_id"] in wanted:
                    meta.append(record)
                    for name, part in parts.items():
                        part.append(z[name][..., z["start"][k] : z["start"][k + 1]])
    arrays = {name: np.concatenate(part, axis=-1) for name, part in parts.items()}
    arrays["start"] = np.concatenate([[0], np.cumsum([len(w) for w in parts["omega"]])])
    change(meta, arrays)
    path = folder / "shard-test.npz"
    np.savez_compressed(path, meta=json.dumps(meta), **arrays)
    return path


def test_rbf3_is_as_low_as_the_paper_reports_for_such_halides():
    (label,) = load_labels(ids=["agm002763063"])
    assert label.formula == "RbF3"
    assert similarity(label.rpa.mean.imag, label.ipa.mean.imag) == pytest.approx(0.175, abs=5e-4)
    assert label.sc == pytest.approx(0.175, abs=5e-4)
    assert label.split == "validation"


def test_every_shipped_label_is_consistent_with_its_record():
    records = raw_records()
    labels = load_labels()
    ids = [k.material_id for k in labels]
    assert ids == sorted(records)  # each once, none lost
    for label in labels:
        record = records[label.material_id]
        # The shard's value comes from double precision spectra on a slightly longer range.
        assert label.sc == pytest.approx(record["sc"], abs=1e-3)
        assert label.sc_xyz == pytest.approx(record["sc_xyz"], abs=1e-3)
        assert label.sc <= 1.0
        assert label.split in ("train", "validation")
        assert label.formula == Composition(record["formula"]).reduced_formula == reduced_formula(label.structure)
        assert np.array_equal(label.ipa.energy_ev, ENERGY_EV)
        assert label.cpu_s > 0
        assert label.gap_ev > 0


def test_spectra_are_traces_over_three(labels):
    label = labels[0]
    assert label.ipa.eps.shape == label.rpa.eps.shape == (3, 2001)
    assert label.ipa.mean == pytest.approx(label.ipa.eps.sum(axis=0) / 3)
    # The static limit the engine printed is the real part at 0 eV of the same average.
    assert label.details["eps0"] == pytest.approx([label.ipa.mean[0].real, label.rpa.mean[0].real], rel=1e-4)


def test_settings_carry_units_and_one_hash(labels):
    assert labels[0].settings == STANDARD
    assert {k.settings_hash for k in labels} == {settings_hash(STANDARD)}
    assert {k.engine for k in labels} == {"gpaw"}


def test_an_unknown_setting_is_not_ignored():
    raw = raw_records()["agm002763063"]["settings"]
    assert canonical_settings(raw) == STANDARD
    with pytest.raises(KeyError, match="smearing"):
        canonical_settings(raw | {"smearing": 0.1})


def test_a_second_shard_with_the_same_material_adds_nothing(tmp_path, labels):
    write_shard(tmp_path, labels[:3]).rename(tmp_path / "shard-a.npz")
    write_shard(tmp_path, labels[1:4]).rename(tmp_path / "shard-b.npz")
    assert [k.material_id for k in load_labels(tmp_path)] == [k.material_id for k in labels[:4]]


def test_mixed_settings_are_refused_where_one_hash_is_asked_for(tmp_path, labels):
    def other_cutoff(meta, arrays):
        meta[1]["settings"]["ecut"] = 100.0

    write_shard(tmp_path, labels[:3], other_cutoff)
    found = load_labels(tmp_path)
    assert len({k.settings_hash for k in found}) == 2
    with pytest.raises(SelectorError, match=rf"{labels[1].material_id}.*never mixed"):
        load_labels(tmp_path, settings_hash=labels[0].settings_hash)
    same = load_labels(tmp_path, [labels[0].material_id], settings_hash=labels[0].settings_hash)
    assert [k.material_id for k in same] == [labels[0].material_id]


def nan_in_spectrum(meta, arrays):
    arrays["rpa"][1, 40] = np.nan


def nan_in_sc(meta, arrays):
    meta[0]["sc"] = float("nan")


@pytest.mark.parametrize("change", [nan_in_spectrum, nan_in_sc])
def test_nan_labels_are_refused_by_name(tmp_path, labels, change):
    write_shard(tmp_path, labels[:2], change)
    with pytest.raises(SelectorError, match=rf"shard-test.npz: {labels[0].material_id}: .*NaN") as e:
        load_labels(tmp_path)
    assert "\n" not in str(e.value)


def no_structure(meta, arrays):
    del meta[0]["structure"]


def short_spectrum(meta, arrays):
    arrays["omega"] = arrays["omega"] * 0.1


@pytest.mark.parametrize("change", [no_structure, short_spectrum])
def test_incomplete_labels_are_refused_by_name(tmp_path, labels, change):
    write_shard(tmp_path, labels[:2], change)
    with pytest.raises(SelectorError, match=rf"{labels[0].material_id}: not a complete label"):
        load_labels(tmp_path)


def drop_an_array(path: Path) -> None:
    with np.load(path) as z:
        kept = {k: z[k] for k in z.files if k != "rpa"}
    np.savez(path, **kept)


def shorten_an_array(path: Path) -> None:
    with np.load(path) as z:
        kept = dict(z)
    np.savez(path, **kept | {"rpa": kept["rpa"][:, :-1]})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
        lambda p: p.write_bytes(b""),
        lambda p: p.write_text("not a zip file"),
        drop_an_array,
        shorten_an_array,
    ],
)
def test_a_broken_shard_is_named(tmp_path, labels, spoil):
    path = write_shard(tmp_path, labels[:2])
    spoil(path)
    with pytest.raises(SelectorError, match=r"shard-test.npz: not a readable label shard"):
        load_labels(tmp_path)


def test_no_shard_and_a_missing_id_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"no shard-\*.npz"):
        load_labels(tmp_path)
    with pytest.raises(UsageError, match="no label of agm000000000"):
        load_labels(ids=["agm000000000"])


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '["a", "a"]'])
def test_bad_manifests(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"list.json"):
        read_manifest(path)


@given(
    groups=st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40).filter(lambda g: len(set(g)) > 1),
    n_folds=st.integers(2, 10),
    seed=st.integers(0, 5),
)
def test_folds_keep_groups_together_and_balanced(groups, n_folds, seed):
    fold = grouped_folds(groups, n_folds, seed)
    by_group = {g: {int(f) for f, name in zip(fold, groups, strict=True) if name == g} for g in groups}
    assert all(len(f) == 1 for f in by_group.values())
    sizes = np.bincount([f for (f,) in map(tuple, by_group.values())])
    assert len(sizes) == min(n_folds, len(by_group))
    assert sizes.max() - sizes.min() <= 1
    # The order of the rows does not matter.
    assert grouped_folds(groups[::-1], n_folds, seed)[::-1].tolist() == fold.tolist()


def test_folds_need_two_groups():
    with pytest.raises(UsageError, match="1 groups"):
        grouped_folds(["a", "a"], 5, 0)
