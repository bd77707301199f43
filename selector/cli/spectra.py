"""Predicted spectra, one CSV file a material."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selector.candidates import Candidate
from selector.cli.common import errors
from selector.errors import UsageError
from selector.files import make_writable, write_text_atomically
from selector.spectra import ENERGY_EV

if TYPE_CHECKING:
    from models.spectrum_model import SpectrumModel


def columns(models: Sequence[SpectrumModel]) -> list[str]:
    """What :func:`write_spectra` adds to a material's row."""
    return [f"{m.level}_{what}" for m in models for what in ("sc_expected", "sc_low")]


def load_models(paths: Sequence[Path]) -> list[SpectrumModel]:
    """The spectrum models of these checkpoints, one a level; those that ship if none is named."""
    from models import checkpoints

    models = [checkpoints.load_spectrum_model(p) for p in paths or checkpoints.shipped_spectrum_models()]
    levels = [m.level for m in models]
    if len(set(levels)) < len(levels):
        raise UsageError(f"--spectrum-model: two models of level {levels[0]}: give one a level")
    return models


def write_spectra(
    candidates: Sequence[Candidate], models: Sequence[SpectrumModel], folder: Path, device: str
) -> list[dict[str, Any]]:
    """Write FOLDER/MATERIAL.csv (energy in eV, Im(eps) of each level), and say how well each will do.

    Returns
    -------
    Per candidate, for each level: the SC[predicted; computed] to expect (its median over held-out labels) and the
    bound that nine in ten exceed; None where the crystal is unlike the model's, which is said on standard error, and
    then, if the network has no input for an element, there is no file.
    """
    from models.spectrum_model import foreign_elements

    make_writable(folder)
    foreign = [sorted(foreign_elements(c.structure)) for c in candidates]
    usable = [k for k in range(len(candidates)) if not foreign[k]]
    predicted = [m.predict([candidates[k].structure for k in usable], device) for m in models]
    rows: list[dict[str, Any]] = [dict.fromkeys(columns(models)) for _ in candidates]
    for c, symbols in zip(candidates, foreign, strict=True):
        if symbols:
            errors.print(f"selector: warning: {c.material_id}: no spectrum: the network has no input for {symbols[0]}")
    for i, k in enumerate(usable):
        c, text = candidates[k], io.StringIO()
        header = ",".join(["energy_ev", *(f"{m.level}_im_eps" for m in models)])
        np.savetxt(
            text, np.column_stack([ENERGY_EV, *(p[i] for p in predicted)]), "%.6g", ",", header=header, comments=""
        )
        write_text_atomically(folder / f"{c.material_id}.csv", text.getvalue())
        for m in models:
            if m.out_of_domain([c.structure])[0]:
                errors.print(
                    f"selector: warning: {c.material_id}: an element that {m.model_id} has not learned from, or an "
                    "isolated atom: don't trust its spectrum"
                )
            elif "metrics" in m.card:
                rows[k][f"{m.level}_sc_expected"] = m.card["metrics"]["sc_median"]
                rows[k][f"{m.level}_sc_low"] = m.card["metrics"]["sc_low"]
    return rows
