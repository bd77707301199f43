"""The paper's graph attention network (Grunert, Großmann and Runge, Nat. Commun. 16, 8142 (2025)), of any output width.

Atoms enter as one-hot group and row. GATv2 layers (Brody, Alon and Yahav, ICLR 2022), with no activation between them,
pass messages along edges whose lengths are expanded in 51 Gaussians; a softmax over a crystal's atoms, channel by
channel, pools them; a perceptron makes the output. Parameters, their names inside each layer and their initial values
are those of torch_geometric's `MLP` and `GATv2Conv`, so that published weights fit.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch_geometric.nn import MLP, GATv2Conv
from torch_geometric.utils import scatter, softmax

from models.elements import element_table
from models.graphs import CUTOFF_ANG, Graphs
from selector.errors import SelectorError, UsageError

GROUPS = (1, 2, 13, 14, 15, 16, 17, 18)
ROWS = (1, 2, 3, 4, 5)
N_GAUSSIANS = 51
GAUSSIAN_EXPONENT = 10.0
SPECTRUM_WIDTH = 2001


@dataclass(frozen=True)
class OptiMateSizes:
    """Widths of the network; the defaults are those of the published models.

    Attributes
    ----------
    node : widths of the node perceptron after its input
    attention : (width per head, heads) of each GATv2 layer
    output : hidden widths of the output perceptron
    n_out : 1 for SC, 2001 for a spectrum
    """

    node: tuple[int, ...] = (48, 48)
    attention: tuple[tuple[int, int], ...] = ((48, 4), (96, 4))
    output: tuple[int, ...] = (1024, 1024, 1024)
    n_out: int = 1

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> OptiMateSizes:
        """From JSON or YAML, in which tuples are lists; ValueError where a width is no positive number."""
        sizes = cls(
            tuple(card["node"]), tuple((w, h) for w, h in card["attention"]), tuple(card["output"]), int(card["n_out"])
        )
        widths = (*sizes.node, *sizes.output, *(w for pair in sizes.attention for w in pair), sizes.n_out)
        if not (sizes.node and sizes.attention and all(isinstance(w, int) and w > 0 for w in widths)):
            raise ValueError("a width that is no positive whole number, or a part without layers")
        return sizes

    def to_card(self) -> dict[str, Any]:
        return asdict(self)


def read_sizes(path: Path) -> dict[str, OptiMateSizes]:
    """Named sizes from a YAML file such as `configs/optimate_sizes.yaml`, in its order; `n_out` is 1.

    Parameters
    ----------
    path : maps each name to `node`, `attention` and `output`, as in :class:`OptiMateSizes`

    Raises
    ------
    UsageError
        The file is missing, or is no such mapping.
    """
    try:
        named = yaml.safe_load(path.read_text())
        sizes = {str(name): OptiMateSizes.from_card(entry | {"n_out": 1}) for name, entry in named.items()}
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror}): name a file of network sizes") from e
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as e:
        reason = " ".join(str(e).split())[:120]
        form = "NAME: {node: [48, 48], attention: [[48, 4], [96, 4]], output: [1024]}"
        raise UsageError(f"{path}: no sizes of a network ({reason}): write {form}") from e
    return sizes


def node_encoding() -> Tensor:
    """One-hot group, then row: (119, 13); a row of NaN where the paper has no encoding for an element."""
    table = element_table()
    code = torch.full((len(table.row), len(GROUPS) + len(ROWS)), math.nan)
    for z in range(1, len(table.row)):
        group, row = int(table.group[z]), int(table.row[z])
        if group in GROUPS and row in ROWS:
            code[z] = 0.0
            code[z, GROUPS.index(group)] = code[z, len(GROUPS) + ROWS.index(row)] = 1.0
    return code


class GATv2(GATv2Conv):
    """torch_geometric's layer without self-loops, on edges that may count more than once.

    An edge of multiplicity m gives what m equal edges give: its weight in the softmax is m exp(logit).
    """

    def __init__(self, width: int, out: int, heads: int) -> None:
        super().__init__(width, out, heads=heads, concat=True, add_self_loops=False, edge_dim=N_GAUSSIANS)

    def forward(self, x: Tensor, graphs: Graphs, edges: Tensor) -> Tensor:
        """Atoms (a, width) and expanded edges (e, 51) -> atoms (a, heads * out)."""
        source, target = graphs.edge_index
        sent, received = self.lin_l(x), self.lin_r(x)
        hidden = self.lin_edge(edges)
        hidden += sent.index_select(0, source)
        hidden += received.index_select(0, target)
        # One matrix product for all heads: each sees its own channels.
        logit = leaky_relu(hidden, self.negative_slope, inplace=True) @ torch.block_diag(*self.att[0, :, :, None])
        weight = softmax(logit.float() + graphs.multiplicity[:, None].log(), target, num_nodes=len(x))
        message = sent.index_select(0, source).view(-1, self.heads, self.out_channels) * weight[:, :, None]
        out = message.new_zeros(len(x), self.heads * self.out_channels)
        return out.index_add(0, target, message.flatten(1)) + self.bias


class OptiMate(nn.Module):
    """The network: `forward` takes a batch of n crystals to (n, n_out).

    Parameters
    ----------
    sizes : widths

    Raises
    ------
    SelectorError
        In `forward`, on an element outside groups 1, 2, 13-18 and rows 1-5.
    """

    encoding: Tensor
    centres: Tensor

    def __init__(self, sizes: OptiMateSizes | None = None) -> None:
        super().__init__()
        self.sizes = sizes or OptiMateSizes()
        self.node = MLP([len(GROUPS) + len(ROWS), *self.sizes.node])
        width, layers = self.sizes.node[-1], []
        for out, heads in self.sizes.attention:
            layers.append(GATv2(width, out, heads))
            width = out * heads
        self.attention = nn.ModuleList(layers)
        self.pool = MLP([width, width])
        self.output = MLP([width, *self.sizes.output, self.sizes.n_out])
        self.register_buffer("encoding", node_encoding(), persistent=False)
        self.register_buffer("centres", torch.linspace(0.0, CUTOFF_ANG, N_GAUSSIANS), persistent=False)

    def embed(self, graphs: Graphs) -> Tensor:
        """The pooled crystals, shape (n, width of the last layer): the latent vector."""
        x = self.encoding[graphs.numbers]
        if torch.isnan(x).any():
            z = int(graphs.numbers[torch.isnan(x[:, 0])][0])
            raise SelectorError(f"element {z}: the network knows groups 1, 2, 13-18 and rows 1-5 only")
        gaussians = torch.exp(-GAUSSIAN_EXPONENT * (graphs.distance_ang[:, None] - self.centres) ** 2)
        edges = math.sqrt(GAUSSIAN_EXPONENT / math.pi) * gaussians
        x = self.node(x)
        for layer in self.attention:
            x = layer(x, graphs, edges)
        weight = softmax(self.pool(x), graphs.crystal, num_nodes=len(graphs))
        return scatter(x * weight, graphs.crystal, dim=0, dim_size=len(graphs), reduce="sum")

    def forward(self, graphs: Graphs) -> Tensor:
        out = self.output(self.embed(graphs))
        return leaky_relu(out) if self.sizes.n_out == SPECTRUM_WIDTH else out
