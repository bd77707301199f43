"""The command that trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from selector.cli.common import AsJson, Device, console, errors, print_json, progress
from selector.cli.labels import LabelFolder, read_labels
from selector.errors import UsageError
from selector.files import make_writable

if TYPE_CHECKING:
    from torch import Tensor

    from models.graphs import Graphs
    from models.labels import Label
    from models.optimate import OptiMateSizes
    from models.training import TrainingSettings

HELD_OUT_SHARE = 0.1


def train(
    out: Annotated[Path, typer.Option(help="Checkpoint to write: OUT.safetensors and its card OUT.json.")],
    target: Annotated[Literal["sc", "spectrum"], typer.Option(help="What to predict: SC, or Im(eps).")] = "sc",
    level: Annotated[Literal["ipa", "rpa"] | None, typer.Option(help="Theory level of the spectrum.")] = None,
    labels: LabelFolder = None,
    manifest: Annotated[Path | None, typer.Option(help="JSON list of the material ids to use (default: all).")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Checkpoint to start from: transfer to another level, or fine-tuning.")
    ] = None,
    network: Annotated[
        Literal["default", "with-ipa", "optimate"] | None,
        typer.Option(
            help="For SC: the default predictor (few labels), the same reading IPA spectra too, or the paper's network "
            "(thousands of labels)."
        ),
    ] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(help="small, published, or FILE:NAME. Given several times, 3 folds by formula choose the best."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "single", "mixed"],
        typer.Option(help="mixed: products in half precision, on a GPU; auto: mixed where there is one."),
    ] = "auto",
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many; training stops early.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Crystals a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Of Adam.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, batches and folds.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train a predictor of SC or of spectra. Its error is measured on formulas it has not learned from."""
    from models import checkpoints

    if (target == "spectrum") != (level is not None):
        raise UsageError("--level ipa or rpa goes with --target spectrum, and is needed there")
    if target == "spectrum" and network is not None:
        raise UsageError("--network chooses among SC predictors: leave it out, spectra have the paper's network")
    if start is not None and (sizes or network is not None):
        raise UsageError("--from keeps that checkpoint's network: leave out --sizes and --network")
    make_writable(out.resolve().parent)
    known = read_labels(labels, manifest)
    changes = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "device": device,
        "precision": precision,
    }  # fmt: skip
    command = "selector " + " ".join(sys.argv[1:])
    if level is not None:
        model = _spectrum_model(known, level, start, sizes or [], changes, command)
    else:
        model = _sc_predictor(known, network or "default", start, sizes or [], changes, command)
    written = checkpoints.save(model, out)
    metrics = model.card["metrics"]
    if as_json:
        print_json({"model_id": model.card["model_id"], "file": str(written), "metrics": metrics})
        return
    console.print(escape(f"{model.card['model_id']}: {_sentence(metrics)}; written to {written}"), soft_wrap=True)


def _sizes(name: str) -> OptiMateSizes:
    from models.optimate import OptiMateSizes, read_sizes
    from models.spectrum_learning import SMALL

    if name in ("small", "published"):
        return SMALL if name == "small" else OptiMateSizes()
    file, colon, entry = name.rpartition(":")
    if not colon:
        raise UsageError(f"--sizes {name}: choose small, published, or FILE:NAME (configs/optimate_sizes.yaml:100)")
    named = read_sizes(Path(file))
    if entry not in named:
        raise UsageError(f"--sizes {name}: {file} has {', '.join(named)}: choose one of these")
    return named[entry]


@contextmanager
def _epochs(total: int) -> Iterator[Any]:
    """A bar of epochs with their losses, for `models.training.train`; it begins anew with each training."""
    with progress("training {task.description}") as bar:
        task = bar.add_task("", total=total)

        def show(epoch: int, loss: float, held_out: float) -> None:
            bar.update(task, completed=epoch + 1, description=f"loss {loss:.4f}, held out {held_out:.4f}")

        yield show


def _spectrum_model(
    labels: list[Label], level: str, start: Path | None, sizes: list[str], changes: dict[str, Any], command: str
) -> Any:
    from models import checkpoints, spectrum_learning

    data = spectrum_learning.SpectrumLabels.of(labels, level)
    parent = None if start is None else checkpoints.load_spectrum_model(start)
    settings = spectrum_learning.settings_for(len(data), parent is not None, **changes)
    known = set() if parent is None else spectrum_learning.seen_formulas(parent)
    training, held_out = data.split(HELD_OUT_SHARE, settings.seed, known)
    if known >= set(held_out.formulas):
        errors.print(f"selector: warning: {start} has seen every formula here: the error measured is too small")
    chosen = None
    if parent is None:
        chosen = _search(sizes, training.graphs, training.target, training.formulas, settings)
    with _epochs(settings.epochs) as show:
        model = spectrum_learning.learn(
            training, sizes=chosen, start=parent, settings=settings, progress=show, command=command
        )
    model.card["metrics"] = spectrum_learning.spectrum_metrics(model, held_out)
    return model


def _sc_predictor(
    labels: list[Label], network: str, start: Path | None, sizes: list[str], changes: dict[str, Any], command: str
) -> Any:
    import torch

    from models import checkpoints, sc_network
    from models.graphs import build_graphs
    from models.sc_predictor import SCPredictor

    structures, sc = [k.structure for k in labels], [k.sc for k in labels]
    names: dict[str, Any] = {"formulas": [k.formula for k in labels], "material_ids": [k.material_id for k in labels]}
    kind: dict[str, Any] = {"engine": labels[0].engine, "settings_hash": labels[0].settings_hash}
    parent = (
        None if start is None else checkpoints.load(start, (*checkpoints.SC_KINDS, checkpoints.SPECTRUM_PREDICTOR_KIND))
    )
    optimate = network == "optimate" or isinstance(parent, sc_network.NetworkPredictor)
    if not optimate:
        if sizes or any(changes[k] is not None for k in ("epochs", "batch_size", "learning_rate")):
            raise UsageError("--sizes, --epochs, --batch-size and --learning-rate are for --network optimate")
        reads_spectra = network == "with-ipa" if parent is None else parent.reads_spectra
        spectra = [k.ipa for k in labels] if reads_spectra else None
        if parent is not None:
            return parent.fine_tune(structures, sc, settings_hash=kind["settings_hash"], spectra=spectra, **names)
        return SCPredictor.fit(structures, sc, **names, **kind, spectra=spectra, seed=changes["seed"], command=command)
    base = sc_network.FIT if parent is None else sc_network.FINE_TUNE
    settings = replace(base, **{k: v for k, v in changes.items() if v is not None})
    if isinstance(parent, sc_network.NetworkPredictor):
        with _epochs(settings.epochs) as show:
            return parent.fine_tune(
                structures, sc, settings_hash=kind["settings_hash"], **names, settings=settings, progress=show
            )
    target = torch.tensor(sc, dtype=torch.float32)[:, None]
    chosen = _search(sizes, build_graphs(structures), target, names["formulas"], settings)
    with _epochs(settings.epochs) as show:
        return sc_network.NetworkPredictor.fit(
            structures, sc, **names, **kind, seed=settings.seed, command=command, sizes=chosen, settings=settings,
            progress=show,
        )  # fmt: skip


def _search(
    sizes: list[str], graphs: Graphs, target: Tensor, formulas: Sequence[str], settings: TrainingSettings
) -> OptiMateSizes:
    """The best of the sizes named, or those that suit so many labels."""
    from models.hyperparameters import N_FOLDS, best_sizes
    from models.spectrum_learning import default_sizes

    if not sizes:
        return default_sizes(len(graphs))
    with progress("choosing the network's size") as bar:
        task = bar.add_task("", total=N_FOLDS * len(sizes))
        return best_sizes([_sizes(s) for s in sizes], graphs, target, formulas, settings, lambda: bar.advance(task))


def _sentence(metrics: dict[str, Any]) -> str:
    if "oof_mae" in metrics:
        return (
            f"{metrics['n_labels']} labels, held-out MAE {metrics['oof_mae']:.4f} "
            f"(guessing the median {metrics['mae_guess']:.4f})"
        )
    return f"on {metrics['n']} held-out labels SC[predicted; computed] has the median {metrics['sc_median']:.3f}"


COMMANDS = (train,)
