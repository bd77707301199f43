"""What a GPU gives, and whether it gives the same: ``python benchmarks/gpu.py`` from the repository's root.

Rates of prediction and training of the paper's network on CPU and GPU; the largest difference between their outputs;
and what mixed precision does to the error: IPA spectra are learned in single and in mixed precision from the same start
and in the same order, several seeds, and judged on a fifth of the formulas. Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from throughput import device_rates, read_pool

from models.checkpoints import load_spectrum_model, shipped_spectrum_models
from models.labels import SHIPPED, grouped_folds, load_labels, read_manifest
from models.optimate import OptiMateSizes
from models.spectrum_learning import SpectrumLabels, learn, mean_error, settings_for
from models.training import pick_device
from selector.errors import UsageError

MANIFEST = Path(__file__).parent / "manifests" / "2026-11-21-231.json"
SEEDS, EPOCHS = 3, 60
MOST_DIFFERENT, MOST_CHANGED = 1e-4, 0.01


def difference_of_outputs(device: str, n: int = 200) -> float:
    """Largest difference between the device's spectra and the CPU's, by the shipped models, relative to their mean."""
    crystals, found = read_pool()[:n], []
    for path in shipped_spectrum_models():
        here, there = (load_spectrum_model(path).predict(crystals, d) for d in ("cpu", device))
        found.append(np.abs(there - here).max() / np.abs(here).mean())
    return float(max(found))


def change_by_mixed_precision(
    labels: SpectrumLabels, seeds: int, epochs: int, sizes: OptiMateSizes, device: str = "cuda"
) -> dict[str, float]:
    """Held-out MAE of spectra after training in single and in mixed precision, means over seeds, and the change."""
    mae: dict[str, list[float]] = {"single": [], "mixed": []}
    for seed in range(seeds):
        fold = grouped_folds(labels.formulas, 5, seed)
        training, test = (labels.select(np.flatnonzero(part)) for part in (fold != 0, fold == 0))
        settings = settings_for(len(training), False, seed=seed, epochs=epochs, device=device)
        for precision, errors in mae.items():
            model = learn(training, sizes=sizes, settings=replace(settings, precision=precision))
            errors.append(float(mean_error(model, test).mean()))
    means = {f"mae_{precision}": float(np.mean(errors)) for precision, errors in mae.items()}
    return means | {"change": means["mae_mixed"] / means["mae_single"] - 1.0}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    a = parser.parse_args(argv)
    try:
        pick_device("cuda")
    except UsageError:
        print("GPU: not run: no CUDA device answers here", file=sys.stderr)
        sys.exit(UsageError.exit_code)
    pool = read_pool()
    figures: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "rates": {device: device_rates(pool, device) for device in ("cuda", "cpu")},
        "difference": difference_of_outputs("cuda"),
        "precision": change_by_mixed_precision(
            SpectrumLabels.of(load_labels(SHIPPED, read_manifest(a.manifest)), "ipa"), SEEDS, EPOCHS, OptiMateSizes()
        ),
    }
    print(figures["gpu"])
    for device, rates in figures["rates"].items():
        print(
            f"{device:5s}{rates['predicted_per_s']:10.0f} structures/s predicted{rates['trained_per_s']:10.0f} trained"
        )
    print(
        f"largest difference of outputs, relative to their mean: {figures['difference']:.1e} "
        f"({MOST_DIFFERENT:.0e} allowed)"
    )
    p = figures["precision"]
    print(
        f"held-out MAE of spectra: {p['mae_single']:.4f} in single, {p['mae_mixed']:.4f} in mixed precision: "
        f"{p['change']:+.2%} ({MOST_CHANGED:.0%} allowed), {SEEDS} seeds"
    )
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
