"""The paper's way from a crystal to the network's output, for comparison: what `models` replaces.

Grunert, Großmann and Runge, Nat. Commun. 16, 8142 (2025): a loop over sites and neighbours, Gaussians stored on the
edges, torch_geometric's own layers.
"""

from __future__ import annotations

import numpy as np
import torch
from pymatgen.core import Structure
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MLP, GATv2Conv, global_add_pool
from torch_geometric.utils import softmax

CUTOFF_ANG = 5.0


class PaperNetwork(nn.Module):
    """The published architecture in plain PyG layers, with one output; parameters are named as in `OptiMate`."""

    def __init__(self) -> None:
        super().__init__()
        self.node = MLP([13, 48, 48])
        kept = {"heads": 4, "edge_dim": 51, "concat": True, "add_self_loops": False}
        self.attention = nn.ModuleList([GATv2Conv(48, 48, **kept), GATv2Conv(192, 96, **kept)])
        self.pool, self.output = MLP([384, 384]), MLP([384, 1024, 1024, 1024, 1])

    def forward(self, graph: Data) -> Tensor:
        x = self.node(graph.x)
        for layer in self.attention:
            x = layer(x, graph.edge_index, graph.edge_attr)
        return self.output(global_add_pool(x * softmax(self.pool(x), index=graph.batch), graph.batch))


def paper_graph(structure: Structure) -> Data:
    """A crystal the paper's way: loops over sites and their neighbours, one-hot rows, 51 Gaussians an edge."""
    centre: list[int] = []
    neighbour: list[int] = []
    length: list[float] = []
    for k, around in enumerate(structure.get_all_neighbors(CUTOFF_ANG)):
        for other in around:
            centre.append(k)
            neighbour.append(other.index)
            length.append(other.nn_distance)
    distance = np.array(length)
    gaussians = np.sqrt(10 / np.pi) * np.array([np.exp(-10 * (distance - mu) ** 2) for mu in np.linspace(0, 5, 51)])
    rows = []
    for element in structure.species:
        group = torch.tensor(element.group - 1 if element.group < 3 else element.group - 11)
        one_hot = nn.functional.one_hot
        rows.append(torch.hstack([one_hot(group, 8), one_hot(torch.tensor(element.row - 1), 5)]))
    return Data(
        x=torch.vstack(rows).float(),
        edge_index=torch.stack([torch.tensor(centre), torch.tensor(neighbour)]),
        edge_attr=torch.tensor(gaussians, dtype=torch.float).T,
    )
