"""How long fine-tuning on 20 new labels takes: ``python benchmarks/fine_tuning.py`` from the repository's root.

The predictors learn from all labels of a manifest but the last 20, then from these, as a campaign has them do: every
old label is replayed, recipe, kernel and held-out scores are made anew. The spectrum models that ship are tuned on the
20.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from models.checkpoints import load_spectrum_model, shipped_spectrum_models
from models.labels import SHIPPED, Label, load_labels, read_manifest
from models.sc_predictor import SCPredictor
from models.spectrum_learning import SpectrumLabels, learn

MANIFEST = Path(__file__).parent / "manifests" / "2026-11-21-231.json"
N_NEW = 20


def seconds(labels: Sequence[Label]) -> dict[str, float]:
    """Wall seconds of fine-tuning on the last `N_NEW` labels, by what is tuned."""
    old, new = labels[:-N_NEW], labels[-N_NEW:]
    out: dict[str, float] = {}
    for name, reads in (("default predictor", False), ("with the IPA spectrum", True)):
        spectra = [[k.ipa for k in part] if reads else None for part in (old, new)]
        predictor = SCPredictor.fit(
            [k.structure for k in old], [k.sc for k in old], [k.formula for k in old], spectra=spectra[0],
            engine=old[0].engine, settings_hash=old[0].settings_hash,
        )  # fmt: skip
        start = time.perf_counter()
        predictor.fine_tune(
            [k.structure for k in new], [k.sc for k in new], [k.formula for k in new], spectra=spectra[1]
        )
        out[name] = time.perf_counter() - start
    for path in shipped_spectrum_models():
        model = load_spectrum_model(path)
        start = time.perf_counter()
        learn(SpectrumLabels.of(new, model.level), start=model)
        out[f"{model.level} spectra"] = time.perf_counter() - start
    return out


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    a = parser.parse_args(argv)
    labels = load_labels(SHIPPED, read_manifest(a.manifest))
    figures = {"manifest": a.manifest.name, "n_old": len(labels) - N_NEW, "cores": os.cpu_count(), "s": seconds(labels)}
    print(f"{N_NEW} new labels, {figures['n_old']} old ones, {figures['cores']} cores")
    for name, taken in figures["s"].items():
        print(f"{name:24s}{taken:8.1f} s")
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
