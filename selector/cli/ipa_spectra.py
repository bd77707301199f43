"""IPA spectra that are known already, for the predictor that reads them: files of ``selector compute``."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from selector.cli.common import errors
from selector.config import CampaignConfig
from selector.errors import SelectorError, UsageError
from selector.spectra import KnownSpectrum, Spectrum


def read_ipa_spectra(folder: Path) -> dict[str, KnownSpectrum]:
    """The IPA spectra of all JSON files in a folder, by the ``material_id`` inside.

    Of each file are read ``spectra.energy_ev`` (n numbers in eV, 0-20 or beyond), ``directions.ipa_im`` and
    ``directions.ipa_re`` (3 x n, field along x, y, z), and ``settings_hash`` if it is there.

    Raises
    ------
    UsageError
        No such folder, or it has no JSON file.
    SelectorError
        A file lacks one of these, holds a number that is not finite, or two are of one material.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UsageError(f"--ipa {folder}: no JSON files here: name the folder of what `selector compute` wrote")
    known: dict[str, KnownSpectrum] = {}
    for file in files:
        material, found = _read(file)
        if material in known:
            raise SelectorError(f"{file}: {material} stands in {known[material].file.name}, too: remove one of the two")
        known[material] = found
    return known


def to_give(config: CampaignConfig, folder: Path) -> dict[str, KnownSpectrum]:
    """The IPA spectra of a folder for a campaign; one that can't be an absorption is refused.

    Raises
    ------
    UsageError, SelectorError
        The campaign reads none, or as :func:`read_ipa_spectra`.
    """
    from fw_tasks.engines.base import BadOutput
    from fw_tasks.engines.checks import check_spectra

    if config.ipa == "skip":
        raise UsageError(
            f"--ipa {folder}: campaign '{config.campaign}' reads no IPA spectra (ipa: skip); leave it out, or begin a "
            "campaign with ipa: have"
        )
    known = read_ipa_spectra(folder)
    for k in known.values():
        try:
            check_spectra({"ipa": k.spectrum})
        except BadOutput as e:
            raise SelectorError(f"{k.file}: {e}: compute it again") from None
    return known


def of_candidates(
    given: Mapping[str, KnownSpectrum], candidates: Collection[str], settings_hash: str
) -> dict[str, KnownSpectrum]:
    """Those whose material is a candidate; the others, and those of other settings, are named on standard error."""
    for material_id, k in given.items():
        if material_id not in candidates:
            errors.print(f"selector: error: {k.file}: its material {material_id} is no candidate: add its crystal, too")
    usable = {material_id: k for material_id, k in given.items() if material_id in candidates}
    other = [k for k in usable.values() if k.settings_hash != settings_hash]
    if other:
        errors.print(
            f"selector: warning: {len(other)} of {len(usable)} IPA spectra are of other settings than the campaign's "
            f"({settings_hash}), {other[0].file.name} for one: intervals do not hold for them"
        )
    return usable


def _read(file: Path) -> tuple[str, KnownSpectrum]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        material, directions = str(document["material_id"]), document["directions"]
        eps = np.array(directions["ipa_re"], dtype=float) + 1j * np.array(directions["ipa_im"], dtype=float)
        spectrum = Spectrum(np.array(document["spectra"]["energy_ev"], dtype=float), eps)
    except OSError as e:
        raise UsageError(f"{file}: cannot be read ({e.strerror}): name files you may read") from e
    except KeyError as e:
        raise SelectorError(f"{file}: no {e} in it: compute it again with `selector compute`") from None
    except (ValueError, TypeError) as e:
        raise SelectorError(f"{file}: not a spectrum of `selector compute` ({e}): compute it again") from None
    if not (np.isfinite(spectrum.eps).all() and np.isfinite(spectrum.energy_ev).all()):
        raise SelectorError(f"{file}: its IPA spectrum is not finite: compute it again")
    if not (np.diff(spectrum.energy_ev) > 0.0).all():
        raise SelectorError(f"{file}: its energies do not increase: compute it again")
    return material, KnownSpectrum(spectrum, file, document.get("settings_hash"))
