"""What a campaign's materials end with, as files: every format holds the same, and other programs read it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fw_tasks.launch import open_campaign
from selector.config import load_config
from selector.optics import QUANTITIES, optics
from selector.results import COLUMNS, recorded
from tests.conftest import Run

Spectra = dict[tuple[str, str], dict[str, Any]]


def read_json(folder: Path) -> tuple[list[dict[str, Any]], Spectra]:
    rows = json.loads((folder / "materials.json").read_text(encoding="utf-8"))["materials"]
    lines = [json.loads(line) for line in (folder / "spectra.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, {(s["material_id"], s["level"]): s for s in lines}


def read_parquet(folder: Path) -> tuple[list[dict[str, Any]], Spectra]:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(folder / "materials.parquet")
    assert b"SC[RPA; IPA]" in table.schema.metadata[b"sc_pred"]
    lines = parquet.read_table(folder / "spectra.parquet").to_pylist()
    return table.to_pylist(), {(s["material_id"], s["level"]): s for s in lines}


def read_hdf5(folder: Path) -> tuple[list[dict[str, Any]], Spectra]:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "campaign.h5") as f:
        columns = {
            name: data.asstr()[()] if data.dtype == object else data[()] for name, data in f["materials"].items()
        }
        unknown = {"object": "", "float64": np.nan, "int64": -1}
        rows = [
            {
                name: None if same(values[i], unknown[str(values.dtype)]) else values[i]
                for name, values in columns.items()
            }
            for i in range(len(columns["material_id"]))
        ]
        spectra = {
            (material_id, level.removesuffix("_predicted")): {
                **{name: data[()] for name, data in group.items()},
                "origin": group.attrs["origin"],
                "components": list(group.attrs["components"]),
                "source": group.attrs["source"],
            }
            for material_id, levels in f["spectra"].items()
            for level, group in levels.items()
        }
    return rows, spectra


READERS = {"json": read_json, "parquet": read_parquet, "hdf5": read_hdf5}


def same(a: Any, b: Any) -> bool:
    """Equal, NaN to itself too."""
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and np.isnan(a) and np.isnan(b))


def known(row: dict[str, Any]) -> dict[str, Any]:
    """HDF5 has no other word for what is not known than an empty text."""
    return {k: v for k, v in row.items() if v is not None and v != ""}


@pytest.mark.parametrize("form", READERS)
def test_every_format_gives_back_table_and_spectra(selector: Run, replayed: Path, tmp_path: Path, form: str) -> None:
    code, out, err = selector("export", tmp_path / "out", "--format", form, "--config", replayed)
    assert code == 0, err
    rows, spectra = READERS[form](tmp_path / "out")
    assert f"{len(rows)} materials and {len(spectra)} spectra" in out
    assert not list((tmp_path / "out").glob("*.part"))

    campaign = open_campaign(load_config(replayed))
    candidates = {c["material_id"]: c for c in campaign.store.candidates()}
    assert {row["material_id"] for row in rows} == set(candidates)
    for row in rows:
        c = candidates[row["material_id"]]
        assert set(row) == set(COLUMNS)
        assert row["status"] == c["status"]
        assert (row["rpa"], row["ipa"]) == (("computed",) * 2 if c["status"] == "done" else ("absent",) * 2)
        assert row["sc_computed"] == pytest.approx(c.get("sc_computed"))
        if "decision" in c:
            assert row["policy"] == "value_per_cost"
            assert row["audit_probability"] == c["decision"]["audit_probability"]
            assert bool(row["out_of_domain"]) is c["decision"]["out_of_domain"]
            assert row["p_low"] == pytest.approx(c["decision"]["p_low"])

    stored = {(s.material_id, s.level): s for s in recorded(campaign.store)}
    done = {m for m, c in candidates.items() if c["status"] == "done"}
    assert set(spectra) == set(stored) == {(m, level) for m in done for level in ("ipa", "rpa")}
    for key, s in stored.items():
        got = spectra[key]
        assert (got["origin"], list(got["components"]), got["source"]) == ("computed", ["xx", "yy", "zz"], s.source)
        for name in ("energy_ev", "eps_im", "eps_re"):
            # Bit for bit: float32 is what the database holds.
            assert np.array_equal(np.asarray(got[name], dtype=np.float32), getattr(s, name))


@pytest.mark.slow
@pytest.mark.parametrize("form", READERS)
def test_optical_properties_stand_beside_the_spectra_when_asked_for(
    selector: Run, replayed: Path, tmp_path: Path, form: str
) -> None:
    assert selector("export", tmp_path / "plain", "--format", form, "--config", replayed)[0] == 0
    _, plain = READERS[form](tmp_path / "plain")
    code, _, err = selector("export", tmp_path / "more", "--format", form, "--optics", "--config", replayed)
    assert (code, err.strip()) == (0, "")
    _, more = READERS[form](tmp_path / "more")
    assert plain.keys() == more.keys()
    for key, without in plain.items():
        assert not set(QUANTITIES) & set(without)
        s = {name: np.asarray(more[key][name], dtype=np.float32) for name in ("eps_re", "eps_im", *QUANTITIES)}
        assert {v.shape for v in s.values()} == {np.shape(without["eps_im"])}
        expected = optics(np.asarray(without["energy_ev"], dtype=np.float32), s["eps_re"] + 1j * s["eps_im"])
        for name, values in expected.items():
            np.testing.assert_allclose(s[name], values, rtol=1e-6, err_msg=name)


def test_the_formats_agree(selector: Run, replayed: Path, tmp_path: Path) -> None:
    found = []
    for form, read in READERS.items():
        assert selector("export", tmp_path / form, "--format", form, "--config", replayed)[0] == 0
        rows, _ = read(tmp_path / form)
        found.append({row["material_id"]: row for row in rows})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for material_id, row in found[0].items():
            assert known(row) == known(other[material_id])


def test_predicted_spectra_come_with_what_is_to_be_expected_of_them(
    selector: Run, replayed: Path, tmp_path: Path
) -> None:
    code, out, err = selector(
        "export", tmp_path, "--predicted", "--optics", "--config", replayed, "--device", "cpu", "--json"
    )
    assert code == 0, err
    rows, spectra = read_json(tmp_path)
    assert json.loads(out)["spectra"] == len(spectra)
    predicted = [row for row in rows if row["rpa"] == "predicted"]
    assert predicted
    for row in predicted:
        s = spectra[row["material_id"], "rpa"]
        assert (s["origin"], s["components"], s["eps_re"]) == ("predicted", ["trace/3"], None)
        assert {s[name] for name in QUANTITIES} == {None}
        assert s["source"] == row["spectrum_model_id"]
        assert np.shape(s["eps_im"]) == (1, 2001)
        assert row["sc_expected"] is None or 0.0 < row["sc_expected_low"] < row["sc_expected"] <= 1.0
    assert f"{len(predicted)} predicted spectra have no optical properties" in err
    assert any(row["sc_expected"] is not None for row in predicted) or "no expected SC" in err
    left = {row["material_id"] for row in rows if row["status"] != "rejected" and row["rpa"] == "absent"}
    assert not left or "no input" in err


@pytest.mark.parametrize(("form", "library"), [("parquet", "pyarrow"), ("hdf5", "h5py")])
def test_a_missing_library_is_one_line(
    selector: Run, replayed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, library: str
) -> None:
    for name in [name for name in sys.modules if name.split(".", maxsplit=1)[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = selector("export", tmp_path / "out", "--format", form, "--config", replayed)
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert library in err and "theory-level-selector[export]" in err
    assert not (tmp_path / "out").exists()


def test_an_export_that_breaks_leaves_nothing(
    selector: Run, replayed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert selector("export", tmp_path, "--config", replayed)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(store: Any) -> Any:
        yield next(recorded(store))
        raise KeyboardInterrupt

    monkeypatch.setattr("selector.results.recorded", broken)
    assert selector("export", tmp_path, "--config", replayed)[0] == 130
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_options_that_do_not_go_together_are_named(selector: Run, replayed: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--labels", tmp_path), "--labels goes with --format ht-rpa"),
        (("--format", "ht-rpa", "--predicted"), "are for a campaign"),
        (("--format", "ht-rpa", "--optics"), "are for a campaign"),
        (("--spectrum-model", tmp_path), "goes with --predicted"),
    ):
        code, _, err = selector("export", tmp_path / "out", "--config", replayed, *arguments)
        assert (code, words in err, len(err.strip().splitlines())) == (2, True, 1)
    assert selector("export", "/proc/nowhere/x", "--config", replayed)[0] == 2
