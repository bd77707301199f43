"""Im(eps) of a crystal at one theory level, by the paper's network."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pymatgen.core import Element, Structure
from torch import Tensor

from models.graphs import Graphs, build_graphs
from models.optimate import SPECTRUM_WIDTH, OptiMate, OptiMateSizes, node_encoding
from models.training import apply, pick_device
from selector.errors import SelectorError, UsageError

Array = NDArray[np.float64]

KIND = "spectrum_model"
LEVELS = ("ipa", "rpa")


class SpectrumModel:
    """Predicts Im(eps) on `selector.spectra.ENERGY_EV` from structures alone.

    Parameters
    ----------
    network : with 2001 outputs
    level : "ipa" or "rpa"
    card : JSON-able: data, metrics, date, seed, command, licence; kind, level, sizes and model_id are added

    Attributes
    ----------
    model_id : names the weights ("ipa-" or "rpa-" and ten hex digits)

    Raises
    ------
    UsageError
        Another level.
    SelectorError
        A network of another output width.
    """

    def __init__(self, network: OptiMate, level: str, card: Mapping[str, Any] | None = None) -> None:
        if level not in LEVELS:
            raise UsageError(f"level {level!r}: choose ipa or rpa")
        if network.sizes.n_out != SPECTRUM_WIDTH:
            raise SelectorError(f"a network of {network.sizes.n_out} outputs: a spectrum has {SPECTRUM_WIDTH}")
        self.network, self.level = network.eval(), level
        own = {"kind": KIND, "level": level, "sizes": network.sizes.to_card(), "model_id": self._model_id()}
        self.card: dict[str, Any] = dict(card or {}) | own

    @property
    def model_id(self) -> str:
        return str(self.card["model_id"])

    def predict(self, structures: Sequence[Structure], device: str = "auto") -> Array:
        """Im(eps), trace / 3, of n crystals: (n, 2001).

        Parameters
        ----------
        structures : ordered crystals
        device : "auto", "cpu" or "cuda"

        Raises
        ------
        SelectorError
            A crystal holds an element outside groups 1, 2, 13-18 and rows 1-5, for which the network has no input.
        """
        return self._run(structures, device, self.network)

    def embed(self, structures: Sequence[Structure], device: str = "auto") -> Array:
        """Latent vectors of n crystals, (n, width of the last attention layer). Errors as in :meth:`predict`."""
        return self._run(structures, device, self.network.embed)

    def out_of_domain(self, structures: Sequence[Structure]) -> NDArray[np.bool_]:
        """(n,) bool: an element that no training label held, or an atom without a neighbour within the cutoff."""
        seen = self.card.get("data", {}).get("elements")
        known = encoded_elements() if seen is None else frozenset(seen)
        foreign = np.array([bool(_elements(s) - known) for s in structures], bool)
        return foreign | build_graphs(structures).isolated.numpy()

    def rounded(self) -> SpectrumModel:
        """The same with weights rounded to half precision, in which a file of them is half as long."""
        network = copy.deepcopy(self.network)
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(weight.half().float())
        return SpectrumModel(network, self.level, self.card)

    def _run(self, structures: Sequence[Structure], device: str, output: Callable[[Graphs], Tensor]) -> Array:
        check_elements(structures)
        self.network.to(pick_device(device)).eval()
        return apply(self.network, build_graphs(structures), output).double().numpy()

    def _model_id(self) -> str:
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
        return f"{self.level}-{digest.hexdigest()[:10]}"

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything but the card, for :mod:`models.checkpoints`; in half precision what loses nothing by it."""
        return {name: _shortest(value.detach().cpu().numpy()) for name, value in self.network.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], card: Mapping[str, Any]) -> SpectrumModel:
        """Rebuild what :meth:`to_arrays` and `card` hold.

        Raises
        ------
        SelectorError
            The arrays do not fit the sizes, or content and `model_id` disagree.
        """
        network = OptiMate(OptiMateSizes.from_card(card["sizes"]))
        try:
            network.load_state_dict({name: torch.from_numpy(_full(value)) for name, value in arrays.items()})
        except RuntimeError as e:
            raise SelectorError(f"its arrays do not fit its sizes ({str(e).splitlines()[0]}): fetch it again") from e
        model = cls(network, card["level"], card)
        if model.model_id != card["model_id"]:
            raise SelectorError(f"its content is {model.model_id}, its card says {card['model_id']}: fetch it again")
        return model


@lru_cache(maxsize=1)
def encoded_elements() -> frozenset[str]:
    """Symbols of the elements that the paper's network has an input for."""
    known = ~torch.isnan(node_encoding()[:, 0])
    return frozenset(Element.from_Z(int(z)).symbol for z in known.nonzero())


def foreign_elements(structure: Structure) -> frozenset[str]:
    """Symbols of a crystal's elements that it has no input for."""
    return _elements(structure) - encoded_elements()


def _elements(structure: Structure) -> frozenset[str]:
    return frozenset(e.symbol for e in structure.composition.elements)


def check_elements(structures: Sequence[Structure], names: Sequence[str] | None = None) -> None:
    """Refuse crystals that the paper's network has no input for.

    Parameters
    ----------
    structures : n crystals
    names : n material ids, for the message; formulas if None

    Raises
    ------
    SelectorError
        Names the first such crystal and its element.
    """
    for i, structure in enumerate(structures):
        foreign = foreign_elements(structure)
        if foreign:
            name = names[i] if names is not None else structure.composition.reduced_formula
            raise SelectorError(
                f"{name}: element {min(foreign)}: the network knows groups 1, 2, 13-18 and rows 1-5 only: leave it out"
            )


def _shortest(value: NDArray[Any]) -> NDArray[Any]:
    if value.dtype != np.float32:
        return value
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), value) else value


def _full(value: NDArray[Any]) -> NDArray[Any]:
    return value.astype(np.float32 if value.dtype == np.float16 else value.dtype)
