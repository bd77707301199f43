"""Fit the cost formula of the GPAW engine to labels: python benchmarks/engine_cost.py [FOLDER] [--manifest FILE].

Prints the constants of ``fw_tasks/engines/gpaw_cost.py``, the scatter of the fit, the scatter of labels left out one at
a time, the share of ground state and bands, and what the constants in force would have said.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fw_tasks.engines import gpaw_cost
from models.labels import SHIPPED, load_labels, read_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=SHIPPED, help="where the label shards lie")
    parser.add_argument("--manifest", type=Path, help="a frozen list of labels; all of the folder without it")
    args = parser.parse_args()
    labels = load_labels(args.folder, read_manifest(args.manifest) if args.manifest else None)

    rows = np.array([gpaw_cost.log_features(label.structure, label.settings) for label in labels])
    design = np.column_stack([np.ones(len(rows)), rows])
    log_cpu = np.log([label.cpu_s for label in labels])
    constants, *_ = np.linalg.lstsq(design, log_cpu, rcond=None)
    residual = log_cpu - design @ constants
    sd = residual.std(ddof=len(constants))
    leverage = np.diag(design @ np.linalg.pinv(design))
    print(f"{len(labels)} labels, {np.exp(log_cpu.min()):.1f} to {np.exp(log_cpu.max()):.0f} CPU s")
    print("CONSTANT, BASIS_EXPONENT, K_EXPONENT = " + ", ".join(f"{c:.3f}" for c in constants))
    print(f"COST_LOG_SD = {sd:.3f}  (left out one at a time: {(residual / (1 - leverage)).std():.3f})")
    print(f"largest factor off: {np.exp(np.abs(residual).max()):.2f}")

    stages = np.array([label.details["cpu_stage_s"] for label in labels if "cpu_stage_s" in label.details])
    share = 1.0 - stages[:, -1] / stages.sum(axis=1)
    low, high = np.quantile(share, [0.1, 0.9])
    print(f"GROUND_STATE_SHARE = {np.median(share):.2f}  (four of five: {low:.2f} to {high:.2f})")

    in_force = [gpaw_cost.estimate_cpu_s(label.structure, label.settings) - gpaw_cost.START_CPU_S for label in labels]
    ratio = log_cpu - np.log(in_force)
    print(f"constants in force: median measured / estimated {np.exp(np.median(ratio)):.2f}, log sd {ratio.std():.3f}")


if __name__ == "__main__":
    main()
