"""Real GPAW calculations."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from ase.data import atomic_numbers
from crystals import REFERENCE, fcc, reference
from pymatgen.core import Lattice, Structure

from fw_tasks.engines.as_json import calculation_to_json
from fw_tasks.engines.base import Magnetic, Metallic, NotConverged
from fw_tasks.engines.gpaw import GPAWEngine
from fw_tasks.engines.gpaw_datasets import VALENCE_ELECTRONS
from models.labels import load_labels

pytestmark = pytest.mark.gpaw
BOTH = ("ipa", "rpa")
SILICON, _ = reference("Si")


def test_silicon_at_smoke(tmp_path: Path) -> None:
    result = GPAWEngine("smoke").compute("Si", SILICON, BOTH, tmp_path, 300.0)
    # Measured .8833; another BLAS may move the last digits.
    assert result.sc == pytest.approx(0.883, abs=0.002)
    assert result.gap_ev == pytest.approx(0.691, abs=0.01)
    document = calculation_to_json("Si", "Si", result)
    assert document["n_g"] == 51
    assert document["eps_static"]["rpa"] < document["eps_static"]["ipa"] == pytest.approx(14.27, abs=0.05)
    assert 0.0 < result.cpu_s < 60.0
    details = result.details
    assert {"n_k", "n_bands", "n_pw", "ecut_used_ev", "gap_response_ev", "energy_ev", "versions"} <= details.keys()
    assert details["electrons"] == 8.0
    assert details["spin_check"]["done"] is False
    assert sum(details["cpu_stage_s"].values()) <= result.cpu_s
    log = (tmp_path / "worker.log").read_text()
    assert [stage for stage in ("scf", "bands", "response") if f"stage {stage}" in log] == ["scf", "bands", "response"]


def test_unconverged_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(NotConverged):
        GPAWEngine("smoke", max_scf_iterations=3).compute("Si", SILICON, BOTH, tmp_path, 300.0)
    assert not (tmp_path / "result.npz").exists()


def test_a_metal_is_no_label(tmp_path: Path) -> None:
    with pytest.raises(Metallic, match="gap"):
        GPAWEngine("smoke").compute("Pb", fcc(4.95, ["Pb"]), BOTH, tmp_path, 300.0)


def test_the_table_of_datasets_is_that_of_gpaw_data() -> None:
    import gpaw_data

    found: dict[str, int] = {}
    for path in gpaw_data.datapath().glob("*.PBE.gz"):
        symbol = path.name.split(".")[0]
        if path.name == f"{symbol}.PBE.gz":
            with gzip.open(path, "rt", errors="replace") as f:
                atom = re.search(r"<atom ([^>]*)>", f.read(4000))
            assert atom is not None
            numbers = {k: float(v) for k, v in re.findall(r'(Z|core|valence)="\s*([^"]*)"', atom.group(1))}
            assert numbers["Z"] == atomic_numbers[symbol]
            # Parity of all electrons is parity of the valence electrons only where cores are even.
            assert numbers["core"] % 2 == 0
            found[symbol] = int(numbers["valence"])
    assert found == VALENCE_ELECTRONS


@pytest.mark.slow
@pytest.mark.parametrize("record", REFERENCE, ids=lambda r: r["formula"])
def test_the_seven_crystals_at_standard(record: dict, tmp_path: Path) -> None:
    structure, _ = reference(record["formula"])
    result = GPAWEngine("standard").compute(record["formula"], structure, BOTH, tmp_path, 600.0)
    document = calculation_to_json(record["formula"], record["formula"], result)
    assert document["sc"] == pytest.approx(record["sc"], abs=0.002)
    assert document["n_g"] == record["n_g"]
    assert document["eps_static"] == pytest.approx(record["eps_static"], abs=0.01)
    assert document["gap_ev"] == pytest.approx(record["gap_ev"], abs=0.01)


@pytest.mark.slow
def test_a_shipped_label_comes_out_again(tmp_path: Path) -> None:
    (label,) = load_labels(ids=["agm002492670"])
    engine = GPAWEngine("standard")
    result = engine.compute(label.material_id, label.structure, BOTH, tmp_path, 600.0)
    assert result.settings_hash == label.settings_hash
    assert result.sc == pytest.approx(label.sc, abs=0.002)
    assert result.gap_ev == pytest.approx(label.gap_ev, abs=0.005)
    assert result.details["n_g"] == label.details["n_g"]


@pytest.mark.slow
def test_ipa_alone_is_the_same_ipa(tmp_path: Path) -> None:
    structure, record = reference("LiF")
    engine = GPAWEngine("smoke")
    both = engine.compute("LiF", structure, BOTH, tmp_path / "both", 600.0)
    alone = engine.compute("LiF", structure, ("ipa",), tmp_path / "alone", 600.0)
    assert set(alone.spectra) == {"ipa"}
    assert alone.spectra["ipa"].eps == pytest.approx(both.spectra["ipa"].eps, abs=1e-6)
    assert alone.details["n_g"] == 1
    assert both.details["n_g"] == record["n_g"]


@pytest.mark.slow
def test_a_magnet_with_a_closed_shell_state_is_no_label(tmp_path: Path) -> None:
    layered = Structure.from_spacegroup(
        "P-3m1", Lattice.hexagonal(3.6, 5.8), ["Fe", "Cl"], [[0, 0, 0], [1 / 3, 2 / 3, 0.25]]
    )
    with pytest.raises(Magnetic, match="Bohr magnetons"):
        GPAWEngine("smoke").compute("FeCl2", layered, BOTH, tmp_path, 600.0)


@pytest.mark.slow
def test_a_low_spin_insulator_passes_the_spin_check(tmp_path: Path) -> None:
    cell = Structure.from_spacegroup(
        "R-3m", Lattice.hexagonal(2.816, 14.054), ["Li", "Co", "O"], [[0, 0, 0.5], [0, 0, 0], [0, 0, 0.26]]
    )
    result = GPAWEngine("smoke").compute("LiCoO2", cell, BOTH, tmp_path, 600.0)
    assert result.details["spin_check"]["done"] is True
    assert result.details["spin_check"]["moment_mub"] < 0.1
    assert 0.5 < result.sc < 1.0
