"""The paper's published weights in: PyTorch state dicts, read without ever running a pickle's code.

Two layouts exist. The IPA network, and what was transferred from it, name their parts `mlp_init_node, gat1, gat2,
mlp_att, mlp1`; networks that learned directly wrap each part in a PyG `Sequential` (`mlp_init_node.module_0,
gat.module_0, gat.module_1, ...`). The RPA models stand below a prefix `gatnn.`. All sizes follow from the shapes.
"""

from __future__ import annotations

import datetime
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.optimate import OptiMate, OptiMateSizes
from models.spectrum_model import SpectrumModel
from selector.errors import SelectorError, UsageError

PREFIX = "gatnn."
# What a name begins with in either layout, and the part of our network that it names; layers counted from 1 or from 0.
PARTS = (
    (re.compile(r"mlp_init_node\.(?:module_0\.)?"), "node", 0),
    (re.compile(r"gat(\d+)\."), "attention", 1),
    (re.compile(r"gat\.module_(\d+)\."), "attention", 0),
    (re.compile(r"mlp_att\.(?:module_0\.)?"), "pool", 0),
    (re.compile(r"mlp1\.(?:module_0\.)?"), "output", 0),
)


def import_optimate(path: Path | str, level: str | None = None) -> SpectrumModel:
    """Read a published spectrum model.

    Parameters
    ----------
    path : a PyTorch state dict (.pt, .pth)
    level : "ipa" or "rpa"; if None, "rpa" for names with the prefix `gatnn.` and "ipa" without, as published

    Raises
    ------
    UsageError
        No such file, or another level.
    SelectorError
        No state dict of this network for spectra: truncated, damaged, a pickle of something else, names or shapes that
        do not fit, weights that are not finite.
    """
    path = Path(path)
    state = read_state_dict(path)
    network = network_from(state, path)
    if level is None:
        level = "rpa" if all(name.startswith(PREFIX) for name in state) else "ipa"
    card = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": "import_optimate",
        "target": "Im(eps), trace / 3, 0-20 eV in 2001 points",
        "data": {"source": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    }
    try:
        return SpectrumModel(network, level, card)
    except SelectorError as e:
        raise type(e)(f"{path}: {e}") from e


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a PyTorch state dict; nothing but tensors is ever unpickled. Errors as above."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file: name a PyTorch state dict (.pt, .pth)")
    try:
        # PyTorch does not look at the checksums of the archive it writes.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise SelectorError(f"{path}: damaged ({damaged} differs from its checksum): fetch it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Given the path, PyTorch would go by the suffix: a name says nothing about what is inside.
            with path.open("rb") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise SelectorError(
            f"{path}: holds more than tensors, or is no PyTorch file; code in a pickle is never run: "
            "save the network's state_dict() instead"
        ) from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}): name a file you may read") from e
    except (RuntimeError, EOFError, KeyError, ValueError, IndexError, TypeError, AttributeError, zipfile.BadZipFile):
        raise SelectorError(f"{path}: not a whole PyTorch file: fetch it again") from None
    if not isinstance(state, Mapping) or not state:
        raise SelectorError(f"{path}: holds no state dict: save the network's state_dict()")
    odd = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if odd:
        raise SelectorError(f"{path}: {odd[0]!r} is no named tensor: save the network's state_dict() alone")
    return dict(state)


def network_from(state: Mapping[str, Tensor], path: Path) -> OptiMate:
    """The network that a state dict holds, in evaluation mode; `path` names it in errors."""
    weights = {_our_name(name, path): value for name, value in state.items()}
    if len(weights) < len(state):
        raise SelectorError(f"{path}: both layouts at once: save one network's state_dict()")
    try:
        network = OptiMate(_sizes(weights))
    except (KeyError, IndexError, TypeError, ValueError) as e:
        raise SelectorError(f"{path}: no whole OptiMate network ({e}): fetch it again") from None
    expected = network.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        found, needed = (tuple(k[name].shape) if name in k else "nothing" for k in (weights, expected))
        if found != needed:
            raise SelectorError(f"{path}: {name}: {found} where {needed} belongs: not this network's weights")
        if not torch.isfinite(weights[name]).all():
            raise SelectorError(f"{path}: {name} holds a number that is not finite: fetch it again")
    network.load_state_dict(weights)
    return network.eval()


def _our_name(name: str, path: Path) -> str:
    for pattern, part, first in PARTS:
        begin = pattern.match(name.removeprefix(PREFIX))
        if begin:
            layer = f".{int(begin[1]) - first}" if begin.lastindex else ""
            return f"{part}{layer}.{begin.string[begin.end() :]}"
    raise SelectorError(f"{path}: {name!r} is no part of OptiMate: not this network's weights")


def _sizes(weights: Mapping[str, Tensor]) -> OptiMateSizes:
    """Widths from the first axis of every linear layer, heads from the attention vectors (1, heads, width)."""

    def widths(part: str) -> list[int]:
        layers = sum(bool(re.fullmatch(rf"{part}\.lins\.\d+\.weight", name)) for name in weights)
        return [len(weights[f"{part}.lins.{k}.weight"]) for k in range(layers)]

    n_layers = sum(bool(re.fullmatch(r"attention\.\d+\.att", name)) for name in weights)
    heads = [weights[f"attention.{k}.att"].shape for k in range(n_layers)]
    *hidden, n_out = widths("output")
    card: dict[str, Any] = {"node": widths("node"), "attention": [(s[2], s[1]) for s in heads]}
    return OptiMateSizes.from_card(card | {"output": hidden, "n_out": n_out})
