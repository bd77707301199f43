"""Write a small checkpoint, and what it predicts: ``python tests/data/checkpoints/make.py KIND NAME``.

Run once when a kind or its format is new, from the repository's root. What earlier releases wrote is never written
again: tests/models/test_checkpoints.py holds that it still loads, and says the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from models.checkpoints import save
from models.labels import load_labels
from models.optimate import OptiMateSizes
from models.sc_predictor import SCPredictor
from models.training import TrainingSettings

HERE = Path(__file__).parent
SIZES = OptiMateSizes(node=(8, 8), attention=((8, 2),), output=(8,))
FAST = TrainingSettings(epochs=3, batch_size=8, device="cpu")
N_LABELS = 12


def main(kind: str, name: str) -> None:
    labels = load_labels()
    part, crystals = labels[:N_LABELS], [k.structure for k in labels[N_LABELS : N_LABELS + 2]]
    ipa = [k.ipa for k in labels[N_LABELS : N_LABELS + 2]]
    known = {
        "structures": [k.structure for k in part],
        "sc": [k.sc for k in part],
        "engine": part[0].engine,
        "settings_hash": part[0].settings_hash,
        "material_ids": [k.material_id for k in part],
        "command": "tests/data/checkpoints/make.py",
    }
    stored: dict[str, object] = {}
    for k, crystal in enumerate(crystals):
        stored |= {
            f"cell{k}": crystal.lattice.matrix,
            f"numbers{k}": crystal.atomic_numbers,
            f"frac{k}": crystal.frac_coords,
        }
    if kind == "spectrum_model":
        from models.spectrum_learning import SpectrumLabels, learn

        model = learn(SpectrumLabels.of(part, "rpa"), sizes=SIZES, settings=FAST)
        stored["spectra"] = model.predict(crystals).astype(np.float32)
    else:
        if kind == "sc_network":
            from models.sc_network import NetworkPredictor

            model = NetworkPredictor.fit(**known, sizes=SIZES, settings=FAST)
        elif kind == "sc_spectrum_predictor":
            model = SCPredictor.fit(**known, spectra=[k.ipa for k in part])
            stored |= {f"ipa{k}": s.eps.astype(np.complex64) for k, s in enumerate(ipa)}
        else:
            model = SCPredictor.fit(**known)
        p = model.predict(crystals, ipa) if kind == "sc_spectrum_predictor" else model.predict(crystals)
        stored |= {"mean": p.mean, "spread": p.spread, "out_of_domain": p.out_of_domain, "scores": model.scores}
    save(model, HERE / name)
    np.savez_compressed(HERE / f"{name}.npz", **stored)
    print(f"{model.card['kind']} -> {HERE / name}.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
