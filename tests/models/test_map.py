"""The layout by UMAP: near stays near, the same input gives the same map, and what cannot be laid out is said."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from models.map import MAX_CRYSTALS, lay_out
from selector.errors import SelectorError


@pytest.fixture(scope="module")
def latent() -> np.ndarray:
    """Three groups of 40 in 12 dimensions, 8 standard deviations apart."""
    rng = np.random.default_rng(5)
    return np.concatenate([rng.normal(size=(40, 12)) + 8 * np.eye(12)[k] for k in range(3)])


@pytest.mark.slow
def test_groups_stay_together_and_the_same_input_gives_the_same_map(latent):
    xy = lay_out(latent)
    assert xy.shape == (120, 2)
    assert np.isfinite(xy).all()
    assert np.array_equal(xy, lay_out(latent))
    assert not np.array_equal(xy, lay_out(latent, seed=1))
    group = np.repeat([0, 1, 2], 40)
    distance = cdist(xy, xy) + np.diag(np.full(120, np.inf))
    nearest = np.argsort(distance, axis=1)[:, :10]
    # In 12 dimensions every one of the ten nearest is of the same group; in the plane nearly all still are.
    assert (group[nearest] == group[:, None]).mean() > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 30, 31])
def test_few_crystals_have_a_map_too(latent, n):
    assert np.isfinite(lay_out(latent[:n])).all()


@pytest.mark.slow
def test_copies_of_a_crystal_lie_together(latent):
    xy = lay_out(np.concatenate([latent, latent[:3]]))
    size = np.ptp(xy, axis=0).max()
    assert np.abs(xy[120:] - xy[:3]).max() < 0.1 * size


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_crystals_are_said(n):
    with pytest.raises(SelectorError, match=f"4 different crystals or more, here are {n}"):
        lay_out(np.eye(5)[:n])


def test_copies_of_one_crystal_are_one():
    with pytest.raises(SelectorError, match="here are 1"):
        lay_out(np.ones((50, 3)))


def test_too_many_crystals_are_said():
    with pytest.raises(SelectorError, match=f"at most {MAX_CRYSTALS}"):
        lay_out(np.arange(MAX_CRYSTALS + 1.0)[:, None])


def test_a_latent_vector_that_is_not_finite_is_said(latent):
    with pytest.raises(SelectorError, match="not finite"):
        lay_out(np.where(latent == latent[3, 2], np.nan, latent))


def test_without_umap_it_says_how_to_get_it(latent, monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(SelectorError, match=r"pip install .*\[map\]") as e:
        lay_out(latent)
    assert "\n" not in str(e.value)
