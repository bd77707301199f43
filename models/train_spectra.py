"""Make the spectrum models that ship: ``python -m models.train_spectra`` from the repository's root.

The IPA model learns directly, the RPA model starts from its weights. Their error comes from ten folds by reduced
formula: in each the whole chain is trained again on the other nine, so that no formula is judged by a model that
saw it at either level. Labels whose formula stands among the demo's candidates are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.checkpoints import PRETRAINED, SPECTRUM_NAMES, save
from models.labels import SHIPPED, grouped_folds, load_labels, read_manifest
from models.optimate import OptiMateSizes
from models.spectrum_learning import SMALL, SpectrumLabels, agreement, learn, mean_error, settings_for, summary
from models.spectrum_model import LEVELS, SpectrumModel
from models.train_default import DEMO, ROOT, demo_formulas
from models.train_default import _from_root as from_root
from selector.errors import SelectorError

MANIFEST = ROOT / "benchmarks" / "manifests" / "2026-11-21-231.json"
N_FOLDS = 10
LICENCE = (
    "MIT (weights); labels computed from Alexandria structures, CC-BY 4.0 "
    "(Schmidt et al., Adv. Mater. 35, 2210788, 2023)"
)


def train_chain(
    labels: dict[str, SpectrumLabels], sizes: OptiMateSizes = SMALL, seed: int = 0, command: str = ""
) -> dict[str, SpectrumModel]:
    """The IPA model from nothing, then the RPA model from its weights; `labels` by level, of the same materials."""
    n = len(labels["ipa"])
    ipa = learn(labels["ipa"], sizes=sizes, settings=settings_for(n, False, seed=seed), command=command).rounded()
    rpa = learn(labels["rpa"], start=ipa, settings=settings_for(n, True, seed=seed), command=command).rounded()
    return {"ipa": ipa, "rpa": rpa}


def held_out(labels: dict[str, SpectrumLabels], seed: int) -> dict[str, dict[str, float | None]]:
    """Metrics by level of predictions for formulas that the chain had not seen."""
    fold = grouped_folds(labels["ipa"].formulas, N_FOLDS, seed)
    sc, error = ({level: np.empty(len(fold)) for level in LEVELS} for _ in range(2))
    for k in range(int(fold.max()) + 1):
        rows, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        for level, model in train_chain({lv: s.select(rest) for lv, s in labels.items()}, seed=seed).items():
            sc[level][rows] = agreement(model, labels[level].select(rows))
            error[level][rows] = mean_error(model, labels[level].select(rows))
    return {level: summary(sc[level]) | {"mae": float(error[level].mean())} for level in LEVELS}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.train_spectra", description=__doc__)
    parser.add_argument("--labels", type=Path, default=SHIPPED, help="folder of label shards")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="JSON list of material ids")
    parser.add_argument("--exclude", type=Path, default=DEMO, help="folder of CIF files whose formulas are left out")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="folder for ipa-default and rpa-default")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    named = [from_root(p) for p in (a.labels, a.manifest, a.exclude)]
    command = "python -m models.train_spectra --labels {} --manifest {} --exclude {} --seed {}".format(*named, a.seed)
    try:
        exclude = demo_formulas(a.exclude)
        known = [k for k in load_labels(a.labels, read_manifest(a.manifest)) if k.formula not in exclude]
        labels = {level: SpectrumLabels.of(known, level) for level in LEVELS}
        metrics = held_out(labels, a.seed)
        models = train_chain(labels, seed=a.seed, command=command)
        for name, (level, model) in zip(SPECTRUM_NAMES, models.items(), strict=True):
            model.card |= {"metrics": metrics[level], "manifest": named[1], "licence": LICENCE}
            save(model, a.out / name)
            m = metrics[level]
            print(
                f"{model.model_id}: {m['n']} labels, held-out SC[predicted; computed]: median {m['sc_median']:.3f}, "
                f"nine in ten above {m['sc_low']:.3f} -> {a.out / name}.safetensors",
                flush=True,
            )
    except SelectorError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)


if __name__ == "__main__":
    main()
