"""How fast a structure becomes SC on one core: ``python benchmarks/throughput.py`` from the repository's root.

The same crystals go through the paper's network twice, in turns of a few hundred: the paper's way (CIF by pymatgen,
a pymatgen neighbour loop per structure, Gaussians stored on the edges, plain PyG layers, batch 1) and ours. Weights and
batch statistics are random, which costs the same; outputs and structures are compared. Then: neighbour lists of several
libraries on the same crystals, the default predictor, and rates on a GPU where there is one. Times are CPU seconds of
this process on one core, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import importlib.util
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from neighbour_lists import canonical, neighbour_lists
from numpy.typing import NDArray
from papers_way import PaperNetwork, paper_graph
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from torch_geometric.loader import DataLoader

from models.checkpoints import default_checkpoint, load
from models.graphs import build_graphs
from models.optimate import OptiMate
from models.training import apply
from selector.plain_cif import read_plain_cif

POOL = Path(__file__).parent / "data" / "pool.json.gz"
TURN = 256
PACKAGES = ("torch", "torch-geometric", "pymatgen", "gemmi", "numpy", "matscipy", "vesin")


def read_pool(path: Path = POOL) -> list[Structure]:
    records = json.loads(gzip.decompress(path.read_bytes()))
    return [Structure(Lattice(r["cell"]), r["numbers"], r["frac"]) for r in records]


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def networks(seed: int = 0) -> tuple[PaperNetwork, OptiMate]:
    """Both constructions with the same random weights and batch statistics, in evaluation mode.

    The numbers are drawn so wide that crystals come out differently.
    """
    generator = torch.Generator().manual_seed(seed)
    ours = OptiMate()
    for name, value in ours.state_dict().items():
        if "norms" in name and name.endswith(("weight", "running_var")):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.is_floating_point():
            value.normal_(0.0, 1.4 / value.shape[-1] ** 0.5, generator=generator)
    paper = PaperNetwork()
    paper.load_state_dict(ours.state_dict())
    return paper.eval(), ours.eval()


def read_cif(text: str) -> Structure:
    """Ours: the fast reader, pymatgen where that one declines."""
    structure = read_plain_cif(text)
    return structure if structure is not None else read_cif_with_pymatgen(text)


def read_cif_with_pymatgen(text: str) -> Structure:
    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def same(one: Structure, other: Structure) -> bool:
    """Species, lattice and fractional coordinates, whatever the order of the sites."""
    if not np.allclose(one.lattice.matrix, other.lattice.matrix, atol=1e-8):
        return False
    listed = [sorted((s.specie.symbol, *np.round(s.frac_coords % 1, 6) % 1) for s in k) for k in (one, other)]
    return [s[0] for s in listed[0]] == [s[0] for s in listed[1]] and np.allclose(
        [s[1:] for s in listed[0]], [s[1:] for s in listed[1]], atol=2e-6
    )


def race(structures: Sequence[Structure]) -> dict[str, Any]:
    """CIF text to SC both ways, in turns; CPU milliseconds a structure of each stage, and how far results differ."""
    paper, ours = networks()
    clock, fallbacks, different, outputs = Clock(), 0, 0, []
    for k in range(0, len(structures), TURN):
        texts = [str(CifWriter(s)) for s in structures[k : k + TURN]]
        with clock("paper: read CIF"):
            slow = [read_cif_with_pymatgen(text) for text in texts]
        with clock("ours: read CIF"):
            fast = [read_cif(text) for text in texts]
        with clock("paper: graph"):
            graphs = [paper_graph(s) for s in slow]
        with clock("paper: network"), torch.no_grad():
            expected = np.concatenate([paper(graph).numpy() for graph in DataLoader(graphs, batch_size=1)])
        with clock("ours: graph"):
            batch = build_graphs(fast)
        with clock("ours: network"):
            got = apply(ours, batch).numpy()
        fallbacks += sum(read_plain_cif(text) is None for text in texts)
        different += sum(not same(a, b) for a, b in zip(slow, fast, strict=True))
        outputs.append(np.stack([expected[:, 0], got[:, 0]]))
    a, b = np.concatenate(outputs, axis=1)
    ms = {name: 1e3 * seconds / len(structures) for name, seconds in clock.seconds.items()}
    whole = {who: [ms[f"{who}: {stage}"] for stage in ("read CIF", "graph", "network")] for who in ("paper", "ours")}
    return {
        "ms": ms,
        "structure_to_sc": sum(whole["paper"][1:]) / sum(whole["ours"][1:]),
        "cif_to_sc": sum(whole["paper"]) / sum(whole["ours"]),
        "largest_relative_difference": float(np.abs(a - b).max() / np.abs(a).mean()),
        "mean_output": float(np.abs(a).mean()),
        "output_sd": float(a.std()),
        "structures_that_differ": different,
        "cifs_left_to_pymatgen": fallbacks,
    }


def compare_neighbour_lists(structures: Sequence[Structure]) -> dict[str, dict[str, float] | None]:
    """CPU microseconds a structure of each library, and the crystals whose edges are not those of the first one."""
    libraries, clock = neighbour_lists(), Clock()
    differ = dict.fromkeys(libraries, 0)
    for k in range(0, len(structures), TURN):
        turn = structures[k : k + TURN]
        cells = [np.ascontiguousarray(s.lattice.matrix) for s in turn]
        positions = [np.ascontiguousarray(s.cart_coords) for s in turn]
        reference: list[NDArray[np.float64]] = []
        for name, library in libraries.items():
            if library is None:
                continue
            with clock(name):
                pairs = [library(*crystal) for crystal in zip(turn, positions, cells, strict=True)]
            rows = [canonical(p) for p in pairs]
            reference = reference or rows
            differ[name] += sum(
                a.shape != b.shape or not np.allclose(a, b, atol=1e-5) for a, b in zip(rows, reference, strict=True)
            )
    return {
        name: None
        if library is None
        else {"us": 1e6 * clock.seconds[name] / len(structures), "crystals_that_differ": differ[name]}
        for name, library in libraries.items()
    }


def default_predictor_ms(structures: Sequence[Structure]) -> float:
    """CPU milliseconds a structure of the shipped SC predictor, features included."""
    predictor, clock = load(default_checkpoint()), Clock()
    predictor.predict(structures[:2])
    for k in range(0, len(structures), TURN):
        with clock("predict"):
            predictor.predict(structures[k : k + TURN])
    return 1e3 * clock.seconds["predict"] / len(structures)


def device_rates(structures: Sequence[Structure], device: str) -> dict[str, float]:
    """Structures a second of the network alone, wall time: prediction, and training steps of 128."""
    graphs, network = build_graphs(structures).to(device), networks()[1].to(device)
    parts = torch.arange(len(graphs), device=device).split(128)
    optimiser = torch.optim.Adam(network.parameters())

    def predict() -> None:
        with torch.no_grad():
            for rows in parts:
                network(graphs.select(rows))

    def train() -> None:
        network.train()
        for rows in parts:
            optimiser.zero_grad()
            network(graphs.select(rows)).abs().mean().backward()
            optimiser.step()

    rates = {}
    for name, work in (("predicted", predict), ("trained", train)):
        seconds = []
        for _ in range(2):  # the first time warms the device up
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        rates[f"{name}_per_s"] = len(graphs) / seconds[-1]
    return rates


def machine() -> dict[str, str]:
    """What it ran on, and when."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    versions = {name: version(name) for name in PACKAGES if importlib.util.find_spec(name.replace("-", "_"))}
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": f"1 of {os.cpu_count()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
    } | versions


def report(figures: dict[str, Any]) -> str:
    """The figures as a table."""
    r = figures["race"]
    lines = [", ".join(f"{k} {v}" for k, v in figures["machine"].items()), f"{figures['n_structures']} structures", ""]
    lines.append(f"{'CPU ms a structure':32s}{'the paper':>12s}{'ours':>12s}{'times as fast':>16s}")
    for stage in ("read CIF", "graph", "network"):
        a, b = (r["ms"][f"{who}: {stage}"] for who in ("paper", "ours"))
        lines.append(f"{stage:32s}{a:12.3f}{b:12.3f}{a / b:16.1f}")
    for name, stages in (("structure to SC", ("graph", "network")), ("CIF to SC", ("read CIF", "graph", "network"))):
        a, b = (sum(r["ms"][f"{who}: {stage}"] for stage in stages) for who in ("paper", "ours"))
        lines.append(f"{name:32s}{a:12.3f}{b:12.3f}{a / b:16.1f}")
    lines += [
        f"largest difference of outputs {r['largest_relative_difference']:.1e} of their mean {r['mean_output']:.2f} "
        f"(standard deviation {r['output_sd']:.2f}); structures that differ {r['structures_that_differ']}; "
        f"CIFs left to pymatgen {r['cifs_left_to_pymatgen']}",
        "",
        f"{'neighbour list, 5 angstrom':44s}{'CPU us':>10s}{'crystals that differ':>24s}",
    ]
    for name, row in figures["neighbours"].items():
        lines.append(
            f"{name:44s}"
            + ("   not installed" if row is None else f"{row['us']:10.1f}{row['crystals_that_differ']:24d}")
        )
    lines += ["", f"default predictor, features included: {figures['default_predictor_ms']:.3f} CPU ms a structure"]
    gpu = figures["gpu"]
    lines.append(
        "GPU: not run"
        if gpu is None
        else f"{gpu['name']}: {gpu['predicted_per_s']:.0f} structures/s predicted, {gpu['trained_per_s']:.0f} trained"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth structure: for a quick look")
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    a = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    structures = read_pool()[:: a.every]
    race(structures[:32])  # caches and lazy imports
    figures: dict[str, Any] = {
        "machine": machine(),
        "n_structures": len(structures),
        "race": race(structures),
        "neighbours": compare_neighbour_lists(structures),
        "default_predictor_ms": default_predictor_ms(structures),
        "gpu": None,
    }
    if torch.cuda.is_available():
        figures["gpu"] = {"name": torch.cuda.get_device_name()} | device_rates(structures, "cuda")
    print(report(figures))
    print(json.dumps(figures))
    if a.out:
        a.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
