"""Save and load: weights as safetensors, beside them a JSON card. No pickle is ever read.

PATH.safetensors holds arrays, PATH.json the card: what it is (`kind`, `format`), what it learned from (`data`), how
well it does (`metrics`), where it comes from (`date`, `seed`, `command`, `licence`), and a digest of both files that
is checked on loading. A file written by any earlier release still loads; `format` says how to read it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from models.sc_predictor import KIND as SC_KIND
from models.sc_predictor import SCPredictor
from selector.errors import SelectorError, UsageError

if TYPE_CHECKING:
    from models.optimate import OptiMate

FORMAT = 1
PRETRAINED = Path(__file__).parent / "pretrained"
DEFAULT_NAME = "sc-default"
SUFFIXES = (".safetensors", ".json")


def default_checkpoint() -> Path:
    """The weights that ship, as a path for `load`.

    Raises
    ------
    SelectorError
        The installation lacks them.
    """
    path = PRETRAINED / f"{DEFAULT_NAME}.safetensors"
    if not path.is_file():
        raise SelectorError(f"{path}: the shipped weights are missing: install the package again")
    return path


def save(predictor: SCPredictor, path: Path) -> None:
    """Write a predictor to PATH.safetensors and PATH.json."""
    _write(path, predictor.to_arrays(), predictor.card)


def load(path: Path) -> SCPredictor:
    """Read a predictor that :func:`save` wrote.

    Parameters
    ----------
    path : with or without suffix

    Raises
    ------
    UsageError
        No such file.
    SelectorError
        The file is truncated, altered, of another kind, of a newer release, or not safetensors at all.
    """
    arrays, card = _read(path, SC_KIND)
    try:
        return SCPredictor.from_arrays(arrays, card)
    except (KeyError, ValueError, TypeError) as e:
        raise SelectorError(f"{_stem(path)}.safetensors: not a complete predictor ({e}): fetch it again") from e
    except SelectorError as e:
        raise SelectorError(f"{_stem(path)}.safetensors: {e}") from e


def save_network(model: OptiMate, path: Path, card: Mapping[str, Any] | None = None) -> None:
    """Write the paper's network to PATH.safetensors and PATH.json; `card` adds data, metrics, seed, command."""
    from models.optimate import KIND

    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    _write(path, arrays, dict(card or {}) | {"kind": KIND, "sizes": model.sizes.to_card()})


def load_network(path: Path) -> tuple[OptiMate, dict[str, Any]]:
    """Read what :func:`save_network` wrote: the network in evaluation mode, and its card. Errors as in :func:`load`."""
    import torch

    from models.optimate import KIND, OptiMate, OptiMateSizes

    arrays, card = _read(path, KIND)
    try:
        model = OptiMate(OptiMateSizes.from_card(card["sizes"]))
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in arrays.items()})
    except (KeyError, ValueError, TypeError, RuntimeError) as e:
        reason = str(e).splitlines()[0]
        raise SelectorError(f"{_stem(path)}.safetensors: not a complete network ({reason}): fetch it again") from e
    return model.eval(), card


def _stem(path: Path) -> Path:
    # Only the two suffixes are cut: a name may hold dots of its own.
    return path.with_suffix("") if path.suffix in SUFFIXES else path


def _digest(blob: bytes, card: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in card.items() if k != "digest"}, sort_keys=True)
    return hashlib.sha256(blob + text.encode()).hexdigest()


def _write(path: Path, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> None:
    blob = write_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    full = json.loads(json.dumps(dict(card) | {"format": FORMAT}))
    full["digest"] = _digest(blob, full)
    stem = _stem(path)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        # The card comes last: weights without their card are not loaded.
        _replace(stem.with_name(stem.name + ".safetensors"), blob)
        _replace(stem.with_name(stem.name + ".json"), (json.dumps(full, indent=1) + "\n").encode())
    except OSError as e:
        raise SelectorError(
            f"{stem}: can't write the checkpoint ({e.strerror}): choose a folder you may write to"
        ) from e


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as f:
        f.write(content)
        f.flush()
        os.fsync(f.fileno())
    part.replace(path)


def _read(path: Path, kind: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
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
    if found != kind:
        raise SelectorError(
            f"{weights}: holds a {found!r} model, a {kind!r} model is needed: choose another checkpoint"
        )
    try:
        arrays = read_safetensors(blob)
    except (SafetensorError, ValueError, KeyError) as e:
        raise SelectorError(f"{weights}: not a whole safetensors file ({e}); other formats are never read") from e
    if card.get("digest") != _digest(blob, card):
        raise SelectorError(f"{weights}: was changed after it was written (its digest differs): fetch both files again")
    return arrays, card
