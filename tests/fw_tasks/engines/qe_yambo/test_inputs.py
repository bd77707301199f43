"""Settings, pseudopotentials, and the input files of the programs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from input_fields import blocks, fields
from pymatgen.core import Structure

from fw_tasks.engines.base import MissingDataset
from fw_tasks.engines.checks import primitive_cell
from fw_tasks.engines.qe_yambo.geometry import shifted_points
from fw_tasks.engines.qe_yambo.pseudopotentials import find_pseudopotentials
from fw_tasks.engines.qe_yambo.qe_input import PwJob, pw_input
from fw_tasks.engines.qe_yambo.settings import PRESETS, resolve_settings
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob, yambo_input
from selector.errors import UsageError
from selector.spectra import settings_hash


def test_the_standard_settings_keep_their_hash() -> None:
    """Labels are told apart by it."""
    assert settings_hash(PRESETS["standard"].model_dump(mode="json")) == "a4bd381ffdcf"


def test_a_list_from_yaml_is_the_same_ladder() -> None:
    assert resolve_settings("standard", {"g_cutoffs_mry": [2000, 4000]}).g_cutoffs_mry == (2000, 4000)


@pytest.mark.parametrize(
    ("preset", "changes", "says"),
    [
        ("fast", {}, "smoke, standard"),
        ("standard", {"ecut": 60}, "ecut.*settings are name"),
        ("standard", {"ecutwfc_ry": "60"}, "ecutwfc_ry"),
        ("standard", {"ecutwfc_ry": 60.5}, "ecutwfc_ry"),
        ("standard", {"eta_ev": 0.0}, "eta_ev"),
        ("standard", {"g_cutoffs_mry": []}, "must rise"),
        ("standard", {"g_cutoffs_mry": [4000, 2000]}, "must rise"),
        ("standard", {"converge": "some"}, "converge"),
    ],
)
def test_wrong_settings_name_the_key(preset: str, changes: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve_settings(preset, changes)


@pytest.mark.parametrize(("name", "kind"), [("Si", "scf"), ("Si", "nscf"), ("LiF", "scf"), ("LiF", "nscf")])
def test_pw_is_asked_for_what_was_recorded(
    name: str, kind: str, golden: Callable[[str], str], crystals: dict[str, Structure], pseudo_dir: Path
) -> None:
    cell = primitive_cell(crystals[name])
    files = find_pseudopotentials(pseudo_dir, [site.specie.symbol for site in cell], "stub")
    recorded = golden(f"{name}/pw_{name}_{kind}_k500_E60.in")
    k = (6, 6, 6) if kind == "scf" else shifted_points((6, 6, 6))
    job = PwJob(kind, 60, fields(recorded)["nbnd"], k, 1e-10, 4.593661607577953e-4, symmorphic=kind == "nscf")
    text = pw_input(cell, files, job)
    assert fields(text) == fields(recorded)
    for key in ("conv_thr", "occupations", "diagonalization", "diago_thr_init", "force_symmorphic"):
        values = [re.search(rf"{key} = (\S+?),?\n", t)[1].lower() for t in (text, recorded)]
        assert values[0] == values[1]
    assert "restart_mode = 'from_scratch'" in text
    assert "max_seconds" not in text
    assert re.search(r"max_seconds = 30.0,\n", pw_input(cell, files, job, max_seconds=30.0, restart=True))


def test_moments_start_on_magnetic_elements(pseudo_dir: Path) -> None:
    cell = Structure([[2.1, 2.1, 0.0], [2.1, 0.0, 2.1], [0.0, 2.1, 2.1]], ["Fe", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    files = find_pseudopotentials(pseudo_dir, ["Fe", "F"], "stub")
    job = PwJob("scf", 60, 23, (2, 2, 2), 1e-7, 5e-4, moments_on=("Fe",))
    text = pw_input(cell, files, job)
    assert "nspin = 2" in text
    assert re.findall(r"starting_magnetization\((\d)\)", text) == ["2"]
    assert text.index("  F 18.99840 F_stub.upf") < text.index("  Fe 55.84500 Fe_stub.upf")


def test_yambo_is_asked_for_what_was_recorded(golden: Callable[[str], str]) -> None:
    job = YamboJob(axis=0, cutoff_mry=2000, n_bands=10, eta_ev=0.3)
    assert job.name == "RPA_dir_100_sc_2000"
    assert blocks(yambo_input(job)) == blocks(golden(f"LiF/{job.name}.in"))
    minimal = golden("LiF_minimal_input/RPA_min.in").split()
    assert yambo_input(job).split() == minimal
    assert YamboJob(2, 0, 10, 0.3).name == "RPA_dir_001_sc_0"


def test_pseudopotentials_that_will_not_do(tmp_path: Path, pseudo_dir: Path) -> None:
    def found(element: str = "Si", family: str = "other", folder: Path | None = tmp_path) -> None:
        find_pseudopotentials(folder, [element], family)

    with pytest.raises(MissingDataset, match="pseudo_dir"):
        found(folder=None)
    with pytest.raises(MissingDataset, match="is not a folder"):
        found(folder=tmp_path / "nowhere")
    with pytest.raises(MissingDataset, match=r"no pseudopotential for Si \(Si.upf"):
        found()
    good = (pseudo_dir / "Si_stub.upf").read_text()
    (tmp_path / "si.UPF").write_text(good)
    (tmp_path / "Sin.upf").write_text("another element's")
    found()
    with pytest.raises(MissingDataset, match=r"not the SG15-1\.2"):
        found(family="SG15-1.2")
    (tmp_path / "Si_2.upf").write_text(good)
    with pytest.raises(MissingDataset, match=r"several.*Si_2\.upf, si\.UPF"):
        found()
    (tmp_path / "F.upf").write_text(good.replace('"NC"', '"US"'))
    with pytest.raises(MissingDataset, match="norm-conserving"):
        found("F")
    (tmp_path / "Li.upf").write_text(good.replace("PBE", "PZ"))
    with pytest.raises(MissingDataset, match="norm-conserving PBE"):
        found("Li")
    (tmp_path / "C.upf").write_text("<PP_INFO>")
    with pytest.raises(MissingDataset, match="not a UPF"):
        found("C")
