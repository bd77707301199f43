"""Every recorded failure becomes its named error, and none a label: read by itself, and through the workflow."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from golden_files import GOLDEN
from pymatgen.core import Structure

from fw_tasks.engines.base import (
    BadOutput,
    EngineError,
    Metallic,
    MissingDataset,
    NotConverged,
    OddElectrons,
    TimedOut,
)
from fw_tasks.engines.qe_yambo import QEYamboEngine
from fw_tasks.engines.qe_yambo.ground_state import insulating_gap_ev
from fw_tasks.engines.qe_yambo.qe_input import PwJob
from fw_tasks.engines.qe_yambo.qe_output import TooFewBands, read_pw
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob
from fw_tasks.engines.qe_yambo.yambo_output import read_database, read_response, read_setup

PW = {
    "pw_bad_namelist": (BadOutput, "bad line in namelist"),
    "pw_max_seconds": (TimedOut, "time limit"),
    "pw_missing_pseudo": (MissingDataset, "not found"),
    "pw_nscf_eig_not_converged": (NotConverged, "too many bands are not converged"),
    "pw_nscf_without_scf": (BadOutput, "reading xml"),
    "pw_odd_electrons_fixed": (OddElectrons, "smearing is needed"),
    "pw_overlapping_atoms": (BadOutput, "overlap"),
    "pw_scf_not_converged": (NotConverged, "did not converge in 3"),
    "pw_too_few_bands": (TooFewBands, "too few bands"),
}
P2Y = {
    "p2y_non_symmorphic": (BadOutput, "ns.db1"),
    "p2y_wrong_dir": (BadOutput, "ns.db1"),
}
SETUP = {
    "metal_fccMg": (Metallic, "5 to 6"),
    "p2y_non_symmorphic": (BadOutput, "empty"),
    "yambo_no_SAVE": (BadOutput, "empty"),
}
RESPONSE = {
    "metal_fccMg": (BadOutput, "BndsRnXd 1 to 12"),
    "yambo_bad_keyword": (BadOutput, "did not run what was asked"),
    "yambo_bands_out_of_range": (BadOutput, "BndsRnXd 1 to 10, not 1 to 50"),
    "yambo_corrupt_db1": (BadOutput, "did not run what was asked"),
    "yambo_missing_input": (BadOutput, "did not run what was asked"),
    "yambo_missing_wf": (BadOutput, "STOP signal received"),
    "yambo_rerun_same_J": (BadOutput, "2 response functions"),
    "yambo_timeout_killed": (BadOutput, "is empty"),
}
ASKED = YamboJob(axis=0, cutoff_mry=2000, n_bands=50, eta_ev=0.3)
"""What the run of `yambo_bands_out_of_range` was asked for."""


def test_no_recorded_failure_is_left_out() -> None:
    with zipfile.ZipFile(GOLDEN / "failures.zip") as recorded:
        cases = {Path(member).parent.name for member in recorded.namelist()}
    assert cases == PW.keys() | P2Y.keys() | SETUP.keys() | RESPONSE.keys()
    assert len(cases) == 20


@pytest.mark.parametrize("case", PW)
def test_of_pw(case: str, golden: Callable[[str], str]) -> None:
    error, says = PW[case]
    kind = "nscf" if "nscf" in case else "scf"
    element = "Al" if "odd" in case else "Si"
    job = PwJob(kind, 60, 8, (6, 6, 6), 1e-10, 5e-4)
    with pytest.raises(error, match=says) as caught:
        read_pw(golden(f"failures/{case}/pw_{element}_{kind}.out"), job)
    assert caught.type is error


def test_a_metal_is_seen_by_every_program(golden: Callable[[str], str]) -> None:
    """Bands cross in the self-consistent field, and with fixed occupations the highest filled lies above the lowest
    empty one; all three programs end as if nothing were wrong."""
    scf = read_pw(golden("failures/metal_fccMg/pw_Mg_scf.out"), PwJob("scf", 40, 10, (4, 4, 4), 1e-10, 5e-4))
    assert scf.eigenvalues_ev is not None
    with pytest.raises(Metallic, match="gap"):
        insulating_gap_ev(scf.eigenvalues_ev, 5)
    nscf = read_pw(golden("failures/metal_fccMg/pw_Mg_nscf.out"), PwJob("nscf", 40, 12, (4, 4, 4), 1e-10, 5e-4))
    assert nscf.edges_ev is not None
    assert nscf.edges_ev[1] < nscf.edges_ev[0]


@pytest.mark.parametrize("case", P2Y)
def test_of_p2y(case: str, unpack: Callable[[str], Path]) -> None:
    error, says = P2Y[case]
    with pytest.raises(error, match=says):
        read_database(unpack(case))


@pytest.mark.parametrize("case", SETUP)
def test_of_the_setup(case: str, unpack: Callable[[str], Path]) -> None:
    error, says = SETUP[case]
    with pytest.raises(error, match=says):
        read_setup(unpack(case))


@pytest.mark.parametrize("case", RESPONSE)
def test_of_the_response(case: str, unpack: Callable[[str], Path]) -> None:
    error, says = RESPONSE[case]
    folder = unpack(case)
    for path in folder.glob("[olr]-RPA[._]*"):
        path.rename(folder / path.name.replace("-RPA", f"-{ASKED.name}", 1))
    with pytest.raises(error, match=says):
        read_response(folder, ASKED)


THROUGH = [
    *((f"scf={case}+", *PW[case]) for case in PW if "nscf" not in case and "too_few" not in case),
    ("nscf=pw_nscf_eig_not_converged+", NotConverged, "also with conjugate gradients"),
    ("nscf=pw_nscf_without_scf", BadOutput, "reading xml"),
    ("scf=silent", BadOutput, "no output"),
    ("p2y=p2y_non_symmorphic", BadOutput, "ns.db1"),
    ("setup=metal_fccMg", Metallic, "metallic bands"),
]


@pytest.mark.parametrize(("misbehaviour", "error", "says"), THROUGH, ids=[t[0] for t in THROUGH])
def test_none_becomes_a_label(
    misbehaviour: str,
    error: type[EngineError],
    says: str,
    replayed: Callable[..., QEYamboEngine],
    crystals: dict[str, Structure],
    run: Path,
) -> None:
    stage = misbehaviour.split("=", maxsplit=1)[0]
    shutil.rmtree(run / {"scf": "scf_e60_k6x6x6", "nscf": "nscf"}.get(stage, "database"))
    engine = replayed(misbehaviour, ladder=(2000,))
    if misbehaviour == "scf=pw_scf_not_converged+":
        says = "did not converge.*also with mixing 0.3; mixing 0.2, conjugate gradients"
    with pytest.raises(error, match=says) as caught:
        engine.compute("Si", crystals["Si"], ["ipa", "rpa"], run, 600.0)
    assert caught.type is error
    assert caught.value.wall_s > 0.0
    assert not list(run.rglob("result.npz"))
    assert engine.collect(run) is None


@pytest.mark.parametrize("case", [case for case in RESPONSE if case != "metal_fccMg"])
def test_no_failed_response_becomes_a_label(
    case: str, replayed: Callable[..., QEYamboEngine], crystals: dict[str, Structure], run: Path
) -> None:
    engine = replayed(f"response={case}", ladder=(2000,))
    with pytest.raises(BadOutput):
        engine.compute("Si", crystals["Si"], ["ipa", "rpa"], run, 600.0)
    assert not list(run.rglob("result.npz"))
    assert (run / "dir_100_sc_2000.failed" / "RPA_dir_100_sc_2000.in").exists()
