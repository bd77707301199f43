"""Save and load: weights as safetensors, beside them a JSON card. No pickle is ever read.

PATH.safetensors holds arrays, PATH.json the card: what it is (`kind`, `format`), what it learned from (`data`), how
well it does (`metrics`), where it comes from (`date`, `seed`, `command`, `licence`), and a digest of both files that
is checked on loading. A file written by any earlier release still loads; `format` says how to read it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from selector.errors import SelectorError, UsageError

if TYPE_CHECKING:
    from models.spectrum_model import SpectrumModel

FORMAT = 1
KINDS = {
    "sc_predictor": "models.sc_predictor:SCPredictor",
    "sc_spectrum_predictor": "models.sc_predictor:SCPredictor",
    "sc_network": "models.sc_network:NetworkPredictor",
    "spectrum_model": "models.spectrum_model:SpectrumModel",
}
"""What a card's `kind` is read by; modules are imported when such a file is met, for some load torch."""
SC_KINDS = ("sc_predictor", "sc_network")
"""SC predictors from structures alone; that of `SPECTRUM_PREDICTOR_KIND` wants IPA spectra, too."""
SPECTRUM_PREDICTOR_KIND = "sc_spectrum_predictor"
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_NAME = "sc-default"
SPECTRUM_PREDICTOR_NAME = "sc-ipa-default"
SPECTRUM_NAMES = ("ipa-default", "rpa-default")
SUFFIXES = (".safetensors", ".json")
PUBLISHED_SUFFIXES = (".pt", ".pth")


class Checkpointed(Protocol):
    """What can be saved: arrays and a card, from which `from_arrays(arrays, card)` makes the same again."""

    @property
    def card(self) -> Mapping[str, Any]: ...
    def to_arrays(self) -> Mapping[str, NDArray[Any]]: ...


def shipped(name: str = DEFAULT_NAME) -> Path:
    """The weights of that name that ship, as a path for `load`.

    Raises
    ------
    SelectorError
        The installation lacks them.
    """
    path = PRETRAINED / f"{name}.safetensors"
    if not path.is_file():
        raise SelectorError(f"{path}: the shipped weights are missing: install the package again")
    return path


def default_checkpoint() -> Path:
    """The default SC predictor's weights. Errors as in :func:`shipped`."""
    return shipped(DEFAULT_NAME)


def shipped_spectrum_models() -> list[Path]:
    """Weights of the spectrum models that ship, IPA and RPA. Errors as in :func:`shipped`."""
    return [shipped(name) for name in SPECTRUM_NAMES]


def save(model: Checkpointed, path: Path) -> Path:
    """Write a model of any of `KINDS` to PATH.safetensors and PATH.json; the former is returned."""
    return _write(path, model.to_arrays(), model.card)


def load(path: Path, kinds: Sequence[str] = SC_KINDS) -> Any:
    """Read a predictor that :func:`save` wrote.

    Parameters
    ----------
    path : with or without suffix
    kinds : those accepted; any SC predictor from structures alone by default

    Raises
    ------
    UsageError
        No such file.
    SelectorError
        The file is truncated, altered, of another kind, of a newer release, or not safetensors at all.
    """
    arrays, card = _read(path, kinds)
    module, name = KINDS[card["kind"]].split(":")
    try:
        return getattr(importlib.import_module(module), name).from_arrays(arrays, card)
    except (KeyError, ValueError, TypeError, IndexError) as e:
        raise SelectorError(f"{_stem(path)}.safetensors: not a complete model ({e!r}): fetch it again") from e
    except SelectorError as e:
        raise SelectorError(f"{_stem(path)}.safetensors: {e}") from e


def save_spectrum_model(model: SpectrumModel, path: Path) -> None:
    """Write a spectrum model to PATH.safetensors and PATH.json."""
    save(model, path)


def load_spectrum_model(path: Path) -> SpectrumModel:
    """Read a saved spectrum model, or the paper's published weights (.pt, .pth). Errors as in :func:`load`."""
    if path.suffix in PUBLISHED_SUFFIXES:
        return import_optimate(path)
    return cast("SpectrumModel", load(path, ("spectrum_model",)))


def import_optimate(path: Path, level: str | None = None) -> SpectrumModel:
    """Read the paper's published weights: :func:`models.published.import_optimate`."""
    from models import published

    return published.import_optimate(path, level)


def _stem(path: Path) -> Path:
    # Only the two suffixes are cut: a name may hold dots of its own.
    return path.with_suffix("") if path.suffix in SUFFIXES else path


def _digest(blob: bytes, card: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in card.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(blob + text.encode()).hexdigest()


def _write(path: Path, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> Path:
    blob = write_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    full = json.loads(json.dumps(dict(card) | {"format": FORMAT}))
    full["digest"] = _digest(blob, full)
    stem = _stem(path)
    weights = stem.with_name(stem.name + ".safetensors")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        # The card comes last: weights without their card are not loaded.
        _replace(weights, blob)
        _replace(stem.with_name(stem.name + ".json"), (json.dumps(full, indent=1) + "\n").encode())
    except OSError as e:
        raise SelectorError(
            f"{stem}: can't write the checkpoint ({e.strerror}): choose a folder you may write to"
        ) from e
    return weights


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def _read(path: Path, kinds: Sequence[str]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    stem = _stem(path)
    weights, card_file = stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")
    for file in (weights, card_file):
        if not file.is_file():
            raise UsageError(f"{file}: no such file: a checkpoint is NAME.safetensors with NAME.json beside it")
    blob = weights.read_bytes()
    try:
        card = json.loads(card_file.read_text())
        found, version = card["kind"], int(card["format"])
    except (ValueError, KeyError, TypeError) as e:
        raise SelectorError(f"{card_file}: not a checkpoint's card ({e}): fetch it again") from e
    if version > FORMAT:
        raise SelectorError(
            f"{card_file}: written by a newer release (format {version}, here {FORMAT}): update the package"
        )
    if found not in kinds:
        raise SelectorError(
            f"{weights}: holds a {found!r} model, one of kind {' or '.join(kinds)} is needed: choose another checkpoint"
        )
    try:
        arrays = read_safetensors(blob)
    except (SafetensorError, ValueError, KeyError) as e:
        raise SelectorError(f"{weights}: not a whole safetensors file ({e}); other formats are never read") from e
    if card.get("digest") != _digest(blob, card):
        raise SelectorError(f"{weights}: was changed after it was written (its digest differs): fetch both files again")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise SelectorError(f"{weights}: {name!r} holds a number that is not finite: train it again")
    return arrays, card
