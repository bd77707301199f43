"""Published weights against the network as its authors build it: plain PyG layers, a pymatgen neighbour loop."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Structure
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MLP, GATv2Conv, Sequential, global_add_pool
from torch_geometric.utils import softmax

from models.published import import_optimate
from models.spectrum_model import SpectrumModel
from selector.errors import SelectorError, UsageError

ATTENTION = [(6, 3), (10, 2), (4, 5)]


def plain_graph(structure: Structure) -> Data:
    """A crystal as the paper makes it: a loop over sites and neighbours, Gaussians stored on the edges."""
    source, target, lengths = [], [], []
    for i, neighbours in enumerate(structure.get_all_neighbors(5)):
        for neighbour in neighbours:
            source.append(i)
            target.append(neighbour.index)
            lengths.append(neighbour.nn_distance)
    mu = np.linspace(0, 5, 51)
    edges = np.sqrt(10 / np.pi) * np.exp(-10 * (np.array(lengths)[:, None] - mu) ** 2)
    x = torch.zeros(len(structure), 13)
    for i, site in enumerate(structure):
        group = site.specie.group - 1
        x[i, group if group < 2 else group - 10] = 1
        x[i, 8 + site.specie.row - 1] = 1
    return Data(x=x, edge_index=torch.tensor([source, target]), edge_attr=torch.tensor(edges, dtype=torch.float))


class Numbered(nn.Module):
    """The layout of the published IPA network: gat1, gat2, ..."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp_init_node, width = MLP([13, 7, 9], act="relu"), 9
        for k, (out, heads) in enumerate(ATTENTION, start=1):
            setattr(self, f"gat{k}", GATv2Conv(width, out, heads=heads, edge_dim=51, add_self_loops=False))
            width = out * heads
        self.mlp_att, self.mlp1 = MLP([width, width], act="relu"), MLP([width, 32, 24, 2001], act="relu")

    def messages(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        for k in range(1, len(ATTENTION) + 1):
            x = getattr(self, f"gat{k}")(x, edge_index, edge_attr)
        return x

    def forward(self, graph: Data) -> Tensor:
        x = self.messages(self.mlp_init_node(graph.x), graph.edge_index, graph.edge_attr)
        weight = softmax(self.mlp_att(x), index=graph.batch)
        return nn.functional.leaky_relu(self.mlp1(global_add_pool(x * weight, graph.batch)))


class Sequenced(Numbered):
    """The layout of networks from the hyperparameter search: every part in a PyG Sequential."""

    def __init__(self) -> None:
        super().__init__()
        edges = "x, edge_index, edge_attr"
        gats = [(getattr(self, f"gat{k}"), f"{edges} -> x") for k in range(1, len(ATTENTION) + 1)]
        for k in range(1, len(ATTENTION) + 1):
            delattr(self, f"gat{k}")
        self.gat = Sequential(edges, gats)
        self.mlp_init_node = Sequential("x", [(self.mlp_init_node, "x -> x")])
        self.mlp_att = Sequential("x", [(self.mlp_att, "x -> att")])
        self.mlp1 = Sequential("x", [(self.mlp1, "x -> x")])

    def messages(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.gat(x, edge_index, edge_attr)


def with_random_statistics(network: nn.Module, seed: int) -> nn.Module:
    """Weights and batch statistics as after training: none at its initial value."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if "norms" in name and name.endswith(("running_var", "weight")):
            value.uniform_(0.5, 2.0, generator=generator)
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * (4 / value.shape[-1]) ** 0.5)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return with_random_statistics(Numbered(), seed=3)


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "eps_300.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.parametrize("layout", [Numbered, Sequenced])
@pytest.mark.parametrize("prefix", ["", "gatnn."])
def test_spectra_are_those_of_the_plain_construction(layout, prefix, labels, tmp_path):
    crystals = [k.structure for k in labels[::8]]
    network = with_random_statistics(layout(), seed=len(prefix))
    path = tmp_path / "weights.pth"
    torch.save({prefix + name: value for name, value in network.state_dict().items()}, path)
    assert any(".module_0." in name for name in torch.load(path)) == (layout is Sequenced)
    with torch.no_grad():
        expected = torch.cat([network(Batch.from_data_list([plain_graph(s)])) for s in crystals]).numpy()
    model = import_optimate(path)
    got = model.predict(crystals)
    assert isinstance(model, SpectrumModel)
    assert got.shape == (len(crystals), 2001)
    # Relative to each spectrum: a single value may lie anywhere near zero.
    assert (np.abs(got - expected).max(axis=1) < 1e-5 * np.abs(expected).max(axis=1)).all()
    assert np.abs(got - expected).mean() < 1e-5 * np.abs(expected).mean()
    assert expected.std(axis=0).mean() > 0.1 * np.abs(expected).mean()  # the crystals differ


def test_sizes_follow_from_the_shapes(weights):
    sizes = import_optimate(weights).network.sizes
    assert (sizes.node, sizes.attention, sizes.output, sizes.n_out) == ((7, 9), tuple(ATTENTION), (32, 24), 2001)


def test_the_level_is_told_or_follows_the_published_layouts(network, weights, tmp_path):
    assert import_optimate(weights).level == "ipa"
    assert import_optimate(weights, level="rpa").level == "rpa"
    transferred = tmp_path / "tl4610.pt"
    torch.save({f"gatnn.{name}": value for name, value in network.state_dict().items()}, transferred)
    assert import_optimate(transferred).level == "rpa"
    assert import_optimate(transferred, level="ipa").level == "ipa"
    assert import_optimate(transferred).card["data"]["source"] == "tl4610.pt"
    with pytest.raises(UsageError, match="choose ipa or rpa"):
        import_optimate(weights, level="bse")


class Trap:
    """Runs code when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def refused(path: Path, match: str) -> None:
    with pytest.raises(SelectorError, match=match) as caught:
        import_optimate(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(tmp_path, network):
    sprung = tmp_path / "sprung"
    plain, inside, module = (tmp_path / f"{name}.pt" for name in ("plain", "inside", "module"))
    plain.write_bytes(pickle.dumps({"mlp1.lins.0.weight": Trap(sprung)}))
    torch.save(network.state_dict() | {"extra": Trap(sprung)}, inside)
    torch.save(network, module)
    for path in (plain, inside, module):
        refused(path, "never run")
    assert not sprung.exists()


def test_a_file_cut_short_or_damaged_is_refused(weights):
    whole = weights.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-10], whole[:100], b"", b"no weights at all"):
        weights.write_bytes(part)
        refused(weights, r"not a whole PyTorch file|no PyTorch file")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    weights.write_bytes(flipped)
    refused(weights, "differs from its checksum")


def test_what_is_not_this_network_is_refused(network, weights):
    state = network.state_dict()

    def without(name: str) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if k != name}

    nan = state["mlp_att.lins.0.bias"].clone()
    nan[3] = torch.nan
    cases = {
        "attention.0.lin_l.weight: nothing where": without("gat1.lin_l.weight"),
        "'encoder.weight' is no part of OptiMate": state | {"encoder.weight": torch.ones(2)},
        "output.lins.1.extra": state | {"mlp1.lins.1.extra": torch.ones(2)},
        "attention.1.lin_l.weight": state | {"gat2.lin_l.weight": torch.ones(20, 5)},
        "no whole OptiMate network": without("gat1.att"),
        "no whole OptiMate": {k: v for k, v in state.items() if not k.startswith("mlp1.")},
        "not finite": state | {"mlp_att.lins.0.bias": nan},
        "both layouts": state | {"mlp_att.module_0.lins.0.bias": nan},
        "is no named tensor": state | {"epoch": 3},
        "no state dict": {},
    }
    for match, content in cases.items():
        torch.save(content, weights)
        refused(weights, match)
    torch.save([1, 2], weights)
    refused(weights, "no state dict")


def test_a_network_for_sc_is_no_spectrum_model(network, weights):
    state = dict(network.state_dict())
    state["mlp1.lins.2.weight"], state["mlp1.lins.2.bias"] = torch.ones(1, 24), torch.ones(1)
    torch.save(state, weights)
    refused(weights, "1 outputs")


def test_a_missing_file_is_the_user_s_mistake(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        import_optimate(tmp_path / "nowhere.pt")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_spectra_on_the_gpu_are_those_of_the_cpu(weights, labels):
    crystals = [k.structure for k in labels[:20]]
    model = import_optimate(weights)
    here, there = model.predict(crystals, device="cpu"), model.predict(crystals, device="cuda")
    assert (np.abs(there - here).max(axis=1) < 1e-4 * np.abs(here).max(axis=1)).all()
