"""Make the SC predictors that ship: ``python -m models.train_default [--spectra]`` from the repository's root.

They learn from the shipped labels of a manifest, save those whose reduced formula stands among the demo's candidates:
the demo shows predictions, not memories.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from pymatgen.core import Structure

from models.checkpoints import DEFAULT_NAME, PRETRAINED, SPECTRUM_PREDICTOR_NAME, save
from models.labels import SHIPPED, Label, load_labels, read_manifest, reduced_formula
from models.sc_predictor import SCPredictor
from selector.errors import SelectorError, UsageError

ROOT = Path(__file__).parent.parent
MANIFEST = ROOT / "benchmarks" / "manifests" / "2026-11-21-231.json"
DEMO = ROOT / "configs" / "demo"


def demo_formulas(folder: Path = DEMO) -> set[str]:
    """Reduced formulas of the CIF files in a folder."""
    files = sorted(folder.glob("*.cif"))
    if not files:
        raise UsageError(f"{folder}: no CIF files: name the folder of the demo's candidates")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen remarks on CIF files without a symmetry block
        return {reduced_formula(Structure.from_file(f)) for f in files}


def train_default(
    labels: Sequence[Label], exclude: set[str], seed: int = 0, command: str = "", spectra: bool = False
) -> SCPredictor:
    """A predictor from labels of one kind whose formula is not in `exclude`; with `spectra` it reads these, too."""
    used = [label for label in labels if label.formula not in exclude]
    hashes = {label.settings_hash for label in used}
    if len(hashes) != 1:
        raise SelectorError(
            f"labels of {len(hashes)} settings hashes: they are never mixed: choose a manifest of one kind"
        )
    return SCPredictor.fit(
        [label.structure for label in used],
        [label.sc for label in used],
        [label.formula for label in used],
        spectra=[label.ipa for label in used] if spectra else None,
        engine=used[0].engine,
        settings_hash=hashes.pop(),
        material_ids=[label.material_id for label in used],
        seed=seed,
        command=command,
    )


def _from_root(path: Path) -> str:
    """A path as typed in the repository's root; of one outside it only the name, for cards travel."""
    full = path.resolve()
    return str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else full.name


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m models.train_default", description=__doc__)
    parser.add_argument("--labels", type=Path, default=SHIPPED, help="folder of label shards")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="JSON list of material ids")
    parser.add_argument("--exclude", type=Path, default=DEMO, help="folder of CIF files whose formulas are left out")
    parser.add_argument("--spectra", action="store_true", help="the predictor that also reads IPA spectra")
    parser.add_argument("--out", type=Path, help="PATH of PATH.safetensors and PATH.json; the shipped ones if left out")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(argv)
    named = [_from_root(p) for p in (a.labels, a.manifest, a.exclude)]
    command = "python -m models.train_default --labels {} --manifest {} --exclude {} --seed {}".format(*named, a.seed)
    command += " --spectra" * a.spectra
    out = a.out or PRETRAINED / (SPECTRUM_PREDICTOR_NAME if a.spectra else DEFAULT_NAME)
    try:
        labels = load_labels(a.labels, read_manifest(a.manifest))
        predictor = train_default(labels, demo_formulas(a.exclude), a.seed, command, a.spectra)
        predictor.card["manifest"] = named[1]
        save(predictor, out)
    except SelectorError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    m = predictor.card["metrics"]
    print(
        f"{predictor.model_id}: {m['n_labels']} labels, held-out MAE {m['oof_mae']:.4f} "
        f"(guessing the median {m['mae_guess']:.4f}) -> {out}.safetensors"
    )


if __name__ == "__main__":
    main()
