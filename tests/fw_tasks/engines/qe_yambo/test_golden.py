"""The recorded runs of QE 6.7 and Yambo 5.2.4, through the whole workflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Structure

from fw_tasks.engines.qe_yambo import QEYamboEngine
from selector.spectra import similarity

LADDERS = {"Si": (0, 2000, 4000), "LiF": (0, 2000, 4000, 6000, 8000)}
GAPS_EV = {"Si": 0.7300, "LiF": 8.9030}
BANDS = {"Si": 20, "LiF": 10}


@pytest.mark.parametrize("name", LADDERS)
def test_every_row_of_the_summary(
    name: str,
    replayed: Callable[..., QEYamboEngine],
    crystals: dict[str, Structure],
    summary: dict[str, dict[str, float]],
    tmp_path: Path,
) -> None:
    engine = replayed(ladder=LADDERS[name])
    calculation = engine.compute(name, crystals[name], ["ipa", "rpa"], tmp_path / "run", 600.0)

    rungs = {rung["cutoff_mry"]: rung for rung in calculation.details["ladder"]}
    assert tuple(rungs) == LADDERS[name]
    assert {rung["axes"] for rung in rungs.values()} == {"xyz"}
    assert rungs[2000]["cutoff_ev"] == pytest.approx(27.2114, abs=1e-3)
    assert rungs[0]["sc"] == pytest.approx(1.0, abs=1e-5)
    for row, recorded in summary.items():
        if row.startswith(f"{name}/"):
            rung = rungs[int(row.split("/")[-1])]
            assert rung["sc"] == pytest.approx(recorded["SC_vs_IPA"], abs=1e-4)
            assert rung["n_g"] == recorded["nG"]
    last = summary[f"{name}/100/{LADDERS[name][-1]}"]
    static = {level: spectrum.eps[:, 0].real for level, spectrum in calculation.spectra.items()}
    assert np.allclose(static["rpa"], last["eps1_0_RPA"], atol=1e-4)
    assert np.allclose(static["ipa"], last["eps1_0_IPA"], atol=1e-4)
    assert calculation.spectra["rpa"].eps.shape == (3, last["rows"])
    assert calculation.sc == pytest.approx(last["SC_vs_IPA"], abs=1e-4)
    assert calculation.gap_ev == pytest.approx(GAPS_EV[name], abs=1e-4)
    assert calculation.details["n_bands"] == BANDS[name]
    assert calculation.details["versions"] == {"pw.x": "6.7MaX", "yambo": "5.2.4"}
    assert (tmp_path / "run" / "result.npz").exists()


def test_ipa_is_in_every_run(
    replayed: Callable[..., QEYamboEngine],
    crystals: dict[str, Structure],
    run: Path,
    journal: Callable[[], list[str]],
) -> None:
    """Columns 4-5 of the run at 2000 mRy are the IPA of a run of its own; the ground state is shared."""
    engine = replayed(ladder=(2000,))
    alone = engine.compute("Si", crystals["Si"], ["ipa"], run, 600.0)
    assert journal() == []
    both = engine.compute("Si", crystals["Si"], ["ipa", "rpa"], run, 600.0)
    assert journal() == ["response"]
    assert similarity(both.spectra["ipa"].mean.imag, alone.spectra["ipa"].mean.imag) > 1.0 - 2e-4
    assert set(alone.spectra) == {"ipa"}


@pytest.mark.parametrize("keep", [False, True])
def test_what_is_large_goes_when_both_levels_are_there(
    keep: bool, replayed: Callable[..., QEYamboEngine], crystals: dict[str, Structure], run: Path
) -> None:
    large = {"wfc1.dat", "ns.db1", "SAVE"}
    assert large <= {path.name for path in run.rglob("*")}
    replayed(ladder=(2000,), keep_files=keep).compute("Si", crystals["Si"], ["ipa", "rpa"], run, 600.0)
    left = {path.name for path in run.rglob("*")}
    assert {"pw.out", "o-RPA_dir_100_sc_2000.eps_q1_inv_rpa_dyson"} <= left
    assert large & left == (large if keep else set())
    assert "ndb.dipoles" not in left
