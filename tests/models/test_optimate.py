from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure
from torch_geometric.nn import MLP, GATv2Conv
from torch_geometric.utils import softmax

from models.graphs import Graphs, build_graphs
from models.optimate import GATv2, OptiMate, OptiMateSizes, node_encoding, read_sizes
from models.training import seeded
from selector.errors import SelectorError, UsageError

SIZES = Path(__file__).parents[2] / "configs" / "optimate_sizes.yaml"

SMALL = OptiMateSizes(node=(8, 8), attention=((8, 2), (12, 2)), output=(16, 16))


def small(n_out: int = 1) -> OptiMate:
    with seeded(0):
        return OptiMate(OptiMateSizes(SMALL.node, SMALL.attention, SMALL.output, n_out)).eval()


def test_default_sizes_are_the_published_ones():
    model = OptiMate()
    assert [tuple(k.weight.shape) for k in model.node.lins] == [(48, 13), (48, 48)]
    assert [(g.in_channels, g.out_channels, g.heads, g.edge_dim) for g in model.attention] == [
        (48, 48, 4, 51),
        (192, 96, 4, 51),
    ]
    assert all(g.concat and not g.add_self_loops for g in model.attention)
    assert [tuple(k.weight.shape) for k in model.pool.lins] == [(384, 384)]
    assert [tuple(k.weight.shape) for k in model.output.lins] == [(1024, 384), (1024, 1024), (1024, 1024), (1, 1024)]


def test_against_an_independent_construction(labels):
    """The same weights in plain PyG layers, crystal by crystal, Gaussians and encoding written out again."""
    model = small()
    node, pool, out = MLP([13, 8, 8]).eval(), MLP([24, 24]).eval(), MLP([24, 16, 16, 1]).eval()
    gats = [
        GATv2Conv(8, 8, 2, edge_dim=51, add_self_loops=False),
        GATv2Conv(16, 12, 2, edge_dim=51, add_self_loops=False),
    ]
    state = model.state_dict()
    for name, part in {
        "node": node,
        "pool": pool,
        "output": out,
        "attention.0": gats[0],
        "attention.1": gats[1],
    }.items():
        part.load_state_dict({k.removeprefix(name + "."): v for k, v in state.items() if k.startswith(name + ".")})
    groups = [1, 2, 13, 14, 15, 16, 17, 18]
    crystals = [k.structure for k in labels[:8]]
    expected = []
    for crystal in crystals:
        x = torch.zeros(len(crystal), 13)
        for k, site in enumerate(crystal):
            x[k, groups.index(site.specie.group)] = x[k, 7 + site.specie.row] = 1.0
        i, j, _, d = crystal.get_neighbor_list(5.0)
        index = torch.tensor(list(zip(j.tolist(), i.tolist(), strict=True))).T
        mu = torch.linspace(0, 5, 51)
        edge = math.sqrt(10 / math.pi) * torch.exp(-10 * (torch.tensor(d, dtype=torch.float32)[:, None] - mu) ** 2)
        x = node(x)
        for gat in gats:
            x = gat(x, index, edge)
        weight = softmax(pool(x), torch.zeros(len(crystal), dtype=torch.long))
        expected.append(out((x * weight).sum(0, keepdim=True)))
    with torch.no_grad():
        got = model(build_graphs(crystals))
    assert torch.allclose(got, torch.cat(expected), rtol=1e-5, atol=1e-6)


def apart(graphs: Graphs) -> Graphs:
    """The same graphs with every edge as often as it counts."""
    often = graphs.multiplicity.long()
    begin = torch.cat([often.new_zeros(1), often.cumsum(0)])
    return replace(
        graphs,
        edge_index=graphs.edge_index.repeat_interleave(often, dim=1),
        distance_ang=graphs.distance_ang.repeat_interleave(often),
        multiplicity=torch.ones(int(often.sum())),
        edge_start=begin[graphs.edge_start],
    )


def test_the_layer_is_torch_geometric_s_on_every_edge(labels):
    """Outputs and gradients; ours takes equal edges together."""
    graphs = build_graphs([k.structure for k in labels[:5]])
    separate = apart(graphs)
    assert len(separate.distance_ang) > 2 * len(graphs.distance_ang)
    with seeded(0):
        ours, x = GATv2(8, 6, 3), torch.randn(len(graphs.numbers), 8)
        wave = torch.randn(51)
    theirs = GATv2Conv(8, 6, heads=3, edge_dim=51, add_self_loops=False)
    theirs.load_state_dict(ours.state_dict())
    outputs = []
    for layer, batch in ((ours, graphs), (theirs, separate)):
        edges = torch.sin(batch.distance_ang[:, None] * wave)
        out = ours(x, batch, edges) if layer is ours else theirs(x, batch.edge_index, edges)
        out.square().sum().backward()
        outputs.append(out)
    assert torch.allclose(*outputs, rtol=1e-5, atol=1e-6)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-4, atol=1e-4 * float(other.grad.abs().max()))


def test_equal_edges_change_nothing_taken_together(labels):
    graphs = build_graphs([k.structure for k in labels[:20]])
    with torch.no_grad():
        assert torch.allclose(small()(graphs), small()(apart(graphs)), rtol=1e-5, atol=1e-7)


def test_output_does_not_depend_on_cell_order_or_batch(labels):
    model = small()
    crystal = labels[3].structure
    swapped = Structure.from_sites(list(crystal)[::-1])
    with torch.no_grad():
        both = model(build_graphs([crystal, crystal * (2, 1, 1), swapped, labels[4].structure]))
    assert torch.allclose(both[0], both[1], atol=1e-5)
    assert torch.allclose(both[0], both[2], atol=1e-5)
    assert not torch.allclose(both[0], both[3], atol=1e-4)


def test_spectra_end_in_a_leaky_relu(labels):
    model = small(2001)
    with torch.no_grad():
        graphs = build_graphs([labels[0].structure])
        plain = model.output(model.embed(graphs))
        out = model(graphs)
    assert out.shape == (1, 2001)
    assert torch.allclose(out, torch.where(plain < 0, 0.01 * plain, plain))
    assert (plain < 0).any()


def test_encoding_covers_the_paper_s_elements_only(lone_atom):
    code = node_encoding()
    assert code[9].nonzero().flatten().tolist() == [6, 9]  # fluorine: group 17, row 2
    assert code[1].nonzero().flatten().tolist() == [0, 8]
    assert torch.isnan(code[[26, 55, 92]]).all()
    iron = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])
    with pytest.raises(SelectorError, match="element 26"):
        small()(build_graphs([iron]))


def test_an_atom_without_neighbours_gives_a_number(lone_atom, labels):
    with torch.no_grad():
        out = small()(build_graphs([lone_atom, labels[0].structure]))
    assert torch.isfinite(out).all()


def test_sizes_of_the_paper():
    sizes = read_sizes(SIZES)
    assert list(sizes) == ["ipa", "100", "300", "1000", "3000", "4610"]
    assert sizes["ipa"] == OptiMateSizes()
    assert sizes["100"] == OptiMateSizes((96,) * 3, ((192, 2),), (512,) * 3)
    assert sizes["300"] == OptiMateSizes((96,) * 3, ((384, 4),), (512,) * 2)
    assert sizes["1000"] == OptiMateSizes((96,) * 3, ((192, 8), (96, 8), (96, 2)), (2048,) * 3)
    assert sizes["3000"] == OptiMateSizes((48,) * 3, ((384, 8),), (2048,) * 3)
    assert sizes["4610"] == OptiMateSizes((96,) * 2, ((192, 8), (192, 2)), (2048,) * 3)
    assert OptiMateSizes.from_card(sizes["1000"].to_card()) == sizes["1000"]


@pytest.mark.parametrize(
    "text",
    ["", "- 1", "a: 3", "a: {node: [48]}", "a: {node: [], attention: [[8, 2]], output: [8]}", "a: [", "\x00",
     "a: {node: [8], attention: [8, 2], output: [8]}", "a: {node: [-8], attention: [[8, 2]], output: [8]}",
     "a: {node: [8.5], attention: [[8, 2]], output: [8]}"],
)  # fmt: skip
def test_a_file_without_sizes_is_the_user_s_mistake(text, tmp_path):
    path = tmp_path / "sizes.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="no sizes of a network") as caught:
        read_sizes(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot be read"):
        read_sizes(tmp_path / "missing.yaml")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_outputs_on_the_gpu_are_those_of_the_cpu(labels):
    graphs = build_graphs([k.structure for k in labels])
    with seeded(0):
        model = OptiMate().eval()
    with torch.no_grad():
        here, there = model(graphs), model.to("cuda")(graphs.to("cuda")).cpu()
    assert torch.allclose(there, here, rtol=1e-4, atol=1e-4 * float(here.abs().mean()))
