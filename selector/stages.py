"""Two stages: a choice by structure alone, and again once the IPA spectrum is at hand.

``ipa: have`` reads spectra that were given; ``ipa: compute`` also computes those of what is chosen
(`selector.choosing`, `selector.settling`). A candidate's field ``ipa`` says where its spectrum is from, "given" or
"computed"; it is absent while there is none. An IPA spectrum is no label: nothing is learned or stated from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selector.candidates import Candidate
from selector.config import CampaignConfig
from selector.documents import Document
from selector.errors import UsageError
from selector.protocols import CostEngine
from selector.spectra import KnownSpectrum
from selector.store import Store


def give(store: Store, config: CampaignConfig, spectra: Mapping[str, KnownSpectrum]) -> None:
    """Keep spectra that are known already, and note so of the candidates that are in the pool.

    Parameters
    ----------
    spectra : material_id -> IPA spectrum, 0-20 eV or beyond

    Raises
    ------
    UsageError
        The campaign reads none.
    """
    if not spectra:
        return
    if config.ipa == "skip":
        raise UsageError(f"campaign '{config.campaign}' reads no IPA spectra (ipa: skip); begin one with ipa: have")
    for material_id, known in spectra.items():
        kind = {"engine": "given", "settings_hash": known.settings_hash or "unknown"}
        about = {**kind, "origin": "given", "source": known.file.name, "gap_ev": None}
        store.save_spectrum(material_id, "ipa", known.spectrum, ":".join(kind.values()), **about)
    store.note_given_ipa(list(spectra))


def opening(
    config: CampaignConfig,
    engine: CostEngine,
    candidates: Sequence[Candidate],
    spectra: Mapping[str, KnownSpectrum],
) -> dict[str, Document]:
    """What new candidates begin with: whether their spectra were given, and what theirs would cost, by material_id."""
    if config.ipa == "skip":
        return {}
    begin: dict[str, Document] = {c.material_id: {"ipa": "given"} for c in candidates if c.material_id in spectra}
    if config.ipa == "compute":
        for c in candidates:
            begin.setdefault(c.material_id, {})["estimate_ipa_cpu_h"] = engine.estimate_cpu_h(c.structure, "ipa")
    return begin
